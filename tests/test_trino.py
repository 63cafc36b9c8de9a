"""A real Trino and DuckDB give the same for every view, row by row and type by type: `make test-trino`.

The statements are the project's own. Created views follow the server's clock; to be compared, they are created
with it stopped, which changes nothing else in them.
"""

import shutil
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pyarrow as pa
import pytest
import trino_server

from cryptomon_lib import catalog, sql
from cryptomon_lib.collect import collect_payloads
from cryptomon_lib.compact import compact_tables
from cryptomon_lib.engine import Engine
from cryptomon_lib.engines import open_backend
from cryptomon_lib.errors import ConfigError, QueryError, StorageError
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.latest import keep_latest
from cryptomon_lib.monitor import open_monitor
from cryptomon_lib.rollups import GRACE, roll_up
from cryptomon_lib.simulator import Simulator
from cryptomon_lib.tables import TABLES

# views are naive UTC
# ruff: noqa: DTZ001

pytestmark = pytest.mark.trino

# what a view may give; a decimal or a time of another precision would differ between engines
TYPES = {"varchar", "double", "bigint", "integer", "boolean", "date", "timestamp(3)", "array(varchar)"}
# query.max-stage-count of a server that is not told otherwise
STAGES_MAX = 150
SIMULATED = datetime(2026, 7, 27, 18, 0, 30, tzinfo=UTC)
REPLAYED = datetime(2021, 9, 29, 14, tzinfo=UTC)
PLACES = [f"{origin}{how}" for origin in ("simulated", "replayed") for how in ("", "_compacted", "_rolled")]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Trino on loopback."""
    try:
        with trino_server.started(tmp_path_factory.mktemp("trino")) as started:
            yield started
    except trino_server.Unavailable as lacking:
        pytest.skip(f"no Trino: {lacking}")


@pytest.fixture(scope="module")
def place(server, request):
    """Gives by name: one set of tables, opened for both engines as of one moment, and set up on the server."""
    made = {}

    def give(name):
        if name not in made:
            made[name] = _place(server, name, request, give)
        return made[name]

    return give


def _place(server, name, request, give):
    root, (origin, _, how) = server.base / name, name.partition("_")
    if how:
        shutil.copytree(give(origin).root, root)
    now = give(origin).now if how else _fill(root, origin, request)
    flags = {
        "root": str(root),
        "trino": {"port": server.port, "database": name, "location": server.location(root)},
    }
    duck = open_monitor("local", flags=flags)
    if how == "compacted":
        _compact(duck)
    if how == "rolled":
        # as 50_compact and 30_metrics leave it
        assert roll_up(duck, now).hours > 20
        compact_tables(duck, now)
        assert keep_latest(Engine(duck, now)).rows > 0
    trino = open_monitor("local", flags=flags | {"engine": "trino"})
    present = {table: trino.lake.columns(table) for table in TABLES}
    backend = open_backend(trino)
    for one in catalog.statements(trino.settings, columns=present):
        backend.do(sql.trino_at(one.text, now) if one.kind == "view" else one.text)
    return SimpleNamespace(
        name=name, root=root, now=now, duck=duck, trino=trino, backend=backend, engine=Engine(duck, now)
    )


def _fill(root, origin, request):
    if origin == "simulated":
        return _simulate(root)
    return _replay(root, request.getfixturevalue("captures"))


def _simulate(root, hours=26):
    start, close = SIMULATED.replace(second=0) - timedelta(hours=hours), timedelta(minutes=80)
    with Simulator(start=start.isoformat()) as simulator:
        monitor = open_monitor("local", flags={"root": str(root), "hosts": simulator.hosts})
        # the last of it each minute, before that four an hour: holes are part of it
        _poll(monitor, "tickers", start, hours * 4 - 5, 900, ["kraken"])
        for exchange in ("kraken", "coinbase"):
            _poll(monitor, "tickers", SIMULATED.replace(second=0) - close, 81, 60, [exchange])
        _poll(monitor, "candles", start + timedelta(hours=1), hours, 3600, ["kraken"])
    return SIMULATED


def _replay(root, captures):
    start, hours = REPLAYED - timedelta(hours=26), 26
    with Simulator(replay=captures / "history_1m") as simulator:
        monitor = open_monitor(
            "local", flags={"root": str(root), "hosts": simulator.hosts, "fetch": {"attempts": 1}}
        )
        names = [
            path.name.removesuffix("-1m.json.gz") for path in (captures / "history_1m").glob("*-1m.json.gz")
        ]
        markets = [name.replace("_", "-") for name in names]
        # some of it as the minutes go by, so that there are files to join
        _poll(monitor, "tickers", start, hours * 60 - 20, 60, ["binance"])
        for minute in range(hours * 60 - 20, hours * 60 + 1):
            _poll(monitor, "tickers", start + timedelta(minutes=minute), 1, 60, ["binance"])
        _poll(monitor, "candles", start + timedelta(hours=1), hours, 3600, ["binance"], markets)
    return REPLAYED


def _poll(monitor, endpoint, at, samples, every_s, exchanges=None, markets=None):
    collect_payloads(monitor, exchanges, endpoint, markets, samples=samples, every_s=every_s, as_of=at)
    flatten_payloads(monitor)


def _compact(monitor):
    for name in ("ticks", "candles"):
        monitor.lake.compact(name)


def assert_same(ours: pa.Table, theirs: pa.Table, grain):
    """DuckDB's table is Trino's, by types, rows and values; sums in another order differ in the last digits."""
    assert theirs.schema == ours.schema
    assert theirs.num_rows == ours.num_rows
    # a column that is null throughout cannot be sorted by, and need not be
    keys = [(column, "ascending") for column in grain if ours[column].null_count < ours.num_rows]
    if keys:
        ours, theirs = ours.sort_by(keys), theirs.sort_by(keys)
    for column in ours.column_names:
        mine, found = ours[column].to_pylist(), theirs[column].to_pylist()
        wrong = [at for at in range(len(mine)) if not alike(mine[at], found[at])]
        shown = [(ours.slice(at, 1).to_pylist(), found[at]) for at in wrong[:3]]
        assert not wrong, f"{column} differs in {len(wrong)} of {len(mine)} rows, as {shown}"


def alike(one, other):
    """Whether two values are the same, but for rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or abs(one - other) <= 1e-9 * max(abs(one), abs(other))
    return one == other


