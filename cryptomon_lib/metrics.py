"""The questions that pages, notebooks and programs ask: markets, measures, one market's series, ranks.

Each is one short query on the views; what a metric is stands in views/*.sql and nowhere here.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from cryptomon_lib import lint, sql
from cryptomon_lib.config import nearest
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import MetricError, UnknownMarket
from cryptomon_lib.latest import latest_source, shared_columns


def describe_views() -> pd.DataFrame:
    """One row per view, in the order that they need each other: what it says, its grain, what it reads."""
    known = sql.views()
    return pd.DataFrame(
        {
            "says": [view.says for view in known.values()],
            "one row per": [", ".join(view.grain) for view in known.values()],
            "reads": [", ".join(sorted(view.reads)) for view in known.values()],
        },
        index=pd.Index(known, name="view"),
    )


def check_views(engine: Engine) -> pd.DataFrame:
    """One row per view: its rows now, and how many of them share a key with another (0, or the grain is wrong)."""
    found = {}
    for view in sql.views().values():
        keys = ", ".join(view.grain)
        text = f"select count(*) as total, count(distinct row({keys})) as keys from {view.name}"
        row = engine.query(text).to_pylist()[0]
        found[view.name] = {"rows": row["total"], "doubled": row["total"] - row["keys"]}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("view")


def write_view(name: str, lines: Iterable[str]) -> Path:
    """Write a view of one's own, in place of an earlier one of that name; the next query knows it. Its file.

    Raises MetricError: the name is not one's own to give, or there is no folder for it.
    """
    sql.check_own_name(name)
    folder = sql.own_folder()
    if folder is None or not folder.is_dir():
        raise MetricError(
            f"There is no folder {folder or 'notebooks/mine'}: make it, or name one by use_views."
        )
    path = folder / f"{name}.sql"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def lint_view(path: Path) -> pd.DataFrame:
    """One row per problem of a view file: its line, what is not portable, and what to write instead."""
    problems = lint.lint_file(path)
    return pd.DataFrame(
        {name: [getattr(one, name) for one in problems] for name in ("line", "what", "instead")}
    )


def markets(engine: Engine) -> pd.DataFrame:
    """One row per market of the last 24 h: market_id, source, exchange, symbol, market, base, quote, kind, last_at."""
    return engine.query(
        "select market_id, source, exchange, symbol, market, base, quote, kind, last_at from markets "
        "order by market_id"
    ).to_pandas()


def measures(engine: Engine) -> list[str]:
    """The names of all measures that have a value now."""
    return engine.query("select distinct measure from now_1h order by measure")["measure"].to_pylist()


def resolve_market(name: str, known: pd.DataFrame) -> str:
    """The market_id that a name stands for: a market_id, `exchange:BASE-QUOTE`, or `BASE-QUOTE` where unambiguous.

    known: as `markets` gives it. A pair that trades under several symbols of one exchange stands for the
    one without a venue suffix.

    Raises UnknownMarket: there is none, with the nearest name; or several, with all of them.
    """
    if name in set(known["market_id"]):
        return name
    exchange, colon, pair = name.rpartition(":")
    chosen = known[known["market"] == pair.upper()]
    if colon:
        chosen = chosen[(chosen["exchange"] == exchange) | (chosen["source"] == exchange)]
    if len(chosen) > 1:
        plain = chosen[
            chosen["symbol"].str.replace(r"[-/_]", "", regex=True).str.upper()
            == chosen["base"] + chosen["quote"]
        ]
        chosen = plain if len(plain) == 1 else chosen
    if len(chosen) == 1:
        return chosen["market_id"].iloc[0]
    if chosen.empty:
        short = known["exchange"] + ":" + known["market"].fillna(known["symbol"])
        raise UnknownMarket(
            f"No market is called {name!r} in the last 24 h.{nearest(name, short) if len(short) else ''}"
        )
    raise UnknownMarket(f"{name!r} stands for several markets: {', '.join(sorted(chosen['market_id']))}.")


def series(engine: Engine, market_id: str, measure: str) -> pd.DataFrame:
    """One market's measure over 24 h: at (naive UTC), value, average_1h, ratio_1h, samples, expected; by time."""
    return engine.query(
        "select at, value, average_1h, ratio_1h, samples, expected from trailing_1h "
        "where market_id = :market_id and measure = :measure order by at",
        market_id=market_id,
        measure=measure,
    ).to_pandas()


def ranks(engine: Engine, measure: str) -> pd.DataFrame:
    """One row per spot market, most variable first: rank_24h view, with exchange, market and symbol."""
    return engine.query(
        "select rank_24h.market_id, markets.exchange, markets.market, markets.symbol, stddev_24h, rank_24h, "
        "rank_24h_in_quote, cv_24h, rank_cv_24h, place, places, rank_24h.samples, rank_24h.expected "
        "from rank_24h join markets on rank_24h.market_id = markets.market_id "
        "where measure = :measure order by place, rank_24h.market_id",
        measure=measure,
    ).to_pandas()


def latest(engine: Engine) -> pd.DataFrame:
    """One row per market, by market_id: its newest tick and its metrics of now.

    From the table of that name where it is of now, which it is while ticks run; else from the view.
    """
    columns = ", ".join(shared_columns())
    return engine.query(f"select {columns} from {latest_source(engine)} order by market_id").to_pandas()
