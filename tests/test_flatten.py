"""From the queue to the tables: every row once, whatever is killed, broken or asked again."""

import gzip
import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from killing import kill_at

from cryptomon_lib import shape
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.errors import AccountingError
from cryptomon_lib.exchanges import kraken
from cryptomon_lib.flatten import flatten_payloads, reflatten_payloads
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.payloads import Request, pack
from cryptomon_lib.shape import Instrument
from cryptomon_lib.simulator import Simulator

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
TICKERS = Request("kraken", "tickers", kraken.HOST, "/0/public/Ticker", (("assetVersion", "1"),))


def ticker(price="100.5", **fields):
    """One pair as Kraken's Ticker has it."""
    pair = {
        "a": ["100.6", "1", "1.000"],
        "b": ["100.4", "2", "2.000"],
        "c": [price, "0.1"],
        "v": ["3.5", "40.25"],
        "p": ["100.1", "99.9"],
        "t": [10, 200],
        "l": ["98.0", "97.5"],
        "h": ["101.0", "102.0"],
        "o": "99.0",
    }
    return pair | fields


def tickers(**pairs):
    """Kraken's whole answer; a pair is named BTC_USD here."""
    result = {name.replace("_", "/"): pair for name, pair in pairs.items()}
    return json.dumps({"error": [], "result": result}).encode()


def queue(monitor, body, slot=NOON, request=TICKERS, collected_at=None):
    """Puts a payload into the queue, as collect does; its key."""
    key = request.key(slot)
    assert monitor.storage.create(key, pack(body, collected_at or slot, request.symbol))
    return key


def candles(*rows, slot=NOON, pair="XBTUSD"):
    """Kraken's OHLC: (minutes before the slot that it opened, close)."""
    listed = [
        [int((slot - timedelta(minutes=ago)).timestamp()), "100", "120", "90", str(close), "105", "2.5", 7]
        for ago, close in rows
    ]
    return json.dumps({"error": [], "result": {pair: listed, "last": 0}}).encode()


BTC = Instrument("BTC/USD", "BTC", "USD")


def queue_candles(monitor, *rows, slot=NOON):
    request = kraken.candles_request(BTC, slot - timedelta(minutes=5), slot)
    return queue(monitor, candles(*rows, slot=slot), slot, request)


def keys(monitor, folder):
    return [one.key for one in monitor.storage.objects(folder)]


# ---- the straight way


def test_payloads_become_rows_and_go_from_the_queue_to_the_archive(monitor, stored):
    queue(monitor, tickers(BTC_USD=ticker(), ETH_USD=ticker("4.5")))
    queue_candles(monitor, (3, 110), (2, 111), (0, 112))
    done = flatten_payloads(monitor)
    assert (done.payloads, done.entries, done.rows, done.rejected, done.known) == (2, 5, 4, 1, 0)
    assert done.reasons == {"the interval had not ended": 1}
    assert [(row["market_id"], row["price"]) for row in stored(monitor, "ticks")] == [
        ("kraken:kraken:BTC/USD", 100.5),
        ("kraken:kraken:ETH/USD", 4.5),
    ]
    assert [row["close"] for row in stored(monitor, "candles")] == [110, 111]
    assert keys(monitor, "ingest") == [] and len(keys(monitor, "archive")) == 2


def test_a_run_makes_one_commit_per_table_however_many_payloads_there_are(local):
    for minute in range(5):
        queue(local, tickers(BTC_USD=ticker()), NOON + timedelta(minutes=minute))
        queue_candles(local, (1, 100), slot=NOON + timedelta(minutes=minute))
    before = {name: local.lake._open_or_create(name).version() for name in ("ticks", "candles")}
    done = flatten_payloads(local)
    assert done.commits == 2 and done.rows == 10
    assert {name: local.lake.open(name).version() for name in before} == {
        name: version + 1 for name, version in before.items()
    }


