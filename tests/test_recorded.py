"""What real exchanges sent, served again over HTTP, collected, flattened and measured: it has to come out as it went in."""

import gzip
import json
import lzma
import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from statistics import fmean

import pytest

from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.engine import Engine
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.simulator import Simulator


def read(path):
    opened = lzma.open if path.suffix == ".xz" else gzip.open
    with opened(path) as file:
        return json.loads(file.read())


def traded(value):
    """The number of a price, None where the exchange says that there was no trade."""
    number = float(value) if value not in (None, "") else 0.0
    return number or None


def number(value):
    return None if value is None else float(value)


def near(value, expected, within=1e-12):
    if value is None or expected is None:
        return value is expected
    return math.isclose(value, expected, rel_tol=within, abs_tol=0)


# ---- payloads, entry by entry


def test_cryptowatch_of_2021_is_accounted_for_entry_by_entry(captures, tmp_path, open_at, stored):
    payload = read(captures / "cryptowatch" / "ingest.json.gz")
    with Simulator(replay=captures / "cryptowatch") as simulator:
        monitor = open_at(tmp_path, hosts=simulator.hosts)
        collect_payloads(monitor, ["cryptowatch"], as_of="2021-10-05T03:06:00Z")
    done = flatten_payloads(monitor)
    assert done.entries == len(payload) == 9590
    assert done.rows + done.rejected == 9590 and done.quarantined == 0
    assert done.rejected == sum(done.reasons.values())
    rows = {f"{row['exchange']}:{row['symbol']}": row for row in stored(monitor, "ticks")}
    assert len(rows) == done.rows and done.rows > 9500
    wrong = []
    for name, row in rows.items():
        entry = payload[name]
        price, change = entry["price"], entry["price"]["change"]
        last = traded(price["last"])
        expected = {
            "price": last,
            "high_24h": traded(price["high"]) if last else None,
            "low_24h": traded(price["low"]) if last else None,
            "change_24h": number(change["absolute"]) if last else None,
            "change_24h_pct": number(change["percentage"]) * 100 if last else None,
            "volume_24h": number(entry["volume"]),
            "quote_volume_24h": number(entry["volumeQuote"]),
            "bid": None,
        }
        wrong += [(name, column) for column, value in expected.items() if not near(row[column], value, 0.0)]
    assert wrong == []
    assert sum(row["price"] is None for row in rows.values()) == 337
    assert {row["kind"] for row in rows.values()} == {"spot", "perpetual", "future"}
    assert rows["kraken:btcusd"]["market"] == "BTC-USD"


def test_the_three_kraken_recordings_are_accounted_for_pair_by_pair(captures, tmp_path, open_at, stored):
    recorded = sorted((captures / "kraken").glob("Ticker_assetVersion1__*"))
    slots = ["2026-06-24T14:58:00Z", "2026-06-24T15:02:00Z", "2026-06-24T15:45:00Z"]
    with Simulator(replay=captures / "kraken") as simulator:
        monitor = open_at(tmp_path, hosts=simulator.hosts)
        for slot in slots:
            collect_payloads(monitor, ["kraken"], endpoint="tickers", as_of=slot)
    done = flatten_payloads(monitor)
    assert (done.payloads, done.entries, done.rows + done.rejected) == (3, 4590, 4590)
    found = defaultdict(dict)
    for row in stored(monitor, "ticks"):
        found[row["collected_at"]][row["symbol"]] = row
    assert sum(map(len, found.values())) == done.rows and done.rows > 4500
    wrong = []
    for path, slot in zip(recorded, slots, strict=True):
        result = read(path)["result"]
        for symbol, row in found[datetime.fromisoformat(slot)].items():
            entry = result[symbol]
            last = traded(entry["c"][0])
            expected = {
                "price": last,
                "high_24h": traded(entry["h"][1]) if last else None,
                "low_24h": traded(entry["l"][1]) if last else None,
                "bid": traded(entry["b"][0]),
                "ask": traded(entry["a"][0]),
                "volume_24h": number(entry["v"][1]),
                "volume_today": number(entry["v"][0]),
                "quote_volume_24h": number(entry["v"][1]) * number(entry["p"][1]),
                "open_24h": None,
                "change_24h": None,
            }
            wrong += [(slot, symbol, name) for name, value in expected.items() if not near(row[name], value)]
            base, quote = symbol.partition(":")[0].split("/")
            assert row["market"] == f"{base}-{quote}".upper() or {"XBT", "XDG"} & {base, quote}
    assert wrong == []


