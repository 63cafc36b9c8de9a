"""What the dashboard shows: questions, and answers in plain JSON that are the same for all who ask.

Owns what is read for each part of the page, and that the newest snapshot is read once, however many look. In the
server of the dashboard one PageData answers all viewers; in JupyterLab the kernel has its own. How the answers
are drawn stands in charts and in static/.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from cryptomon_lib import charts
from cryptomon_lib.dashboard_readings import Columns, Readings, rows_of
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import UnknownMarket, UnknownQuestion
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.rank_card import rank_card

log = logging.getLogger(__name__)

Answer = dict[str, Any]

# window: its length, the step of what is drawn (None: each sample), the candles that fit it
WINDOWS: Mapping[str, tuple[timedelta, int | None, str]] = {
    "1h": (timedelta(hours=1), None, "1m"),
    "6h": (timedelta(hours=6), None, "1m"),
    "24h": (timedelta(hours=24), None, "5m"),
    "7d": (timedelta(days=7), 3600, "1h"),
    "30d": (timedelta(days=30), 3600, "1h"),
}
_CANDLE_S = {"1m": 60, "5m": 300, "1h": 3600, "1d": 86400}
_LISTED = 8
_SPIKES_SHOWN = 40
_COMPARED = 6
_ASKED_MAX = 200
_ALERTS_BACK = timedelta(days=7)
# the columns of the table of all markets, which the search reads too
_TABLE = (
    "market_id", "exchange", "symbol", "market", "base", "quote", "kind", "collected_at", "price", "change_pct",
    "return_1h_pct", "ratio_1h_price", "ratio_1h_volume_1m", "volume_1m", "quote_volume_24h", "spread_bps",
    "volatility_24h_pct", "zscore_1h", "cv_24h", "rank_cv_24h",
)  # fmt: skip


class PageData:
    """The answers to the dashboard's questions on one monitor; used from many threads at once.

    as_of: replay: the moment that the page takes for now (ISO 8601); empty follows the clock.
    """

    def __init__(self, monitor: Monitor, as_of: str = ""):
        self.monitor, self.as_of = monitor, as_of
        self.engine = Engine(monitor, as_of or None)
        self._readings = Readings(self.engine)
        self._lock = threading.Lock()
        self._snapshot: _Snapshot | None = None
        self._status: Answer | None = None
        self._questions: Mapping[str, Callable[[Mapping[str, str]], Answer]] = {
            "overview": self._overview,
            "table": self._table,
            "market": self._market,
            "alerts": self._alerts,
            "moment": self._moment,
            "threshold": self._threshold,
            "operations": self._operations,
        }

    def version(self) -> str:
        """Which commits the tables are at: another version means that there is something new to show."""
        return ".".join(map(str, self._readings.version()))

    def status(self) -> Answer:
        """What a page looks at all the time: the version of the data, and how old each source is."""
        version = self.version()
        with self._lock:
            if self._status is None or self._status["version"] != version:
                self._status = {"version": version, "sources": rows_of(self._readings.sources())}
            return self._status | {"read_at": self._readings.now}

    def answer(self, question: str, asked: Mapping[str, str] | None = None) -> Answer:
        """The answer to a question; `read_at` says of when (milliseconds), `version` of which data.

        Raises UnknownQuestion: there is none of that name. UnknownMarket: no market of that name, or several.
        CryptomonError: the data cannot be read.
        """
        if question not in self._questions:
            raise UnknownQuestion(f"The dashboard has no question {question[:40]!r}.")
        named = {name: str(value)[:_ASKED_MAX] for name, value in (asked or {}).items()}
        version, read_at = self.version(), self._readings.now
        return self._questions[question](named) | {"read_at": read_at, "version": version}

    # ---- questions

    def _overview(self, asked: Mapping[str, str]) -> Answer:
        found = self._now()
        return {
            "markets": found.size,
            "exchanges": len(set(found.columns["exchange"])),
            "breadth": found.breadth(),
            "risen": found.most("change_pct", spot=True),
            "fallen": found.most("change_pct", least=True, spot=True),
            "variable": found.most("cv_24h", spot=True),
            "spikes": self._spikes(found),
            "gaps": self._gaps(found),
            "alerts": self._firing(found),
            "watchlist": self._watchlist(found),
        }

    def _table(self, asked: Mapping[str, str]) -> Answer:
        return {"columns": {name: self._now().columns[name] for name in _TABLE}}

    def _market(self, asked: Mapping[str, str]) -> Answer:
        found = self._now()
        if not found.size:
            return {"empty": True}
        hints: list[str] = []
        market_id = self._chosen(found, asked.get("market", ""), hints)
        measures = self._measures()
        measure = asked.get("measure") or "price"
        if measure not in measures and measures:
            if asked.get("measure"):
                hints.append(f"No measure is called {measure!r} now. Known: {', '.join(measures)}.")
            measure = "price" if "price" in measures else measures[0]
        window = asked.get("window") if asked.get("window") in WINDOWS else "24h"
        market = found.row(market_id)
        compared = self._compared(found, market_id, asked.get("compare", ""), hints)
        drawn = (
            self._drawn_compared(found, [market_id, *compared], measure, window)
            if compared
            else self._drawn(market, measure, window, asked.get("kind") == "candles")
        )
        return drawn | {
            "market": market | {"link": found.link(market_id)},
            "measure": measure,
            "measures": measures,
            "words": charts.words_of(measure),
            "unit": charts.unit_of(measure, market["base"], market["quote"]),
            "window": window,
            "windows": list(WINDOWS),
            "compared": [
                {"market_id": one, "name": found.name(one), "link": found.link(one)} for one in compared
            ],
            "elsewhere": found.elsewhere(market_id),
            "rank": self._rank(found, market, measure, asked.get("by", "stddev")),
            "hint": " ".join(hints),
        }

    def _alerts(self, asked: Mapping[str, str]) -> Answer:
        found = self._now()
        shown = [self._alert(found, one) for one in self._spans()[:500]]
        return {"firing": [one for one in shown if one["resolved_at"] is None], "history": shown, "days": 7}

    def _moment(self, asked: Mapping[str, str]) -> Answer:
        """An alert's measure around the moment that it fired, as the views saw it then."""
        found = self._now()
        market_id = self._chosen(found, asked.get("market", ""), [])
        measure = asked.get("measure") or "price"
        fired = datetime.fromtimestamp(_number(asked.get("at"), 0.0, 0.0, 4e12) / 1000, UTC)
        until = min(fired + timedelta(minutes=45), self.engine.now)
        readings = Readings(Engine(self.monitor, until))
        series = readings.series(market_id, measure, timedelta(hours=3))
        market = found.row(market_id)
        unit, words = charts.unit_of(measure, market["base"], market["quote"]), charts.words_of(measure)
        common = self._common() | {
            "window": (readings.now - 3 * 3_600_000, readings.now),
            "revision": f"{market_id} {measure} {asked.get('at')}",
        }
        value = charts.value_chart(
            series["at"], series["value"], series["average_1h"], name=words, unit=unit,
            bars=measure.endswith("_1m"), **common,
        )  # fmt: skip
        ratio = charts.ratio_chart(series["at"], series["ratio_1h"], **common)
        at = charts.milliseconds([fired])
        return {
            "name": found.name(market_id),
            "link": found.link(market_id),
            "measure": measure,
            "words": words,
            "unit": unit,
            "value": charts.marked(value, at),
            "ratio": charts.marked(ratio, at),
        }

    def _threshold(self, asked: Mapping[str, str]) -> Answer:
        """What a threshold would have done to one market's measure over 24 h, by the evaluator of the alerts."""
        from cryptomon_lib.backtest import other_threshold
        from cryptomon_lib.rules import read_rule

        found = self._now()
        market_id = self._chosen(found, asked.get("market", ""), [])
        measure = asked.get("measure") or "volume_1m"
        threshold = _number(asked.get("threshold"), charts.THRESHOLD, 1.01, 1000.0)
        series = self._readings.series(market_id, measure)
        rule = read_rule("tried", {"measure": measure, "times": charts.THRESHOLD})
        tried = other_threshold(self.monitor, rule, threshold, market_id, self.engine.now)
        return {
            "market_id": market_id,
            "name": found.name(market_id),
            "measure": measure,
            "threshold": threshold,
            "fired": sorted(charts.milliseconds(tried["fired_at"])),
            "figure": charts.ratio_chart(
                series["at"],
                series["ratio_1h"],
                threshold=threshold,
                window=(self._readings.now - 86_400_000, self._readings.now),
                revision=f"threshold {market_id} {measure}",
                **self._common(),
            ),
        }

    def _operations(self, asked: Mapping[str, str]) -> Answer:
        from cryptomon_lib.operations import newest_runs, quarantine_by_source, storage_by_day

        days, sizes = storage_by_day(self.monitor)
        return {
            "runs": newest_runs(self.monitor),
            "quarantine": quarantine_by_source(self.monitor),
            "storage": charts.storage_chart(days, sizes),
            "stored_mb": sum(sum(values) for _, values in sizes),
        }

    # ---- what is of now, read once for all

    def _now(self) -> "_Snapshot":
        version = self._readings.version()
        with self._lock:
            if self._snapshot is None or self._snapshot.version != version:
                self._snapshot = _Snapshot(version, self._readings.latest())
            return self._snapshot

    def _measures(self) -> list[str]:
        snapshot = self._now()
        with self._lock:
            if snapshot.measures is None:
                current = self._readings.current()
                snapshot.measures, snapshot.current = sorted({*current["measure"]}), current
            return snapshot.measures

    def _spans(self) -> list[Answer]:
        """The alerts of the last days, newest first."""
        from cryptomon_lib.alerts import alert_spans

        snapshot = self._now()
        with self._lock:
            if snapshot.spans is None:
                snapshot.spans = _records(alert_spans(self.engine, self.engine.now - _ALERTS_BACK))
            return snapshot.spans

    # ---- parts

    def _spikes(self, found: "_Snapshot") -> list[Answer]:
        self._measures()
        above = [
            one
            for one in rows_of(found.current)
            if (one["ratio_1h"] or 0.0) > charts.THRESHOLD and not one["measure"].endswith("volume_24h")
        ]
        above.sort(key=lambda one: -one["ratio_1h"])
        return [
            one | {"words": charts.words_of(one["measure"]), "of": len(above)} | found.named(one["market_id"])
            for one in above[:_SPIKES_SHOWN]
        ]

    def _gaps(self, found: "_Snapshot") -> list[Answer]:
        rows = rows_of(self._readings.price_gaps(_LISTED))
        return [
            one | {"low": found.named(one["low_market_id"]), "high": found.named(one["high_market_id"])}
            for one in rows
        ]

    def _firing(self, found: "_Snapshot") -> list[Answer]:
        from cryptomon_lib.alerts import firing_alerts

        return [self._alert(found, one) for one in _records(firing_alerts(self.engine))[:_SPIKES_SHOWN]]

    def _alert(self, found: "_Snapshot", row: Answer) -> Answer:
        return row | found.named(row["market_id"]) | {"words": charts.words_of(row.get("measure") or "")}

    def _watchlist(self, found: "_Snapshot") -> Answer:
        """The first pairs of the watchlist that trade, over 24 h, each where most of it is traded."""
        chosen = [found.best(pair) for pair in self.monitor.settings.watchlist]
        chosen = [market_id for market_id in chosen if market_id][:_COMPARED] or found.largest(_COMPARED)
        series = self._readings.compared(chosen, "price", timedelta(hours=24), 300)
        figure = charts.compare_chart(
            [(found.named(market_id)["pair"], *series[market_id]) for market_id in chosen],
            window=self._window(timedelta(hours=24), [at for at, _ in series.values()]),
            revision="watchlist",
            **(self._common() | {"cadence_s": 300}),
        )
        return {"figure": figure, "markets": chosen}

    def _chosen(self, found: "_Snapshot", name: str, hints: list[str]) -> str:
        if name:
            try:
                return found.resolve(name)
            except UnknownMarket as error:
                hints.append(str(error))
        for pair in self.monitor.settings.watchlist:
            if market_id := found.best(pair):
                return market_id
        return next(iter(found.largest(1)), found.columns["market_id"][0])

    def _compared(self, found: "_Snapshot", market_id: str, names: str, hints: list[str]) -> list[str]:
        chosen: list[str] = []
        for name in filter(None, names.split(",")):
            try:
                one = found.resolve(name)
            except UnknownMarket as error:
                hints.append(str(error))
                continue
            if one != market_id and one not in chosen:
                chosen.append(one)
        if len(chosen) >= _COMPARED:
            hints.append(f"At most {_COMPARED} markets are compared.")
        return chosen[: _COMPARED - 1]

    def _common(self) -> dict[str, Any]:
        settings = self.monitor.settings
        return {"cadence_s": settings.cadence_s, "note": "simulated data" if settings.simulated else ""}

    def _window(self, length: timedelta, times: list[list[int]]) -> tuple[int, int]:
        """What a chart's axis spans: the window, less where history is shorter, and never less than an hour."""
        now = self._readings.now
        first = min((at[0] for at in times if at), default=now)
        return max(now - int(length.total_seconds() * 1000), min(first, now - 3_600_000)), now

    def _drawn(self, market: Answer, measure: str, window: str, as_candles: bool) -> Answer:
        length, step_s, candles = WINDOWS[window]
        market_id, note = market["market_id"], self._common()["note"]
        unit = charts.unit_of(measure, market["base"], market["quote"])
        common = {"note": note, "revision": f"{market_id} {measure} {window}"}
        drawn: Answer = {"kinds": ["line", "candles"] if measure == "price" else ["line"], "kind": "line"}
        if step_s is None:
            series = self._readings.series(market_id, measure, length)
            drawn |= _newest(series)
            common["window"] = self._window(length, [series["at"]])
            drawn["ratio"] = charts.ratio_chart(
                series["at"], series["ratio_1h"], cadence_s=self._common()["cadence_s"], **common
            )
            drawn["value"] = charts.value_chart(
                series["at"], series["value"], series["average_1h"], name=charts.words_of(measure), unit=unit,
                bars=measure.endswith("_1m"), cadence_s=self._common()["cadence_s"], **common,
            )  # fmt: skip
        else:
            series = self._readings.hours(market_id, measure, length)
            common["window"] = self._window(length, [series["at"]])
            drawn |= {
                "newest": {"value": _last(series["last"]), "ratio_1h": None},
                "samples": sum(series["samples"]),
            }
            drawn["value"] = charts.band_chart(
                series["at"], series["mean"], series["min"], series["max"], name=charts.words_of(measure),
                unit=unit, step_s=step_s, **common,
            )  # fmt: skip
        if as_candles and measure == "price":
            rows = self._readings.candles(market_id, candles, length)
            drawn["kind"] = "candles"
            drawn["value"] = charts.candles_chart(
                rows["opened_at"], rows["open"], rows["high"], rows["low"], rows["close"], rows["volume"],
                interval_s=_CANDLE_S[candles], unit=unit, base=market["base"] or "", **common,
            )  # fmt: skip
        begins = common["window"][0]
        fired = [
            one["fired_at"]
            for one in self._spans()
            if one["market_id"] == market_id and one["measure"] == measure and one["fired_at"] >= begins
        ]
        for name in ("value", "ratio"):
            if name in drawn:
                drawn[name] = charts.marked(drawn[name], fired)
        return drawn

    def _drawn_compared(self, found: "_Snapshot", chosen: list[str], measure: str, window: str) -> Answer:
        length, step_s, _ = WINDOWS[window]
        step_s = step_s or (60 if length <= timedelta(hours=6) else 300)
        series = self._readings.compared(chosen, measure, length, step_s)
        figure = charts.compare_chart(
            [(found.name(market_id), *series[market_id]) for market_id in chosen],
            window=self._window(length, [at for at, _ in series.values()]),
            revision=f"{' '.join(chosen)} {measure} {window}",
            **(self._common() | {"cadence_s": step_s}),
        )
        newest = found.current_of(chosen[0], measure)
        return {"value": figure, "kinds": ["line"], "kind": "line", "newest": newest, "samples": 0}

    def _rank(self, found: "_Snapshot", market: Answer, measure: str, by: str) -> Answer:
        with self._lock:
            ranks = found.ranks.get(measure)
        if ranks is None:
            ranks = rows_of(self._readings.ranks(measure))
            with self._lock:
                found.ranks[measure] = ranks
        by = by if by in ("stddev", "cv") else "stddev"
        unit = charts.unit_of(measure, market["base"], market["quote"])
        return rank_card(ranks, market["market_id"], by, names=found.names, unit=unit)