def test_an_empty_queue_is_no_error_and_writes_nothing(local):
    done = flatten_payloads(local)
    assert done.payloads == done.commits == 0
    assert list(done.table.loc["payloads"]) == [0, "taken from the queue"]


def test_the_oldest_slot_comes_first_and_each_batch_is_its_own_commit(local, open_at, stored):
    small = open_at(local.storage.root, limits={"batch_bytes": 1})
    for minute in (2, 0, 1):
        queue(small, tickers(BTC_USD=ticker(str(100 + minute))), NOON + timedelta(minutes=minute))
    seen = []
    done = flatten_payloads(small, progress=lambda done, of: seen.append((done, of)))
    assert done.commits == 3 and seen == [(1, 3), (2, 3), (3, 3)]
    assert [row["price"] for row in stored(small, "ticks")] == [100, 101, 102]
    assert small.lake.open("ticks").version() == 3  # after its creation, one commit a batch


def test_rows_count_as_collected_when_the_answer_arrived_not_when_they_are_flattened(local, stored):
    arrived = NOON + timedelta(seconds=3, milliseconds=250, microseconds=999)
    queue(local, tickers(BTC_USD=ticker()), collected_at=arrived)
    flatten_payloads(local)
    assert [row["collected_at"] for row in stored(local, "ticks")] == [arrived.replace(microsecond=250_000)]


def test_a_payload_that_arrived_after_midnight_is_of_the_new_day(local, stored):
    slot = datetime(2026, 7, 27, 23, 59, tzinfo=UTC)
    queue(local, tickers(BTC_USD=ticker()), slot, collected_at=slot + timedelta(seconds=61))
    flatten_payloads(local)
    assert [row["day"] for row in stored(local, "ticks")] == ["2026-07-28"]


def test_archive_days_0_keeps_no_payload(place, open_at, stored):
    monitor = open_at(place.root, place.endpoint_url, retention={"archive_days": 0})
    queue(monitor, tickers(BTC_USD=ticker()))
    flatten_payloads(monitor)
    assert keys(monitor, "ingest") == keys(monitor, "archive") == []
    assert len(stored(monitor, "ticks")) == 1


def test_a_route_that_nothing_flattens_is_archived_and_counted(local):
    queue(
        local, b'{"error":[],"result":{"unixtime":1}}', request=Request("kraken", "/t", kraken.HOST, "/0/t")
    )
    done = flatten_payloads(local)
    assert (done.payloads, done.unflattened, done.entries, done.quarantined) == (1, 1, 0, 0)
    assert keys(local, "archive") == [f"archive/{kraken.HOST}/0/t/2026-07-27/20260727T120000Z.json.gz"]


# ---- accounting


def test_a_rejected_row_is_counted_with_its_reason_and_kept_beside(monitor, stored):
    queue(
        monitor,
        tickers(
            BTC_USD=ticker(),
            ODD_USD=ticker("-3"),
            LOW_USD=ticker(h=["1", "5"], l=["1", "6"]),
            BAD_USD="1566801953000",
        ),
    )
    done = flatten_payloads(monitor)
    assert (done.entries, done.rows, done.rejected) == (4, 1, 3)
    assert done.reasons["price is negative"] == done.reasons["high_24h is below low_24h"] == 1
    kept = json.loads(monitor.storage.get(keys(monitor, "rejected")[0]))
    assert kept["count"] == 3
    assert {symbol for symbol, _ in kept["rows"]} == {"ODD/USD", "LOW/USD", "BAD/USD"}
    assert len(stored(monitor, "ticks")) == 1


def test_rows_that_are_lost_on_the_way_stop_the_run_and_nothing_is_moved(local, monkeypatch):
    queue(local, tickers(BTC_USD=ticker(), ETH_USD=ticker()))
    plain = shape._Faults.flattened

    def losing(self, *given):
        found = plain(self, *given)
        found.rows = found.rows.slice(1)
        return found

    with monkeypatch.context() as broken:
        broken.setattr(shape._Faults, "flattened", losing)
        with pytest.raises(AccountingError, match="2 entries, but 1 rows"):
            flatten_payloads(local)
    assert len(keys(local, "ingest")) == 1 and local.lake.open("ticks") is None
    assert flatten_payloads(local).rows == 2


