"""The plain-Parquet copy: what the table has, each row once, whatever came late or was ended half-way."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import sqlglot
from sqlglot import exp

from cryptomon_lib.errors import ConfigError, ParameterError, StorageError
from cryptomon_lib.export import export_tables, projection
from cryptomon_lib.lake import Batch
from cryptomon_lib.tables import TABLES

NOON = datetime(2026, 7, 27, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def append(table_of):
    """Appends ticks of a market at moments."""

    def appended(monitor, market, *moments):
        rows = [{"market_id": market, "collected_at": at, "price": at.minute + 0.5} for at in moments]
        monitor.lake.append("ticks", [Batch(f"{market} {moments}", table_of("ticks", rows))])

    return appended


def copied(monitor, name="ticks"):
    """The rows of the copy, as a tool reads them that knows of hive partitions, in the order of their key."""
    root = f"{monitor.storage.root}/exports/{name}".removeprefix("s3://")
    layout = ds.partitioning(pa.schema([("source", pa.string()), ("day", pa.string())]), flavor="hive")
    rows = ds.dataset(root, filesystem=monitor.storage.fs, partitioning=layout, format="parquet").to_table()
    return sorted(rows.to_pylist(), key=lambda row: (row["market_id"], row["collected_at"]))


def by_partition(done):
    return {row.partition: (row.rows, row.done) for row in done.itertuples()}


def test_the_copy_has_the_rows_of_the_table_in_naive_utc(monitor, append, stored):
    append(monitor, "kraken:kraken:BTC-USD", NOON, NOON + timedelta(minutes=1), NOON + DAY)
    append(monitor, "coinbase:coinbase:BTC-USD", NOON)
    done = export_tables(monitor, ["ticks"])
    assert by_partition(done) == {
        "source=coinbase/day=2026-07-27": (1, "written"),
        "source=kraken/day=2026-07-27": (2, "written"),
        "source=kraken/day=2026-07-28": (1, "written"),
    }
    naive = [
        {
            name: value.replace(tzinfo=None) if isinstance(value, datetime) else value
            for name, value in row.items()
        }
        for row in stored(monitor, "ticks")
    ]
    assert copied(monitor) == naive and set(naive[0]) == set(TABLES["ticks"].column_names)


def test_only_what_changed_is_written_again_and_nothing_is_doubled(monitor, append):
    append(monitor, "kraken:kraken:BTC-USD", NOON, NOON + DAY)
    export_tables(monitor, ["ticks"])
    assert set(export_tables(monitor, ["ticks"])["done"]) == {"unchanged"}
    # a late row of the first day
    append(monitor, "kraken:kraken:BTC-USD", NOON - timedelta(minutes=5))
    assert by_partition(export_tables(monitor, ["ticks"])) == {
        "source=kraken/day=2026-07-27": (2, "written"),
        "source=kraken/day=2026-07-28": (1, "unchanged"),
    }
    monitor.lake.compact("ticks")
    export_tables(monitor, ["ticks"])
    assert [row["collected_at"].isoformat() for row in copied(monitor)] == [
        "2026-07-27T11:55:00", "2026-07-27T12:00:00", "2026-07-28T12:00:00",
    ]  # fmt: skip


def test_one_that_was_ended_half_way_goes_on_where_it_was(local, append, monkeypatch):
    append(local, "kraken:kraken:BTC-USD", NOON, NOON + DAY, NOON + 2 * DAY)
    put, puts = type(local.storage).put, []

    def failing(self, key, body):
        puts.append(key)
        if len([one for one in puts if one.endswith(".parquet")]) == 2:
            raise StorageError("no space left")
        put(self, key, body)

    monkeypatch.setattr(type(local.storage), "put", failing)
    with pytest.raises(StorageError, match="no space"):
        export_tables(local, ["ticks"])
    assert len(copied(local)) == 1
    monkeypatch.undo()
    assert list(export_tables(local, ["ticks"])["done"]) == ["unchanged", "written", "written"]
    assert len(copied(local)) == 3


def test_only_the_newest_days_where_that_is_asked(local, append):
    append(local, "kraken:kraken:BTC-USD", NOON, NOON + DAY)
    assert list(export_tables(local, ["ticks"], "2026-07-28")["partition"]) == [
        "source=kraken/day=2026-07-28"
    ]


def test_the_statement_is_one_that_athena_reads_and_its_rule_finds_the_partitions(s3, open_at, append):
    monitor = open_at(s3.root, s3.endpoint_url)
    append(monitor, "kraken:kraken:BTC-USD", NOON, NOON + DAY)
    append(monitor, "coinbase:coinbase:BTC-USD", NOON)
    export_tables(monitor, ["ticks"])
    text = projection(monitor, "ticks")
    (tree,) = sqlglot.parse(text, read="athena")
    assert isinstance(tree, exp.Create) and not list(tree.find_all(exp.Command))
    named = [column.name for column in tree.this.expressions if isinstance(column, exp.ColumnDef)]
    assert named == [name for name in TABLES["ticks"].column_names if name not in ("source", "day")]
    assert "'projection.source.values' = 'coinbase,kraken'" in text
    assert "'projection.day.range' = '2026-07-27,NOW'" in text
    template = text.split("'storage.location.template' = '")[1].split("'")[0]
    place = template.replace("${source}", "kraken").replace("${day}", "2026-07-28")
    assert monitor.storage.fs.exists(f"{place}rows.parquet")


def test_what_cannot_be_exported_is_told(local, append):
    with pytest.raises(ParameterError, match="Did you mean ticks"):
        export_tables(local, ["tick"])
    with pytest.raises(ConfigError, match="reads nothing but s3"):
        projection(local, "ticks")
    assert export_tables(local, ["ticks"]).empty