@pytest.mark.parametrize("view", sql.views())
@pytest.mark.parametrize("name", PLACES)
def test_a_created_view_gives_what_duckdb_gives(name, view, place):
    here, grain = place(name), sql.views()[view].grain
    text = f"select * from {view}"
    assert_same(here.engine.query(text), here.backend.do(text).rows, grain)


@pytest.mark.parametrize("view", sql.views())
def test_a_view_as_of_a_moment_gives_what_duckdb_gives(view, place):
    here, text = place("replayed"), f"select * from {view}"
    moment = here.now - timedelta(minutes=7)
    assert_same(
        Engine(here.duck, moment).query(text), Engine(here.trino, moment).query(text), sql.views()[view].grain
    )


@pytest.mark.parametrize("name", TABLES)
def test_a_table_gives_what_duckdb_gives(name, place):
    here, text = place("simulated_rolled"), f"select * from {sql.base_name(name, sql.views())}"
    ours, theirs = here.engine.query(text), Engine(here.trino, here.now).query(text)
    assert_same(ours, theirs, TABLES[name].key)


def test_roll_ups_are_read_where_they_are(place):
    here = place("simulated_rolled")
    for view in ("rolled", "rolled_ticks"):
        (row,) = here.backend.do(f"select rolled_until from {view}").rows.to_pylist()
        assert row["rolled_until"] == (here.now - GRACE).replace(second=0, minute=0, tzinfo=None)
    counted = here.backend.do(
        "select (select count(*) from rollups_1h) as hours, (select count(*) from ticks_1h) as ticks, "
        "(select count(*) from stored_latest) as markets, (select count(*) from stored_now_1h) as now"
    ).rows.to_pylist()
    assert min(counted[0].values()) > 0


