"""What was recorded, served again: payloads byte for byte, and one-minute bars as the tickers and candles of their day.

Owns the two feeds. Recordings are files named `<exchange>/<what>__<stamp>.json[.gz]`; a request finds the one whose
words it contains. Bars are files of `[open time ms, open, high, low, close, volume]` (Binance) or of objects with a
`productId` (Coinbase). The windows that tickers show are computed from bars exactly as they are from simulated ones.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cryptomon_lib.errors import SimulatorError
from cryptomon_lib.simulated_formats import answer
from cryptomon_lib.simulated_market import (
    DAY_MINUTES,
    MINUTE_MS,
    Bars,
    Candle,
    Window,
    day_of,
    filled,
    iso,
    joined,
    part,
    rows,
)
from cryptomon_lib.simulated_replies import Down, Reply
from cryptomon_lib.simulated_universe import Market

log = logging.getLogger(__name__)

_BAR_FILE = re.compile(r"(?P<symbol>.+?)-(?:1m|\d+-60)\.json(?:\.gz)?", re.IGNORECASE)
_DATA_FILE = re.compile(r".+\.(json|html|txt)(\.gz)?", re.IGNORECASE)
_STAMP = re.compile(r"(\d{4})-(\d\d)(?:-(\d\d))?(?:T(\d\d)(\d\d)(\d\d)Z?)?")
_STATUS = re.compile(r"__(\d{3})_")
_ODDITIES = ("errors", "awkward")  # folders whose files are asked for by name
_SKIPPED = "normalised_oracle"
# exchanges that recordings know by an older name
_NOW_CALLED = {"gateio": "gate", "huobi": "htx", "bitfinex2": "bitfinex", "mexc3": "mexc"}
_WAYS = {"ingest": "markets_summaries"}  # a file named for the step that it was input of
_TYPES = {"html": "text/html; charset=utf-8", "txt": "text/plain; charset=utf-8"}
_ENVELOPE = (
    b'{"result": ',
    b', "allowance": {"cost":0.002,"remaining":9.998,"upgrade":"This is a replay: its allowance is never used up"}}',
)


@dataclass(frozen=True)
class Recording:
    """One recorded payload: whose, the words that name its route, and from when it is (ms; 0: unknown)."""

    exchange: str
    words: frozenset[str]
    stamp_ms: int
    path: Path


class ReplayFeed:
    """Everything recorded under a folder, as replies to requests."""

    def __init__(self, folder: str | Path):
        root = Path(folder).resolve()
        if not root.is_dir():
            raise SimulatorError(f"nothing to replay: {root} is not a folder; name one that holds recordings")
        files = _files(root)
        self.recordings = [found for path in files if (found := _recording(path))]
        self.oddities = {
            f"{path.parent.name}/{path.name}": path for path in files if path.parent.name in _ODDITIES
        }
        bars = _read_bars([path for path in files if _BAR_FILE.fullmatch(path.name)])
        self.books = {exchange: BarBook(exchange, series) for exchange, series in bars.items()}
        if not (self.recordings or self.oddities or self.books):
            raise SimulatorError(
                f"nothing to replay in {root}: no file <exchange>/<what>__<date>.json or *-1m.json"
            )
        self._body = lru_cache(maxsize=6)(_read)
        log.info("replaying %d recordings, bars of %s", len(self.recordings), ", ".join(self.books) or "none")

    def exchanges(self) -> list[str]:
        """Every exchange that something is known of."""
        return sorted({recording.exchange for recording in self.recordings} | set(self.books))

    def answer(self, exchange: str, path: str, query: dict[str, str], at_ms: int) -> Reply | None:
        """What the exchange said then: from bars where they reach, else from recordings; None if nothing matches.

        Raises:
            Down: the bars around this moment have a hole here.
        """
        if exchange in _ODDITIES:
            return self._oddity(f"{exchange}{path}")
        book = self.books.get(exchange)
        if book and book.reaches(at_ms):
            return answer(book, exchange, path, query, at_ms)
        if recording := self._find(exchange, path, query, at_ms):
            return Reply(200, self._body(recording.path), _content_type(recording.path))
        return answer(book, exchange, path, query, at_ms) if book else None

    def _find(self, exchange: str, path: str, query: dict[str, str], at_ms: int) -> Recording | None:
        """The longest name that fits; of its recordings the newest that is old enough, else the first."""
        words, last = _words_of(path, query), _words(path.rstrip("/").rpartition("/")[2])
        # the last part of the path must be named: `products` is no recording of /products/stats
        fits = [r for r in self.recordings if r.exchange == exchange and r.words <= words and r.words & last]
        if not fits:
            return None
        most = max(len(recording.words) for recording in fits)
        fits = sorted((r for r in fits if len(r.words) == most), key=lambda r: (r.stamp_ms, r.path.name))
        return ([fits[0]] + [recording for recording in fits if recording.stamp_ms <= at_ms])[-1]

    def _oddity(self, name: str) -> Reply | None:
        path = self.oddities.get(name) or self.oddities.get(f"{name}.gz")
        if path is None:
            return None
        status = _STATUS.search(path.name)
        return Reply(int(status[1]) if status else 200, self._body(path), _content_type(path))


class BarBook:
    """One exchange's recorded bars, in the shape in which simulated markets are asked (see simulated_formats)."""

    def __init__(self, exchange: str, series: dict[tuple[str, str], np.ndarray]):
        self.exchange = exchange
        self.series = list(series.values())
        self.found = tuple(_market(exchange, pair, rows) for pair, rows in series.items())
        minutes = np.unique(np.concatenate([rows[:, 0] for rows in self.series])).astype(np.int64)
        self.minutes = minutes  # in which any market has a bar
        self._bars = lru_cache(maxsize=6)(self._day)
        self._window = lru_cache(maxsize=16)(self._roll)

    def markets(self, exchange: str) -> tuple[Market, ...]:
        """The markets with bars."""
        return self.found

    def reaches(self, at_ms: int) -> bool:
        """Whether the moment lies between the first bar and the end of the last; there may still be a hole."""
        newest = at_ms // MINUTE_MS - 1
        return int(self.minutes[0]) <= newest <= int(self.minutes[-1])

    def window(self, exchange: str, at_ms: int) -> Window:
        """The tickers at a moment. Raises Down where the minute that closed last is absent for every market."""
        newest = at_ms // MINUTE_MS - 1
        place = int(np.searchsorted(self.minutes, newest))
        if place == len(self.minutes) or self.minutes[place] != newest:
            first, last = (iso(int(minute) * MINUTE_MS) for minute in self.minutes[[0, -1]])
            raise Down(
                f"{self.exchange} has no bar of {iso(newest * MINUTE_MS)} (bars from {first} to {last})"
            )
        return replace(self._window(newest + 1), at_ms=at_ms)

    def candles(self, market: Market, first: int, last: int, at_ms: int, flat: bool = False) -> list[Candle]:
        """Closed bars of minutes first to last, both included; a hole stays a hole, whatever `flat` says."""
        first, last = (
            max(first, int(self.minutes[0])),
            min(last, at_ms // MINUTE_MS - 1, int(self.minutes[-1])),
        )
        column = self.found.index(market)
        found: list[Candle] = []
        for day in range(day_of(first), day_of(last) + 1) if first <= last else ():
            zero = day * DAY_MINUTES
            cut = max(first - zero, 0), min(last - zero + 1, DAY_MINUTES)
            found += rows(self._bars(day), column, day, *cut, False)
        return found

    def _roll(self, minute: int) -> Window:
        day, now = divmod(minute, DAY_MINUTES)
        bars, before = self._bars(day), self._bars(day - 1)
        earlier, today = part(before, now, DAY_MINUTES), part(bars, 0, now)
        rolling = joined(earlier, today)
        # where today has no bar yet, the newest one is of yesterday
        newest = rolling.last_minute + np.where(today.last_minute >= 0, day, day - 1) * DAY_MINUTES
        unknown = np.zeros(len(self.found))
        return Window(
            markets=self.found,
            at_ms=0,
            alive=~np.isnan(rolling.last),
            day=filled(rolling),
            today=filled(today),
            scale=bars.scale,
            bid=unknown,
            ask=unknown,
            closed_ms=(newest + 1) * MINUTE_MS - 1,
            trade_id=rolling.trades - 1,
        )

    def _day(self, day: int) -> Bars:
        """A day's bars as arrays by minute and market. Of trades nothing is known but that there was one."""
        size = (DAY_MINUTES, len(self.found))
        prices = [np.zeros(size), np.zeros(size), np.full(size, np.inf), np.zeros(size)]
        volume, traded = np.zeros(size), np.zeros(size, dtype=bool)
        for column, series in enumerate(self.series):
            edges = np.searchsorted(series[:, 0], [day * DAY_MINUTES, (day + 1) * DAY_MINUTES])
            cut = series[edges[0] : edges[1]]
            minutes = cut[:, 0].astype(np.int64) - day * DAY_MINUTES
            for number, array in enumerate((*prices, volume), 1):
                array[minutes, column] = cut[:, number]
            traded[minutes, column] = True
        scale = 10.0 ** np.array([market.lot_decimals for market in self.found])
        return Bars(
            *prices,
            lots=np.rint(volume * scale).astype(np.int64),
            quote_volume=prices[3] * volume,
            trades=(volume > 0).astype(np.int32),
            traded=traded,
            scale=scale,
            carry=np.zeros(len(self.found)),
        )


def _files(root: Path) -> list[Path]:
    """Every data file below a folder, in a fixed order."""
    found = sorted(path for path in root.rglob("*") if path.is_file() and _DATA_FILE.fullmatch(path.name))
    return [path for path in found if _SKIPPED not in path.relative_to(root).parts]


def _recording(path: Path) -> Recording | None:
    """What a file's name says of it: `<exchange>/<what>__<stamp>`, or `<exchange>__<what>__<stamp>`."""
    if path.parent.name in _ODDITIES or _BAR_FILE.fullmatch(path.name) or not _is_json(path):
        return None
    what, *more = path.name.partition(".")[0].split("__")
    exchange = path.parent.name
    if len(more) > 1:
        exchange, what, *more = what, *more
    stamp = _stamp_ms(more[-1]) if more else 0
    exchange = _NOW_CALLED.get(exchange.lower(), exchange.lower())
    return Recording(exchange, _words(_WAYS.get(what, what)), stamp, path)


def _is_json(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(".json")


def _stamp_ms(text: str) -> int:
    """From `2018-08`, `2021-10-12` or `2026-06-24T145720Z`; 0 where there is none."""
    found = _STAMP.match(text)
    if not found:
        return 0
    year, month, day, hour, minute, second = (int(number) if number else 0 for number in found.groups())
    return int(datetime(year, month, day or 1, hour, minute, second, tzinfo=UTC).timestamp()) * 1000


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W_]+", text.lower()))


def _words_of(path: str, query: dict[str, str]) -> frozenset[str]:
    """Of a request: `assetVersion=1` says assetversion, 1 and assetversion1; that it wants all goes without saying."""
    pairs = " ".join(f"{key} {value} {key}{value}" for key, value in query.items())
    return _words(f"{path} {pairs} all")


def _content_type(path: Path) -> str:
    return _TYPES.get(path.name.removesuffix(".gz").rpartition(".")[2], "application/json; charset=utf-8")


def _read(path: Path) -> bytes:
    """A recording's body. Cryptowatch's was kept without its envelope, which is put around it again."""
    body = _unpacked(path)
    if path.name.startswith("ingest."):
        return _ENVELOPE[0] + body.strip() + _ENVELOPE[1]
    return body


def _unpacked(path: Path) -> bytes:
    try:
        body = path.read_bytes()
        return gzip.decompress(body) if path.suffix == ".gz" else body
    except (OSError, EOFError) as error:
        raise SimulatorError(f"cannot replay {path}: {error}") from error


def _read_bars(paths: list[Path]) -> dict[str, dict[tuple[str, str], np.ndarray]]:
    """By exchange and market: rows of minute, open, high, low, close, volume, ascending, one a minute."""
    found: dict[str, dict[tuple[str, str], list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        for (exchange, *pair), series in _bars_of(path).items():
            found[exchange][tuple(pair)].append(series)
    return {
        exchange: {pair: _one_a_minute(np.concatenate(series)) for pair, series in markets.items()}
        for exchange, markets in found.items()
    }


def _bars_of(path: Path) -> dict[tuple[str, str, str], np.ndarray]:
    """The bars of one file by exchange, base and quote; Coinbase's rows are objects that name their market."""
    try:
        entries = json.loads(_unpacked(path))
        if entries and isinstance(entries[0], list):
            base, _, quote = _BAR_FILE.fullmatch(path.name)["symbol"].replace("-", "_").partition("_")
            return {("binance", base, quote): _series(entries)}
        return _by_product(entries)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise SimulatorError(f"cannot read one-minute bars from {path}: {error}") from error


def _by_product(entries: list[dict[str, Any]]) -> dict[tuple[str, str, str], np.ndarray]:
    found = defaultdict(list)
    names = ("openTimeInMillis", "open", "high", "low", "close", "volume")
    for entry in entries:
        base, _, quote = entry["productId"].partition("-")
        found["coinbase", base, quote].append([entry[name] for name in names])
    return {key: _series(lines) for key, lines in found.items()}


def _series(lines: list[list[float]]) -> np.ndarray:
    series = np.array([line[:6] for line in lines], dtype=np.float64)
    series[:, 0] //= MINUTE_MS
    return series


def _one_a_minute(series: np.ndarray) -> np.ndarray:
    _, places = np.unique(series[:, 0], return_index=True)
    return series[places]


def _market(exchange: str, pair: tuple[str, str], series: np.ndarray) -> Market:
    """A market whose lots are fine enough for its volumes, and few enough to be counted exactly."""
    most = max(float(series[:, 5].max()), 1.0) * DAY_MINUTES
    lot_decimals = int(np.clip(np.floor(15 - np.log10(most)), 0, 8))
    born = day_of(int(series[0, 0]))
    return Market(exchange, *pair, price=float(series[-1, 4]), lot_decimals=lot_decimals, born=born)