# ---- overlapping polls


def test_overlapping_polls_of_candles_bring_each_candle_once(monitor, stored):
    for minute in range(4):
        slot = NOON + timedelta(minutes=minute)
        queue_candles(monitor, (3, 100 + minute), (2, 101 + minute), (1, 102 + minute), slot=slot)
        if minute % 2:
            done = flatten_payloads(monitor)
            assert done.entries == done.rows + done.rejected + done.known
    rows = stored(monitor, "candles")
    opened = [row["opened_at"] for row in rows]
    assert opened == [NOON + timedelta(minutes=minute) for minute in range(-3, 3)]
    assert [row["close"] for row in rows] == [100, 101, 102, 103, 104, 105]


def test_a_candle_that_had_not_ended_comes_with_the_next_poll_and_is_no_reject_of_record(local, stored):
    queue_candles(local, (0, 110))
    assert flatten_payloads(local).reasons == {"the interval had not ended": 1}
    queue_candles(local, (1, 111), slot=NOON + timedelta(minutes=1))
    assert flatten_payloads(local).rows == 1
    assert [row["close"] for row in stored(local, "candles")] == [111]
    assert keys(local, "rejected") == []


# ---- rubbish in the queue


RUBBISH = {
    "an empty object": b"",
    "no gzip": b"<html>this is what a person put here</html>",
    "a cut gzip": pack(tickers(BTC_USD=ticker()), NOON)[:-12],
    "a damaged gzip": pack(tickers(BTC_USD=ticker()), NOON)[:-30] + b"\x00" * 30,
    "more than it may unpack to": gzip.compress(b" " * 3_000_000),
    "an exchange's error": pack(b'{"error":["EService:Busy"]}', NOON),
    "HTML": pack(b"<html></html>", NOON),
    "another form": pack(b'{"error":[],"result":{"BTC/USD":{"c":7}}}', NOON),
    "not text": pack(b'{"error":[],"result":{"\xff\xfe":{"c":["1","1"]}}}', NOON),
    "deep nesting": pack(b'{"result":' + b"[" * 100_000, NOON),
}
MISNAMED = (
    "ingest/readme.txt",
    "ingest/api.kraken.com/0/public/Ticker/2026-07-27/yesterday.json.gz",
    "ingest/api.kraken.com/0/public/Ticker/2026-07-28/20260727T120000Z.json.gz",
    "ingest/nobody.example/tickers/2026-07-27/20260727T120000Z.json.gz",
)


def test_rubbish_goes_to_quarantine_with_the_reason_and_holds_up_nothing(place, open_at, stored):
    monitor = open_at(place.root, place.endpoint_url, fetch={"body_bytes_max": 1_000_000})
    for index, body in enumerate(RUBBISH.values()):
        monitor.storage.put(TICKERS.key(NOON - timedelta(minutes=index + 1)), body)
    for key in MISNAMED:
        monitor.storage.put(key, pack(candles((3, 1)), NOON))
    good = [queue(monitor, tickers(BTC_USD=ticker()), NOON + timedelta(minutes=m)) for m in range(2)]
    done = flatten_payloads(monitor)
    assert done.payloads == len(RUBBISH) + len(MISNAMED) + 2
    assert done.quarantined == len(RUBBISH) + len(MISNAMED)
    assert done.rows == len(stored(monitor, "ticks")) == 2
    assert keys(monitor, "ingest") == []
    assert keys(monitor, "archive") == [key.replace("ingest", "archive", 1) for key in good]
    kept = keys(monitor, "quarantine")
    payloads = [key for key in kept if not key.endswith(".reason.json")]
    assert len(payloads) == done.quarantined
    for key in payloads:
        reason = json.loads(monitor.storage.get(f"{key}.reason.json"))
        assert reason["payload"] == key.split("/", 1)[1] and len(reason["reason"]) > 20, key


