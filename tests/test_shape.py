"""Null rules, bounds and accounting: what every exchange's columns go through."""

import json
import math
import random
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from cryptomon_lib.errors import PayloadError
from cryptomon_lib.shape import Instrument, Number, Rows, candles, numbers, ticks
from cryptomon_lib.tables import PRICE_MAX, VOLUME_MAX, schema

AT = datetime(2026, 7, 27, 12, tzinfo=UTC)
AT_MS = int(AT.timestamp() * 1000)


def tick(**columns):
    """The rows of one market's tick, and its rejects."""
    given = {"symbol": ["BTC-USD"], "base": ["BTC"], "quote": ["USD"]}
    found = ticks(given | {name: [value] for name, value in columns.items()}, source="x", collected_at=AT)
    return found.rows.to_pylist(), [reason for _, reason in found.rejected]


def candle(**columns):
    given = {
        "symbol": "BTC-USD",
        "base": "BTC",
        "quote": "USD",
        "opened_at_ms": AT_MS - 60_000,
        "open": 2.0,
        "high": 3.0,
        "low": 1.0,
        "close": 2.5,
        "volume": 7.0,
    } | columns
    found = candles({name: [value] for name, value in given.items()}, source="x", collected_at=AT)
    return found.rows.to_pylist(), [reason for _, reason in found.rejected]


# ---- numbers


NOTHING = [None, "", " ", "--", "-", "N/A", "NaN", "nan", "null", "Infinity", "-Infinity", "inf", "1,5", "1_000",
           "0x10", "1e", "e5", ".", "+", "12 34", "١٢", math.nan, math.inf, -math.inf, "1e999", True, [], {}]  # fmt: skip
SOMETHING = {
    "1": 1.0, "-1.50": -1.5, "+2": 2.0, ".5": 0.5, "5.": 5.0, "3.59E7": 3.59e7, "1e-8": 1e-8, " 7 ": 7.0,
    "0.00000000": 0.0, "0000012": 12.0, "92161862510000001": 9.2161862510000001e16, "1e-400": 0.0,
    "0.1234567890123456789012345678901": 0.12345678901234568,
}  # fmt: skip


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_what_is_no_finite_number_is_null(value):
    assert np.isnan(numbers([value, "1", 2.0])[0])
    assert np.isnan(numbers([value])[0])


@pytest.mark.parametrize("text", SOMETHING)
def test_text_that_is_a_number_is_that_number(text):
    expected = SOMETHING[text]
    assert numbers([text])[0] == expected
    assert numbers([text, "N/A", None, 1])[0] == expected


def test_numbers_are_the_same_whether_read_all_at_once_or_one_by_one():
    random_ = random.Random(7)
    texts = [f"{random_.uniform(-1e6, 1e6) * 10 ** random_.randint(-12, 12):.17g}" for _ in range(2000)]
    fast, slow = numbers(texts), numbers([*texts, "N/A"])[:-1]
    assert fast.tolist() == slow.tolist() == [float(text) for text in texts]
    assert numbers([float(text) for text in texts]).tolist() == fast.tolist()


def test_integers_beyond_what_a_float_counts_are_near_and_those_beyond_a_float_null():
    assert numbers([2**53 + 1, 10**17 + 1, 1.5]).tolist() == [2.0**53, 1e17, 1.5]
    assert np.isnan(numbers([10**400, 1])[0])


def test_arrays_and_nothing_are_taken_too():
    assert numbers(np.array([1, 2])).tolist() == [1.0, 2.0]
    assert numbers(pa.array(["1", None]))[0] == 1.0
    assert np.isnan(numbers([None, None])).all() and numbers([]).tolist() == []


# ---- null rules of ticks


def test_zero_and_absent_prices_mean_no_trade():
    for price in (0, 0.0, "0.00000000", None, "", "N/A", "Infinity", "-0"):
        ((row,), rejected) = tick(price=price, high_24h=3, low_24h=1, change_24h=2, open_24h=5, volume_24h=4)
        assert rejected == []
        assert [row[name] for name in ("price", "high_24h", "low_24h", "change_24h", "change_24h_pct")] == [
            None
        ] * 5
        assert (row["volume_24h"], row["open_24h"]) == (4, 5)


