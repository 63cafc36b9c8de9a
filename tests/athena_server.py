"""Athena's protocol on loopback: what it is asked runs in DuckDB over the same Delta tables, results go to S3.

It knows of tables and views only what it was told by statements, as Athena does, and fails what Athena would.
"""

import csv
import io
import json
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import duckdb
import pyarrow as pa
import sqlglot
from deltalake import DeltaTable
from sqlglot import exp

from cryptomon_lib import sql

_TYPES = {
    "string": "varchar",
    "int64": "bigint",
    "int32": "integer",
    "double": "double",
    "bool": "boolean",
    "date32[day]": "date",
    "null": "varchar",
    "list<l: string>": "array",
    "list<element: string>": "array",
}


class Refused(ValueError):
    """Who asks may not do that."""


@dataclass
class Execution:
    """One query: what was asked, how far it is, what came out."""

    request: dict
    state: str = "QUEUED"
    reason: str = ""
    names: list = field(default_factory=list)
    types: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    location: str = ""
    scanned: int = 0
    reused: bool = False


class AthenaServer:
    """Serves until closed. Tests may set: `throttle` (so many calls are refused), `running` (an event that a query
    waits for), `scanned` (bytes), `limit` (bytes, the workgroup's own), `page` (rows an answer has)."""

    def __init__(self, fs, results: str, storage_options: dict):
        self.fs, self.results, self.options = fs, results, storage_options
        self.executions: dict[str, Execution] = {}
        self.duck = duckdb.connect(":memory:")
        self.duck.execute("set TimeZone = 'UTC'")
        self.databases: set[str] = set()
        self.calls: list[str] = []
        self.throttle, self.page, self.scanned, self.limit = 0, 1000, 12_345, None
        self.running = threading.Event()
        self.running.set()
        self.now = None
        self._one = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
                outer._answer(self, self.headers["X-Amz-Target"].partition(".")[2], body)

            def log_message(self, *said):
                """Nothing is logged."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        """End it."""
        self.running.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler, action, body):
        self.calls.append(action)
        if self.throttle and action == "StartQueryExecution":
            self.throttle -= 1
            status, answer = 400, {"__type": "TooManyRequestsException", "message": "Rate exceeded"}
        else:
            try:
                status, answer = 200, getattr(self, action)(body)
            except Refused as error:
                status, answer = 400, {"__type": "AccessDeniedException", "message": str(error)}
            except ValueError as error:
                status, answer = 400, {"__type": "InvalidRequestException", "message": str(error)}
        encoded = json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/x-amz-json-1.1")
        handler.send_header("Content-Length", str(len(encoded)))
        handler.end_headers()
        handler.wfile.write(encoded)

    # ---- the four calls

    def StartQueryExecution(self, body):
        if body.get("WorkGroup") != "cryptomon-dev":
            raise ValueError("WorkGroup is not found.")
        name, execution = str(uuid.uuid4()), Execution(body)
        reuse = body.get("ResultReuseConfiguration", {}).get("ResultReuseByAgeConfiguration", {})
        asked = (body["QueryString"], body.get("ExecutionParameters"))
        for other in self.executions.values() if reuse.get("Enabled") else ():
            if other.state == "SUCCEEDED" and asked == (
                other.request["QueryString"], other.request.get("ExecutionParameters"),
            ):  # fmt: skip
                execution.__dict__.update(vars(other) | {"request": body, "scanned": 0, "reused": True})
        self.executions[name] = execution
        if not execution.reused:
            threading.Thread(target=self._run, args=(name, execution), daemon=True).start()
        return {"QueryExecutionId": name}

    def GetQueryExecution(self, body):
        one = self.executions[body["QueryExecutionId"]]
        shown = {
            "QueryExecutionId": body["QueryExecutionId"],
            "Query": one.request["QueryString"],
            "StatementType": "DML" if one.names else "DDL",
            "ResultConfiguration": {"OutputLocation": one.location},
            "ResultReuseConfiguration": one.request.get("ResultReuseConfiguration", {}),
            "QueryExecutionContext": one.request.get("QueryExecutionContext", {}),
            "Status": {"State": one.state, "SubmissionDateTime": 0.0}
            | ({"StateChangeReason": one.reason} if one.reason else {}),
            "Statistics": {
                "DataScannedInBytes": one.scanned,
                "TotalExecutionTimeInMillis": 5,
                "ResultReuseInformation": {"ReusedPreviousResult": one.reused},
            },
            "WorkGroup": one.request["WorkGroup"],
        }
        return {"QueryExecution": shown}

    def GetQueryResults(self, body):
        one = self.executions[body["QueryExecutionId"]]
        header = [one.names] if one.names else []
        start, most = int(body.get("NextToken", 0)), min(self.page, body.get("MaxResults", 1000))
        rows = [*header, *one.rows]
        shown = [
            {"Data": [{} if value is None else {"VarCharValue": value} for value in row]}
            for row in rows[start : start + most]
        ]
        columns = [
            {"Name": name, "Type": kind, "Precision": precision, "Scale": scale, "Nullable": "UNKNOWN"}
            for name, (kind, precision, scale) in zip(one.names, one.types, strict=True)
        ]
        more = {"NextToken": str(start + most)} if start + most < len(rows) else {}
        return {
            "ResultSet": {"Rows": shown, "ResultSetMetadata": {"ColumnInfo": columns}},
            "UpdateCount": 0,
        } | more

    def StopQueryExecution(self, body):
        self.executions[body["QueryExecutionId"]].state = "CANCELLED"
        return {}

    # ---- what runs

    def _run(self, name, one):
        one.state, one.scanned = "RUNNING", self.scanned
        self.running.wait(90)
        if one.state == "CANCELLED":
            return
        if self.limit is not None and one.scanned > self.limit:
            one.reason, one.state = "Bytes scanned limit was exceeded", "CANCELLED"
            return
        try:
            with self._one:
                self._execute(name, one)
            one.state = "SUCCEEDED"
        except Refused as error:
            one.reason, one.state = str(error), "FAILED"
        except (duckdb.Error, ValueError, AssertionError, sqlglot.errors.SqlglotError) as error:
            one.reason, one.state = f"SYNTAX_ERROR: {error}", "FAILED"

    def _execute(self, name, one):
        text, database = one.request["QueryString"], one.request["QueryExecutionContext"]["Database"]
        moment = self.now or datetime.now(UTC)
        self.duck.execute(f"set variable moment = timestamp '{moment:%Y-%m-%d %H:%M:%S.%f}'")
        (tree,) = sqlglot.parse(text, read="athena")
        kind = tree.args.get("kind") if isinstance(tree, exp.Create | exp.Drop) else "QUERY"
        if database in self.databases:
            self.duck.execute(f"set schema = '{database}'")
        elif kind not in ("DATABASE", "SCHEMA") and "information_schema" not in text:
            raise ValueError(f"SCHEMA_NOT_FOUND: Schema '{database}' does not exist")
        if kind == "QUERY":
            given = one.request.get("ExecutionParameters", [])
            self._give(name, one, self.duck.sql(_spelling(_bound(text, given))).to_arrow_table())
            return
        one.scanned = 0
        if kind in ("DATABASE", "SCHEMA"):
            self.databases.add(tree.this.name or tree.this.sql())
            self.duck.execute(f"create schema if not exists {database}")
        elif kind == "TABLE":
            self._table(tree)
        else:
            head, _, body = text.partition(" as\n")
            self.duck.execute(f"{head} as {_spelling(body)}")

    def _table(self, tree):
        name = tree.this.name
        if isinstance(tree, exp.Drop):
            self.duck.execute(f'drop table if exists "{name}" cascade')
            return
        place = tree.find(exp.LocationProperty).this.name
        if "'table_type'='DELTA'" not in tree.sql("hive").replace(" ", ""):
            raise ValueError("not a Delta table")
        stored = DeltaTable(place, storage_options=self.options).to_pyarrow_table()  # noqa: F841, DuckDB reads it by name
        self.duck.execute(f'create table "{name}" as select * from stored')

    def _give(self, name, one, found):
        one.types = [_type(kind) for kind in found.schema.types]
        one.rows = [
            [_spelled(value) for value in row]
            for row in zip(*(c.to_pylist() for c in found.columns), strict=True)
        ]
        one.location = (
            f"{one.request.get('ResultConfiguration', {}).get('OutputLocation') or self.results}/{name}.csv"
        )
        out = io.StringIO()
        quoted = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
        quoted.writerow(found.column_names)
        for row in one.rows:
            cells = ("" if value is None else '"' + value.replace('"', '""') + '"' for value in row)
            out.write(",".join(cells) + "\n")
        self.fs.pipe_file(one.location, out.getvalue().encode())
        one.names = found.column_names


def _bound(text, given):
    """Each value is read as an expression of its own, never as part of the text."""
    values = iter(given)

    def fill(node):
        return sqlglot.parse_one(next(values), read="trino") if isinstance(node, exp.Placeholder) else node

    return sql.parse(text).transform(fill).sql("trino") if given else text


def _spelling(text):
    """Trino's SQL as DuckDB's, its clock the server's."""
    return sql.for_duckdb(text).replace('"$$now$$"', "getvariable('moment')")


def _type(kind):
    if pa.types.is_timestamp(kind):
        return "timestamp with time zone" if kind.tz else "timestamp", 3, 0
    if pa.types.is_decimal(kind):
        return "decimal", kind.precision, kind.scale
    return _TYPES.get(str(kind), "varchar"), 0, 0


def _spelled(value):
    """A value as Athena writes it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        zone = " UTC" if value.tzinfo else ""
        return f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03d}{zone}"
    if isinstance(value, list):
        return f"[{', '.join('null' if one is None else str(one) for one in value)}]"
    if isinstance(value, float):
        return {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get(
            str(value), repr(value).replace("e", "E")
        )
    return str(value)