def test_what_is_in_quarantine_is_the_payload_untouched(local):
    for index, body in enumerate(RUBBISH.values()):
        local.storage.put(TICKERS.key(NOON - timedelta(minutes=index)), body)
    flatten_payloads(local)
    for index, body in enumerate(RUBBISH.values()):
        key = TICKERS.key(NOON - timedelta(minutes=index)).replace("ingest", "quarantine", 1)
        assert local.storage.get(key) == body


def test_a_body_of_exactly_the_largest_size_that_fetch_accepts_is_flattened(local, open_at):
    body = tickers(BTC_USD=ticker())
    tight = open_at(local.storage.root, fetch={"body_bytes_max": len(body)})
    queue(tight, body)
    assert flatten_payloads(tight).rows == 1


# ---- again


def test_a_second_run_of_the_same_payload_writes_nothing_and_moves_it_on(monitor, stored):
    key = queue(monitor, tickers(BTC_USD=ticker()))
    packed = monitor.storage.get(key)
    flatten_payloads(monitor)
    monitor.storage.put(key, packed)
    done = flatten_payloads(monitor)
    assert (done.payloads, done.already, done.rows, done.commits) == (1, 1, 0, 0)
    assert keys(monitor, "ingest") == [] and len(keys(monitor, "archive")) == 1
    assert len(stored(monitor, "ticks")) == 1


def test_a_payload_whose_id_was_kept_too_short_a_time_doubles_nothing(local, stored):
    body = tickers(BTC_USD=ticker(), ETH_USD=ticker())
    key = queue(local, body)
    flatten_payloads(local)
    # the table as it is, without the ids that came with its commits
    rows = local.lake.open("ticks").to_pyarrow_table()
    for one in local.storage.objects("tables/ticks"):
        local.storage.delete(one.key)
    local.lake.replace("ticks", rows)
    local.storage.put(key, pack(body, NOON))
    done = flatten_payloads(local)
    assert (done.rows, done.known, done.already) == (0, 2, 0)
    assert len(stored(local, "ticks")) == 2


def test_reflatten_after_a_fix_brings_quarantine_back_and_doubles_nothing(monitor, stored, monkeypatch):
    queue(monitor, tickers(BTC_USD=ticker(), ETH_USD=ticker()))
    flatten_payloads(monitor)
    with monkeypatch.context() as broken:
        broken.setattr(kraken, "_TICKERS", None)
        queue(monitor, tickers(BTC_USD=ticker("7")), NOON + timedelta(minutes=1))
        assert flatten_payloads(monitor).quarantined == 1
        assert len(keys(monitor, "quarantine")) == 2
    done = reflatten_payloads(monitor)
    assert (done.payloads, done.rows, done.known, done.quarantined) == (2, 1, 2, 0)
    assert keys(monitor, "quarantine") == [] and len(keys(monitor, "archive")) == 2
    again = reflatten_payloads(monitor)
    assert (again.payloads, again.rows, again.known) == (2, 0, 3)
    assert [row["price"] for row in stored(monitor, "ticks")] == [100.5, 7, 100.5]


def test_reflatten_adds_to_an_archived_payload_the_rows_that_a_fix_lets_through(local, stored, monkeypatch):
    queue(local, tickers(BTC_USD=ticker(), ETH_USD=ticker("200")))
    with monkeypatch.context() as broken:
        broken.setattr(shape, "PRICE_MAX", 150)
        assert flatten_payloads(local).rejected == 1
    done = reflatten_payloads(local)
    assert (done.rows, done.known) == (1, 1)
    assert len(stored(local, "ticks")) == 2
    assert keys(local, "rejected") == []