def test_a_zero_of_any_price_is_null_and_a_zero_volume_is_zero():
    ((row,), _) = tick(
        price=1, bid=0, ask="0", open_24h=0, high_24h=0, low_24h=0, volume_24h=0, volume_today="0.0"
    )
    assert [row[name] for name in ("bid", "ask", "open_24h", "high_24h", "low_24h")] == [None] * 5
    assert (row["volume_24h"], row["volume_today"], row["quote_volume_24h"]) == (0, 0, None)


@pytest.mark.parametrize(
    ("given", "change", "percent"),
    [
        ({"open_24h": 80}, 20, 25),
        ({"open_24h": 80, "change_24h": 19}, 19, 23.75),
        ({"open_24h": 80, "change_24h": 19, "change_24h_pct": 24}, 19, 24),
        ({"open_24h": 80, "change_24h_pct": 24}, 20, 24),
        ({"open_24h": 0}, None, None),
        ({"change_24h": 5}, 5, None),
        ({"change_24h": 0, "change_24h_pct": 0}, 0, 0),
        ({}, None, None),
    ],
)
def test_the_change_follows_from_the_open_where_it_is_not_given(given, change, percent):
    ((row,), _) = tick(price=100, **given)
    assert (row["change_24h"], row["change_24h_pct"]) == (change, percent)


def test_change_and_percent_may_be_negative():
    ((row,), rejected) = tick(price=100, change_24h=-5, change_24h_pct="-4.7")
    assert rejected == [] and (row["change_24h"], row["change_24h_pct"]) == (-5, -4.7)


@pytest.mark.parametrize("value", [0, -1, None, "", "soon", 5e12, math.inf])
def test_a_time_that_cannot_be_is_null_and_no_reason_to_reject(value):
    ((row,), rejected) = tick(price=1, exchange_at=value)
    assert (row["exchange_at"], rejected) == (None, [])


def test_the_exchange_s_own_time_is_kept_to_the_millisecond():
    ((row,), _) = tick(price=1, exchange_at=AT_MS + 0.9)
    assert row["exchange_at"] == AT
    ((row,), _) = tick(price=1, exchange_at=str(AT_MS + 123))
    assert row["exchange_at"] == AT + timedelta(milliseconds=123)


# ---- bounds


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"price": -1}, "price is negative"),
        ({"price": 1, "bid": "-0.01"}, "bid is negative"),
        ({"price": 1, "ask": -1}, "ask is negative"),
        ({"price": 1, "open_24h": -1}, "open_24h is negative"),
        ({"price": PRICE_MAX * 1.01}, "price is above 1e+18"),
        ({"price": 1, "high_24h": 1, "low_24h": 2}, "high_24h is below low_24h"),
        ({"price": 1, "volume_24h": -1}, "volume_24h is negative"),
        ({"price": 1, "volume_today": -1}, "volume_today is negative"),
        ({"price": 1, "quote_volume_24h": VOLUME_MAX * 1.01}, "quote_volume_24h is above 1e+24"),
        ({"price": 1, "symbol": ""}, "the symbol is absent"),
        ({"price": 1, "symbol": None}, "the symbol is absent"),
    ],
)
def test_a_tick_beyond_a_bound_is_rejected_with_the_reason(columns, reason):
    assert tick(**columns) == ([], [reason])


def test_amounts_at_the_bounds_and_those_that_were_recorded_pass():
    for price, volume in ((PRICE_MAX, VOLUME_MAX), (2.3e13, 9.2e16), (1e-16, 0)):
        ((row,), rejected) = tick(price=price, volume_24h=volume)
        assert rejected == [] and (row["price"], row["volume_24h"]) == (price, volume)


def test_a_rejected_row_has_one_reason_the_first():
    assert tick(price=-1, bid=-1, volume_24h=-1)[1] == ["price is negative"]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"open": 0}, "open is absent, zero or negative"),
        ({"close": None}, "close is absent, zero or negative"),
        ({"low": -1}, "low is absent, zero or negative"),
        ({"high": "N/A"}, "high is absent, zero or negative"),
        ({"high": PRICE_MAX * 2}, "high is above 1e+18"),
        ({"high": 2.4}, "high is below open or close"),
        ({"low": 2.1}, "low is above open or close"),
        ({"volume": -1}, "volume is negative or absurd"),
        ({"quote_volume": VOLUME_MAX * 2}, "quote_volume is negative or absurd"),
        ({"opened_at_ms": None}, "opened_at is no time"),
        ({"opened_at_ms": -5}, "opened_at is no time"),
        ({"opened_at_ms": 1e15}, "opened_at is no time"),
        ({"opened_at_ms": AT_MS - 59_999}, "the interval had not ended"),
        ({"opened_at_ms": AT_MS + 60_000}, "the interval had not ended"),
        ({"symbol": ""}, "the symbol is absent"),
    ],
)
def test_a_candle_beyond_a_bound_is_rejected_with_the_reason(columns, reason):
    assert candle(**columns) == ([], [reason])


