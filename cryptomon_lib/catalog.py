"""What Athena and Trino are told before they can be asked: the database, the tables, the views, in order.

Owns the statements, which are a pure function of the data dictionary and the view files, and that nothing is
done again where nothing changed. No crawler and no listing of partitions: a Delta table's log names its files.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandas as pd

from cryptomon_lib import sql
from cryptomon_lib.config import Settings
from cryptomon_lib.engines import open_backend
from cryptomon_lib.errors import ConfigError, MetricError
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.tables import TABLES, Table

log = logging.getLogger(__name__)

# types of the data dictionary for a column that a table, written by an earlier version, does not have
_ABSENT = {
    "text": "varchar",
    "number": "double",
    "count": "bigint",
    "time": "timestamp(3)",
    "texts": "array(varchar)",
    "flag": "boolean",
}


@dataclass(frozen=True)
class Statement:
    """One statement of the set-up.

    kind: database, table, base view or view. name: what it makes. undo: what takes away an earlier one where
    the statement cannot replace it. needs: the names that it reads, which are made before it.
    """

    kind: str
    name: str
    text: str
    undo: str = ""
    needs: frozenset[str] = frozenset()


def statements(
    settings: Settings,
    known: Mapping[str, sql.View] | None = None,
    columns: Mapping[str, Collection[str]] | None = None,
) -> list[Statement]:
    """Everything that the engine of the settings has to be told, in order; none for DuckDB, which needs nothing.

    columns: by table, those that it has; all of the data dictionary's where it is not said.

    Raises ConfigError: Athena is to read what is not on S3, or the root cannot stand in a statement.
    """
    if settings.engine == "duckdb":
        return []
    known = sql.views() if known is None else known
    spell = _Athena(settings) if settings.engine == "athena" else _Trino(settings)
    made = [spell.database_statement()]
    made += [spell.table_statement(table) for table in TABLES.values()]
    made += [
        _base_view(spell.database, table, known, (columns or {}).get(table.name, table.column_names))
        for table in TABLES.values()
    ]
    made += [_metric_view(spell.database, view) for view in known.values()]
    return made


def set_up_catalog(monitor: Monitor, again: bool = False) -> pd.DataFrame:
    """Tell the engine of a monitor what it lacks. One row per name: kind, done, reason.

    done: made (or made anew, because it or what it reads changed), unchanged, failed, or stale: a view of a
    file that is no more, and how to drop it. again: make everything anew. Empty for DuckDB.

    Raises MetricError, when all that can be made is made: a statement was refused, or needs one that was.
    """
    if monitor.settings.engine == "duckdb":
        return _report({})
    record = _Record(monitor)
    present = {table.name: monitor.lake.columns(table.name) for table in TABLES.values()}
    wanted = statements(monitor.settings, columns=present)
    backend = open_backend(monitor)
    try:
        done = _make(backend, wanted, record, _there(backend, wanted[0].name), again)
    finally:
        backend.close()
        record.keep()
    failed = [f"{name}: {reason}" for name, (_, state, reason) in done.items() if state == "failed"]
    if failed:
        raise MetricError(
            f"{len(failed)} of {len(wanted)} statements of the set-up failed. {' '.join(failed)}"
        )
    return _report(done)


def _make(backend, wanted: list[Statement], record: "_Record", there: set[str], again: bool) -> dict:
    done: dict[str, tuple[str, str, str]] = {}
    digests: dict[str, str] = {}
    for one in wanted:
        digests[one.name] = _digest(one, digests)
        lacking = sorted(name for name in one.needs if done.get(name, ("", "", ""))[1] == "failed")
        exists = one.name in there
        if lacking:
            done[one.name] = one.kind, "failed", f"reads {', '.join(lacking)}, which failed."
        elif exists and record.made.get(one.name) == digests[one.name] and not again:
            done[one.name] = one.kind, "unchanged", ""
        else:
            done[one.name] = one.kind, *_tell(backend, one, exists)
            record.note(one.name, digests[one.name] if done[one.name][1] == "made" else None)
    for name in sorted(record.made.keys() - digests.keys()):
        if name in there:
            how = f'no file makes it any more: drop view "{wanted[0].name}"."{name}"'
            done[name] = "view", "stale", how
            log.warning("%s: %s", name, how)
        else:
            record.note(name, None)
    return done


def _tell(backend, one: Statement, exists: bool) -> tuple[str, str]:
    try:
        if one.undo and exists:
            backend.do(one.undo)
        backend.do(one.text)
    except MetricError as error:
        return "failed", str(error)
    log.info("%s %s: made", one.kind, one.name)
    return "made", ""


def _there(backend, database: str) -> set[str]:
    text = (
        f"select schema_name as name from information_schema.schemata where schema_name = '{database}' "
        f"union all select table_name as name from information_schema.tables where table_schema = '{database}'"
    )
    return set(backend.do(text).rows.column(0).to_pylist())


def _report(done: Mapping[str, tuple[str, str, str]]) -> pd.DataFrame:
    index = pd.Index(list(done), name="name", dtype="str")
    return pd.DataFrame(list(done.values()), columns=["kind", "done", "reason"], index=index)


def _digest(one: Statement, digests: Mapping[str, str]) -> str:
    # a view remembers the types of what it reads, so it changes with that
    below = [digests[name] for name in sorted(one.needs)]
    return hashlib.sha256("\0".join([one.text, *below]).encode()).hexdigest()[:16]


class _Record:
    """What was made, by name and digest, kept under the root."""

    def __init__(self, monitor: Monitor):
        section = getattr(monitor.settings, monitor.settings.engine)
        self.key = f"catalog/{monitor.settings.engine}-{section.database}.json"
        self.storage = monitor.storage
        self.made: dict[str, str] = self._read() if self.storage.exists(self.key) else {}
        self._changed = False

    def _read(self) -> dict[str, str]:
        try:
            return dict(json.loads(self.storage.get(self.key)))
        except (ValueError, TypeError):
            log.warning("%s cannot be read: everything is made anew", self.key)
            return {}

    def note(self, name: str, digest: str | None) -> None:
        """Remember what was made; None: it is not there."""
        self._changed = True
        if digest is None:
            self.made.pop(name, None)
        else:
            self.made[name] = digest

    def keep(self) -> None:
        """Write it, where something changed."""
        if self._changed:
            self.storage.put(self.key, json.dumps(self.made, indent=1, sort_keys=True).encode())


class _Athena:
    """Athena's own statements, by the Glue catalog; what makes tables is Hive's language, with backticks."""

    def __init__(self, settings: Settings):
        self.database = settings.athena.database
        self.root = _quotable(settings.root)
        if not self.root.startswith("s3://"):
            raise ConfigError(f"root is {settings.root}: Athena reads nothing but s3://bucket/prefix.")

    def database_statement(self) -> Statement:
        """Makes the Glue database."""
        return Statement("database", self.database, f"create database if not exists `{self.database}`")

    def table_statement(self, table: Table) -> Statement:
        """Names the Delta table; columns and partitions are in its log."""
        name = f"delta_{table.name}"
        text = (
            f"create external table `{self.database}`.`{name}`\n"
            f"location '{self.root}/tables/{table.name}/'\n"
            "tblproperties ('table_type' = 'DELTA')"
        )
        undo = f"drop table if exists `{self.database}`.`{name}`"
        return Statement("table", name, text, undo, frozenset({self.database}))


class _Trino:
    """The same for a Trino with a catalog of the Delta Lake connector."""

    def __init__(self, settings: Settings):
        self.database, self.catalog = settings.trino.database, settings.trino.catalog
        self.root = _quotable(settings.trino.location or settings.root).rstrip("/")

    def database_statement(self) -> Statement:
        """Makes the schema."""
        text = f'create schema if not exists "{self.catalog}"."{self.database}"'
        return Statement("database", self.database, text)

    def table_statement(self, table: Table) -> Statement:
        """Names the Delta table; columns and partitions are in its log."""
        name = f"delta_{table.name}"
        what = f"schema_name => '{self.database}', table_name => '{name}'"
        where = f"table_location => '{self.root}/tables/{table.name}'"
        call = f'call "{self.catalog}".system'
        return Statement(
            "table",
            name,
            f"{call}.register_table({what}, {where})",
            f"{call}.unregister_table({what})",
            frozenset({self.database}),
        )


def _base_view(
    database: str, table: Table, known: Mapping[str, sql.View], present: Collection[str]
) -> Statement:
    """Times become naive UTC here, once; all else is as it is stored."""
    name = sql.base_name(table.name, known)
    listed = ",\n".join(f"    {_column(one.name, one.type, one.name in present)}" for one in table.columns)
    text = (
        f'create or replace view "{database}"."{name}" as\n'
        f'select\n{listed}\nfrom "{database}"."delta_{table.name}"'
    )
    return Statement("base view", name, text, needs=frozenset({f"delta_{table.name}"}))


def _column(name: str, kind: str, present: bool) -> str:
    if not present:
        return f'cast(null as {_ABSENT[kind]}) as "{name}"'
    if kind == "time":
        return f'cast("{name}" at time zone \'UTC\' as timestamp(3)) as "{name}"'
    return f'"{name}"'


def _metric_view(database: str, view: sql.View) -> Statement:
    text = f'create or replace view "{database}"."{view.name}" as\n{view.text.rstrip().rstrip(";")}'
    return Statement("view", view.name, text, needs=view.reads)


def _quotable(root: str) -> str:
    # no value can be bound in these statements
    if "'" in root or "\\" in root or "`" in root:
        raise ConfigError(f"root is {root!r}: a quote or backslash in it cannot stand in a statement.")
    return root
