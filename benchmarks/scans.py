"""What the queries of a tick have to read of S3: what Athena would bill, counted on the files of a generated day.

    python benchmarks/scans.py [--markets 1918]

Of each file that can hold rows which a query needs, the compressed bytes of the columns that the view names which reads
it. Once: as an engine that reads what several steps share one time. Each mention: as Trino does, and so Athena, which
puts the text of a step in each place that names it; what it finds out to be alike is not known here. Nobody has asked
Athena itself. `cryptomon cost` takes the second and is linear in the markets.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import sqlglot
import sqlglot.expressions as exp
from metrics import NOW, generate

from cryptomon_lib import open_monitor, sql
from cryptomon_lib.bounds import Read
from cryptomon_lib.engines import duckdb
from cryptomon_lib.engines.files import is_needed
from cryptomon_lib.latest import shared_columns
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.tables import TABLES

QUESTIONS = {
    "freshness": "select * from freshness order by source",
    "latest": f"select {', '.join(shared_columns('latest'))} from latest",
    "spikes": "select * from spikes where measure not in ('volume_24h', 'quote_volume_24h') order by ratio_1h desc",
    "alerts": "select * from now_1h",
    "rank": "select * from rank_24h where measure = 'price'",
    "series": "select at, value from measures_24h where market_id = :market_id and measure = 'price' order by at",
}


@dataclass(frozen=True)
class Scanned:
    """What a query has to read: bytes with each read once and with each mention; files by mention, those of tables that
    have some for each source, and those of others."""

    once: int = 0
    often: int = 0
    files: int = 0
    of_sources: int = 0

    def __add__(self, other: "Scanned") -> "Scanned":
        return Scanned(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def scanned(monitor: Monitor, text: str, values: dict[str, str]) -> Scanned:
    """What a query has to read."""
    shared, prepared = duckdb._shared(monitor), duckdb._prepare(text, sql.views())
    seen = {name: shared.files.newest(name) for name in prepared.tables}
    with shared.cursor() as cursor:
        known = duckdb.Backend(monitor)._constants(cursor, prepared, values, NOW, seen)
    nodes = prepared.plan.nodes
    mentions = Counter({len(nodes) - 1: 1})
    columns: dict[int, set[str]] = {}
    for number in range(len(nodes) - 1, -1, -1):
        node = nodes[number]
        if isinstance(node, Read) or not mentions[number]:
            continue
        idle = frozenset(select for select, demand in node.branches if not is_needed(demand, known))
        pieces = prepared.pieces if node.view is None else duckdb._pieces(prepared.known[node.view], idle)
        tree = sqlglot.parse_one(
            duckdb._filled(pieces, [f'"place {one}"' for one in node.reads]), read="duckdb"
        )
        named = {column.name for column in tree.find_all(exp.Column)}
        every = any(
            isinstance(one, exp.Star) for select in tree.find_all(exp.Select) for one in select.expressions
        )
        for read in set(node.reads):
            mentions[read] += mentions[number] * _mentioned(tree, f"place {read}")
            if isinstance(nodes[read], Read):
                has = set(TABLES[nodes[read].table].column_names)
                columns.setdefault(read, set()).update(has if every else named & has)
    found = Scanned()
    for number, node in enumerate(nodes):
        if not isinstance(node, Read) or not mentions[number]:
            continue
        table = seen[node.table]
        paths, when = table.paths[table.needed(node.demand, known)], TABLES[node.table].day_of
        limits = {when: table.span(node.demand, known), "market_id": (values.get("market_id"),) * 2}
        sizes = [_column_bytes(path, columns[number], limits) for path in paths]
        often, by_source = mentions[number], "source" in TABLES[node.table].partition_by
        files = len(paths) * often
        found += Scanned(sum(sizes), sum(sizes) * often, 0 if by_source else files, files if by_source else 0)
    return found


def _mentioned(tree: exp.Expression, name: str) -> int:
    """How often a name stands in a query once each of its own steps stands where it is named."""
    found = 0
    for table in tree.find_all(exp.Table):
        if table.name == name:
            step = table.find_ancestor(exp.CTE)
            found += 1 if step is None else _mentioned(tree, step.alias)
    return found


def _column_bytes(path: str, columns: set[str], limits: dict[str, tuple]) -> int:
    """Of the row groups that may have what lies within the limits."""
    about, total = pq.read_metadata(path), 0
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(about.num_columns))}
        if all(_may(chunks[name], *ends) for name, ends in limits.items() if name in chunks):
            total += sum(chunk.total_compressed_size for name, chunk in chunks.items() if name in columns)
    return total


def _may(chunk, low, high) -> bool:
    known = chunk.statistics
    if known is None or not known.has_min_max:
        return True
    least, most = map(_naive, (known.min, known.max))
    return (low is None or most >= low) and (high is None or least <= high)


def _naive(value):
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def main() -> None:
    """Print a line a question."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--markets", type=int, default=1918)
    markets = options.parse_args().markets
    with tempfile.TemporaryDirectory(prefix="cryptomon-scans-") as folder:
        root = generate(Path(folder), markets, 1)[1]
        monitor = open_monitor("local", flags={"root": root})
        market = pq.read_table(monitor.lake.files("ticks")[0].path, columns=["market_id"])["market_id"][
            0
        ].as_py()
        asked = {name: [text] for name, text in QUESTIONS.items()}
        # the hourly check counts each view's rows and keys
        asked["checks"] = [
            f"select {', '.join(view.grain)} from {name}" for name, view in sql.views().items()
        ]
        for name, texts in asked.items():
            one = Scanned()
            for text in texts:
                one += scanned(monitor, text, {"market_id": market} if ":market_id" in text else {})
            sys.stdout.write(
                f"{name:<14} once {one.once / markets:8.0f} bytes a market, each mention {one.often / markets:8.0f} "
                f"of {one.files} files and {one.of_sources} of each source; {one.once / 1e6:.2f}, {one.often / 1e6:.2f} MB\n"
            )
        kept = {
            name: sum(file.size for file in monitor.lake.files(name)) for name in ("rollups_1h", "ticks_1h")
        }
        rows = {name: sum(file.rows for file in monitor.lake.files(name)) for name in kept}
        hours = (24 * timedelta(hours=1) + timedelta(hours=NOW.hour)) // timedelta(hours=1)
        sys.stdout.write(
            json.dumps(
                {
                    name: f"{kept[name] / markets / hours:.1f} bytes a market and hour, {rows[name]} rows"
                    for name in kept
                }
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
