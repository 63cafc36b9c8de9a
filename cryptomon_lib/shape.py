"""From decoded rows to typed columns: what every exchange's flatten shares. Pure.

Owns the null rules (zero or absent means "no trade"; "NaN", "N/A", "--", "" and Infinity mean null), the
bounds that reject a row, and the derived columns; so an exchange's module only says where its fields are.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cryptomon_lib.errors import PayloadError
from cryptomon_lib.tables import ARROW_TYPES, PRICE_MAX, VOLUME_MAX, day_of, schema

# a field that exchanges give bare, as text, or not at all
Number = float | str | None
Columns = dict[str, Any]

# the newest candle of most answers: it comes again, whole, with the next poll
UNFINISHED = "the interval had not ended"

_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_TICK_NUMBERS = (
    "price", "bid", "ask", "open_24h", "high_24h", "low_24h", "change_24h", "change_24h_pct",
    "volume_24h", "quote_volume_24h", "volume_today",
)  # fmt: skip
# how exchanges say that a candle still moves
_STILL_OPEN = (False, 0, "0", "false", "False")
_CANDLE_NUMBERS = ("open", "high", "low", "close", "volume", "quote_volume")


@dataclass(frozen=True)
class Instrument:
    """What an exchange's list of instruments says of one symbol."""

    symbol: str
    base: str
    quote: str
    kind: str = "spot"
    trading: bool = True


@dataclass
class Flattened:
    """Rows of one table, and what became of every entry of the payload.

    entries == rows.num_rows + len(rejected), always. rejected: (symbol, reason).
    """

    table: str
    rows: pa.Table
    entries: int
    rejected: list[tuple[str, str]] = field(default_factory=list)