def test_a_candle_that_ended_just_now_is_one():
    ((row,), rejected) = candle(trades="12", volume=None)
    assert rejected == [] and row["opened_at"] == AT - timedelta(minutes=1)
    assert (row["trades"], row["volume"], row["interval_s"], row["origin"]) == (12, None, 60, "live")


def test_a_candle_s_day_is_that_on_which_it_opened():
    midnight = datetime(2026, 7, 27, tzinfo=UTC)
    opened = [int((midnight - timedelta(minutes=1)).timestamp() * 1000), int(midnight.timestamp() * 1000)]
    same = {name: [1.0, 1.0] for name in ("open", "high", "low", "close", "volume")}
    columns = same | {"symbol": ["A", "A"], "opened_at_ms": opened}
    found = candles(columns, source="x", collected_at=AT)
    assert found.rows["day"].to_pylist() == ["2026-07-26", "2026-07-27"]


# ---- keys and names


def test_of_a_market_that_is_there_twice_the_first_is_kept():
    columns = {"symbol": ["A", "B", "A", "A"], "price": [1, 2, 3, 4]}
    found = ticks(columns, source="x", collected_at=AT)
    assert found.rows["price"].to_pylist() == [1, 2]
    assert found.rejected == [("A", "the same market is in the payload twice")] * 2 and found.entries == 4


def test_a_row_that_is_rejected_is_no_reason_to_reject_a_good_one_of_its_market():
    columns = {"symbol": ["A", "A", "A"], "price": [-1, 2, 3]}
    found = ticks(columns, source="x", collected_at=AT)
    assert found.rows["price"].to_pylist() == [2]
    assert [reason for _, reason in found.rejected] == [
        "price is negative",
        "the same market is in the payload twice",
    ]


def test_the_same_symbol_on_two_exchanges_is_two_markets():
    columns = {"symbol": ["A", "A"], "exchange": ["one", "two"], "price": [1, 2]}
    found = ticks(columns, source="x", collected_at=AT)
    assert found.rows["market_id"].to_pylist() == ["x:one:A", "x:two:A"] and found.rejected == []


def test_base_quote_and_kind_come_from_the_instruments_where_the_payload_does_not_tell():
    known = {"AB": Instrument("AB", "A", "B"), "CD": Instrument("CD", "C", "D", kind="perpetual")}
    found = ticks({"symbol": ["AB", "CD", "EF"]}, source="x", collected_at=AT, instruments=known)
    names = found.rows.select(["market", "base", "quote", "kind"]).to_pylist()
    assert [tuple(row.values()) for row in names] == [
        ("A-B", "A", "B", "spot"),
        ("C-D", "C", "D", "perpetual"),
        (None, None, None, "spot"),
    ]


def test_no_market_at_all_is_no_rows_and_no_error():
    for found in (
        ticks({"symbol": []}, source="x", collected_at=AT),
        candles({"symbol": [], "opened_at_ms": []}, source="x", collected_at=AT),
    ):
        assert (found.rows.num_rows, found.entries, found.rejected) == (0, 0, [])
        assert found.rows.schema == schema(found.table)


def test_entries_that_the_exchange_s_module_could_not_read_are_counted_with_the_rest():
    found = ticks({"symbol": ["A"], "price": [-1]}, source="x", collected_at=AT, rejected=[("B", "odd")])
    assert found.entries == 2 and found.rejected == [("B", "odd"), ("A", "price is negative")]


# ---- rows of a payload


class Row(msgspec.Struct):
    """A row that has a name and may have a price."""

    name: str
    price: Number = None


LIST = Rows(Row, lambda row: list[row])
NAMED = Rows(Row, lambda row: dict[str, row])


def test_rows_that_fit_and_one_that_does_not_are_told_apart():
    good = '{"name": "a", "price": 1}'
    assert LIST.decode(f"[{good}]".encode()) == (None, [Row("a", 1)], [])
    names, rows, rejected = LIST.decode(f'[{good}, "2026", {{"price": 1}}, {good}]'.encode())
    assert (names, rows) == (None, [Row("a", 1)] * 2)
    assert [name for name, _ in rejected] == ["1", "2"]
    names, rows, rejected = NAMED.decode(f'{{"x": {good}, "date": "2026"}}'.encode())
    assert (names, rows, rejected[0][0]) == (["x"], [Row("a", 1)], "date")


