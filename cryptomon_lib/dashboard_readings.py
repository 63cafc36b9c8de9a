"""What the dashboard reads: each need one query, each answer plain columns that go to a browser as JSON.

Owns every read of the page, so that what is read, when and by whom can change in one place. Times are
milliseconds since 1970, absent numbers are None.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from cryptomon_lib.charts import finite, milliseconds
from cryptomon_lib.engine import Engine
from cryptomon_lib.engines.files import Files
from cryptomon_lib.latest import latest_source

Columns = dict[str, list]

# tables whose commits make the page read anew
WATCHED = ("ticks", "candles", "latest", "alerts")


class Readings:
    """The page's questions to one engine."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._files = Files(engine.monitor.lake)

    @property
    def now(self) -> int:
        """The moment that the answers are of."""
        return milliseconds([self._engine.now])[0]

    def version(self) -> tuple[int, ...]:
        """Which commits the tables are at; another version means that there is something new to read."""
        return self._files.versions(WATCHED)

    def latest(self) -> Columns:
        """One row per market of the last 24 h, with its metrics of now: as the last tick stored them, else computed."""
        columns = ", ".join(_LATEST)
        return self._columns(f"select {columns} from {latest_source(self._engine)} order by market_id")

    def current(self) -> Columns:
        """One row per market, measure: at, value, average_1h, ratio_1h of now."""
        return self._columns(
            "select market_id, measure, at, value, average_1h, ratio_1h from now_1h order by market_id, measure"
        )

    def series(self, market_id: str, measure: str, length: timedelta = timedelta(hours=24)) -> Columns:
        """One row per sample of at most the last 24 h, by time: at, value, average_1h, ratio_1h."""
        return self._columns(
            "select at, value, average_1h, ratio_1h from trailing_1h "
            "where market_id = :market_id and measure = :measure and at > :since order by at",
            market_id=market_id,
            measure=measure,
            since=self._since(length),
        )

    def hours(self, market_id: str, measure: str, length: timedelta) -> Columns:
        """One row per hour that has samples, by time: at (its start), samples, mean, min, max, last."""
        return self._columns(
            "select hour_at as at, samples, mean, min, max, last from measures_1h "
            "where market_id = :market_id and measure = :measure and hour_at >= :since order by hour_at",
            market_id=market_id,
            measure=measure,
            since=self._since(length),
        )

    def candles(self, market_id: str, interval: str, length: timedelta) -> Columns:
        """One row per candle, by time: opened_at, open, high, low, close, volume; interval is 1m, 5m, 1h or 1d."""
        return self._columns(
            f"select opened_at, open, high, low, close, volume from candles_{interval} "
            "where market_id = :market_id and opened_at >= :since order by opened_at",
            market_id=market_id,
            since=self._since(length),
        )

    def compared(
        self, market_ids: Sequence[str], measure: str, length: timedelta, step_s: int
    ) -> dict[str, tuple[list[int], list[float | None]]]:
        """Of each market, the last sample of each step: when the step began, and the value."""
        named = {f"market{number}": market_id for number, market_id in enumerate(market_ids)}
        within = ", ".join(f":{name}" for name in named)
        text = (
            "select market_id, hour_at as at, last as value from measures_1h "
            f"where measure = :measure and hour_at >= :since and market_id in ({within}) order by hour_at"
            if step_s >= 3600
            else "select market_id, at, value from measures "
            f"where measure = :measure and at > :since and market_id in ({within}) order by at"
        )
        rows = self._columns(text, measure=measure, since=self._since(length), **named)
        found: dict[str, dict[int, float | None]] = {market_id: {} for market_id in market_ids}
        for market_id, at, value in zip(rows["market_id"], rows["at"], rows["value"], strict=True):
            # later samples of a step take the place of earlier ones
            found[market_id][at // (step_s * 1000) * step_s * 1000] = value
        return {market_id: (list(points), list(points.values())) for market_id, points in found.items()}

    def price_gaps(self, count: int) -> Columns:
        """The pairs that exchanges price most differently now: market, both ends, gap_bps, crossed_bps, samples."""
        return self._columns(
            "select market, low_market_id, low_price, high_market_id, high_price, gap_bps, crossed_bps, samples "
            f"from price_gaps order by gap_bps desc limit {int(count)}"
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

    def _since(self, length: timedelta) -> datetime:
        return self._engine.now.replace(tzinfo=None) - length

    def _columns(self, text: str, **values: Any) -> Columns:
        return plain(self._engine.query(text, **values))


_LATEST = (
    "market_id", "source", "exchange", "symbol", "market", "base", "quote", "kind", "collected_at", "price", "bid",
    "ask", "change_24h_pct", "volume_24h", "quote_volume_24h", "spread_bps", "volume_1m", "ratio_1h_price",
    "ratio_1h_volume_1m", "zscore_1h", "return_1h_pct", "return_24h_pct", "return_7d_pct", "volatility_24h_pct",
    "cv_24h", "rank_24h", "rank_cv_24h", "samples", "expected",
)  # fmt: skip


def plain(rows: pa.Table) -> Columns:
    """Columns as JSON takes them: times as milliseconds, numbers finite or None, text as text."""
    return {name: _plain(rows[name]) for name in rows.column_names}


def rows_of(columns: Mapping[str, list]) -> list[dict[str, Any]]:
    """Columns as one dict per row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(column: pa.ChunkedArray) -> list:
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()).to_pylist()
    return finite(column) if pa.types.is_floating(column.type) else column.to_pylist()
