"""Charts are plain figures: columns in, data and layout out, holes as holes, the same look everywhere."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from cryptomon_lib import charts
from cryptomon_lib.dashboard import page_style

MINUTE = 60_000
EVERY_MINUTE = [index * MINUTE for index in range(10)]
WITH_A_HOLE = [0, MINUTE, 2 * MINUTE, 10 * MINUTE, 11 * MINUTE]


def traces(figure, name):
    return [trace for trace in figure["data"] if trace.get("name") == name]


def test_a_line_breaks_where_samples_are_absent_and_the_hole_is_shaded():
    figure = charts.value_chart(WITH_A_HOLE, [1.0, 2.0, 3.0, 4.0, 5.0], name="Price")
    line = figure["data"][0]
    assert line["y"] == [1.0, 2.0, 3.0, None, 4.0, 5.0] and line["connectgaps"] is False
    holes = [shape for shape in figure["layout"]["shapes"] if shape["name"] == "hole"]
    assert [(hole["x0"], hole["x1"]) for hole in holes] == [("1970-01-01 00:02:00", "1970-01-01 00:10:00")]


@pytest.mark.parametrize(("gap_s", "broken"), [(60, False), (150, False), (151, True)])
def test_a_gap_of_more_than_two_and_a_half_cadences_is_a_hole(gap_s, broken):
    assert bool(charts.holes([0, gap_s * 1000], cadence_s=60)) is broken


def test_a_sample_alone_between_two_holes_is_a_dot():
    figure = charts.value_chart([0, 60 * MINUTE, 120 * MINUTE], [1.0, 2.0, 3.0], name="Price")
    dots = [trace for trace in figure["data"] if trace.get("mode") == "markers"]
    assert dots[0]["y"] == [1.0, 2.0, 3.0]


def test_the_mean_of_the_hour_before_is_a_line_of_its_own():
    figure = charts.value_chart([0, MINUTE], [1.0, 2.0], [None, 1.5], name="Price")
    assert traces(figure, "mean of the hour before")[0]["y"] == [None, 1.5]


def test_the_ratio_has_its_line_at_three_and_marks_what_is_above_but_not_what_is_on_it():
    figure = charts.ratio_chart(EVERY_MINUTE[:4], [1.0, 3.0, 3.1, None])
    line = next(shape for shape in figure["layout"]["shapes"] if shape["name"] == "threshold")
    assert line["y0"] == line["y1"] == 3.0
    assert traces(figure, "above 3×")[0]["y"] == [3.1]


def test_the_line_at_three_is_in_sight_however_quiet_the_market_is():
    low, high = charts.ratio_chart(EVERY_MINUTE, [1.0] * 10)["layout"]["yaxis"]["range"]
    assert low == 0 and high > 3


def test_a_burst_of_a_thousand_times_leaves_the_rest_readable():
    figure = charts.ratio_chart(EVERY_MINUTE[:3], [1.0, 1000.0, 0.0])
    assert figure["layout"]["yaxis"]["type"] == "log"
    assert figure["data"][0]["y"] == [1.0, 1000.0, None]


def test_the_rank_sets_the_chosen_market_off_from_its_neighbours():
    figure = charts.rank_chart([1, 2, 3], ["CBC-ETH", "GOLD-BTC", "BNT-BTC"], [300.0, 200.0, 100.0], 1)
    colours = figure["data"][0]["marker"]["color"]
    assert colours[1] != colours[0] == colours[2]
    assert figure["layout"]["yaxis"]["ticktext"][1] == "<b>2  GOLD-BTC</b>"


def test_firings_are_counted_by_the_hour_and_an_hour_without_one_is_zero():
    hour = 60 * MINUTE
    figure = charts.firings_chart({"threshold=3": [0, 5 * MINUTE, 2 * hour + MINUTE], "threshold=5": []})
    assert [line["y"] for line in figure["data"]] == [[2, 0, 1], [0, 0, 0]]
    assert figure["data"][0]["x"][2] == "1970-01-01 02:00:00"
    assert charts.firings_chart({"threshold=3": []})["data"][0]["x"] == []


def test_what_followed_is_drawn_without_what_is_not_known():
    figure = charts.after_chart({"threshold=3": [1.0, float("nan"), None, -2.0]})
    assert figure["data"][0]["y"] == [1.0, -2.0]


def test_a_hostile_name_is_text_in_every_figure():
    name = "<img src=x onerror=alert(1)>"
    figures = [
        charts.value_chart([0], [1.0], name=name, unit=name, note=name),
        charts.ratio_chart([0], [1.0], note=name),
        charts.rank_chart([1], [name], [1.0], 0, unit=name),
    ]
    assert "<img" not in json.dumps(figures)


@pytest.mark.parametrize(
    "at",
    [
        [datetime.fromisoformat(text) for text in ("2026-01-01T00:00", "2026-01-01T00:01")],
        [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 1, tzinfo=UTC)],
        [1767225600000, 1767225660000],
        pa.chunked_array([pa.array([1767225600000, 1767225660000], pa.timestamp("ms"))]),
    ],
    ids=["naive UTC", "aware", "milliseconds", "arrow"],
)
def test_moments_may_come_in_any_form(at):
    assert charts.milliseconds(at) == [1767225600000, 1767225660000]


def test_times_are_written_as_a_clock_in_utc_shows_them():
    window = (1767222000000, 1767225600000)
    for figure in (
        charts.ratio_chart([1767225600000], [4.0], window=window),
        charts.value_chart([1767225600000], [4.0], [4.0], name="Price", window=window),
        charts.value_chart([1767225600000], [4.0], [4.0], name="Volume", bars=True, window=window),
    ):
        assert figure["layout"]["xaxis"]["range"] == ["2025-12-31 23:00:00", "2026-01-01 00:00:00"]
        assert all(trace["x"] == ["2026-01-01 00:00:00"] for trace in figure["data"])
        assert all(trace["customdata"] == ["00:00"] for trace in figure["data"])


def test_what_is_no_number_is_absent_for_json_knows_none():
    figure = charts.value_chart(EVERY_MINUTE[:3], [1.0, float("nan"), float("inf")], name="Price")
    json.dumps(figure, allow_nan=False)
    assert figure["data"][0]["y"] == [1.0, None, None]


def test_no_samples_make_an_empty_figure():
    for figure in (charts.value_chart([], [], [], name="Price"), charts.ratio_chart([], [])):
        assert figure["data"][0]["x"] == [] and figure["layout"]["shapes"] is not None


@pytest.mark.parametrize("theme", charts.PALETTES)
def test_plotly_takes_every_figure(theme):
    plotly = pytest.importorskip("plotly.graph_objects")
    for figure in (
        charts.value_chart(WITH_A_HOLE, [1.0] * 5, [1.0] * 5, name="Price", unit="USD", theme=theme),
        charts.value_chart(WITH_A_HOLE, [1.0] * 5, name="Volume", bars=True, theme=theme),
        charts.ratio_chart(WITH_A_HOLE, [1.0] * 5, note="simulated data", theme=theme),
        charts.rank_chart([1, 2], ["one", "other"], [2.0, 1.0], 0, theme=theme),
        charts.firings_chart({"threshold=2": EVERY_MINUTE, "threshold=3": []}, theme=theme),
        charts.after_chart({"threshold=2": [1.0, None, -2.0], "threshold=3": []}, theme=theme),
    ):
        plotly.Figure(figure)


def test_a_name_has_one_colour_in_each_theme_so_that_a_page_can_swap_them():
    light, dark = charts.PALETTES["light"], charts.PALETTES["dark"]
    assert light.keys() == dark.keys()
    assert all(len(set(palette.values())) == len(palette) for palette in (light, dark))


def test_a_figure_in_the_dark_is_the_light_one_with_its_colours_swapped():
    swap = dict(zip(charts.PALETTES["light"].values(), charts.PALETTES["dark"].values(), strict=True))

    def swapped(value):
        if isinstance(value, dict):
            return {name: swapped(one) for name, one in value.items()}
        return [swapped(one) for one in value] if isinstance(value, list) else swap.get(value, value)

    light, dark = (
        charts.ratio_chart(WITH_A_HOLE, [1.0, 2.0, 4.0, 1.0, 1.0], note="simulated data", theme=theme)
        for theme in ("light", "dark")
    )
    assert swapped(light) == dark


@pytest.mark.parametrize("theme", charts.PALETTES)
@pytest.mark.parametrize("name", ["text", "muted", "accent", "alert"])
def test_what_is_written_can_be_read(theme, name):
    palette = charts.PALETTES[theme]
    assert contrast(palette[name], palette["surface"]) >= 4.5


def contrast(one, other):
    """Contrast ratio of two colours. Source: WCAG 2.2, relative luminance."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", charts.PALETTES)
def test_the_page_wears_the_colours_of_the_charts(theme):
    worn = set(re.findall(r"--[\w-]+: (#\w+|rgba\([^)]*\))", page_style()))
    named = ("text", "muted", "surface", "grid", "accent", "accent_soft", "alert", "quiet")
    assert {charts.PALETTES[theme][name] for name in named} <= worn


@pytest.mark.parametrize(
    ("measure", "unit"),
    [
        ("price", "USD"),
        ("quote_volume_24h", "USD"),
        ("volume_1m", "BTC"),
        ("spread_bps", "bps"),
        ("change_24h_pct", "%"),
        ("trades", ""),
    ],
)
def test_a_measure_says_its_unit(measure, unit):
    assert charts.unit_of(measure, "BTC", "USD") == unit


def test_a_measure_is_said_in_words():
    assert charts.words_of("quote_volume_24h") == "Quote volume 24 h"
    assert charts.words_of("spread_bps") == "Spread"


def test_charts_bring_nothing_that_a_small_kernel_would_have_to_load():
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, cryptomon_lib.charts; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"plotly", "pandas", "duckdb", "numpy", "pyarrow"} & set(loaded)