def test_reflatten_of_one_exchange_leaves_the_others_alone(local):
    bad = b"no gzip at all, but long enough"
    other = Request("coinbase", "tickers", "api.exchange.coinbase.com", "/products/stats")
    for request in (TICKERS, other):
        local.storage.put(request.key(NOON), bad)
    flatten_payloads(local)
    assert reflatten_payloads(local, "kraken").payloads == 1
    assert reflatten_payloads(local).payloads == 2
    assert len(keys(local, "quarantine")) == 4


def test_a_payload_that_still_cannot_be_flattened_stays_where_it_is(local):
    key = TICKERS.key(NOON)
    local.storage.put(key, b"no gzip at all, but long enough")
    flatten_payloads(local)
    local.storage.put(
        key.replace("ingest", "archive", 1).replace("T1200", "T1300"), b"no gzip, and in the archive"
    )
    before = [*keys(local, "quarantine"), *keys(local, "archive")]
    assert reflatten_payloads(local).quarantined == 2
    assert set(before) <= {*keys(local, "quarantine"), *keys(local, "archive")}


# ---- two runs at once


def flatten_at(root):
    flatten_payloads(open_monitor("local", flags={"root": root}))


def test_two_runs_at_once_write_every_row_once(local, stored, start_process):
    for minute in range(30):
        slot = NOON + timedelta(minutes=minute)
        queue(local, tickers(**{f"C{n}_USD": ticker() for n in range(20)}), slot)
        queue_candles(local, (3, 100), (2, 101), (1, 102), slot=slot)
    runs = [start_process(flatten_at, local.storage.root) for _ in range(2)]
    for run in runs:
        run.join(60)
    codes = [run.exitcode for run in runs]
    # one may find a payload gone that the other moved on: it says so and fails, and nothing is lost
    assert 0 in codes and set(codes) <= {0, 1}
    flatten_payloads(local)
    ticks, bars = stored(local, "ticks"), stored(local, "candles")
    assert len(ticks) == len({(row["market_id"], row["collected_at"]) for row in ticks}) == 600
    assert len(bars) == len({row["opened_at"] for row in bars}) == 32
    assert keys(local, "ingest") == []
    assert len(keys(local, "archive")) == 60


# ---- kill -9


def tick(flags, environ, point):
    """Collect and flatten, in a process of its own that is killed at a point."""
    os.environ.update(environ)
    if point:
        kill_at(*point)
    monitor = open_monitor("local", flags=flags)
    collect_payloads(monitor, EXCHANGES, samples=3, as_of=NOON)
    flatten_payloads(monitor)


EXCHANGES = ["kraken", "binance"]
# where it is killed: (module[:class], function, before or after its nth call)
POINTS = {
    "a payload half written": ("os", "fsync", "after", 4),
    "a payload written, not yet visible": ("os", "link", "before", 5),
    "a payload stored, others not": ("os", "link", "after", 9),
    "all collected, no table yet": ("cryptomon_lib.lake:Lake", "_open_or_create", "before", 1),
    "rejects half told": ("cryptomon_lib.flatten", "_keep_rejects", "after", 2),
    "ticks about to be committed": ("cryptomon_lib.lake", "write_deltalake", "before", 1),
    "ticks committed, candles not": ("cryptomon_lib.lake", "write_deltalake", "after", 1),
    "candles about to be committed": ("cryptomon_lib.lake", "write_deltalake", "before", 2),
    "all committed, nothing moved": ("cryptomon_lib.lake", "write_deltalake", "after", 2),
    "the reason told, rubbish not moved": ("cryptomon_lib.storage:Storage", "move", "before", 1),
    "some moved": ("cryptomon_lib.storage:Storage", "move", "after", 3),
    "the second batch about to be committed": ("cryptomon_lib.lake", "write_deltalake", "before", 3),
    "all but one moved": ("cryptomon_lib.storage:Storage", "move", "before", 18),
}
S3_POINTS = {
    "ticks committed, candles not": ("cryptomon_lib.lake", "write_deltalake", "after", 1),
    "a payload copied to the archive, still in the queue": ("s3fs:S3FileSystem", "rm_file", "before", 2),
}


