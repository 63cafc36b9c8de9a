"""Athena by PyAthena over HTTP: the protocol against moto, and every view against a server that runs what it is asked."""

import logging
import signal
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import boto3
import pyarrow as pa
import pytest
import requests
from athena_server import AthenaServer
from test_trino import alike, assert_same

from cryptomon_lib import catalog, sql
from cryptomon_lib.engine import Engine
from cryptomon_lib.engines import athena as backend_of_athena
from cryptomon_lib.engines import open_backend
from cryptomon_lib.errors import ConfigError, QueryError, StorageError
from cryptomon_lib.lake import Batch, Lake
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.tables import TABLES, schema

# views are naive UTC
# ruff: noqa: DTZ001

pytestmark = pytest.mark.s3

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
KEYS = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
}


def opened(place, **flags):
    """A monitor on Athena, quick to ask and to give up."""
    quick = {"workgroup": "cryptomon-dev", "database": "cryptomon_dev", "region": "us-east-1", "poll_s": 0.01}
    flags["athena"] = (
        quick | {"backoff_s": 0.01, "attempts": 3, "output": place.output} | flags.get("athena", {})
    )
    given = {"root": place.root, "endpoint_url": place.endpoint_url, "engine": "athena"}
    return open_monitor("local", flags=given | flags)


