"""The questions that the API answers, as queries on the views: names are allow-listed, values are bound.

Owns what may be asked at once (rows, range of time, one market where a view has a row per market and minute)
and how a series is thinned out; knows nothing of HTTP beyond the status of a question that cannot be answered.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from http import HTTPStatus
from typing import Any

import numpy as np
import pyarrow as pa

from cryptomon_lib import metrics, sql
from cryptomon_lib.api_answers import Rows
from cryptomon_lib.config import nearest
from cryptomon_lib.engine import Engine
from cryptomon_lib.engines.files import Files
from cryptomon_lib.errors import ApiError, UnknownMarket
from cryptomon_lib.latest import LATEST, latest_source
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.tables import TABLES

STEPS = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "4h": 14400, "1d": 86400}
CANDLES = ("1m", "5m", "1h", "1d")
# a series of this many points is as fine as a screen shows; `step=auto` takes the finest step below it
_POINTS = 1500
# raw samples reach so far back at once; longer ranges come from hourly aggregates
_RAW = timedelta(hours=24)
# without a market, a view with a row per market and minute gives this much of time at once
_ALL_MARKETS = timedelta(minutes=10)
_TIMES = ("at", "collected_at", "opened_at", "created_at", "hour_at")
# what a market's columns may be asked by
_ASKED_BY = (
    "market_id",
    "measure",
    "source",
    "exchange",
    "symbol",
    "market",
    "asset",
    "base",
    "quote",
    "kind",
)


@dataclass(frozen=True)
class Described:
    """A view as the API offers it: its columns with their Arrow types, and what it may be asked by."""

    view: sql.View
    types: Mapping[str, pa.DataType]

    @property
    def filters(self) -> tuple[str, ...]:
        """Columns that a request may name a value of."""
        text = (pa.types.is_string, pa.types.is_large_string)
        return tuple(
            name for name in _ASKED_BY if name in self.types and any(fits(self.types[name]) for fits in text)
        )

    @property
    def time(self) -> str | None:
        """The column that a range of time is of, where a row is of one market at one time."""
        return next((name for name in _TIMES if name in self.view.grain), None)


class Questions:
    """What may be asked of one monitor."""

    def __init__(self, monitor: Monitor):
        self.monitor, self.limits = monitor, monitor.settings.api
        self.engine, self._files = Engine(monitor), Files(monitor.lake)
        self._known: dict[str, tuple[str, Any]] = {}
        self._lock = threading.Lock()

    @cached_property
    def described(self) -> dict[str, Described]:
        """Every view by name."""
        return {
            name: Described(view, _types(self.engine.query(f"select * from {name} limit 0")))
            for name, view in sql.views().items()
        }

    def data_of(self) -> str:
        """Which data there is: it changes with each commit, and with the minute, since views look at the clock."""
        return f"{self._files.versions(TABLES)} {int(time.time()) // 60}"

    def view(
        self,
        name: str,
        filters: Mapping[str, str],
        since: datetime | None,
        until: datetime | None,
        limit: int,
        offset: int,
    ) -> Rows:
        """Rows of a view, in the order of its grain.

        Raises ApiError: too much at once, and what to name to ask for less.
        """
        asked = self.described[name]
        # the view itself costs a tick's work; for the past there is nothing else
        source = latest_source(self.engine) if name == LATEST else name
        bounds, values = [f"{column} = :{column}" for column in filters], dict(filters)
        if asked.time:
            since, until = self._range(since, until, _RAW if filters else _ALL_MARKETS)
            if until - since > _ALL_MARKETS and not {"market_id", "symbol", "asset", "market"} & set(filters):
                raise ApiError(
                    400,
                    f"{name} has a row per market and time: name a market_id, or a range of at most "
                    f"{_ALL_MARKETS.total_seconds() / 60:g} minutes.",
                )
            bounds += [f"{asked.time} > :since", f"{asked.time} <= :until"]
            values |= {"since": _naive(since), "until": _naive(until)}
        where = f"where {' and '.join(bounds)}" if bounds else ""
        columns = ", ".join(f'"{column}"' for column in asked.types)
        order = ", ".join(f'"{column}"' for column in asked.view.grain)
        text = (
            f"select {columns} from {source} {where} order by {order} offset {offset} rows limit {limit + 1}"
        )
        found = self._engine(until).query(text, **values)
        return Rows(
            found.slice(0, limit),
            {"view": name, "as_of": _shown(self.engine.now)},
            more=found.num_rows > limit,
        )

    def series(
        self, market: str, measure: str, since: datetime | None, until: datetime | None, step: str
    ) -> Rows:
        """One market's measure over time: at (start of the step), value (mean), min, max, first, last, samples, expected.

        Raises ApiError: an unknown market or measure, more points than an answer has.
        """
        market_id, since, until = self.market_id(market), *self._range(since, until, _RAW)
        self._check_measure(measure)
        step_s = self._step(step, since, until)
        if step_s < STEPS["1h"] and until - since > _RAW:
            raise ApiError(
                400,
                f"step={step} reaches {_RAW.total_seconds() / 3600:g} h at once; take step=1h, or less time.",
            )
        hourly = step_s >= STEPS["1h"]
        where = "where market_id = :market_id and measure = :measure"
        text = (
            "select hour_at as at, samples, expected, mean, min, max, first, last from measures_1h "
            f"{where} and hour_at >= :since and hour_at < :until order by hour_at"
            if hourly
            else f"select at, value from measures {where} and at > :since and at <= :until order by at"
        )
        low = _floor(since, step_s) if hourly else since
        found = self._engine(until).query(
            text, market_id=market_id, measure=measure, since=_naive(low), until=_naive(until)
        )
        cadence_s = self.monitor.settings.cadence_s
        about = {
            "market_id": market_id,
            "measure": measure,
            "step_s": step_s,
            "as_of": _shown(self.engine.now),
        }
        return Rows(thinned(found, step_s, cadence_s), about)

    def rank(self, measure: str, quote: str | None, limit: int, offset: int) -> Rows:
        """Spot markets by how variable the measure was over 24 h, the most variable first."""
        self._check_measure(measure)
        where = "and markets.quote = :quote" if quote else ""
        found = self.engine.query(
            "select place, places, rank_24h.market_id, markets.exchange, markets.market, markets.symbol, markets.quote, "
            "stddev_24h, rank_24h, rank_24h_in_quote, cv_24h, rank_cv_24h, rank_24h.samples, rank_24h.expected "
            "from rank_24h inner join markets on rank_24h.market_id = markets.market_id "
            f"where measure = :measure {where} order by place, rank_24h.market_id "
            f"offset {offset} rows limit {limit + 1}",
            measure=measure,
            **({"quote": quote} if quote else {}),
        )
        about = {"measure": measure, "as_of": _shown(self.engine.now)}
        return Rows(found.slice(0, limit), about, more=found.num_rows > limit)

    def candles(
        self,
        market: str,
        interval: str,
        since: datetime | None,
        until: datetime | None,
        limit: int,
        offset: int,
    ) -> Rows:
        """One market's candles of an interval, by time."""
        return self.view(
            f"candles_{interval}", {"market_id": self.market_id(market)}, since, until, limit, offset
        )

    def measures(self) -> Rows:
        """One row per measure that has a value now: how many markets have one."""
        found = self.engine.query(
            "select measure, count(*) as markets from now_1h group by measure order by measure"
        )
        return Rows(found, {"as_of": _shown(self.engine.now)})

    def alerts(
        self, state: str | None, since: datetime | None, until: datetime | None, limit: int, offset: int
    ) -> Rows:
        """Transitions of alerts, the newest first."""
        since, until = self._range(since, until, _RAW)
        columns = ", ".join(f'"{name}"' for name in TABLES["alerts"].column_names)
        bound = "and state = :state" if state else ""
        values = {"since": _naive(since), "until": _naive(until)} | ({"state": state} if state else {})
        found = self.engine.query(
            f'select {columns} from alerts where "at" > :since and "at" <= :until {bound} '
            f'order by "at" desc, alert_id offset {offset} rows limit {limit + 1}',
            **values,
        )
        return Rows(found.slice(0, limit), {"as_of": _shown(self.engine.now)}, more=found.num_rows > limit)

    def health(self) -> Rows:
        """One row per source: how old its newest tick is, and how complete its last 24 h are.

        Status 503 where there is no tick, or none of any source within three cadences.
        """
        found = self.engine.query("select source, collected_at, age_s from freshness order by source")
        patience_s = 3 * self.monitor.settings.cadence_s
        fresh = [age for age in found["age_s"].to_pylist() if age <= patience_s]
        says = "ok" if fresh and len(fresh) == found.num_rows else "stale" if fresh else "down"
        status = HTTPStatus.OK if fresh else HTTPStatus.SERVICE_UNAVAILABLE
        about = {
            "status": says,
            "simulated": self.monitor.settings.simulated,
            "as_of": _shown(self.engine.now),
        }
        return Rows(found, about, status=status)

    def market_id(self, name: str) -> str:
        """The market_id that a name stands for. Raises ApiError: none, or several (404)."""
        try:
            return metrics.resolve_market(name, self._once("markets", lambda: metrics.markets(self.engine)))
        except UnknownMarket as error:
            raise ApiError(404, str(error)) from error

    def _once(self, name: str, read: Callable[[], Any]) -> Any:
        """What is needed to understand a question, read once for all questions about the same data."""
        data = self.data_of()
        with self._lock:
            if self._known.get(name, ("",))[0] != data:
                self._known[name] = data, read()
            return self._known[name][1]

    def _engine(self, until: datetime | None) -> Engine:
        """Views look back from their clock: what is older is asked as of its own time."""
        if until is None or until > datetime.now(UTC) - timedelta(hours=1):
            return self.engine
        return Engine(self.monitor, until)

    def _check_measure(self, measure: str) -> None:
        known = self._once("measures", lambda: self.measures().table["measure"].to_pylist())
        if measure not in known:
            raise ApiError(
                404, f"No measure is called {measure!r} now.{nearest(measure, known) if known else ''}"
            )

    def _range(
        self, since: datetime | None, until: datetime | None, default: timedelta
    ) -> tuple[datetime, datetime]:
        until = _aware(until or datetime.now(UTC))
        since = _aware(since) if since else until - default
        if since >= until:
            raise ApiError(400, f"from is {_shown(since)}, which is not before to, {_shown(until)}.")
        if until - since > timedelta(days=self.limits.range_days_max):
            raise ApiError(
                400,
                f"from {_shown(since)} to {_shown(until)} is more than {self.limits.range_days_max} days.",
            )
        return since, until

    def _step(self, step: str, since: datetime, until: datetime) -> int:
        seconds = (until - since).total_seconds()
        if step == "auto":
            fitting = [one for one in STEPS.values() if seconds / one <= _POINTS]
            if until - since > _RAW:
                fitting = [one for one in fitting if one >= STEPS["1h"]]
            return fitting[0]
        if seconds / STEPS[step] > self.limits.rows_max:
            raise ApiError(
                400, f"step={step} gives more than {self.limits.rows_max:,} points; take a longer step."
            )
        return STEPS[step]


