"""Charts as plain figures: one pure function each, columns in, a dict of plotly's data and layout out.

Owns the palette (light and dark, colour-blind safe), the type and the spacing that all charts share, and how
time is drawn: x is UTC in milliseconds, a hole in the data is a hole in the line. Nothing is imported that a
small kernel would have to load; whoever draws brings plotly.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from html import escape
from itertools import pairwise
from typing import Any

Figure = dict[str, Any]

# a name has one colour in each theme, and no colour has two names: a page may swap one theme for the other
PALETTES = {
    "light": {
        "text": "#1b2430",
        "muted": "#5c6b7d",
        "surface": "#ffffff",
        "grid": "#e6eaf0",
        "accent": "#0b63b8",
        "accent_soft": "rgba(11, 99, 184, 0.10)",
        "mean": "#8a5fb0",
        "alert": "#c8500a",
        "quiet": "#b9c4d2",
        "hole": "rgba(92, 107, 125, 0.10)",
    },
    "dark": {
        "text": "#e7ecf3",
        "muted": "#93a1b3",
        "surface": "#151b24",
        "grid": "#263040",
        "accent": "#58aefc",
        "accent_soft": "rgba(88, 174, 252, 0.14)",
        "mean": "#c49ae6",
        "alert": "#ff9552",
        "quiet": "#44546a",
        "hole": "rgba(147, 161, 179, 0.12)",
    },
}
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
THRESHOLD = 3.0
# a gap of more cadences than this is a hole: one sample may come late, two may not be absent
HOLE_CADENCES = 2.5
# from here on a linear axis would press all but the burst against the floor
_LOG_FROM = 20.0
_RIGHT = {"side": "right", "automargin": False, "nticks": 6}
_HOLES_SHADED = 24
_UNITS = (("_bps", "bps"), ("_pct", "%"), ("_usd", "USD"), ("_s", "s"), ("_ms", "ms"))


def template(theme: str = "light") -> Figure:
    """The layout that all charts share: type, colours, axes and spacing of a theme."""
    colour = PALETTES[theme]
    axis = {
        "gridcolor": colour["grid"],
        "linecolor": colour["grid"],
        "zeroline": False,
        "automargin": True,
        "tickfont": {"size": 12, "color": colour["muted"]},
        "title": {"font": {"size": 12, "color": colour["muted"]}, "standoff": 8},
    }
    return {
        "layout": {
            "font": {"family": FONT, "size": 13, "color": colour["text"]},
            "paper_bgcolor": colour["surface"],
            "plot_bgcolor": colour["surface"],
            "colorway": [colour["accent"], colour["mean"], colour["alert"], colour["quiet"]],
            "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
            "hovermode": "closest",
            "hoverlabel": {
                "bgcolor": colour["surface"],
                "bordercolor": colour["quiet"],
                "align": "left",
                "font": {"family": FONT, "size": 13, "color": colour["text"]},
            },
            "xaxis": {**axis, "showgrid": False},
            "yaxis": axis,
            "showlegend": False,
            "dragmode": "zoom",
            "bargap": 0.28,
        }
    }


def value_chart(
    at: Sequence,
    values: Sequence,
    averages: Sequence | None = None,
    *,
    name: str,
    unit: str = "",
    cadence_s: int = 60,
    bars: bool = False,
    window: tuple[int, int] | None = None,
    note: str = "",
    revision: str = "",
    theme: str = "light",
) -> Figure:
    """One measure of one market over time, the mean of the hour before each point beside it.

    at: naive UTC or aware datetimes, or milliseconds since 1970; values and averages in unit, None where absent.
    bars: for what belongs to an interval (a minute's volume). window: what the axis spans, in milliseconds.
    note: words in the corner, kept by a download.
    revision: while it is the same, a page that draws anew keeps the viewer's zoom.
    """
    colour, moments = PALETTES[theme], milliseconds(at)
    hover = _hover(f"<b>%{{y:,.7~r}}</b> {escape(unit)}")
    drawn: dict[str, Any] = {"name": escape(name), "hovertemplate": hover}
    if bars:
        drawn |= {"type": "bar", "opacity": 0.8, "marker": {"color": colour["accent"]}}
        drawn |= {
            "x": _utc(moments),
            "y": finite(values),
            "width": cadence_s * 1000 * 0.9,
            "customdata": _clock(moments),
        }
    else:
        drawn |= _line(moments, finite(values), cadence_s, colour["accent"], 1.8)
    data = [drawn] if bars else [drawn, *_dots(drawn)]
    if averages is not None:
        mean = _line(moments, finite(averages), cadence_s, colour["mean"], 2.4 if bars else 1.8)
        mean["line"]["dash"] = "dot"
        data.append({**mean, "name": "mean of the hour before", "hoverinfo": "skip"})
    layout = _time_layout(theme, revision, note, window)
    layout["yaxis"] = {**_RIGHT, "rangemode": "tozero" if bars else "normal"}
    layout["shapes"] = _hole_shapes(moments, cadence_s, colour["hole"])
    _name_unit(layout, unit, colour["muted"])
    return {"data": data, "layout": layout}


def ratio_chart(
    at: Sequence,
    ratios: Sequence,
    *,
    threshold: float = THRESHOLD,
    cadence_s: int = 60,
    window: tuple[int, int] | None = None,
    note: str = "",
    revision: str = "",
    theme: str = "light",
) -> Figure:
    """How many times the mean of the hour before each point is, with the line that an alert has to exceed.

    Arguments as value_chart's. Points above the threshold are marked; exactly on it is not above.
    """
    colour, moments, ratios = PALETTES[theme], milliseconds(at), finite(ratios)
    most = max((ratio for ratio in ratios if ratio is not None), default=0.0)
    log = most > _LOG_FROM
    if log:
        ratios = [ratio if ratio is None or ratio > 0 else None for ratio in ratios]
    line = _line(moments, ratios, cadence_s, colour["accent"], 1.6)
    above = [
        (moment, ratio)
        for moment, ratio in zip(moments, ratios, strict=True)
        if ratio is not None and ratio > threshold
    ]
    marked = {
        "type": "scatter",
        "mode": "markers",
        "name": f"above {threshold:g}×",
        "x": _utc([moment for moment, _ in above]),
        "y": [ratio for _, ratio in above],
        "customdata": _clock([moment for moment, _ in above]),
        "marker": {
            "color": colour["alert"],
            "size": 9,
            "symbol": "triangle-up",
            "line": {"color": colour["surface"], "width": 1},
        },
        "hoverinfo": "skip",
    }
    layout = _time_layout(theme, revision, note, window)
    layout["yaxis"] = _ratio_axis(ratios, most, threshold, log)
    layout["shapes"] = [
        *_hole_shapes(moments, cadence_s, colour["hole"]),
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": threshold,
            "y1": threshold,
            "line": {"color": colour["alert"], "width": 1.4, "dash": "dash"},
            "name": "threshold",
        },
    ]
    layout["annotations"] = [
        *layout.get("annotations", []),
        {
            "xref": "paper",
            "x": 0,
            "xanchor": "left",
            "y": math.log10(threshold) if log else threshold,
            "yanchor": "bottom",
            "text": f"alert above {threshold:g}×",
            "showarrow": False,
            "bgcolor": colour["surface"],
            "opacity": 0.9,
            "font": {"size": 12, "color": colour["alert"]},
        },
    ]
    line |= {"name": "ratio to the 1 h mean", "hovertemplate": _hover("<b>%{y:,.4~r}×</b> the 1 h mean")}
    return {"data": [line, *_dots(line), marked], "layout": layout}


def candles_chart(
    at: Sequence,
    opens: Sequence,
    highs: Sequence,
    lows: Sequence,
    closes: Sequence,
    volumes: Sequence,
    *,
    interval_s: int,
    unit: str = "",
    base: str = "",
    window: tuple[int, int] | None = None,
    note: str = "",
    revision: str = "",
    theme: str = "light",
) -> Figure:
    """One market's candles, what was traded in each below them.

    at: when each candle opened, as in value_chart. unit: of the prices; base: of the volumes. A filled candle
    fell and a hollow one rose, so that colour is not needed to tell.
    """
    colour, moments = PALETTES[theme], milliseconds(at)
    x, hover = _utc(moments), _clock(moments)
    candles = {
        "type": "candlestick",
        "name": "candles",
        "x": x,
        "open": finite(opens),
        "high": finite(highs),
        "low": finite(lows),
        "close": finite(closes),
        "text": [f"{clock} UTC" for clock in hover],
        "increasing": {"line": {"color": colour["accent"], "width": 1.2}, "fillcolor": colour["surface"]},
        "decreasing": {"line": {"color": colour["alert"], "width": 1.2}, "fillcolor": colour["alert"]},
        "whiskerwidth": 0,
    }
    bars = {
        "type": "bar",
        "name": "volume",
        "x": x,
        "y": finite(volumes),
        "yaxis": "y2",
        "customdata": hover,
        "marker": {"color": colour["quiet"]},
        "hovertemplate": _hover(f"<b>%{{y:,.5~r}}</b> {escape(base)}"),
    }
    layout = _time_layout(theme, revision, note, window)
    layout["xaxis"] |= {"rangeslider": {"visible": False}, "anchor": "y2"}
    layout["yaxis"] = {**_RIGHT, "domain": [0.26, 1]}
    layout["yaxis2"] = {**_RIGHT, "domain": [0, 0.2], "nticks": 3, "rangemode": "tozero"}
    layout["shapes"] = _hole_shapes(moments, interval_s, colour["hole"])
    _name_unit(layout, unit, colour["muted"])
    return {"data": [candles, bars], "layout": layout}


def band_chart(
    at: Sequence,
    means: Sequence,
    lows: Sequence,
    highs: Sequence,
    *,
    name: str,
    unit: str = "",
    step_s: int = 3600,
    window: tuple[int, int] | None = None,
    note: str = "",
    revision: str = "",
    theme: str = "light",
) -> Figure:
    """One measure of one market in steps: the mean of each as a line, from lowest to highest as a band.

    at: the start of each step; the point is drawn in its middle. Other arguments as value_chart's.
    """
    colour, moments = PALETTES[theme], [moment + step_s * 500 for moment in milliseconds(at)]
    line = _line(moments, finite(means), step_s, colour["accent"], 1.8)
    edges = [_line(moments, finite(values), step_s, colour["accent"], 0) for values in (lows, highs)]
    edges[1] |= {"fill": "tonexty", "fillcolor": colour["accent_soft"]}
    edges = [{**edge, "hoverinfo": "skip", "name": "lowest to highest"} for edge in edges]
    line |= {"name": escape(name), "hovertemplate": _hover(f"mean <b>%{{y:,.7~r}}</b> {escape(unit)}")}
    layout = _time_layout(theme, revision, note, window)
    layout["yaxis"] = {**_RIGHT}
    layout["shapes"] = _hole_shapes(moments, step_s, colour["hole"])
    _name_unit(layout, unit, colour["muted"])
    return {"data": [*edges, line, *_dots(line)], "layout": layout}


def compare_chart(
    series: Sequence[tuple[str, Sequence, Sequence]],
    *,
    cadence_s: int,
    window: tuple[int, int] | None = None,
    note: str = "",
    revision: str = "",
    theme: str = "light",
) -> Figure:
    """Several series as percent of change since the first value of each, each named at its end.

    series: (name, at, values). At most eight are told apart, by colour and by dash.
    """
    colour = PALETTES[theme]
    colours = [colour[name] for name in ("accent", "alert", "mean", "text")]
    data, ends = [], []
    drawn: list[float] = []
    for number, (name, at, values) in enumerate(series[:8]):
        moments, rebased = milliseconds(at), rebase(values)
        if not moments:
            continue
        line = _line(moments, rebased, cadence_s, colours[number % 4], 1.8)
        if number >= 4:
            line["line"]["dash"] = "dash"
        data.append(
            line
            | {"name": escape(name), "hovertemplate": f"{escape(name)} <b>%{{y:+.2f}} %</b><extra></extra>"}
        )
        last = next((value for value in reversed(rebased) if value is not None), 0.0)
        ends.append((name, colours[number % 4], last))
        drawn += [value for value in rebased if value is not None]
    room = (max(drawn) - min(drawn)) * 0.06 if drawn else 0.0
    places = _apart([value for _, _, value in ends], room or 0.1)
    layout = _time_layout(theme, revision, note, window)
    layout["hovermode"] = "x unified"
    layout["margin"] = layout["margin"] | {"r": 150}
    layout["yaxis"] = {"ticksuffix": " %", "nticks": 6, "zeroline": True, "zerolinecolor": colour["quiet"]}
    layout["annotations"] = [
        *layout.get("annotations", []),
        *(
            {
                "xref": "paper",
                "x": 1,
                "xanchor": "left",
                "xshift": 6,
                "y": place,
                "yanchor": "middle",
                "text": f"{escape(name)} {value:+.1f} %",
                "showarrow": False,
                "font": {"size": 12, "color": own},
            }
            for (name, own, value), place in zip(ends, places, strict=True)
        ),
    ]
    return {"data": data, "layout": layout}


def marked(figure: Figure, moments: Sequence[int], theme: str = "light") -> Figure:
    """A figure over time with a line at each of these moments (milliseconds): when an alert fired."""
    lines = [
        {
            "type": "line",
            "yref": "paper",
            "x0": at,
            "x1": at,
            "y0": 0,
            "y1": 1,
            "line": {"color": PALETTES[theme]["alert"], "width": 1.2, "dash": "dot"},
            "opacity": 0.7,
            "name": "fired",
        }
        for at in _utc(moments)
    ]
    return figure | {"layout": figure["layout"] | {"shapes": [*figure["layout"].get("shapes", []), *lines]}}


def rebase(values: Sequence) -> list[float | None]:
    """Values as percent of change since the first that is there and not zero."""
    plain = finite(values)
    first = next((value for value in plain if value), None)
    return [None if value is None or first is None else 100.0 * (value / first - 1.0) for value in plain]


def storage_chart(
    days: Sequence[str], sizes: Sequence[tuple[str, Sequence]], *, note: str = "", theme: str = "light"
) -> Figure:
    """Megabytes per day, one series a table, on top of each other."""
    colour = PALETTES[theme]
    colours = [colour[name] for name in ("accent", "mean", "quiet", "alert")]
    data = [
        {
            "type": "bar",
            "name": escape(name),
            "x": list(days),
            "y": finite(values),
            "marker": {"color": colours[number % 4]},
            "hovertemplate": f"{escape(name)} <b>%{{y:,.3~r}} MB</b><extra></extra>",
        }
        for number, (name, values) in enumerate(sizes)
    ]
    layout = _layout(theme, "storage", note)
    layout |= {"barmode": "stack", "showlegend": len(data) > 1, "legend": {"orientation": "h", "y": 1.12}}
    layout["xaxis"] = {"type": "category", "nticks": 8}
    layout["yaxis"] = {"ticksuffix": " MB", "nticks": 5}
    return {"data": data, "layout": layout}


def rank_chart(
    places: Sequence[int],
    names: Sequence[str],
    deviations: Sequence,
    chosen: int,
    *,
    unit: str = "",
    note: str = "",
    revision: str = "",
    theme: str = "light",
) -> Figure:
    """Markets by how variable they are, most variable on top, one of them set off.

    places: 1 is the most variable. deviations: standard deviation or coefficient of variation, in unit.
    chosen: the index of the market in question.
    """
    colour = PALETTES[theme]
    labels = [f"{place}  {escape(name)}" for place, name in zip(places, names, strict=True)]
    rows = list(range(len(labels)))
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": finite(deviations),
        "y": rows,
        "customdata": labels,
        "marker": {"color": [colour["accent"] if row == chosen else colour["quiet"] for row in rows]},
        "text": [_written(value) for value in finite(deviations)],
        "textposition": "auto",
        "cliponaxis": False,
        "hovertemplate": f"%{{customdata}}<br><b>%{{x:,.6~r}}</b> {escape(unit)}<extra></extra>",
    }
    layout = _layout(theme, revision, note)
    layout["xaxis"] = {"visible": False, "rangemode": "tozero", "fixedrange": True}
    layout["yaxis"] = {
        "tickmode": "array",
        "tickvals": rows,
        "ticktext": [
            f"<b>{label}</b>" if row == chosen else label for row, label in zip(rows, labels, strict=True)
        ],
        "autorange": "reversed",
        "showgrid": False,
        "fixedrange": True,
        "ticks": "",
    }
    return {"data": [bars], "layout": layout}


def firings_chart(
    fired_at: Mapping[str, Sequence],
    *,
    step_s: int = 3600,
    window: tuple[int, int] | None = None,
    note: str = "",
    revision: str = "",
    theme: str = "light",
) -> Figure:
    """How often alerts fired in each step of time, one line per setting of a rule.

    fired_at: moments by setting, as value_chart's. window: from when to when, in milliseconds; it is counted all of it.
    """
    step, colours = step_s * 1000, _series_colours(theme)
    moments = {name: milliseconds(at) for name, at in fired_at.items()}
    every = [one for own in moments.values() for one in own]
    first, last = window or ((min(every), max(every)) if every else (0, 0))
    buckets = range(first // step, last // step + 1) if every or window else range(0)
    data = []
    for number, (name, own) in enumerate(moments.items()):
        counts = Counter(one // step for one in own)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": escape(name),
                "x": _utc([bucket * step for bucket in buckets]),
                "y": [counts[bucket] for bucket in buckets],
                "customdata": _clock([bucket * step for bucket in buckets]),
                "line": {"color": colours[number % len(colours)], "width": 1.8, "shape": "hv"},
                "hovertemplate": _hover(f"<b>%{{y:,}}</b> {escape(name)}"),
            }
        )
    layout = _time_layout(theme, revision, note, window)
    layout["yaxis"] = {**_RIGHT, "rangemode": "tozero"}
    layout |= _legend(moments)
    return {"data": data, "layout": layout}


def after_chart(
    changes: Mapping[str, Sequence], *, note: str = "", revision: str = "", theme: str = "light"
) -> Figure:
    """What the price did in the hour after alerts fired, in percent: one box per setting of a rule, the median its line."""
    colours = _series_colours(theme)
    data = [
        {
            "type": "box",
            "name": escape(name),
            "y": [one for one in finite(values) if one is not None],
            "boxpoints": False,
            "marker": {"color": colours[number % len(colours)]},
            "line": {"width": 1.6},
        }
        for number, (name, values) in enumerate(changes.items())
    ]
    layout = _layout(theme, revision, note)
    layout["margin"] = {"l": 8, "r": 68, "t": 22, "b": 32}
    layout["yaxis"] = {**_RIGHT, "ticksuffix": " %"}
    layout["shapes"] = [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": 0,
            "y1": 0,
            "line": {"color": PALETTES[theme]["quiet"], "width": 1},
        }
    ]
    return {"data": data, "layout": layout}


def unit_of(measure: str, base: str | None, quote: str | None) -> str:
    """The unit that a measure's name says: bps, %, or the market's own currency; empty where it has none."""
    for ending, unit in _UNITS:
        if measure.endswith(ending):
            return unit
    if measure == "price" or measure.startswith("quote_"):
        return quote or ""
    return (base or "") if measure.startswith("volume") else ""


def words_of(measure: str) -> str:
    """A measure's name as a person says it: `quote_volume_24h` is "Quote volume 24 h"."""
    said = {"1m": "1 min", "5m": "5 min", "1h": "1 h", "24h": "24 h", "7d": "7 d", "bps": "", "pct": ""}
    text = " ".join(filter(None, (said.get(word, word) for word in measure.split("_"))))
    return text[:1].upper() + text[1:]


def _written(value: float | None) -> str:
    if value is None:
        return ""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def milliseconds(at: Sequence) -> list[int]:
    """Moments as whole milliseconds since 1970: what stands for a time in every figure."""
    return [_millisecond(moment) for moment in _plain(at)]


def finite(values: Sequence) -> list[float | None]:
    """Numbers, with None for what is absent or no number; JSON knows no NaN."""
    return [
        None if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
        for value in _plain(values)
    ]


def holes(moments: Sequence[int], cadence_s: int) -> list[tuple[int, int]]:
    """The last moment before and the first after each gap of more than 2.5 cadences, in milliseconds."""
    longest = HOLE_CADENCES * cadence_s * 1000
    return [(before, after) for before, after in pairwise(moments) if after - before > longest]


def _plain(column: Any) -> list:
    for method in ("to_pylist", "tolist"):
        if hasattr(column, method):
            return getattr(column, method)()
    return list(column)


def _millisecond(moment: Any) -> int:
    if isinstance(moment, datetime):
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1000)
    return int(moment)