@pytest.fixture(scope="module")
def place(_s3_server):
    """Two hours of four markets on S3, a server of Athena's protocol that was set up, and DuckDB on the same tables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": _s3_server}).items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="athena")
        here = SimpleNamespace(
            root="s3://athena/monitor", endpoint_url=_s3_server, output="s3://athena/results", now=NOON
        )
        here.duck = open_monitor("local", flags={"root": here.root, "endpoint_url": here.endpoint_url})
        fill(here.duck.lake)
        here.server = AthenaServer(here.duck.storage.fs, here.output, Lake(here.duck.storage)._options)
        here.server.now = NOON
        patch.setenv("AWS_ENDPOINT_URL_ATHENA", here.server.url)
        here.monitor = opened(here)
        here.told = catalog.set_up_catalog(here.monitor)
        here.engine = Engine(here.monitor)
        yield here
        here.server.close()


@pytest.fixture(autouse=True)
def at_rest(request):
    """The server of the module does nothing on purpose, whatever the test before asked of it."""
    if "place" in request.fixturenames:
        here = request.getfixturevalue("place")
        here.server.__dict__.update(throttle=0, page=1000, scanned=12_345, limit=None, now=NOON)
        here.server.running.set()
        here.server.calls.clear()


def fill(lake):
    """Ticks and candles with what is awkward: holes, a market without a trade, a jump, absent and empty texts."""
    rows, candles = [], []
    for number, name in enumerate(("BTC-USD", "ETH-USD", "ETH-BTC", "DEAD-USD")):
        for minute in range(120):
            if 30 <= minute < 35:
                continue
            at = NOON - timedelta(minutes=119 - minute)
            price = None if name == "DEAD-USD" else 100.0 * (number + 1) + (minute * 7 + number) % 11 / 8
            rows.append(
                market(name)
                | {
                    "collected_at": at,
                    "price": price,
                    "bid": price and price - 0.1,
                    "ask": price and price + 0.2,
                    "volume_24h": 5.0 + minute + (5000 if minute == 119 else 0),
                    "exchange_at": at if minute % 2 else None,
                    "day": f"{at:%Y-%m-%d}",
                }
            )
            if number < 2:
                candles.append(
                    market(name)
                    | {"interval_s": 60, "opened_at": at - timedelta(minutes=1), "collected_at": at}
                    | {
                        "open": price,
                        "high": price + 1,
                        "low": price - 1,
                        "close": price,
                        "volume": float(minute),
                    }
                    | {"trades": minute, "origin": "live", "day": f"{at - timedelta(minutes=1):%Y-%m-%d}"}
                )
    notices = [
        {
            "notice_id": name,
            "state": "sent",
            "at": NOON,
            "user": user,
            "alert_ids": ids,
            "attempts": 1,
            "day": "2026-07-27",
        }
        for name, user, ids in (
            ("a", "", ["12e4", "77"]),
            ("b", None, []),
            ("c", 'say "hi", she\nsaid', None),
        )
    ]
    for name, made in (("ticks", rows), ("candles", candles), ("notices", notices)):
        full = [{column: row.get(column) for column in TABLES[name].column_names} for row in made]
        lake.append(name, [Batch(name, pa.Table.from_pylist(full, schema=schema(name)))])


def market(name):
    """What names a market."""
    base, _, quote = name.partition("-")
    return {
        "market_id": f"kraken:kraken:{name}", "source": "kraken", "exchange": "kraken", "symbol": name, "market": name,
        "base": base, "quote": quote, "kind": "spot",
    }  # fmt: skip


# ---- every view, end to end


def test_the_set_up_told_of_everything_once(place):
    assert set(place.told["done"]) == {"made"}
    assert set(place.told.index) == {one.name for one in catalog.statements(place.monitor.settings)}
    assert set(catalog.set_up_catalog(place.monitor)["done"]) == {"unchanged"}
    assert place.server.calls.count("StartQueryExecution") == 1, "it asks only what there is"


@pytest.mark.parametrize("view", sql.views())
def test_a_created_view_gives_what_duckdb_gives(view, place):
    text = f"select * from {view}"
    assert_same(Engine(place.duck, NOON).query(text), place.engine.query(text), sql.views()[view].grain)


@pytest.mark.parametrize("view", ["latest", "measures", "rank_24h", "spikes", "candles_5m"])
def test_a_view_as_of_a_moment_gives_what_duckdb_gives(view, place):
    text, moment = f"select * from {view}", NOON - timedelta(minutes=7)
    place.server.now = NOON + timedelta(days=3)
    ours, theirs = Engine(place.duck, moment).query(text), Engine(place.monitor, moment).query(text)
    assert_same(ours, theirs, sql.views()[view].grain)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_gives_what_duckdb_gives(name, place):
    text = f"select * from {sql.base_name(name, sql.views())}"
    assert_same(Engine(place.duck, NOON).query(text), place.engine.query(text), TABLES[name].key)


def test_most_views_have_rows(place):
    empty = [
        view
        for view in sql.views()
        if not place.engine.query(f"select count(*) as n from {view}")["n"][0].as_py()
    ]
    assert len(empty) < len(sql.views()) / 2, empty


# ---- values and results


HOSTILE = [
    "x",
    "' or '1'='1",
    "'; drop view ticks; --",
    'a"b',
    "\\",
    "币",
    "",
    "%s",
    "%(x)s",
    ":market_id",
    "?",
]


@pytest.mark.parametrize(
    "value", [*HOSTILE, 1, -(2**40), 1.5, -1e-9, True, None, datetime(2026, 7, 27, 12, 0, 0, 123000)]
)
def test_a_value_is_bound_and_comes_back(value, place):
    text = "select :v as v, count(*) as n from ticks where market_id = ':v' or 'a' = :w -- 50 % :x"
    (row,) = place.engine.query(text, v=value, w="a").to_pylist()
    assert row == {"v": value, "n": 460}
    sent = [one.request for one in place.server.executions.values()][-1]
    assert "?" in sent["QueryString"] and len(sent["ExecutionParameters"]) == 2


def test_a_value_that_athena_would_not_take_is_told(place):
    with pytest.raises(QueryError, match="1022 at most"):
        place.engine.query("select :v as v", v="x" * 1023)


def test_a_query_without_values_may_have_percent_signs_and_comments(place):
    text = "-- 100 %\nselect market_id from ticks where market_id like '%BTC%' limit 1"
    assert place.engine.query(text).num_rows == 1


@pytest.mark.parametrize("page", [1000, 2])
def test_absent_and_empty_texts_stay_two_things(page, place, monkeypatch):
    """From the answer's own page, and from the file that a longer result is read from."""
    monkeypatch.setattr(backend_of_athena, "_PAGE", page)
    rows = place.engine.query("select user, alert_ids, reason from notices order by notice_id").to_pylist()
    assert [row["user"] for row in rows] == ["", None, 'say "hi", she\nsaid']
    assert [row["alert_ids"] for row in rows] == [["12e4", "77"], [], None]
    assert [row["reason"] for row in rows] == [None] * 3


@pytest.mark.parametrize("page", [1000, 2])
def test_types_are_those_of_duckdb(page, place, monkeypatch):
    monkeypatch.setattr(backend_of_athena, "_PAGE", page)
    text = (
        "select cast(1 as integer) as a, cast(1 as bigint) as b, cast(1 as decimal(5, 0)) as c, cast(1.5 as decimal(4, 2)) "
        "as d, price as e, market as f, true as g, date '2026-07-27' as h, collected_at as i, null as j, "
        "cast(null as double) as k, exchange_at as l, cast(collected_at as timestamp) at time zone 'UTC' as m, price as e "
        "from ticks where market_id = 'kraken:kraken:BTC-USD'"
    )
    ours, theirs = Engine(place.duck, NOON).query(text), place.engine.query(text)
    assert theirs.schema == ours.schema and theirs.num_rows == ours.num_rows == 115
    for mine, found in zip(ours.columns, theirs.columns, strict=True):
        assert sorted(map(str, mine.to_pylist())) == sorted(map(str, found.to_pylist()))


