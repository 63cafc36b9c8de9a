"""What the dashboard reads: each need one query, each answer plain columns that go to a browser as JSON.

Owns every read of the page, so that what is read, when and by whom can change in one place. Times are
milliseconds since 1970, absent numbers are None.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pyarrow as pa

from cryptomon_lib.charts import finite, milliseconds
from cryptomon_lib.engine import Engine

Columns = dict[str, list]

# tables whose commits make the page read anew
WATCHED = ("ticks", "candles")


class Readings:
    """The page's questions to one engine."""

    def __init__(self, engine: Engine):
        self._engine = engine

    @property
    def now(self) -> int:
        """The moment that the answers are of."""
        return milliseconds([self._engine.now])[0]

    def version(self) -> tuple[int, ...]:
        """Which commits the tables are at; another version means that there is something new to read."""
        opened = (self._engine.monitor.lake.open(name) for name in WATCHED)
        return tuple(-1 if table is None else table.version() for table in opened)

    def latest(self) -> Columns:
        """One row per market of the last 24 h: market_id, source, exchange, symbol, market, base, quote, kind,
        collected_at, price, bid, ask, change_24h_pct, volume_24h, quote_volume_24h."""
        return self._columns(
            "select market_id, source, exchange, symbol, market, base, quote, kind, collected_at, price, bid, ask, "
            "change_24h_pct, volume_24h, quote_volume_24h from newest_ticks order by market_id"
        )

    def current(self) -> Columns:
        """One row per market, measure: at, value, average_1h, ratio_1h of now."""
        return self._columns(
            "select market_id, measure, at, value, average_1h, ratio_1h from now_1h order by market_id, measure"
        )

    def series(self, market_id: str, measure: str) -> Columns:
        """One row per moment of the last 24 h, by time: at, value, average_1h, ratio_1h."""
        since = self._engine.now.replace(tzinfo=None) - timedelta(hours=24)
        return self._columns(
            "select at, value, average_1h, ratio_1h from trailing_1h "
            "where market_id = :market_id and measure = :measure and at > :since order by at",
            market_id=market_id,
            measure=measure,
            since=since,
        )

    def day_ago(self) -> Columns:
        """One row per market with a sample in the first ten minutes of the last 24 h: price."""
        since = self._engine.now.replace(tzinfo=None) - timedelta(hours=24)
        return self._columns(
            "select market_id, min_by(value, at) as price from measures "
            "where measure = 'price' and at >= :since and at < :until group by market_id",
            since=since,
            until=since + timedelta(minutes=10),
        )

    def ranks(self, measure: str) -> Columns:
        """One row per spot market, most variable first: rank_24h view."""
        return self._columns(
            "select market_id, stddev_24h, rank_24h, rank_24h_in_quote, cv_24h, rank_cv_24h, place, places, samples, "
            "expected from rank_24h where measure = :measure order by place, market_id",
            measure=measure,
        )

    def sources(self) -> Columns:
        """One row per source: samples (minutes with ticks), expected, last_at of 24 h."""
        return self._columns(
            "select source, samples, expected, last_at from completeness where measure = 'ticks' order by source"
        )

    def _columns(self, text: str, **values: Any) -> Columns:
        return plain(self._engine.query(text, **values))


def plain(rows: pa.Table) -> Columns:
    """Columns as JSON takes them: times as milliseconds, numbers finite or None, text as text."""
    return {name: _plain(rows[name]) for name in rows.column_names}


def rows_of(columns: Mapping[str, list]) -> list[dict[str, Any]]:
    """Columns as one dict per row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(column: pa.ChunkedArray) -> list:
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.int64()).to_pylist()
    return finite(column) if pa.types.is_floating(column.type) else column.to_pylist()