@pytest.mark.parametrize(
    "body", [b"", b"7", b'{"a": 1}', b"[1, 2]", b'["a"]', b"[", b"\xff", b'[{"name": 7}]']
)
def test_a_body_of_which_no_row_fits_is_a_payload_error(body):
    with pytest.raises(PayloadError, match=r"form"):
        LIST.decode(body)


def test_an_empty_payload_has_no_rows():
    assert LIST.decode(b"[]") == (None, [], []) and NAMED.decode(b"{}") == ([], [], [])


# ---- accounting, whatever comes


def _odd_number(random_):
    return random_.choice(
        [
            None, "", "N/A", "--", "NaN", "Infinity", "-1", "0", "0.000", 0, 0.0, -1.5, 1e30, "1e30", 1e-16, True,
            10**20, "9" * 40, math.nan, math.inf, [], {}, "x",
            random_.uniform(0, 1e5), f"{random_.uniform(0, 1e5):.8f}", random_.uniform(0, 10), random_.randint(1, 9),
        ]
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_entries_are_rows_and_rejects_whatever_comes(seed):
    random_ = random.Random(seed)
    size = random_.randint(0, 300)
    names = ["A", "B/C", "", None, "币", *map(str, range(200))]
    kept = [
        "price", "bid", "ask", "open_24h", "high_24h", "low_24h", "change_24h", "change_24h_pct", "volume_24h",
        "quote_volume_24h", "volume_today", "exchange_at",
    ]  # fmt: skip
    columns = {"symbol": [random_.choice(names) for _ in range(size)]}
    for name in random_.sample(kept, random_.randint(0, len(kept))):
        columns[name] = [_odd_number(random_) for _ in range(size)]
    found = ticks(columns, source="x", collected_at=AT, rejected=[("r", "odd")] * (seed % 3))
    assert found.entries == size + seed % 3 == found.rows.num_rows + len(found.rejected)
    found.rows.validate(full=True)
    assert found.rows.schema == schema("ticks")
    for row in found.rows.to_pylist():
        for name in ("price", "bid", "ask", "open_24h", "high_24h", "low_24h"):
            assert row[name] is None or 0 < row[name] <= PRICE_MAX
        for name in ("volume_24h", "quote_volume_24h", "volume_today"):
            assert row[name] is None or 0 <= row[name] <= VOLUME_MAX
        assert all(
            value is None or math.isfinite(value) for value in row.values() if isinstance(value, float)
        )
        assert row["symbol"] and row["market_id"] == f"x:x:{row['symbol']}"
    ids = found.rows["market_id"].to_pylist()
    assert len(ids) == len(set(ids))
    assert all(reason for _, reason in found.rejected)


@pytest.mark.parametrize("seed", range(20))
def test_entries_of_candles_are_rows_and_rejects_whatever_comes(seed):
    random_ = random.Random(seed)
    size = random_.randint(0, 300)
    columns = {
        "symbol": ["BTC-USD"] * size,
        "opened_at_ms": [
            random_.choice([_odd_number(random_), AT_MS - 60_000 * random_.randint(-2, 200)])
            for _ in range(size)
        ],
    }
    for name in ("open", "high", "low", "close", "volume", "quote_volume", "trades"):
        columns[name] = [random_.choice([1.0, 2, _odd_number(random_)]) for _ in range(size)]
    found = candles(columns, source="x", collected_at=AT)
    assert found.entries == size == found.rows.num_rows + len(found.rejected)
    found.rows.validate(full=True)
    for row in found.rows.to_pylist():
        assert (
            0 < row["low"] <= min(row["open"], row["close"]) <= max(row["open"], row["close"]) <= row["high"]
        )
        assert row["opened_at"] + timedelta(minutes=1) <= AT and row["day"] == f"{row['opened_at']:%Y-%m-%d}"
    opened = found.rows["opened_at"].to_pylist()
    assert len(opened) == len(set(opened))


def test_a_row_is_json_again_so_nothing_odd_is_in_it():
    ((row,), _) = tick(price="1.5", volume_24h=7)
    json.dumps(row, default=str, allow_nan=False)