def test_a_result_longer_than_a_page_is_read_whole(place):
    text = "select t.market_id, t.collected_at, u.price from ticks as t cross join (select price from ticks limit 5) as u"
    assert place.engine.query(text).num_rows == 2300
    assert place.server.calls.count("GetQueryResults") == 1, "the rest comes as one file"
    place.server.page = 100
    assert place.engine.query("select market_id from ticks").num_rows == 460


def test_numbers_that_are_none_come_back(place):
    text = "select nan() as a, infinity() as b, -infinity() as c, 1e300 as d, 1e-300 as e"
    text = text.replace("nan()", "cast('NaN' as double)").replace("infinity()", "cast('Infinity' as double)")
    (row,) = place.engine.query(text).to_pylist()
    assert row["a"] != row["a"] and row["b"] == float("inf") == -row["c"]
    assert alike(row["d"], 1e300) and alike(row["e"], 1e-300)


# ---- cost


def test_a_query_says_what_it_scanned_and_cost(place, caplog):
    caplog.set_level(logging.INFO, "cryptomon_lib")
    place.engine.query("select 1 as x")
    # no query is billed for less than 10 MB
    assert place.engine.last.bytes_scanned == 12_345 and place.engine.last.cost_usd == pytest.approx(5e-5)
    assert "12345 bytes scanned, 0.000050 USD" in caplog.text
    place.server.scanned = 2 * 10**12
    engine = Engine(opened(place, athena={"scan_bytes_max": 10**13, "price_per_tb_usd": 7}))
    engine.query("select 1 as x")
    assert engine.last.cost_usd == pytest.approx(14)


def test_the_same_query_again_is_free_where_results_are_reused(place):
    engine, text = (
        Engine(opened(place, athena={"reuse_minutes": 5})),
        "select count(*) as n, 'reuse' as x from ticks",
    )
    first, cost = engine.query(text), engine.last.cost_usd
    second = engine.query(text)
    assert first == second and cost > 0 and (engine.last.bytes_scanned, engine.last.cost_usd) == (0, 0)
    asked = list(place.server.executions.values())[-1].request["ResultReuseConfiguration"]
    assert asked == {"ResultReuseByAgeConfiguration": {"Enabled": True, "MaxAgeInMinutes": 5}}


def state_of_newest(place):
    return list(place.server.executions.values())[-1].state


def test_a_query_that_scans_too_much_is_cancelled(place):
    place.server.running.clear()
    place.server.scanned = 10**12
    with pytest.raises(
        QueryError, match=r"cancelled: it scanned .* more than 100,000,000,000.*scan_bytes_max"
    ):
        place.engine.query("select 1 as x")
    assert state_of_newest(place) == "CANCELLED"


def test_the_limit_of_the_workgroup_is_told_as_such(place):
    place.server.limit = 10
    with pytest.raises(QueryError, match="limit of workgroup cryptomon-dev"):
        place.engine.query("select 1 as x")


# ---- time, interruption, throttling


def test_a_query_that_takes_too_long_is_cancelled(place):
    place.server.running.clear()
    with pytest.raises(QueryError, match=r"cancelled: it took longer than 1 s\. Raise athena\.timeout_s"):
        Engine(opened(place, athena={"timeout_s": 1})).query("select 1 as x")
    assert state_of_newest(place) == "CANCELLED"


class Ended(BaseException):
    """What a signal raises in a run."""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Ended])
def test_an_interrupted_query_is_not_left_running(kind, place):
    def interrupt(number, frame):
        raise kind

    place.server.running.clear()
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(kind):
            place.engine.query("select 1 as x")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert state_of_newest(place) == "CANCELLED" and "StopQueryExecution" in place.server.calls


def test_a_call_that_is_throttled_is_repeated(place):
    place.server.throttle = 2
    assert place.engine.query("select 1 as x").to_pylist() == [{"x": 1}]
    assert place.server.calls.count("StartQueryExecution") == 3


def test_one_that_is_throttled_for_ever_is_told(place):
    place.server.throttle = 10**6
    with pytest.raises(QueryError, match=r"no room for the query .* asked 2 times"):
        Engine(opened(place, athena={"attempts": 2})).query("select 1 as x")


# ---- errors


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("select nothing from ticks", "Athena refuses the query: .*nothing"),
        ("select * from tikcs", "No table or view is called tikcs"),
        ("select cast('x' as double) as y from ticks", "Athena refuses the query"),
    ],
)
def test_what_athena_refuses_is_told_in_its_words(text, says, place):
    with pytest.raises(QueryError, match=says):
        place.engine.query(text)


def test_before_the_set_up_the_way_out_is_told(place):
    with pytest.raises(QueryError, match="cryptomon set-up makes it"):
        Engine(opened(place, athena={"database": "empty"})).query("select * from ticks")