def test_binance_of_2022_is_accounted_for_symbol_by_symbol(captures, tmp_path, open_at, stored):
    payload = read(captures / "binance" / "ticker_24hr__2022-11-21.rebuilt.json.gz")
    with Simulator(replay=captures / "binance") as simulator:
        monitor = open_at(tmp_path, hosts=simulator.hosts)
        collect_payloads(monitor, ["binance"], endpoint="tickers", as_of="2022-11-21T06:36:00Z")
    done = flatten_payloads(monitor)
    ours = [one for one in monitor.storage.objects("archive") if "/ticker/24hr/" in one.key]
    assert len(ours) == 1 and done.entries == len(payload) == 2123
    assert done.rows + done.rejected == 2123
    rows = {row["symbol"]: row for row in stored(monitor, "ticks")}
    assert len(rows) == done.rows and done.rows > 2100
    wrong = []
    for entry in payload:
        row = rows.get(entry["symbol"])
        if row is None:
            continue
        last = traded(entry["lastPrice"])
        expected = {
            "price": last,
            "high_24h": traded(entry["highPrice"]) if last else None,
            "low_24h": traded(entry["lowPrice"]) if last else None,
            "open_24h": traded(entry["openPrice"]),
            "bid": traded(entry["bidPrice"]),
            "ask": traded(entry["askPrice"]),
            "change_24h": number(entry["priceChange"]) if last else None,
            "change_24h_pct": number(entry["priceChangePercent"]) if last else None,
            "volume_24h": number(entry["volume"]),
            "quote_volume_24h": number(entry["quoteVolume"]),
        }
        wrong += [(entry["symbol"], name) for name, value in expected.items() if not near(row[name], value)]
        assert row["exchange_at"] == datetime.fromtimestamp(int(entry["closeTime"]) / 1000, UTC)
    assert wrong == []
    assert (rows["BTCUSDT"]["base"], rows["BTCUSDT"]["quote"]) == ("BTC", "USDT")


# ---- 26 hours of one-minute bars, a hole of two hours among them


START = datetime(2021, 9, 28, 12, tzinfo=UTC)
NOW = START + timedelta(hours=26)
HOLE = (datetime(2021, 9, 29, 7, tzinfo=UTC), datetime(2021, 9, 29, 9, tzinfo=UTC))
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def bars(captures):
    """By symbol: the bars by the moment that they opened."""
    found = {}
    for path in bar_files(captures):
        symbol = path.name.removesuffix("-1m.json.gz").replace("_", "")
        rows = [row for row in read(path) if row[0] < NOW.timestamp() * 1000]
        found[symbol] = {datetime.fromtimestamp(row[0] / 1000, UTC): row[1:] for row in rows}
    assert len(found) == 18
    return found


