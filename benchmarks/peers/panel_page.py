"""A plain Panel page: one text field, three charts."""

import panel as pn
from _figures import FIRST, figures

pn.extension("plotly")
market = pn.widgets.TextInput(name="Market", value=FIRST)
pn.Column(market, pn.bind(lambda name: pn.Column(*map(pn.pane.Plotly, figures(name))), market)).servable()