def test_a_workgroup_that_is_not_there_is_a_fault_of_the_params(place):
    with pytest.raises(ConfigError, match=r"WorkGroup is not found.*athena\.workgroup"):
        Engine(opened(place, athena={"workgroup": "other"})).query("select 1 as x")


def test_without_credentials_it_says_so(place, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="Check the AWS credentials"):
        Engine(opened(place)).query("select 1 as x")


def test_an_athena_that_does_not_answer_is_a_fault_of_storage(place, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_ATHENA", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match="Cannot reach Athena"):
        Engine(opened(place)).query("select 1 as x")


def test_a_result_that_cannot_be_read_is_told(place, monkeypatch):
    monkeypatch.setattr(backend_of_athena, "_PAGE", 2)
    monkeypatch.setattr(place.server.fs, "pipe_file", lambda *given: None)
    with pytest.raises(StorageError, match="Cannot read Athena's result s3://athena/results/"):
        place.engine.query("select market_id from ticks")


def test_a_root_that_is_not_on_s3_is_refused_with_the_way_out(tmp_path, open_at):
    with pytest.raises(ConfigError, match="CRYPTOMON_ENGINE=duckdb"):
        Engine(open_at(tmp_path, engine="athena"))


# ---- the protocol, against a server that is not ours


@pytest.fixture
def moto(s3, monkeypatch):
    """Moto's Athena: it runs nothing, and gives the rows that are queued."""
    monkeypatch.delenv("AWS_ENDPOINT_URL_ATHENA", raising=False)
    client = boto3.client("athena")
    client.create_work_group(Name="cryptomon-dev", Configuration={"ResultConfiguration": {}})
    yield SimpleNamespace(client=client, place=SimpleNamespace(**vars(s3), output=s3.root + "/results"))
    client.delete_work_group(WorkGroup="cryptomon-dev", RecursiveDeleteOption=True)


def queue(moto, columns, rows):
    given = [
        dict(zip(("Name", "Type"), pair, strict=True)) | {"Precision": 0, "Scale": 0, "Nullable": "UNKNOWN"}
        for pair in columns
    ]
    data = [{"Data": [{} if value is None else {"VarCharValue": value} for value in row]} for row in rows]
    body = {"results": [{"rows": data, "column_info": given}], "region": "us-east-1"}
    requests.post(f"{moto.place.endpoint_url}/moto-api/static/athena/query-results", json=body, timeout=60)


def started(moto, text):
    """What the server knows of the queries of that text."""
    names = moto.client.list_query_executions(WorkGroup="cryptomon-dev")["QueryExecutionIds"]
    told = [moto.client.get_query_execution(QueryExecutionId=name)["QueryExecution"] for name in names]
    return [one for one in told if one["Query"] == text]


def test_moto_a_query_is_started_followed_and_fetched(moto):
    queue(
        moto,
        [("a", "bigint"), ("b", "varchar"), ("c", "timestamp")],
        [("a", "b", "c"), ("1", None, "2026-07-27 12:00:00.500"), ("2", "", None)],
    )
    backend = open_backend(opened(moto.place))
    found = backend.do("select a, b, c from t where b = ?", ["it's"]).rows
    assert found.to_pylist() == [
        {"a": 1, "b": None, "c": datetime(2026, 7, 27, 12, 0, 0, 500000)},
        {"a": 2, "b": "", "c": None},
    ]
    (told,) = started(moto, "select a, b, c from t where b = ?")
    assert told["Query"] == "select a, b, c from t where b = ?" and told["Status"]["State"] == "SUCCEEDED"
    assert told["QueryExecutionContext"]["Database"] == "cryptomon_dev"
    backend.close()


def test_moto_a_workgroup_that_is_not_there_is_told(moto):
    with pytest.raises(ConfigError, match="WorkGroup does not exist"):
        open_backend(opened(moto.place, athena={"workgroup": "other"})).do("select 1")


def test_moto_a_query_that_is_given_up_is_stopped(moto):
    """The server says for a thousand looks that it is queued."""
    manager = f"{moto.place.endpoint_url}/moto-api/state-manager"
    model = {"model_name": "athena::execution"}
    slow = model | {"transition": {"progression": "manual", "times": 1000}}
    requests.post(f"{manager}/set-transition", json=slow, timeout=60)
    try:
        with pytest.raises(QueryError, match="took longer"):
            open_backend(opened(moto.place, athena={"timeout_s": 1})).do("select 'given up'")
    finally:
        requests.post(f"{manager}/unset-transition", json=model, timeout=60)
    (told,) = started(moto, "select 'given up'")
    assert told["Status"]["State"] == "CANCELLED"
