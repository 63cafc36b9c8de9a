"""A market's place among the others by how variable it is, with its neighbours: what the card of the page says."""

from typing import Any

from cryptomon_lib import charts

_NEIGHBOURS = 4


def rank_card(
    ranked: list[dict[str, Any]], market_id: str, by: str, names: dict[str, str], unit: str
) -> dict[str, Any]:
    """The numbers and the figure of a market's place; `says` instead of them where it has none.

    ranked: rows of Readings.ranks. by: stddev or cv. names: how a market_id is shown.
    """
    column, rank = ("stddev_24h", "rank_24h") if by == "stddev" else ("cv_24h", "rank_cv_24h")
    placed = sorted(
        (one for one in ranked if one[column] is not None), key=lambda one: (-one[column], one["market_id"])
    )
    at = next((index for index, one in enumerate(placed) if one["market_id"] == market_id), None)
    if at is None:
        return {"by": by, "says": _why_unranked(ranked, market_id)}
    own = placed[at]
    start = max(0, min(at - _NEIGHBOURS, len(placed) - 2 * _NEIGHBOURS - 1))
    near = placed[start : start + 2 * _NEIGHBOURS + 1]
    # ties share the better place
    places = [round(one[rank] * len(placed)) for one in near]
    figure = charts.rank_chart(
        places,
        [names.get(one["market_id"], one["market_id"]) for one in near],
        [one[column] for one in near],
        at - start,
        unit=unit if by == "stddev" else "of the mean",
    )
    return {
        "by": by,
        "place": places[at - start],
        "places": len(placed),
        "neighbours": [one["market_id"] for one in near],
        "figure": figure,
        "unit": unit,
        **{
            name: own[name]
            for name in ("stddev_24h", "rank_24h", "rank_24h_in_quote", "cv_24h", "rank_cv_24h")
        },
        "samples": own["samples"],
        "expected": own["expected"],
    }


def _why_unranked(ranked: list[dict[str, Any]], market_id: str) -> str:
    own = next((one for one in ranked if one["market_id"] == market_id), None)
    if own is None:
        return "Not ranked: only spot markets with values of this measure are."
    return f"Not ranked yet: {own['samples']} samples in 24 h, a rank needs at least 60."