class Rows:
    """How a payload nests its rows, decoded at full speed where all fit, row by row where some do not.

    row: the msgspec type of one row. envelope: gives the type of the whole body from that of a row.
    pick: gives from the decoded body a list of rows, or a dict of them by symbol.
    """

    def __init__(
        self, row: Any, envelope: Callable[[Any], Any], pick: Callable[[Any], Any] = lambda body: body
    ):
        self._all = msgspec.json.Decoder(envelope(row), strict=True)
        self._raw = msgspec.json.Decoder(envelope(msgspec.Raw))
        self._one = msgspec.json.Decoder(row)
        self._pick = pick

    def decode(self, body: bytes) -> tuple[list[str] | None, list, list[tuple[str, str]]]:
        """Names (None where rows are a list), rows, and (name, reason) of what is not of a row's form.

        Raises PayloadError: the body is not of the envelope's form, or none of its rows fits.
        """
        try:
            found, rejected = self._pick(self._all.decode(body)), []
        except msgspec.DecodeError:
            found, rejected = self._decode_each(body)
        if isinstance(found, dict):
            return list(found), list(found.values()), rejected
        return None, found, rejected

    def names(self, body: bytes) -> list[str]:
        """The symbols of a body whose rows are a dict by symbol; the rows are not looked at.

        Raises PayloadError: the body is not of the envelope's form.
        """
        try:
            return list(self._pick(self._raw.decode(body)))
        except msgspec.DecodeError as error:
            raise PayloadError(f"The payload has another form than documented: {error}.") from error

    def _decode_each(self, body: bytes) -> tuple[Any, list[tuple[str, str]]]:
        try:
            found = self._pick(self._raw.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PayloadError(f"The payload has another form than documented: {error}.") from error
        named = (
            list(found.items()) if isinstance(found, dict) else [(str(i), row) for i, row in enumerate(found)]
        )
        good, rejected = [], []
        for name, raw in named:
            try:
                good.append((name, self._one.decode(raw)))
            except msgspec.DecodeError as error:
                rejected.append((name, f"not of a row's form: {error}"))
        if not good and rejected:
            raise PayloadError(f"No row of the payload has the documented form; the first: {rejected[0]}.")
        return (dict(good) if isinstance(found, dict) else [row for _, row in good]), rejected


def ticks(
    columns: Mapping[str, Any],
    *,
    source: str,
    collected_at: datetime,
    instruments: Mapping[str, Instrument] | None = None,
    rejected: Sequence[tuple[str, str]] = (),
) -> Flattened:
    """Rows of the table ticks from an exchange's columns.

    columns: `symbol` and any of the table's other columns, each a list as long; numbers may be text.
    rejected: entries that the exchange's module could not read, to be counted with the rest.
    """
    symbols = columns["symbol"]
    size = len(symbols)
    values = {name: numbers(columns[name]) for name in _TICK_NUMBERS if name in columns}
    faults = _Faults(size)
    with np.errstate(invalid="ignore", divide="ignore"):
        for name in _present(values, "price", "bid", "ask", "open_24h", "high_24h", "low_24h"):
            faults.where(values[name] < 0, f"{name} is negative")
            faults.where(values[name] > PRICE_MAX, f"{name} is above {PRICE_MAX:g}")
            values[name][values[name] == 0] = np.nan
        for name in _present(values, "volume_24h", "quote_volume_24h", "volume_today"):
            faults.where(values[name] < 0, f"{name} is negative")
            faults.where(values[name] > VOLUME_MAX, f"{name} is above {VOLUME_MAX:g}")
        if "high_24h" in values and "low_24h" in values:
            faults.where(values["high_24h"] < values["low_24h"], "high_24h is below low_24h")
        _derive_change(values)
    market = _market_columns(columns, source, instruments or {})
    faults.market(market)
    at = columns.get("exchange_at")
    built = market | {
        "collected_at": pa.repeat(pa.scalar(collected_at, ARROW_TYPES["time"]), size),
        "exchange_at": _from_ms(at) if at is not None else pa.nulls(size, ARROW_TYPES["time"]),
        "day": pa.repeat(day_of(collected_at), size),
        **{name: _column(values.get(name), size) for name in _TICK_NUMBERS},
    }
    return faults.flattened("ticks", built, symbols, rejected)


def candles(
    columns: Mapping[str, Any],
    *,
    source: str,
    collected_at: datetime,
    interval_s: int = 60,
    origin: str = "live",
    instruments: Mapping[str, Instrument] | None = None,
    rejected: Sequence[tuple[str, str]] = (),
) -> Flattened:
    """Rows of the table candles; an interval that had not ended when the answer arrived is rejected.

    columns: `symbol`, `opened_at_ms`, open, high, low, close, volume and, where given, quote_volume, trades, and
        `is_closed`, the exchange's own word on whether the interval has ended.
    """
    symbols = columns["symbol"]
    size = len(symbols)
    values = {
        name: numbers(columns[name]) if name in columns else np.full(size, np.nan) for name in _CANDLE_NUMBERS
    }
    opened_ms = numbers(columns["opened_at_ms"])
    faults = _Faults(size)
    faults.where(np.isnan(opened_ms) | (opened_ms < 0) | (opened_ms > 4e12), "opened_at is no time")
    opened_ms = np.clip(np.nan_to_num(opened_ms), 0, 4e12).astype("int64")
    faults.where(opened_ms + interval_s * 1000 > collected_at.timestamp() * 1000, UNFINISHED)
    if "is_closed" in columns:
        faults.where(np.array([value in _STILL_OPEN for value in columns["is_closed"]], bool), UNFINISHED)
    with np.errstate(invalid="ignore"):
        for name in ("open", "high", "low", "close"):
            faults.where(~(values[name] > 0), f"{name} is absent, zero or negative")
            faults.where(values[name] > PRICE_MAX, f"{name} is above {PRICE_MAX:g}")
        faults.where(values["high"] < np.fmax(values["open"], values["close"]), "high is below open or close")
        faults.where(values["low"] > np.fmin(values["open"], values["close"]), "low is above open or close")
        for name in ("volume", "quote_volume"):
            faults.where((values[name] < 0) | (values[name] > VOLUME_MAX), f"{name} is negative or absurd")
    market = _market_columns(columns, source, instruments or {})
    faults.market(market, opened_ms)
    trades = numbers(columns["trades"]) if "trades" in columns else np.full(size, np.nan)
    opened = pa.array(opened_ms * 1000).cast(ARROW_TYPES["time"])
    built = market | {
        "interval_s": pa.repeat(pa.scalar(interval_s, pa.int64()), size),
        "opened_at": opened,
        "trades": pc.cast(pa.array(trades, from_pandas=True), pa.int64(), safe=False),
        "collected_at": pa.repeat(pa.scalar(collected_at, ARROW_TYPES["time"]), size),
        "origin": pa.repeat(origin, size),
        "day": pc.strftime(opened, "%Y-%m-%d"),
        **{name: pa.array(array, from_pandas=True) for name, array in values.items()},
    }
    return faults.flattened("candles", built, symbols, rejected)


def numbers(values: Sequence[Any] | np.ndarray | pa.Array) -> np.ndarray:
    """Floats; NaN for what is no finite number: null, "", "--", "N/A", "NaN", Infinity, other text."""
    if isinstance(values, np.ndarray):
        found = values.astype("float64")
    else:
        found = _fast_numbers(values)
        if found is None:
            found = np.fromiter(map(_number, values), "float64", len(values))
    found[~np.isfinite(found)] = np.nan
    return found


def _fast_numbers(values: Sequence[Any]) -> np.ndarray | None:
    """All at once, where all are floats or all are text that is a number; else None."""
    try:
        array = values if isinstance(values, pa.Array) else pa.array(values)
        if pa.types.is_null(array.type):
            return np.full(len(array), np.nan)
        if not (pa.types.is_string(array.type) or pa.types.is_floating(array.type)):
            return None
        return pc.cast(array, pa.float64()).to_numpy(zero_copy_only=False).copy()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None


def _number(value: Any) -> float:
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value) else np.nan
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan
    except OverflowError:
        return np.nan


