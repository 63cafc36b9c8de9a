"""The data dictionary: every table of the design, whole, storable, and what views promise."""

from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest

from cryptomon_lib import lint, sql, tables
from cryptomon_lib.engine import Engine
from cryptomon_lib.lake import Batch
from cryptomon_lib.tables import ARROW_TYPES, CONTRACTS, TABLES, column_of, day_of, empty, schema

AT = datetime(2026, 7, 27, 23, 59, 59, 999_000, tzinfo=UTC)
# what others build on: the design's tables, their keys, partitions and columns beside the key
DESIGN = {
    "ticks": (
        "market_id collected_at",
        "source day",
        "source exchange symbol market base quote kind price bid ask open_24h high_24h low_24h change_24h "
        "change_24h_pct volume_24h quote_volume_24h volume_today exchange_at",
    ),
    "candles": (
        "market_id interval_s opened_at",
        "source day",
        "source exchange symbol market base quote kind open high low close volume quote_volume trades "
        "collected_at origin",
    ),
    "rollups_1h": ("market_id measure hour_at", "day", "samples expected mean m2 min max first last"),
    "ticks_1h": ("market_id hour_at", "day", "collected_at price kind quote first_at samples"),
    "latest": ("market_id", "", "price collected_at"),
    "now_1h": ("market_id measure", "", "at value average_1h stddev_1h ratio_1h samples expected as_of"),
    "alerts": ("alert_id state at", "day", "rule market_id measure value threshold severity evaluated_at"),
    "alert_rules": (
        "rule",
        "",
        "market_id view measure compared compare threshold recover cool_down_s severity",
    ),
    "notices": ("notice_id state at", "day", "user receiver alert_ids attempts reason"),
    "holes": ("subject measure from_at", "", "to_at minutes state reason found_at closed_at"),
    "findings": ("check subject at", "day", "severity says state since_at"),
}
SAMPLES = {"text": "x", "number": 1.5, "count": 7, "time": AT, "texts": ["a", "b"]}


def one_row(name):
    row = {column.name: SAMPLES[column.type] for column in TABLES[name].columns}
    if "day" in row:
        row["day"] = "2026-07-27"
    return pa.Table.from_pylist([row], schema=schema(name))


def test_the_tables_are_those_of_the_design():
    assert TABLES.keys() == DESIGN.keys()


@pytest.mark.parametrize("name", DESIGN)
def test_a_table_has_the_design_s_key_partitions_and_columns(name):
    key, partitions, columns = DESIGN[name]
    table = TABLES[name]
    assert " ".join(table.key) == key and " ".join(table.partition_by) == partitions
    assert [column for column in columns.split() if column not in table.column_names] == []
    assert set(table.key) | set(table.partition_by) <= set(table.column_names)
    assert len(set(table.column_names)) == len(table.column_names)


@pytest.mark.parametrize("name", TABLES)
def test_every_column_says_its_type_and_meaning(name):
    table = TABLES[name]
    assert table.meaning.endswith(".")
    for column in table.columns:
        assert column.type in ARROW_TYPES and column.meaning, column.name
        assert column.name.endswith("_at") or column.name in ("at", "as_of") or column.type != "time"
        assert column.unit == "UTC" or column.type != "time"
    assert (table.day_of is None) == ("day" not in table.column_names)
    assert table.day_of is None or schema(name).field(table.day_of).type == ARROW_TYPES["time"]


@pytest.mark.parametrize("name", TABLES)
def test_a_row_with_every_column_comes_back_as_it_went_in(name, local):
    rows = one_row(name)
    local.lake.append(name, [Batch("a", rows)])
    found = local.lake.open(name).to_pyarrow_table().select(schema(name).names).cast(schema(name))
    assert found.to_pylist() == rows.to_pylist()


@pytest.mark.parametrize("name", TABLES)
def test_a_row_of_nulls_beside_its_key_comes_back_as_it_went_in(name, local):
    table, (row,) = TABLES[name], one_row(name).to_pylist()
    kept = {*table.key, *table.partition_by}
    row = {column: value if column in kept else None for column, value in row.items()}
    local.lake.append(name, [Batch("a", pa.Table.from_pylist([row], schema=schema(name)))])
    found = local.lake.open(name).to_pyarrow_table().select(schema(name).names)
    assert found.to_pylist() == [row]


@pytest.mark.parametrize("name", sorted(TABLES.keys() - sql.views().keys()))
def test_the_engine_sees_the_same_columns_with_and_without_data(name, local):
    text = f"select * from {name}"
    engine = Engine(local, AT)
    before = engine.query(text).schema
    local.lake.append(name, [Batch("a", one_row(name))])
    after = engine.query(text)
    assert after.schema == before and after.num_rows == 1
    assert before.names == TABLES[name].column_names
    (row,) = after.to_pylist()
    when = next((c.name for c in TABLES[name].columns if c.type == "time"), None)
    assert when is None or row[when] == AT.replace(tzinfo=None)


@pytest.mark.parametrize("name", TABLES)
def test_an_empty_table_has_the_columns_and_no_rows(name):
    assert empty(name).num_rows == 0 and empty(name).schema == schema(name)


@pytest.mark.parametrize("name", sorted(CONTRACTS.keys() & sql.views().keys()))
def test_a_view_that_others_build_on_offers_its_columns(name, local):
    found = Engine(local, AT).query(f"select * from {name}").schema.names
    assert [column for column in CONTRACTS[name] if column not in found] == []


def test_the_table_latest_has_the_columns_of_its_view_and_the_moment_that_they_are_of():
    assert TABLES["latest"].column_names == [
        *sql.parse(sql.views()["latest"].text).named_selects,
        "as_of",
    ]


def test_a_day_is_that_of_utc_and_is_not_rounded_up():
    assert day_of(AT) == "2026-07-27"
    assert day_of(AT + timedelta(milliseconds=1)) == "2026-07-28"
    assert day_of(datetime(2026, 7, 28, 1, tzinfo=timezone(timedelta(hours=2)))) == "2026-07-27"


@pytest.mark.parametrize("name", sql.views(sql.FOLDER))
def test_every_column_of_a_view_says_its_meaning_there_or_in_the_view_s_header(name):
    view = sql.views(sql.FOLDER)[name]
    for column, kind in lint.columns(name).items():
        known = column_of(name, column)
        if known is None:
            assert column in f"{view.says} {view.units} {view.why}", (
                f"views/{name}.sql: nobody says what {column} is: its header, or _OF_VIEWS in tables.py"
            )
        else:
            assert (known.type, known.unit == "UTC") == (kind, kind == "time"), column
            assert known.meaning


def test_what_is_said_of_a_view_s_column_is_of_one_that_it_has():
    for name, columns in tables._OF_VIEWS.items():
        has = (
            lint.columns(name)
            if name
            else {one for view in sql.views(sql.FOLDER) for one in lint.columns(view)}
        )
        assert [column.name for column in columns if column.name not in has] == [], name


@pytest.mark.parametrize("name", TABLES)
def test_what_is_never_null_is_a_column(name):
    assert TABLES[name].never_null <= set(TABLES[name].column_names)
