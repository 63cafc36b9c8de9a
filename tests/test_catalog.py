"""What Athena and Trino are told: every statement in their own grammar, in order, and nothing twice."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp

from cryptomon_lib import catalog, sql
from cryptomon_lib.config import load_settings
from cryptomon_lib.engines import Answer
from cryptomon_lib.errors import ConfigError, MetricError, QueryError
from cryptomon_lib.tables import ARROW_TYPES, TABLES


def _words(text):
    return frozenset(text.split())


S3 = {"root": "s3://bucket/monitor"}
ATHENA = load_settings("dev", flags=S3)
TRINO = load_settings("local", flags=S3 | {"engine": "trino"})
# https://docs.aws.amazon.com/athena/latest/ug/reserved-words.html, those that a name here might be
RESERVED_IN_DDL = _words(
    """
    all and array as authorization between bigint binary boolean both by case cast char column conf
    constraint commit create cross cube current cursor database date day decimal delete describe
    distinct double drop else end exchange exists extended external extract false fetch first float
    floor following for foreign from full function grant group grouping having if import in inner
    insert int integer intersect interval into is join last lateral left like local macro map minus
    more none not null numeric of on only or order out outer over partition percent preceding precision
    preserve primary procedure range reads reduce references revoke right rollup row rows select set
    smallint start table tablesample then time timestamp to transform trigger true truncate unbounded
    union uniquejoin update user using utc_tmestamp values varchar views when where window with
    """
)
RESERVED_IN_SELECT = _words(
    """
    alter and as between by case cast constraint create cross cube current_date current_path
    current_time current_timestamp current_user deallocate delete describe distinct drop else end
    escape except execute exists extract false first for from full group grouping having in inner
    insert intersect into is join last left like localtime localtimestamp natural normalize not null on
    or order outer prepare recursive right rollup select skip table then true uescape union unnest
    using values when where with
    """
)
both = pytest.mark.parametrize("settings", [ATHENA, TRINO], ids=["athena", "trino"])


def of_kind(settings, kind):
    return [one for one in catalog.statements(settings) if one.kind == kind]


@both
def test_all_tables_and_views_are_made_each_once_and_after_what_they_read(settings):
    made, seen = catalog.statements(settings), set()
    for one in made:
        assert one.needs <= seen, f"{one.name} reads {one.needs - seen}, which come later"
        assert one.name not in seen
        seen.add(one.name)
    assert {f"delta_{name}" for name in TABLES} | {
        sql.base_name(name, sql.views()) for name in TABLES
    } | sql.views().keys() == seen - {made[0].name}


def test_duckdb_needs_nothing(local):
    assert catalog.statements(load_settings("local")) == []
    assert catalog.set_up_catalog(local).empty


@both
def test_a_view_goes_to_its_engine_as_its_file_stands(settings):
    database = getattr(settings, settings.engine).database
    texts = {one.name: one.text for one in of_kind(settings, "view")}
    for name in sql.views():
        head, _, body = texts[name].partition("\n")
        assert head == f'create or replace view "{database}"."{name}" as'
        assert body == (sql.FOLDER / f"{name}.sql").read_text(encoding="utf-8").rstrip()


# ---- Athena's grammar


@pytest.mark.parametrize("one", catalog.statements(ATHENA), ids=lambda one: one.name)
def test_a_statement_is_one_that_athena_can_read(one):
    texts = [text for text in (one.undo, one.text) if text]
    for text in texts:
        (tree,) = sqlglot.parse(text, read="athena")
        # what it cannot read becomes a Command, as text
        assert isinstance(tree, exp.Create | exp.Drop) and not list(tree.find_all(exp.Command)), text
        assert ";" not in text.splitlines()[-1]
        # https://docs.aws.amazon.com/athena/latest/ug/service-limits.html
        assert len(text.encode()) <= 262_144


@pytest.mark.parametrize("one", of_kind(ATHENA, "table"), ids=lambda one: one.name)
def test_a_delta_table_is_named_by_its_place_alone(one):
    (tree,) = sqlglot.parse(one.text, read="athena")
    assert isinstance(tree.this, exp.Table), "columns and partitions are in the Delta log"
    assert tree.find(exp.ExternalProperty)
    place = tree.find(exp.LocationProperty).this
    assert place.is_string and place.name == f"s3://bucket/monitor/tables/{one.name.removeprefix('delta_')}/"
    assert "tblproperties ('table_type' = 'DELTA')" in one.text
    assert '"' not in one.text, "a double quote makes a string of a name in Hive's language"


def test_no_name_is_a_reserved_word_that_stands_bare():
    for one in catalog.statements(ATHENA):
        hive = one.kind in ("database", "table")
        (tree,) = sqlglot.parse(one.text, read="athena" if hive else "trino")
        reserved = RESERVED_IN_DDL if hive else RESERVED_IN_SELECT
        bare = {
            name.name.lower()
            for name in tree.find_all(exp.Identifier)
            if not name.quoted and name.name.lower() in reserved
        }
        assert not bare, (
            f"{one.name}: write {', '.join(sorted(bare))} in {'backticks' if hive else 'double quotes'}"
        )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"root": "data/here"}, "Athena reads nothing but s3://"),
        ({"root": "s3://bucket/it's"}, "quote or backslash"),
        ({"root": "s3://bucket/a`b"}, "quote or backslash"),
        ({"athena": {"database": "a; drop"}}, "athena.database"),
        ({"athena": {"database": "Upper"}}, "athena.database"),
    ],
)
def test_what_cannot_stand_in_a_statement_is_told(flags, says):
    with pytest.raises(ConfigError, match=says):
        catalog.statements(load_settings("dev", flags=flags))


# ---- types


@both
def test_times_become_naive_utc_in_the_base_views_and_nowhere_else(settings):
    for one in of_kind(settings, "base view"):
        (tree,) = sqlglot.parse(one.text, read="trino")
        table = TABLES[one.name.removeprefix("stored_")]
        assert [place.alias_or_name for place in tree.expression.selects] == table.column_names
        lines = [line.strip().rstrip(",") for line in one.text.splitlines()[2:-1]]
        assert lines == [
            f'cast("{column.name}" at time zone \'UTC\' as timestamp(3)) as "{column.name}"'
            if column.type == "time"
            else f'"{column.name}"'
            for column in table.columns
        ]


@both
def test_a_column_that_an_older_table_lacks_is_null_in_its_type(settings):
    made = catalog.statements(settings, columns={"ticks": ["market_id", "collected_at"]})
    (ticks,) = [one for one in made if one.name == "ticks"]
    assert 'cast(null as double) as "price"' in ticks.text
    assert 'cast(null as timestamp(3)) as "exchange_at"' in ticks.text
    assert '    "market_id",' in ticks.text
    assert ARROW_TYPES.keys() <= catalog._ABSENT.keys()


# ---- doing it


class Told:
    """Stands for an engine: remembers what it was told, and refuses what it is asked to."""

    def __init__(self):
        self.texts, self.refused, self.there = [], "", []

    def do(self, text, values=None):
        if "information_schema" in text:
            return Answer(pa.table({"table_name": pa.array(self.there, pa.string())}))
        if self.refused and self.refused in text:
            raise QueryError(f"refuses {self.refused}")
        self.texts.append(text)
        return Answer(pa.table({}))

    def close(self):
        """Nothing is held."""


@pytest.fixture
def told(monkeypatch, tmp_path, open_at):
    """A monitor whose engine only remembers; `run()` sets it up and gives the names by what was done."""
    engine = Told()
    monkeypatch.setattr(catalog, "open_backend", lambda monitor: engine)
    monitor = open_at(tmp_path / "root", engine="trino")
    everything = [one.name for one in catalog.statements(monitor.settings)]

    def run(**how):
        engine.texts.clear()
        try:
            found = catalog.set_up_catalog(monitor, **how)
        finally:
            engine.there = engine.there or list(everything)
        return found.groupby("done").groups

    engine.run, engine.monitor = run, monitor
    return engine


def test_nothing_is_done_where_nothing_changed(told):
    assert set(told.run()) == {"made"}
    assert set(told.run()) == {"unchanged"} and told.texts == []
    assert set(told.run(again=True)) == {"made"}
    assert all(told.monitor.lake.open(name) is not None for name in TABLES), (
        "Athena cannot read what is not there"
    )


def test_a_view_that_someone_dropped_is_made_anew(told):
    told.run()
    told.there.remove("spikes")
    found = told.run()
    assert list(found["made"]) == ["spikes"] and len(told.texts) == 1


def test_a_changed_view_is_made_anew_with_all_that_read_it(told, monkeypatch):
    told.run()
    known = dict(sql.views())
    known["measures"] = replace(known["measures"], text=known["measures"].text + "\n-- changed")
    monkeypatch.setattr(sql, "views", lambda: known)
    found = told.run()
    readers = {name for name in known if name == "measures"}
    for name, view in known.items():
        if view.reads & readers:
            readers.add(name)
    assert set(found["made"]) == readers and len(readers) > 3


def test_a_view_whose_file_is_gone_is_told_and_left(told, monkeypatch):
    told.run()
    known = {name: view for name, view in sql.views().items() if name != "spikes"}
    monkeypatch.setattr(sql, "views", lambda: known)
    found = told.run()
    assert list(found["stale"]) == ["spikes"] and told.texts == []


def test_a_table_that_moved_is_named_anew(told):
    told.run()
    key = "catalog/trino-cryptomon.json"
    record = json.loads(told.monitor.storage.get(key))
    told.monitor.storage.put(key, json.dumps(record | {"delta_alerts": "other"}).encode())
    told.run()
    undone, named = told.texts[:2]
    assert "unregister_table" in undone and "register_table" in named and "delta_alerts" in named


def test_one_that_is_refused_stops_only_what_reads_it(told):
    told.refused = '"now_1h"'
    with pytest.raises(MetricError, match=r"now_1h: refuses .*spikes: reads now_1h, which failed"):
        told.run()
    assert any('"rank_24h"' in text for text in told.texts)
    told.refused = ""
    assert {"now_1h", "spikes"} <= set(told.run()["made"])


def test_a_record_that_cannot_be_read_makes_everything_anew(told):
    told.run()
    told.monitor.storage.put("catalog/trino-cryptomon.json", b"{half")
    assert set(told.run()) == {"made"}