@pytest.fixture(scope="module")
def replayed(captures, bars, tmp_path_factory):
    """A monitor that lived through those 26 hours, six of them a run."""
    markets = [path.name.removesuffix("-1m.json.gz").replace("_", "-") for path in bar_files(captures)]
    with Simulator(replay=captures / "history_1m") as simulator:
        monitor = open_monitor(
            "local",
            flags={
                "root": str(tmp_path_factory.mktemp("replayed")),
                "hosts": simulator.hosts,
                "fetch": {"attempts": 1, "pause_s": 0},
            },
        )
        failed, at = 0, START
        while at < NOW:
            hours = min(6, (NOW - at) // timedelta(hours=1))
            done = collect_payloads(monitor, ["binance"], "tickers", samples=hours * 60, as_of=at)
            failed += done.count("failed")
            # an hour's candles are there when it is over
            collect_payloads(
                monitor,
                ["binance"],
                "candles",
                markets,
                samples=hours,
                every_s=3600,
                as_of=at + timedelta(hours=1),
            )
            done = flatten_payloads(monitor)
            assert done.entries == done.rows + done.rejected + done.known and not done.quarantined
            at += timedelta(hours=hours)
    assert failed == 120
    return monitor


def bar_files(captures):
    return sorted((captures / "history_1m").glob("*-1m.json.gz"))


def minutes(first, last):
    """The minutes from first to before last, without the hole."""
    found, at = [], first
    while at < last:
        if not HOLE[0] <= at < HOLE[1]:
            found.append(at)
        at += MINUTE
    return found


def test_no_minute_of_the_ticks_is_lost_and_none_is_twice(replayed, bars, stored):
    by_market = defaultdict(dict)
    rows = stored(replayed, "ticks")
    for row in rows:
        by_market[row["symbol"]][row["collected_at"]] = row
    assert set(by_market) == set(bars)
    # a tick shows the bar that closed just then
    expected = [opened + MINUTE for opened in minutes(START - MINUTE, NOW - MINUTE)]
    assert len(expected) == 26 * 60 - 120
    assert len(rows) == 18 * len(expected)
    for symbol, ticks in by_market.items():
        assert list(ticks) == expected, symbol
        assert [tick["price"] for tick in ticks.values()] == [
            bars[symbol][at - MINUTE][3] for at in expected
        ], symbol


def test_no_minute_of_the_candles_is_lost_and_none_is_twice(replayed, bars, stored):
    by_market = defaultdict(list)
    for row in stored(replayed, "candles"):
        by_market[row["symbol"]].append(row)
    # the first poll asks for the hour before it, and four minutes more
    expected = minutes(START - timedelta(minutes=4), NOW)
    assert set(by_market) == set(bars)
    for symbol, rows in by_market.items():
        assert [row["opened_at"] for row in rows] == expected, symbol
        found = [[row[name] for name in ("open", "high", "low", "close", "volume")] for row in rows]
        assert found == [bars[symbol][at] for at in expected], symbol


def test_the_hole_is_seen_as_a_hole(replayed):
    engine = Engine(replayed, NOW)
    found = engine.query("select samples, expected from completeness where measure = 'ticks'").to_pylist()
    assert found == [{"samples": 24 * 60 - 120 - 1, "expected": 1440}]
    text = (
        "select at, samples, average_1h, ratio_1h from trailing_1h where measure = 'price' and market_id = :m"
    )
    rows = engine.query(text, m="binance:binance:BTCUSDT").to_pylist()
    samples = {row["at"]: row["samples"] for row in rows}
    end = HOLE[1].replace(tzinfo=None)
    assert not [at for at in samples if HOLE[0].replace(tzinfo=None) < at < end + MINUTE]
    # an hour before the first tick after the hole there is nothing, and then one more each minute
    assert [samples[end + MINUTE * index] for index in range(1, 5)] == [0, 1, 2, 3]
    early = [row for row in rows if end < row["at"] <= end + 30 * MINUTE]
    assert len(early) == 30 and all(row["ratio_1h"] is None for row in early)


def series_of(bars, symbol):
    """By measure: the values at their moments, from the bars alone."""
    own = bars[symbol]
    # the last minute was not polled any more: its price is its candle's close
    ticks = [opened + MINUTE for opened in minutes(START - MINUTE, NOW)]
    return {
        "price": {at: own[at - MINUTE][3] for at in ticks},
        "volume_1m": {
            opened + MINUTE: own[opened][4] for opened in minutes(START - timedelta(minutes=4), NOW)
        },
    }


@pytest.mark.parametrize("measure", ["price", "volume_1m"])
def test_the_trailing_hour_is_what_the_bars_say(measure, replayed, bars):
    engine = Engine(replayed, NOW)
    text = (
        "select market_id, at, value, average_1h, ratio_1h, samples from trailing_1h where measure = :measure"
    )
    found = {
        (row["market_id"].rpartition(":")[2], row["at"].replace(tzinfo=UTC)): row
        for row in engine.query(text, measure=measure).to_pylist()
    }
    compared = 0
    for symbol in bars:
        series = series_of(bars, symbol)[measure]
        for at, value in series.items():
            if not NOW - timedelta(hours=24) < at <= NOW:
                continue
            row = found.pop((symbol, at))
            before = [series[m] for m in (at - MINUTE * back for back in range(1, 61)) if m in series]
            average = fmean(before) if len(before) >= 30 else None
            assert row["value"] == value and row["samples"] == len(before), (symbol, at)
            assert near(row["average_1h"], average, 1e-9), (symbol, at, row, average)
            assert near(row["ratio_1h"], value / average if average else None, 1e-9), (symbol, at)
            compared += 1
    assert found == {} and compared >= 18 * 1300


def test_the_rank_is_what_the_bars_say(replayed, bars):
    engine = Engine(replayed, NOW)
    rows = engine.query("select * from rank_24h").to_pylist()
    found = {(row["market_id"].rpartition(":")[2], row["measure"]): row for row in rows}
    for measure in ("price", "volume_1m"):
        deviations, relative, samples = {}, {}, {}
        for symbol in bars:
            series = series_of(bars, symbol)[measure]
            values = [value for at, value in series.items() if NOW - timedelta(hours=24) < at <= NOW]
            mean = math.fsum(values) / len(values)
            squares = math.fsum((value - mean) ** 2 for value in values)
            deviations[symbol] = math.sqrt(squares / (len(values) - 1))
            relative[symbol] = deviations[symbol] / mean
            samples[symbol] = len(values)
        for symbol, deviation in deviations.items():
            row = found[symbol, measure]
            quote = "USDT" if symbol.endswith("USDT") else "BTC"
            alike = [value for other, value in deviations.items() if other.endswith(quote)]
            assert near(row["stddev_24h"], deviation, 1e-9), (symbol, measure)
            assert near(row["cv_24h"], relative[symbol], 1e-9), (symbol, measure)
            assert row["rank_24h"] == place(deviation, deviations.values()) / 18
            assert row["rank_24h_in_quote"] == place(deviation, alike) / len(alike)
            assert (row["samples"], row["expected"]) == (samples[symbol], 1440)


def place(value, among):
    return 1 + sum(other > value for other in among)


def test_the_rolling_volume_of_the_ticks_is_the_sum_of_the_bars(replayed, bars, stored):
    for row in stored(replayed, "ticks"):
        if row["collected_at"] not in (NOW - MINUTE, START + timedelta(hours=10)):
            continue
        own, at = bars[row["symbol"]], row["collected_at"]
        day = [own[m] for m in minutes(at - timedelta(hours=24), at) if m in own]
        assert near(row["volume_24h"], math.fsum(bar[4] for bar in day), 1e-9), row["symbol"]
        assert (row["high_24h"], row["low_24h"]) == (max(b[1] for b in day), min(b[2] for b in day))