def test_no_view_has_more_stages_than_a_server_allows(place):
    here, found = place("simulated_rolled"), {}
    for view in sql.views():
        plan = here.backend.do(f"explain (type distributed) select * from {view}").rows
        found[view] = sum(line.startswith("Fragment ") for line in plan.column(0)[0].as_py().splitlines())
    print(f"stages: {dict(sorted(found.items(), key=lambda one: -one[1]))}")
    # what a server allows where nobody says otherwise: Athena offers no session to say it in
    assert {view: number for view, number in found.items() if number > STAGES_MAX} == {}


def test_the_views_have_rows(place):
    empty = {
        name: [view for view in sql.views() if not place(name).engine.query(f"select * from {view}").num_rows]
        for name in PLACES
    }
    print(f"without a row, so not compared: {empty}")
    assert all(len(found) < len(sql.views()) / 2 for found in empty.values()), empty


def test_no_view_gives_a_type_that_differs_between_engines(place):
    here = place("simulated")
    found = here.backend.do(
        "select table_name, column_name, data_type from information_schema.columns "
        "where table_schema = 'simulated' and table_name not like 'delta_%'"
    ).rows.to_pylist()
    assert len(found) > 100
    odd = [
        row
        for row in found
        if row["data_type"].partition("(")[0] != "varchar" and row["data_type"] not in TYPES
    ]
    assert odd == []


# ---- live: the set-up, its views and the server's clock


@pytest.fixture(scope="module")
def live(server):
    """A monitor of now on Trino, and the same tables on DuckDB; `cryptomon set-up` has not run."""
    root = server.base / "live"
    flags = {
        "root": str(root),
        "trino": {"port": server.port, "database": "live", "location": server.location(root)},
    }
    with Simulator() as simulator:
        monitor = open_monitor("local", flags=flags | {"hosts": simulator.hosts})
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        _poll(monitor, "tickers", now - timedelta(hours=2), 121, 60)
    return SimpleNamespace(duck=monitor, trino=open_monitor("local", flags=flags | {"engine": "trino"}))


def test_before_the_set_up_the_way_out_is_told(live):
    with pytest.raises(QueryError, match="cryptomon set-up makes it"):
        Engine(live.trino).query("select * from latest")


def test_the_set_up_makes_all_once_and_the_views_follow_the_clock(live):
    first, second = catalog.set_up_catalog(live.trino), catalog.set_up_catalog(live.trino)
    assert set(first["done"]) == {"made"} and set(second["done"]) == {"unchanged"}
    assert set(catalog.set_up_catalog(live.trino, again=True)["done"]) == {"made"}
    text = "select market_id, measure, at, value from now_1h"
    for _ in range(3):
        began = datetime.now(UTC).minute
        ours, theirs = Engine(live.duck).query(text), Engine(live.trino).query(text)
        if datetime.now(UTC).minute == began:
            break
    assert ours.num_rows > 10
    assert_same(ours, theirs, ("market_id", "measure"))


def test_rows_that_come_later_are_seen_at_once(live):
    catalog.set_up_catalog(live.trino)
    engine, text = Engine(live.trino), "select count(*) as n from ticks"
    before = engine.query(text)["n"][0].as_py()
    with Simulator() as simulator:
        monitor = open_monitor("local", flags={"root": live.duck.settings.root, "hosts": simulator.hosts})
        _poll(monitor, "tickers", datetime.now(UTC).replace(second=0, microsecond=0), 1, 60)
    assert engine.query(text)["n"][0].as_py() > before


# ---- values, types, errors: as DuckDB


HOSTILE = ["x", "' or '1'='1", "'; drop view ticks; --", 'a"b', "\\", "币", "", "%s", ":market_id", "$1", "?"]


