"""The REST API over a socket: the views' rows in four forms, pages, tags, keys, and problems in plain words."""

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from cryptomon_lib import Engine, api_questions, sql
from cryptomon_lib.api import create_app
from cryptomon_lib.api_answers import FORMATS, PROBLEM_TYPE, Answer, Shared, chosen_format
from cryptomon_lib.api_questions import Questions, thinned
from cryptomon_lib.client import Client
from cryptomon_lib.errors import ApiError, ConfigError, CryptomonError
from cryptomon_lib.lake import Batch
from cryptomon_lib.latest import keep_latest

MINUTE = timedelta(minutes=1)
TYPES = {*FORMATS.values(), PROBLEM_TYPE}
HOSTILE = "<img src=x onerror=alert(1)>"


def serve(app):
    """A server of the app on a port of its own, in a thread: its address, and how to end it."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)

    def end():
        server.should_exit = True
        thread.join(20)

    port = server.servers[0].sockets[0].getsockname()[1]
    return SimpleNamespace(url=f"http://127.0.0.1:{port}", end=end, server=server)


@pytest.fixture(scope="module")
def now():
    return datetime.now(UTC).replace(second=0, microsecond=0)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, table_of, now):
    """A monitor with 70 minutes of five markets on two exchanges, one of them with a hostile name."""
    from cryptomon_lib.monitor import open_monitor

    monitor = open_monitor("local", flags={"root": str(tmp_path_factory.mktemp("api")), "hosts": {}})
    markets = ("kraken:kraken:BTC-USD", "kraken:kraken:ETH-USD", "coinbase:coinbase:BTC-USD")
    rows = [
        {
            "market_id": market,
            "collected_at": now - MINUTE * back,
            "price": 100.0 + (back % 7) + 10 * number,
            "bid": 99.0,
            "ask": 101.0,
            "volume_24h": 5.0,
        }
        for number, market in enumerate((*markets, f"kraken:kraken:{HOSTILE}-USD", "kraken:kraken:=1+1-USD"))
        for back in range(70)
    ]
    monitor.lake.append("ticks", [Batch("rows", table_of("ticks", rows))])
    return monitor


@pytest.fixture(scope="module")
def served(filled):
    running = serve(create_app(filled))
    yield running.url
    running.end()


@pytest.fixture
def ask(served):
    def asked(path, **kwargs):
        return requests.get(f"{served}{path}", timeout=90, **kwargs)

    return asked


# ---- rows


def test_every_view_is_a_route_under_its_own_name_and_in_the_openapi_document(ask):
    paths = ask("/openapi.json").json()["paths"]
    assert {f"/v1/views/{name}" for name in sql.views()} <= paths.keys()


@pytest.mark.parametrize("name", sorted(sql.views()))
def test_every_view_answers_with_its_columns_in_the_order_of_its_grain(ask, filled, name):
    answer = ask(f"/v1/views/{name}?limit=3&format=arrow")
    assert answer.status_code == 200, answer.text
    rows = pa.ipc.open_stream(answer.content).read_all()
    assert set(sql.views()[name].grain) <= set(rows.column_names)


def test_the_same_rows_come_as_json_csv_parquet_and_arrow(ask):
    path = "/v1/latest?exchange=kraken"
    plain = ask(path).json()["rows"]
    assert len(plain) == 4 and plain[0]["collected_at"].endswith("Z")
    parquet = pq.read_table(
        io.BytesIO(ask(path, headers={"Accept": "application/vnd.apache.parquet"}).content)
    )
    arrow = pa.ipc.open_stream(ask(path, headers={"Accept": "application/vnd.apache.arrow.stream"}).content)
    csv = pa.csv.read_csv(io.BytesIO(ask(path, headers={"Accept": "text/csv"}).content))
    arrow = arrow.read_all()
    assert parquet.equals(arrow)
    assert (
        csv["market_id"].to_pylist() == arrow["market_id"].to_pylist() == [row["market_id"] for row in plain]
    )
    assert csv["price"].to_pylist() == arrow["price"].to_pylist() == [row["price"] for row in plain]
    assert str(arrow.schema.field("collected_at").type) == "timestamp[ms, tz=UTC]"


def test_a_series_is_the_stored_minutes_and_its_steps_merge_them(ask, now):
    minutes = ask("/v1/series?market=kraken:BTC-USD&step=1m").json()
    assert minutes["market_id"] == "kraken:kraken:BTC-USD" and minutes["step_s"] == 60
    values = [row["value"] for row in minutes["rows"]]
    assert values == [100.0 + back % 7 for back in reversed(range(70))]
    since = f"{now - MINUTE * 30:%Y-%m-%dT%H:%M:%SZ}"
    steps = ask("/v1/series", params={"market": "kraken:BTC-USD", "step": "5m", "from": since}).json()["rows"]
    assert sum(row["samples"] for row in steps) == 30
    assert all(row["min"] <= row["value"] <= row["max"] and row["expected"] == 5 for row in steps)


def test_a_series_by_the_hour_has_the_means_of_its_minutes(ask, now):
    found = ask("/v1/series?market=kraken:BTC-USD&step=1h").json()["rows"]
    assert sum(row["samples"] for row in found) == 70
    minutes = ask("/v1/series?market=kraken:BTC-USD&step=1m").json()["rows"]
    first = [row["value"] for row in minutes if row["at"][:13] == found[0]["at"][:13]]
    assert found[0]["value"] == pytest.approx(sum(first) / len(first), rel=1e-12)
    assert (found[0]["min"], found[0]["max"]) == (min(first), max(first))
    assert ask("/v1/series?market=kraken:BTC-USD&from=2026-01-01&to=2026-01-20").json()["step_s"] >= 3600


def test_steps_keep_count_mean_extremes_and_ends(now):
    at = [now.replace(tzinfo=None, minute=0) + MINUTE * minute for minute in (0, 1, 4, 5, 7)]
    found = thinned(
        pa.table({"at": pa.array(at, pa.timestamp("ms")), "value": [1.0, 2.0, 6.0, 4.0, 8.0]}), 300, 60
    )
    assert found.select(["value", "min", "max", "first", "last", "samples"]).to_pylist() == [
        {"value": 3.0, "min": 1.0, "max": 6.0, "first": 1.0, "last": 6.0, "samples": 3},
        {"value": 6.0, "min": 4.0, "max": 8.0, "first": 4.0, "last": 8.0, "samples": 2},
    ]
    # two in a minute, as of two containers that overlap
    twice = [at[0], at[0] + MINUTE / 6, at[1]]
    found = thinned(pa.table({"at": pa.array(twice, pa.timestamp("ms")), "value": [1.0, 3.0, 5.0]}), 60, 60)
    assert found.select(["at", "value", "samples"]).to_pylist() == [
        {"at": twice[0], "value": 2.0, "samples": 2},
        {"at": twice[2], "value": 5.0, "samples": 1},
    ]
    hourly = {"at": pa.array(at[:2], pa.timestamp("ms")), "samples": [60, 20], "mean": [1.0, 5.0]}
    hourly |= {"expected": [60, 60]}
    hourly |= {"min": [0.5, 4.0], "max": [2.0, 6.0], "first": [1.0, 4.0], "last": [2.0, 6.0]}
    assert thinned(pa.table(hourly), 86400, 60).to_pylist()[0]["value"] == (60 * 1.0 + 20 * 5.0) / 80
    assert (
        thinned(
            pa.table({"at": pa.array([], pa.timestamp("ms")), "value": pa.array([], pa.float64())}), 60, 60
        ).num_rows
        == 0
    )


def test_rank_measures_and_health_say_what_the_views_say(ask):
    ranked = ask("/v1/rank?measure=price").json()["rows"]
    assert [row["place"] for row in ranked] == sorted(row["place"] for row in ranked)
    assert len(ask("/v1/rank?measure=price&quote=USD&limit=2").json()["rows"]) == 2
    assert ask("/v1/rank?measure=price&quote=XYZ").json()["rows"] == []
    assert {row["measure"]: row["markets"] for row in ask("/v1/measures").json()["rows"]}["price"] == 5
    health = ask("/v1/health")
    assert health.status_code == 200 and health.json()["status"] == "ok" and health.json()["simulated"]
    assert {row["source"] for row in health.json()["rows"]} == {"kraken", "coinbase"}


def test_pages_follow_each_other_without_a_row_twice_or_none(ask, served):
    seen, address = [], f"{served}/v1/markets?limit=2"
    while address:
        answer = requests.get(address, timeout=90)
        seen += [row["market_id"] for row in answer.json()["rows"]]
        address = answer.links.get("next", {}).get("url")
    assert len(seen) == 5 and seen == sorted(seen)


def test_latest_is_what_the_tick_stored_while_that_is_of_now(local, table_of):
    now = datetime.now(UTC)
    tick = {"market_id": "kraken:kraken:BTC-USD", "collected_at": now - timedelta(seconds=30), "price": 100.0}
    local.lake.append("ticks", [Batch("first", table_of("ticks", [tick]))])
    assert keep_latest(Engine(local)).rows == 1
    later = tick | {"collected_at": now - timedelta(seconds=1), "price": 7.0}
    local.lake.append("ticks", [Batch("later", table_of("ticks", [later]))])
    questions = Questions(local)
    assert questions.view("latest", {}, None, None, 10, 0).table["price"].to_pylist() == [100.0]
    assert questions.view("newest_ticks", {}, None, None, 10, 0).table["price"].to_pylist() == [7.0]


def test_what_a_name_stands_for_is_read_once_for_the_same_data(local, table_of, monkeypatch):
    def tick(name):
        row = {"market_id": f"kraken:kraken:{name}", "collected_at": datetime.now(UTC), "price": 1.0}
        local.lake.append("ticks", [Batch(name, table_of("ticks", [row]))])

    tick("BTC-USD")
    questions, read = Questions(local), []
    monkeypatch.setattr(api_questions.time, "time", lambda: 60.0)
    markets = api_questions.metrics.markets
    monkeypatch.setattr(api_questions.metrics, "markets", lambda engine: read.append(1) or markets(engine))
    assert {questions.market_id("kraken:BTC-USD") for _ in range(3)} == {"kraken:kraken:BTC-USD"}
    assert len(read) == 1
    tick("ETH-USD")
    assert questions.market_id("kraken:ETH-USD") == "kraken:kraken:ETH-USD" and len(read) == 2


# ---- what may be kept


def test_a_tag_spares_the_body_until_the_data_changes(filled, table_of, now):
    running = serve(create_app(filled))
    try:
        first = requests.get(f"{running.url}/v1/latest", timeout=90)
        assert first.headers["Cache-Control"].startswith("public, max-age=")
        assert 1 <= int(first.headers["Cache-Control"].rpartition("=")[2]) <= 60
        again = {"If-None-Match": first.headers["ETag"]}
        # at the turn of a minute the tag is another, since views look at the clock
        kept = [requests.get(f"{running.url}/v1/latest", headers=again, timeout=90) for _ in range(2)]
        assert (
            any(one.status_code == 304 and not one.content for one in kept)
            or now.minute != datetime.now(UTC).minute
        )
        assert requests.get(f"{running.url}/v1/markets", headers=again, timeout=90).status_code == 200
        other = {"market_id": "kraken:kraken:NEW-USD", "collected_at": datetime.now(UTC), "price": 1.0}
        filled.lake.append("ticks", [Batch("new", table_of("ticks", [other]))])
        time.sleep(1.2)
        changed = requests.get(f"{running.url}/v1/latest?market=NEW-USD", headers=again, timeout=90)
        assert changed.status_code == 200 and changed.json()["rows"][0]["price"] == 1.0
    finally:
        running.end()


def test_large_answers_are_packed_for_who_takes_it(ask):
    packed = ask("/v1/latest", headers={"Accept-Encoding": "gzip"})
    plain = ask("/v1/latest", headers={"Accept-Encoding": "identity"})
    assert packed.headers["Content-Encoding"] == "gzip" and "Content-Encoding" not in plain.headers
    assert (
        int(packed.headers["Content-Length"]) < len(plain.content) / 2
        and packed.json()["rows"] == plain.json()["rows"]
    )


def test_who_asks_the_same_at_once_waits_for_one_answer():
    import asyncio

    made = []

    def make():
        made.append(1)
        time.sleep(0.1)
        return Answer("text/plain", b"x" * 60, 1)

    async def all_at_once():
        shared = Shared(100)
        await asyncio.gather(*(shared.get("a", make) for _ in range(20)))
        await shared.get("b", make)
        # a was let go for b: there is room for one
        await shared.get("b", make)
        await shared.get("a", make)

    asyncio.run(all_at_once())
    assert len(made) == 3


def test_what_fails_is_not_kept_and_fails_for_all_who_waited():
    import asyncio

    answers = iter([ValueError("first"), Answer("text/plain", b"x", 1)])

    def make():
        time.sleep(0.05)
        one = next(answers)
        if isinstance(one, Exception):
            raise one
        return one

    async def both():
        shared = Shared(100)
        failed = await asyncio.gather(shared.get("a", make), shared.get("a", make), return_exceptions=True)
        return failed, await shared.get("a", make)

    failed, after = asyncio.run(both())
    assert [type(one) for one in failed] == [ValueError, ValueError] and after.body == b"x"


# ---- problems


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/v1/nothing", 404, "No such route"),
        ("/v1/series?market=kraken:BTC-USDD", 404, "Did you mean"),
        ("/v1/series?market=BTC-USD", 404, "several markets"),
        ("/v1/series?market=kraken:BTC-USD&measure=prise", 404, "price"),
        ("/v1/series?market=kraken:BTC-USD&step=2m", 422, "step"),
        ("/v1/series?market=kraken:BTC-USD&from=2026-01-02&to=2026-01-01", 400, "not before"),
        ("/v1/series?market=kraken:BTC-USD&from=2026-01-01&to=2026-06-01", 400, "31 days"),
        ("/v1/series?market=kraken:BTC-USD&from=2026-01-01&to=2026-01-30&step=1m", 400, "step"),
        ("/v1/series?market=kraken:BTC-USD&from=yesterday", 422, "from"),
        ("/v1/series", 422, "market"),
        ("/v1/latest?limit=20000", 400, "10,000"),
        ("/v1/latest?limit=0", 422, "limit"),
        ("/v1/latest?offset=-1", 422, "offset"),
        ("/v1/latest?colour=red", 422, "colour"),
        ("/v1/latest?format=xml", 422, "format"),
        ("/v1/views/trailing_1h?from=2026-01-01&to=2026-01-02", 400, "market_id"),
    ],
)
def test_a_question_that_cannot_be_answered_says_what_and_what_to_do(ask, path, status, says):
    answer = ask(path)
    assert answer.status_code == status, answer.text
    assert (
        answer.headers["Content-Type"] == "application/problem+json"
        and answer.headers["Cache-Control"] == "no-store"
    )
    told = answer.json()
    assert told["status"] == status and told["instance"] == path.partition("?")[0] and told["title"]
    assert says in json.dumps(told) and len(answer.content) < 3000


def test_only_reading_is_possible(ask, served):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = requests.request(method, f"{served}/v1/latest", timeout=90)
        assert answer.status_code == 405 and answer.headers["Content-Type"] == "application/problem+json"


def test_no_form_that_the_client_takes_is_told():
    for accept, form in {
        "": "json", "*/*": "json", "text/csv": "csv", "text/*": "csv", "text/html, */*;q=0.1": "json",
        "application/json;q=0.2, text/csv": "csv", "application/vnd.apache.parquet": "parquet",
    }.items():  # fmt: skip
        assert chosen_format(accept) == form, accept
    for accept in ("image/png", "text/csv;q=0", "text/csv;q=x"):
        with pytest.raises(ApiError, match="Accept is") as raised:
            chosen_format(accept)
        assert raised.value.status == 406


def test_names_from_outside_are_values_and_never_text_of_a_query_or_a_page(ask):
    for name in ("' or 1=1 --", '"; drop table ticks', HOSTILE, "%", ":x", "\u0000", "x" * 200):
        found = ask("/v1/latest", params={"market_id": name})
        assert found.status_code == 200 and found.json()["rows"] == [], name
        assert ask("/v1/series", params={"market": name}).status_code == 404
    stored = ask("/v1/latest", params={"symbol": f"{HOSTILE}-USD"})
    assert stored.json()["rows"][0]["symbol"] == f"{HOSTILE}-USD"
    assert stored.headers["Content-Type"] == "application/json"


def test_data_that_cannot_be_read_is_503_and_the_next_question_is_asked_anew(filled, monkeypatch):
    from cryptomon_lib.errors import StorageError

    app = create_app(filled)
    running = serve(app)
    try:
        query = type(filled.lake).open

        def broken(self, name):
            raise StorageError("Cannot open s3://secret-bucket/place")

        monkeypatch.setattr(type(filled.lake), "open", broken)
        answer = requests.get(f"{running.url}/v1/latest", timeout=90)
        assert answer.status_code == 503 and answer.headers["Retry-After"] == "5"
        assert "secret-bucket" not in answer.text
        monkeypatch.setattr(type(filled.lake), "open", query)
        assert requests.get(f"{running.url}/v1/latest", timeout=90).status_code == 200
    finally:
        running.end()


def test_without_any_tick_health_says_down(local):
    running = serve(create_app(local))
    try:
        answer = requests.get(f"{running.url}/v1/health", timeout=90)
        assert answer.status_code == 503 and answer.json()["status"] == "down"
        assert requests.get(f"{running.url}/v1/latest", timeout=90).json()["rows"] == []
    finally:
        running.end()


# ---- keys


def test_with_keys_named_only_they_are_let_in_each_so_often(open_at, filled, monkeypatch):
    monkeypatch.setenv("SOME_KEYS", "ana=k-ana, bob=k-bob")
    monitor = open_at(filled.settings.root, api={"keys": "SOME_KEYS", "calls_per_min": 3})
    running = serve(create_app(monitor))
    try:
        address = f"{running.url}/v1/measures"
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"X-API-Key": ""},
            {"Authorization": "Basic k-ana"},
        ):
            refused = requests.get(address, headers=headers, timeout=90)
            assert refused.status_code == 401 and "k-ana" not in refused.text
        ana = {"Authorization": "Bearer k-ana"}
        answers = [requests.get(address, headers=ana, timeout=90) for _ in range(4)]
        assert [one.status_code for one in answers] == [200, 200, 200, 429]
        assert answers[0].headers["Cache-Control"].startswith("private")
        assert 1 <= int(answers[3].headers["Retry-After"]) <= 60
        assert requests.get(address, headers={"X-API-Key": "k-bob"}, timeout=90).status_code == 200
    finally:
        running.end()


def test_keys_that_are_not_set_or_not_of_their_form_end_it_before_it_serves(open_at, filled, monkeypatch):
    monitor = open_at(filled.settings.root, api={"keys": "SOME_KEYS"})
    with pytest.raises(ConfigError, match="SOME_KEYS is not set"):
        create_app(monitor)
    monkeypatch.setenv("SOME_KEYS", "just-a-key")
    with pytest.raises(ConfigError, match="name=key") as raised:
        create_app(monitor)
    assert "just-a-key" not in str(raised.value)


# ---- the client, many clients, and all that a document's reader may try


def test_the_client_gives_frames_and_the_apis_own_words(served, now):
    client = Client(served)
    found = client.latest(exchange="kraken", market="BTC-USD")
    assert len(found) == 1 and found["collected_at"].iloc[0] == pd.Timestamp(now)
    series = client.series("kraken:BTC-USD", since=now - MINUTE * 10, step="1m")
    assert len(series) == 10 and str(series["at"].dtype).endswith("UTC]")
    assert len(client.view("markets", limit=2)) >= 5
    with pytest.raises(ApiError, match="No market") as raised:
        client.series("nowhere")
    assert raised.value.status == 404
    with pytest.raises(CryptomonError, match="does not answer"):
        Client("http://127.0.0.1:9", timeout_s=2).latest()


def test_fifty_clients_at_once_all_get_the_same(served):
    with ThreadPoolExecutor(50) as pool:
        found = list(
            pool.map(lambda _: requests.get(f"{served}/v1/rank?measure=price", timeout=60), range(150))
        )
    assert {one.status_code for one in found} == {200}
    assert len({one.text.partition('"rows"')[2] for one in found}) <= 2


def test_the_documentation_asks_no_other_host(ask):
    page = ask("/docs")
    assert page.status_code == 200 and "//" not in page.text.replace(ask("/docs").url, "").replace(
        "http://127.0.0.1", ""
    )


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_nothing_that_the_document_allows_or_forbids_breaks_the_server(filled, mode):
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(filled))
    tried = []
    for found in schema.get_all_operations():

        @given(case=found.ok().as_strategy(generation_mode=mode))
        @settings(
            max_examples=2, deadline=None, phases=[Phase.generate], derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def no_server_error(case):
            answer = case.call()
            tried.append(answer.status_code)
            assert answer.status_code < 500 or "/health" in case.path, answer.text
            assert answer.headers["content-type"][0].partition(";")[0] in TYPES

        no_server_error()
    assert len(tried) > 20 and (200 if mode is GenerationMode.POSITIVE else 422) in tried
