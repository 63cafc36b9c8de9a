"""A plain Dash page: one text field, three charts."""

import sys

from _figures import FIRST, figures
from dash import Dash, Input, Output, dcc, html

app = Dash(__name__)
app.layout = html.Div([dcc.Input(id="market", value=FIRST, debounce=True), html.Div(id="charts")])


@app.callback(Output("charts", "children"), Input("market", "value"))
def draw(market):
    """The charts of the market that was typed."""
    return [dcc.Graph(figure=figure) for figure in figures(market)]


if __name__ == "__main__":
    app.run(port=int(sys.argv[1]), debug=False)