class _Snapshot:
    """Every market with its metrics of now, as columns, with what is looked up in them."""

    def __init__(self, version: tuple[int, ...], columns: Columns):
        self.version, self.columns = version, columns
        self.size = len(columns["market_id"])
        self.measures: list[str] | None = None
        self.spans: list[Answer] | None = None
        self.current: Columns = {}
        self.ranks: dict[str, list[Answer]] = {}
        # an exchange's own change where it gives one, else that between our samples
        columns["change_pct"] = [
            own if given is None else given
            for given, own in zip(columns["change_24h_pct"], columns["return_24h_pct"], strict=True)
        ]
        self._at = {market_id: row for row, market_id in enumerate(columns["market_id"])}
        self.names = dict(zip(columns["market_id"], map(self._name, range(self.size)), strict=True))
        self._short = self._short_names()

    def row(self, market_id: str) -> Answer:
        """All that is known of a market now."""
        at = self._at[market_id]
        return {name: column[at] for name, column in self.columns.items()}

    def name(self, market_id: str) -> str:
        """How a market is shown: its pair, or the exchange's symbol, and where it trades."""
        return self.names.get(market_id, market_id)

    def named(self, market_id: str) -> Answer:
        """What a line about a market says of it."""
        if market_id not in self._at:
            return {"market_id": market_id, "pair": market_id, "exchange": ""}
        at, columns = self._at[market_id], self.columns
        pair = columns["market"][at] or columns["symbol"][at]
        return {"market_id": market_id, "pair": pair, "exchange": columns["exchange"][at]}

    def link(self, market_id: str) -> str:
        """The shortest name that stands for this market and no other."""
        at = self._at[market_id]
        short = f"{self.columns['exchange'][at]}:{self.columns['market'][at]}"
        return short if self._short.get(short) == market_id else market_id

    def resolve(self, name: str) -> str:
        """The market_id that a name stands for. Raises UnknownMarket: none, or several."""
        # the login's redirect makes kraken://BTC-USD of kraken:BTC-USD
        name = name.replace("://", ":")
        if name in self._at:
            return name
        if name in self._short:
            return self._short[name]
        import pandas as pd

        from cryptomon_lib.metrics import resolve_market

        known = ("market_id", "source", "exchange", "symbol", "market", "base", "quote", "kind")
        return resolve_market(name, pd.DataFrame({column: self.columns[column] for column in known}))

    def best(self, pair: str) -> str | None:
        """Of the markets of a pair, the one where most is traded."""
        rows = [row for row, market in enumerate(self.columns["market"]) if market == pair]
        volume = self.columns["quote_volume_24h"]
        best = max(rows, key=lambda row: volume[row] or 0.0, default=None)
        return None if best is None else self.columns["market_id"][best]

    def largest(self, count: int) -> list[str]:
        """The markets with the most quote volume."""
        volume = self.columns["quote_volume_24h"]
        rows = sorted(range(self.size), key=lambda row: -(volume[row] or 0.0))
        return [self.columns["market_id"][row] for row in rows[:count]]

    def elsewhere(self, market_id: str) -> list[Answer]:
        """The same pair on all exchanges, the largest first."""
        pair = self.columns["market"][self._at[market_id]]
        if not pair:
            return []
        told = (
            "market_id",
            "exchange",
            "symbol",
            "kind",
            "price",
            "bid",
            "ask",
            "change_pct",
            "quote_volume_24h",
        )
        rows = [row for row, market in enumerate(self.columns["market"]) if market == pair]
        rows.sort(key=lambda row: -(self.columns["quote_volume_24h"][row] or 0.0))
        return [{name: self.columns[name][row] for name in told} for row in rows[:20]]

    def breadth(self) -> Answer:
        """How many markets rose, fell and stayed in 24 h, and of how many that is not known."""
        changes = [
            change
            for change, kind in zip(self.columns["change_pct"], self.columns["kind"], strict=True)
            if kind == "spot"
        ]
        known = [change for change in changes if change is not None]
        up, down = sum(change > 0 for change in known), sum(change < 0 for change in known)
        return {
            "up": up,
            "down": down,
            "unchanged": len(known) - up - down,
            "unknown": len(changes) - len(known),
        }

    def most(self, column: str, least: bool = False, spot: bool = False) -> list[Answer]:
        """The markets with the most, or least, of something."""
        values, kinds = self.columns[column], self.columns["kind"]
        rows = [
            row
            for row, value in enumerate(values)
            if value is not None and (not spot or kinds[row] == "spot")
        ]
        rows.sort(key=lambda row: values[row] if least else -values[row])
        return [
            self.named(self.columns["market_id"][row])
            | {"value": values[row], "price": self.columns["price"][row]}
            for row in rows[:_LISTED]
        ]

    def current_of(self, market_id: str, measure: str) -> Answer:
        """The newest value of a market's measure and its ratio to the hour before."""
        for row, (market, named) in enumerate(
            zip(self.current.get("market_id", ()), self.current.get("measure", ()), strict=True)
        ):
            if market == market_id and named == measure:
                return {name: self.current[name][row] for name in ("at", "value", "average_1h", "ratio_1h")}
        return {"value": None, "ratio_1h": None}

    def _name(self, row: int) -> str:
        columns = self.columns
        return f"{columns['market'][row] or columns['symbol'][row]} {columns['exchange'][row]}"

    def _short_names(self) -> dict[str, str]:
        """`exchange:BASE-QUOTE` to market_id, where one market alone is called so."""
        found: dict[str, str | None] = {}
        for market_id, exchange, market in zip(
            self.columns["market_id"], self.columns["exchange"], self.columns["market"], strict=True
        ):
            short = f"{exchange}:{market}"
            found[short] = None if short in found else market_id
        return {short: market_id for short, market_id in found.items() if market_id and market_id in self._at}


def _newest(series: Columns) -> Answer:
    return {
        "newest": {name: _last(column) for name, column in series.items()},
        "samples": len(series["at"]),
    }


def _last(column: list) -> Any:
    return column[-1] if column else None


def _number(text: str | None, default: float, least: float, most: float) -> float:
    try:
        return min(max(float(text or default), least), most)
    except ValueError:
        return default


def _records(frame: Any) -> list[Answer]:
    """Rows of a frame as JSON takes them: times in milliseconds, nothing that is no number."""
    from cryptomon_lib.dashboard_readings import plain

    return rows_of(plain(pa.Table.from_pandas(frame, preserve_index=False)))
