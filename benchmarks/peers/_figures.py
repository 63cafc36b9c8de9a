"""What the plain pages show: the same charts from the same files, by the same functions."""

import os
from datetime import timedelta

import plotly.graph_objects as go

from cryptomon_lib import Engine, charts, open_monitor
from cryptomon_lib.dashboard_readings import Readings, rows_of
from cryptomon_lib.rank_card import rank_card

FIRST = os.environ["BENCH_MARKET"]
READINGS = Readings(Engine(open_monitor("local"), os.environ["BENCH_AS_OF"]))


def figures(market: str) -> list[go.Figure]:
    """Price and ratio over 24 h and the rank of one market; the first is titled by its name."""
    series = READINGS.series(market, "price", timedelta(hours=24))
    ranks = rows_of(READINGS.ranks("price"))
    value = go.Figure(charts.value_chart(series["at"], series["value"], series["average_1h"], name="Price"))
    value.update_layout(title=market)
    ratio = go.Figure(charts.ratio_chart(series["at"], series["ratio_1h"]))
    card = rank_card(ranks, market, "stddev", {}, "")
    return [value, ratio, *([go.Figure(card["figure"])] if "figure" in card else [])]