def thinned(rows: pa.Table, step_s: int, cadence_s: int) -> pa.Table:
    """Samples (at, value) or hours (at, samples, expected, mean, min, max, first, last), by time, merged to steps.

    One row per step that has any: at (its start), value (mean), min, max, first, last, samples, expected.
    """
    at = rows["at"].cast(pa.timestamp("ms")).cast(pa.int64()).to_numpy()
    columns = {name: rows[name].to_numpy() for name in rows.column_names if name != "at"}
    if "value" in columns:
        columns |= dict.fromkeys(("mean", "min", "max", "first", "last"), columns["value"])
        columns["samples"] = np.ones(len(at), dtype="int64")
    buckets, starts = np.unique(at // (step_s * 1000), return_index=True)
    samples = _reduced(np.add, columns["samples"], starts)
    weighted = _reduced(np.add, columns["mean"] * columns["samples"], starts)
    ends = np.append(starts[1:], len(at)) - 1
    # samples as they came keep their times; of several in one step, the first one's
    every = at[starts] if step_s <= cadence_s and "value" in columns else buckets * step_s * 1000
    return pa.table(
        {
            "at": pa.array(every, pa.int64()).cast(pa.timestamp("ms")),
            "value": weighted / np.maximum(samples, 1),
            "min": _reduced(np.minimum, columns["min"], starts),
            "max": _reduced(np.maximum, columns["max"], starts),
            "first": columns["first"][starts],
            "last": columns["last"][ends] if len(at) else columns["last"],
            "samples": samples,
            "expected": _reduced(np.add, columns["expected"], starts)
            if "expected" in columns
            else np.full(len(samples), max(1, step_s // cadence_s)),
        }
    )


def _reduced(how: np.ufunc, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return how.reduceat(values, starts) if len(starts) else values[:0]


def _types(rows: pa.Table) -> dict[str, pa.DataType]:
    return {each.name: each.type for each in rows.schema}


def _floor(moment: datetime, step_s: int) -> datetime:
    return datetime.fromtimestamp(moment.timestamp() // step_s * step_s, UTC)


def _aware(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _naive(moment: datetime) -> datetime:
    return _aware(moment).replace(tzinfo=None)


def _shown(moment: datetime) -> str:
    return f"{_aware(moment):%Y-%m-%dT%H:%M:%S}Z"