def _derive_change(values: dict[str, np.ndarray]) -> None:
    """Change and percent from the open where the exchange gives only that; null where there was no trade."""
    if "price" not in values:
        return
    untraded = np.isnan(values["price"])
    for name in _present(values, "high_24h", "low_24h", "change_24h", "change_24h_pct"):
        values[name][untraded] = np.nan
    if "open_24h" not in values:
        return
    opened = values["open_24h"]
    change = _where_absent(values.get("change_24h"), values["price"] - opened)
    values["change_24h"] = change
    values["change_24h_pct"] = _where_absent(values.get("change_24h_pct"), change / opened * 100)


def _present(values: Mapping[str, Any], *names: str) -> list[str]:
    # in this order always: of several reasons the first is told
    return [name for name in names if name in values]


def _where_absent(given: np.ndarray | None, derived: np.ndarray) -> np.ndarray:
    return derived if given is None else np.where(np.isnan(given), derived, given)


def _column(values: np.ndarray | None, size: int) -> pa.Array:
    return pa.nulls(size, pa.float64()) if values is None else pa.array(values, from_pandas=True)


def _market_columns(columns: Mapping[str, Any], source: str, instruments: Mapping[str, Instrument]) -> dict:
    symbols = _texts(columns["symbol"])
    size = len(symbols)
    exchanges = _texts(columns["exchange"]) if "exchange" in columns else pa.repeat(source, size)
    bases, quotes, kinds = _split(columns, instruments, size)
    return {
        "market_id": pc.binary_join_element_wise(source, exchanges, symbols, ":"),
        "source": pa.repeat(source, size),
        "exchange": exchanges,
        "symbol": symbols,
        "market": pc.binary_join_element_wise(bases, quotes, "-"),
        "base": bases,
        "quote": quotes,
        "kind": kinds,
    }


def _split(columns: Mapping[str, Any], instruments: Mapping[str, Instrument], size: int) -> tuple:
    """Base, quote and kind: from the list of instruments where there is one, else as the module gives them."""
    spot = pa.repeat("spot", size)
    if "base" in columns and not instruments:
        kinds = _texts(columns["kind"]) if "kind" in columns else spot
        return _texts(columns["base"]), _texts(columns["quote"]), kinds
    pairs = columns.get("pair", columns["symbol"])
    pairs = pairs.to_pylist() if isinstance(pairs, pa.Array) else pairs
    found = [instruments.get(pair) for pair in pairs] if instruments else []
    nothing = pa.nulls(size, pa.string())
    bases = _texts([one and one.base for one in found]) if found else nothing
    quotes = _texts([one and one.quote for one in found]) if found else nothing
    if "base" in columns:
        bases = pc.coalesce(bases, _texts(columns["base"]))
        quotes = pc.coalesce(quotes, _texts(columns["quote"]))
    if "kind" in columns:
        return bases, quotes, _texts(columns["kind"])
    return bases, quotes, _texts([one.kind if one else "spot" for one in found]) if found else spot


def _texts(values: Sequence[str | None] | pa.Array) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, pa.string())


def _from_ms(values: Sequence[Any]) -> pa.Array:
    """Times; null for what is no moment of the years 1970 to 2096."""
    found = numbers(values)
    found[(found <= 0) | (found > 4e12)] = np.nan
    return pc.cast(pc.multiply(pa.array(np.floor(found), from_pandas=True), 1000), pa.int64()).cast(
        ARROW_TYPES["time"]
    )


class _Faults:
    """Which rows are refused, each with the first reason found."""

    def __init__(self, size: int):
        self.bad = np.zeros(size, bool)
        self.reasons: dict[int, str] = {}

    def where(self, mask: np.ndarray, reason: str) -> None:
        if mask.any():
            for index in np.flatnonzero(mask & ~self.bad).tolist():
                self.reasons[index] = reason
            self.bad |= mask

    def market(self, market: Mapping[str, pa.Array], *also: np.ndarray) -> None:
        """No key without a symbol, and none twice."""
        symbols = market["symbol"]
        self.where(
            pc.or_kleene(pc.is_null(symbols), pc.equal(symbols, ""))
            .to_numpy(zero_copy_only=False)
            .astype(bool),
            "the symbol is absent",
        )
        if not also and pc.count_distinct(market["market_id"], mode="all").as_py() == len(symbols):
            return
        keys = market["market_id"].to_pylist()
        if also:
            keys = list(zip(keys, *(column.tolist() for column in also), strict=True))
        if len(set(keys)) < len(keys):
            seen: set = set()
            # set.add gives None, so this is True exactly for what was seen before among rows that stay
            marked = zip(keys, self.bad.tolist(), strict=True)
            twice = np.fromiter(
                (not bad and (key in seen or bool(seen.add(key))) for key, bad in marked), bool, len(keys)
            )
            self.where(twice, "the same market is in the payload twice")

    def flattened(self, table: str, built: Mapping, symbols: Sequence, rejected: Sequence) -> Flattened:
        rows = pa.table({name: built[name] for name in schema(table).names}, schema=schema(table))
        if self.bad.any():
            rows = rows.filter(pa.array(~self.bad))
        mine = [(str(symbols[index]), reason) for index, reason in sorted(self.reasons.items())]
        return Flattened(table, rows, len(symbols) + len(rejected), [*rejected, *mine])