@pytest.mark.parametrize(
    "value", [*HOSTILE, 1, -(2**40), 1.5, True, None, datetime(2026, 7, 27, 12, 0, 0, 123000)]
)
def test_a_value_is_bound_and_comes_back(value, place):
    here = place("simulated")
    text = "select :v as v, count(*) as n from ticks where market_id = ':v' or 'a' = :w -- :x"
    for engine in (here.engine, Engine(here.trino, here.now), Engine(here.trino)):
        (row,) = engine.query(text, v=value, w="a").to_pylist()
        assert row["v"] == value and row["n"] > 100


def test_types_are_those_of_duckdb(place):
    here = place("simulated")
    text = (
        "select cast(1 as integer) as a, cast(1 as bigint) as b, cast(1 as decimal(5, 0)) as c, cast(1.5 as decimal(4, 2)) "
        "as d, 1e0 / 3 as e, 'x' as f, true as g, date '2026-07-27' as h, timestamp '2026-07-27 12:00:00.5' as i, "
        "array['x', null] as j, cast(null as double) as k, cast(null as timestamp(3)) as l, count(*) as m"
    )
    ours, theirs = here.engine.query(text), Engine(here.trino, here.now).query(text)
    assert_same(ours, theirs, ("a",))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("select nothing from ticks", "Trino refuses the query: .*nothing"),
        ("select cast('x' as double) as y", "Trino refuses the query: .*Cannot cast"),
        ("select * from tikcs", "No table or view is called tikcs"),
    ],
)
def test_what_trino_refuses_is_told_in_its_words(text, says, place):
    with pytest.raises(QueryError, match=says):
        Engine(place("simulated").trino).query(text)


def test_a_query_that_takes_too_long_is_ended_and_told(place):
    here = place("simulated")
    monitor = open_monitor(
        "local", flags={"engine": "trino", "trino": {"port": here.trino.settings.trino.port, "timeout_s": 1}}
    )
    with pytest.raises(QueryError, match=r"ended the query: .*Raise trino\.timeout_s"):
        open_backend(monitor).do(
            "select count(*) from unnest(sequence(1, 10000)) as a (x), unnest(sequence(1, 10000)) as b (y), "
            "unnest(sequence(1, 1000)) as c (z) where x + y + z = 7"
        )


def test_an_interrupted_query_is_not_left_running(place, monkeypatch):
    here, backend = place("simulated"), open_backend(place("simulated").trino)
    cursors = []
    cursor_of = backend._open().cursor

    def cursor():
        made = cursor_of()
        cursors.append(made)
        monkeypatch.setattr(made, "fetchall", interrupted)
        return made

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(backend._open(), "cursor", cursor)
    with pytest.raises(KeyboardInterrupt):
        backend.do(
            "select count(*) from unnest(sequence(1, 10000)) as a (x), unnest(sequence(1, 10000)) as b (y), "
            "unnest(sequence(1, 100)) as c (z)"
        )
    (state,) = here.backend.do(
        "select state, error_code from system.runtime.queries where query_id = ?", [cursors[0].query_id]
    ).rows.to_pylist()
    assert state["state"] == "FAILED" and "CANCELED" in state["error_code"]


def test_a_server_that_does_not_answer_is_a_fault_of_storage_and_names_the_address(place):
    monitor = open_monitor("local", flags={"engine": "trino", "trino": {"port": 1}})
    with pytest.raises(StorageError, match="Cannot reach Trino at http://localhost:1"):
        Engine(monitor).query("select 1 as x")


def test_a_secret_is_not_sent_by_http(place, monkeypatch):
    monkeypatch.setenv("TRINO_PASSWORD", "hidden")
    monitor = open_monitor("local", flags={"engine": "trino", "trino": {"password_from": "TRINO_PASSWORD"}})
    with pytest.raises(ConfigError, match="not sent by http"):
        Engine(monitor).query("select 1 as x")
