"""The recorded payloads once more, this time as the schedule does it: served over HTTP, by notebooks through papermill."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from cryptomon_lib.engine import Engine
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.run import Kernels, run_job
from cryptomon_lib.runs import load_runs
from cryptomon_lib.simulator import Simulator

pytestmark = pytest.mark.notebook


@pytest.fixture
def replayed(captures, tmp_path, monkeypatch):
    """Serve a folder of recordings; gives a function that runs a job on it and returns the facts it showed."""
    opened = []

    def serve(folder: str):
        simulator = Simulator(replay=captures / folder)
        monkeypatch.setenv("CRYPTOMON_ROOT", str(tmp_path / "root"))
        monkeypatch.setenv("CRYPTOMON_HOSTS", json.dumps(simulator.hosts))
        kernels = Kernels(keep=True)
        opened.extend([simulator, kernels])
        monitor = open_monitor("local")

        def run(job: str, **parameters):
            (record,) = run_job(monitor, job, parameters, kernels)
            return record["facts"]

        return monitor, run

    yield serve
    for one in reversed(opened):
        one.close()


@pytest.mark.parametrize(
    ("exchange", "slots", "entries"),
    [
        ("cryptowatch", ["2021-10-05T03:06:00Z"], 9590),
        ("kraken", ["2026-06-24T14:58:00Z", "2026-06-24T15:02:00Z", "2026-06-24T15:45:00Z"], 3 * 1530),
        ("binance", ["2022-11-21T06:36:00Z"], 2123),
    ],
)
def test_every_entry_of_a_recording_is_written_or_refused_with_a_reason(replayed, exchange, slots, entries):
    monitor, run = replayed(exchange)

    for slot in slots:
        told = run("collect", exchanges=[exchange], endpoint="tickers", as_of=slot)
        assert told["failed"] == 0 and not told["problems"]
    told = run("flatten")

    assert told["rows"] + told["rejected"] == entries and told["known"] == told["quarantined"] == 0
    counted = Engine(monitor, slots[-1]).query(
        "select count(*) as n, count(distinct collected_at) as polls from ticks"
    )
    assert counted.to_pylist() == [{"n": told["rows"], "polls": len(slots)}]
    assert {record["status"] for record in load_runs(monitor)} == {"succeeded"}


def test_twenty_six_hours_of_bars_lose_no_minute_and_show_the_hole_of_two_hours(replayed, captures):
    monitor, run = replayed("history_1m")
    bars = {
        path.name.partition("-")[0]: json.loads(gzip.decompress(path.read_bytes()))
        for path in (captures / "history_1m").glob("*-1m.json.gz")
    }
    begin, minutes = datetime(2021, 9, 28, 12, tzinfo=UTC), 26 * 60
    end = begin + timedelta(minutes=minutes)

    polls = run(
        "collect", exchanges=["binance"], endpoint="tickers", samples=minutes + 1, as_of=begin.isoformat()
    )
    run(
        "collect",
        exchanges=["binance"],
        endpoint="candles",
        markets=[name.replace("_", "-") for name in bars],
        samples=27,
        every_s=3600,
        as_of=begin.isoformat(),
    )
    told = run("flatten")

    # the poll at 12:00 is of the bar that opened at 11:59, so 26 h of minutes are 1,561 polls
    have = {opened for rows in bars.values() for opened, *_ in rows}
    due = [begin + timedelta(minutes=number) for number in range(minutes + 1)]
    answered = [moment for moment in due if (moment.timestamp() - 60) * 1000 in have]
    assert len(bars) == 18 and len(due) - len(answered) == polls["failed"] == 120
    engine = Engine(monitor, end)
    ticks = engine.query(
        "select market_id, collected_at, price from ticks order by market_id, collected_at"
    ).to_pylist()
    moments = sorted({row["collected_at"] for row in ticks})
    assert moments == [moment.replace(tzinfo=None) for moment in answered]
    assert len(ticks) == 18 * len(answered)
    gaps = [(a, b) for a, b in pairwise(moments) if b - a > timedelta(minutes=1)]
    assert gaps == [(datetime(2021, 9, 29, 7, 0), datetime(2021, 9, 29, 9, 1))]  # noqa: DTZ001, views are naive UTC
    candles = engine.query("select market_id, opened_at, volume from candles").to_pylist()
    assert len({(row["market_id"], row["opened_at"]) for row in candles}) == len(candles)
    closed = {int(moment.timestamp() - 60) * 1000 for moment in answered}
    volumes = {
        (f"binance:binance:{name.replace('_', '')}", opened): row[-1]
        for name, rows in bars.items()
        for opened, *row in rows
    }
    found = {
        (row["market_id"], int(row["opened_at"].replace(tzinfo=UTC).timestamp() * 1000)): row["volume"]
        for row in candles
    }
    assert {key for key in volumes if key[1] in closed} <= found.keys()
    assert all(volumes[key] == volume for key, volume in found.items())
    assert told["quarantined"] == 0