@pytest.fixture(scope="module")
def run_tick(start_process):
    """Runs a tick in a process of its own, killed at a point or not; its exit code."""

    def run(flags, point=None):
        environ = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        process = start_process(tick, flags, environ, point)
        process.join(120)
        return process.exitcode

    return run


def tick_flags(root, simulator, endpoint_url=None):
    return {
        "root": str(root),
        "endpoint_url": endpoint_url,
        "hosts": {name: simulator.hosts[name] for name in EXCHANGES},
        "watchlist": ["BTC-USD", "ETH-USD", "BTC-USDT"],
        # small enough that a tick takes several commits of each table
        "limits": {"batch_bytes": 100_000},
        "fetch": {"pause_s": 0, "workers": 3},
    }


def state(monitor, stored):
    """All that a tick leaves behind, in whatever order it was written."""
    objects = {
        one.key: None if one.key.endswith(".reason.json") else monitor.storage.get(one.key)
        for folder in ("ingest", "archive", "quarantine", "rejected", "instruments")
        for one in monitor.storage.objects(folder)
    }
    return objects, stored(monitor, "ticks"), stored(monitor, "candles")


@pytest.fixture(scope="module")
def simulator():
    with Simulator(faults=[{"kind": "drift", "drift": "scalar", "route": "Ticker"}]) as simulator:
        yield simulator


def spoil(monitor):
    """Rubbish that was in the queue before."""
    monitor.storage.put(TICKERS.key(NOON - timedelta(minutes=1)), b"no gzip at all, but long enough")


@pytest.fixture(scope="module")
def undisturbed(simulator, run_tick, tmp_path_factory):
    """The root of a tick that nobody killed."""
    flags = tick_flags(tmp_path_factory.mktemp("undisturbed"), simulator)
    spoil(open_monitor("local", flags=flags))
    assert run_tick(flags) == 0
    return flags["root"]


def test_the_undisturbed_tick_is_worth_comparing_with(undisturbed, open_at, stored):
    objects, ticks, bars = state(open_at(undisturbed), stored)
    folders = [key.partition("/")[0] for key in objects]
    assert folders.count("ingest") == 0 and folders.count("archive") == 20
    assert folders.count("quarantine") == 2 and folders.count("rejected") == 3
    assert len(ticks) > 300 and len(bars) > 15


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_a_tick_that_is_killed_and_run_again_is_as_one_that_was_not(
    point, tmp_path, simulator, run_tick, undisturbed, open_at, stored
):
    flags = tick_flags(tmp_path / "killed", simulator)
    monitor = open_at(flags["root"])
    spoil(monitor)
    assert run_tick(flags, point) == -9
    assert run_tick(flags) == 0
    assert state(monitor, stored) == state(open_at(undisturbed), stored)


@pytest.mark.s3
@pytest.mark.parametrize("point", S3_POINTS.values(), ids=S3_POINTS)
def test_a_tick_on_s3_that_is_killed_and_run_again_is_as_one_that_was_not(
    point, s3, simulator, run_tick, undisturbed, open_at, stored
):
    flags = tick_flags(s3.root, simulator, s3.endpoint_url)
    monitor = open_at(s3.root, s3.endpoint_url)
    spoil(monitor)
    assert run_tick(flags, point) == -9
    assert run_tick(flags) == 0
    assert state(monitor, stored) == state(open_at(undisturbed), stored)


def test_a_tick_that_is_killed_again_and_again_ends_as_one_that_was_not(
    tmp_path, simulator, run_tick, undisturbed, open_at, stored
):
    flags = tick_flags(tmp_path / "killed", simulator)
    spoil(open_at(flags["root"]))
    for name in ("all collected, no table yet", "ticks committed, candles not", "some moved"):
        assert run_tick(flags, POINTS[name]) == -9
    assert run_tick(flags) == 0
    assert state(open_at(flags["root"]), stored) == state(open_at(undisturbed), stored)