def _utc(moments: Sequence[int]) -> list[str]:
    """Moments as plotly takes them for what a clock in UTC shows; bare numbers it would move to the viewer's zone."""
    return [_utc_second(moment // 1000) for moment in moments]


# a chart's lines, and the charts of one poll's markets, share their moments
@lru_cache(maxsize=1 << 16)
def _utc_second(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}"


def _clock(moments: list[int]) -> list[str]:
    """Moments as a UTC clock shows them; a page may move a chart's times, and not these."""
    return [f"{moment // 3_600_000 % 24:02d}:{moment // 60_000 % 60:02d}" for moment in moments]


def _line(moments: list[int], values: list, cadence_s: int, colour: str, width: float) -> Figure:
    """A line that breaks at holes."""
    x, y = [], []
    gaps = dict(holes(moments, cadence_s))
    for moment, value in zip(moments, values, strict=True):
        x.append(moment)
        y.append(value)
        if moment in gaps:
            x.append((moment + gaps[moment]) // 2)
            y.append(None)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": _utc(x),
        "y": y,
        "customdata": _clock(x),
        "connectgaps": False,
        "line": {"color": colour, "width": width},
    }


def _dots(line: Figure) -> list[Figure]:
    """The points of a line that stand alone between two holes, which no line would show."""
    values = [None, *line["y"], None]
    alone = [
        at
        for at, (before, value, after) in enumerate(zip(values, values[1:], values[2:], strict=False))
        if value is not None and before is None and after is None
    ]
    if not alone:
        return []
    marker = {"color": line["line"]["color"], "size": 5}
    dots = {
        "mode": "markers",
        **{name: [line[name][at] for at in alone] for name in ("x", "y", "customdata")},
        "marker": marker,
    }
    return [{name: value for name, value in line.items() if name != "line"} | dots]


def _hole_shapes(moments: list[int], cadence_s: int, colour: str) -> list[Figure]:
    found = holes(moments, cadence_s)
    if len(found) > _HOLES_SHADED:
        return []
    return [
        {
            "type": "rect",
            "yref": "paper",
            "x0": _utc([before])[0],
            "x1": _utc([after])[0],
            "y0": 0,
            "y1": 1,
            "fillcolor": colour,
            "line": {"width": 0},
            "layer": "below",
            "name": "hole",
        }
        for before, after in found
    ]


def _apart(values: Sequence[float], room: float) -> list[float]:
    """Places for labels at these heights, moved up so far that each has its room, in their order."""
    order = sorted(range(len(values)), key=values.__getitem__)
    placed = dict(enumerate(values))
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + room)
    return [placed[at] for at in range(len(values))]


def _name_unit(layout: Figure, unit: str, colour: str) -> None:
    """Write the unit, where there is one, over the axis at the right."""
    if unit:
        layout["annotations"] = [*layout.get("annotations", []), _over_plot(unit, colour, 1)]


def _over_plot(text: str, colour: str, x: int) -> Figure:
    """Words above the plot: at its left end (0), or over the axis at its right (1)."""
    return {
        "xref": "paper",
        "yref": "paper",
        "x": x,
        "y": 1,
        "xshift": 4 * x,
        "xanchor": "left",
        "yanchor": "bottom",
        "text": escape(text),
        "showarrow": False,
        "font": {"size": 12, "color": colour},
    }


def _ratio_axis(ratios: list, most: float, threshold: float, log: bool) -> Figure:
    axis: Figure = {**_RIGHT, "ticksuffix": "×"}
    if log:
        least = min((ratio for ratio in ratios if ratio), default=0.1)
        low = math.log10(min(0.5, max(least, 0.01)))
        return axis | {"type": "log", "range": [low, math.log10(most * 1.4)], "dtick": 1}
    return axis | {"range": [0, max(threshold * 1.25, most * 1.08)]}


def _series_colours(theme: str) -> list[str]:
    return [PALETTES[theme][name] for name in ("accent", "mean", "alert", "muted")]


def _legend(named: Mapping[str, Any]) -> Figure:
    shown = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
    return {"showlegend": len(named) > 1, "legend": shown}


def _layout(theme: str, revision: str, note: str) -> Figure:
    layout: Figure = {
        "template": template(theme),
        "uirevision": revision,
    }
    if note:
        layout["annotations"] = [_over_plot(note, PALETTES[theme]["muted"], 0)]
    return layout


def _time_layout(theme: str, revision: str, note: str, window: tuple[int, int] | None) -> Figure:
    layout = _layout(theme, revision, note)
    layout["xaxis"] = {
        "type": "date",
        "title": {"text": "UTC"},
        "tickangle": 0,
        "tickformat": "%H:%M\n%a %d",
    }
    if window:
        layout["xaxis"]["range"] = _utc(window)
    # charts above each other share their time axis to the pixel
    layout |= {"hovermode": "x", "hoverdistance": -1}
    layout["margin"] = {"l": 8, "r": 68, "t": 22, "b": 48}
    # a page that knows the viewer's zone shows local time; a figure by itself is in UTC
    layout["meta"] = {"times": "UTC"}
    return layout


def _hover(first: str) -> str:
    return f"{first}<br>%{{x|%a %d %b %H:%M}}<br>%{{customdata}} UTC<extra></extra>"
