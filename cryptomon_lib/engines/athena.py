"""Athena by PyAthena: what a query scans is billed, so it is counted, limited, and ended when nobody waits for it.

Owns how a query is started, watched and ended, what it cost, and how its result becomes Arrow. PyAthena's own
Arrow cursor is not used: it reads an absent text as an empty one, and asks no other address than AWS's own.
"""

import logging
import time
from contextlib import suppress
from datetime import datetime
from threading import Lock
from typing import Any

import botocore.exceptions
import pyarrow as pa
import pyathena
from pyarrow import csv
from pyathena.connection import Connection
from pyathena.converter import DefaultTypeConverter
from pyathena.cursor import Cursor
from pyathena.model import AthenaQueryExecution
from pyathena.util import RetryConfig

from cryptomon_lib import sql
from cryptomon_lib.engines import Answer, arrow_type, columns_of, no_such_table, plain_types
from cryptomon_lib.errors import ConfigError, QueryError, StorageError
from cryptomon_lib.monitor import Monitor

log = logging.getLogger(__name__)
# what it logs as an error, with a trace, is raised too, and told in our words
logging.getLogger("pyathena").setLevel(logging.CRITICAL)

# https://aws.amazon.com/athena/pricing: no query is billed for less
_BILLED_AT_LEAST = 10_000_000
_TB = 10**12
# so many rows, and their header, come with the answer; of a longer result the whole file is read
_PAGE = 999
# https://docs.aws.amazon.com/athena/latest/APIReference/API_StartQueryExecution.html
_VALUE_CHARACTERS_MAX = 1024
# beyond the two that PyAthena repeats: what AWS says when it has no room for one more query
_THROTTLED = ("ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown")
_CREDENTIALS = (
    "AccessDenied",
    "ExpiredToken",
    "InvalidClientTokenId",
    "UnrecognizedClient",
    "InvalidSignature",
)


class _Ended(Exception):
    """A query was given up: why."""


class Backend:
    """Queries by Athena on one Glue database; several threads share the client.

    Raises ConfigError: the root is not on S3.
    """

    def __init__(self, monitor: Monitor):
        self.settings = monitor.settings.athena
        self.storage = monitor.storage
        self._connection: Connection | None = None
        self._opening = Lock()
        if not monitor.storage.is_s3:
            raise ConfigError(
                f"engine is athena, but root is {monitor.storage.root}: Athena reads nothing but s3://bucket/prefix. "
                "Set CRYPTOMON_ENGINE=duckdb to read the same tables with DuckDB."
            )

    def run(self, text: str, values: dict[str, Any], now: datetime | None) -> Answer:
        """The rows of one checked Trino query.

        Raises QueryError: Athena refuses it, it took too long or scanned too much. ConfigError: credentials,
        workgroup or database. StorageError: Athena cannot be reached, or a result cannot be read.
        """
        if now is not None:
            text = sql.inlined(text, sql.views(), now)
        text, names = sql.positional(text)
        return self.do(text, [values[name] for name in names])

    def do(self, statement: str, values: list[Any] | None = None) -> Answer:
        """What one statement gives, `?` in it bound to values; also one that creates something.

        Raises as `run`.
        """
        bound = [_literal(value) for value in values or []]
        deadline = time.monotonic() + self.settings.timeout_s
        cursor = self._open().cursor(on_poll=lambda execution: self._watch(execution, deadline))
        try:
            cursor.execute(statement, bound or None, paramstyle="qmark")
            table = self._rows(cursor)
        except _Ended as error:
            _cancel(cursor)
            raise QueryError(f"Athena query {cursor.query_id} was cancelled: {error}") from error
        except pyathena.error.Error as error:
            raise self._told(error) from error
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise self._told(error) from error
        except BaseException:
            # whoever was interrupted leaves no query running that is billed
            _cancel(cursor)
            raise
        scanned, cost = self._cost(cursor)
        log.info(
            "Athena query %s: %d bytes scanned, %.6f USD%s, %s ms",
            cursor.query_id, scanned, cost, ", an earlier result" if cursor.reused_previous_result else "",
            cursor.total_execution_time_in_millis,
        )  # fmt: skip
        return Answer(plain_types(table), scanned, cost)

    def close(self) -> None:
        """Give the connection back; a query after it opens a new one."""
        with self._opening:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _open(self) -> Connection:
        settings = self.settings
        with self._opening:
            if self._connection is None:
                self._connection = pyathena.connect(
                    region_name=settings.region,
                    schema_name=settings.database,
                    work_group=settings.workgroup,
                    # an empty one keeps the client from looking for a variable of its own
                    s3_staging_dir=settings.output,
                    poll_interval=settings.poll_s,
                    converter=_converter(),
                    kill_on_interrupt=True,
                    result_reuse_enable=settings.reuse_minutes > 0,
                    result_reuse_minutes=settings.reuse_minutes,
                    retry_config=RetryConfig(
                        exceptions=_THROTTLED,
                        attempt=settings.attempts,
                        multiplier=settings.backoff_s,
                    ),
                )
            return self._connection

    def _watch(self, execution: AthenaQueryExecution, deadline: float) -> None:
        if execution.state in AthenaQueryExecution.TERMINAL_STATES:
            return
        if time.monotonic() > deadline:
            raise _Ended(
                f"it took longer than {self.settings.timeout_s} s. Raise athena.timeout_s, or ask for less."
            )
        scanned = execution.data_scanned_in_bytes or 0
        if scanned > self.settings.scan_bytes_max:
            raise _Ended(
                f"it scanned {scanned:,} bytes, more than {self.settings.scan_bytes_max:,}. Bound its time and `day`, "
                "or raise athena.scan_bytes_max."
            )

    def _cost(self, cursor: Cursor) -> tuple[int, float]:
        scanned = cursor.data_scanned_in_bytes or 0
        if cursor.reused_previous_result or not scanned:
            return 0, 0.0
        return scanned, max(scanned, _BILLED_AT_LEAST) / _TB * self.settings.price_per_tb_usd

    def _rows(self, cursor: Cursor) -> pa.Table:
        described = cursor.description or []
        names = [column[0] for column in described]
        types = [_type(column) for column in described]
        first = cursor.fetchmany(_PAGE)
        if len(first) < _PAGE or not cursor.output_location:
            return columns_of(names, types, [*first, *cursor.fetchall()])
        return _from_csv(self._result(cursor.output_location), described, types)

    def _result(self, location: str) -> bytes:
        try:
            return self.storage.fs.cat_file(location)
        except (OSError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise StorageError(
                f"Cannot read Athena's result {location}: {error}. Check the right to read it."
            ) from error

    def _told(self, error: Exception) -> QueryError | ConfigError | StorageError:
        """The same in our words: what, where, what to do."""
        cause = error.__cause__ or error
        code = getattr(cause, "response", {}).get("Error", {}).get("Code", "")
        says, here = str(error), f"workgroup {self.settings.workgroup} in {self.settings.region}"
        if isinstance(cause, botocore.exceptions.NoCredentialsError) or code.startswith(_CREDENTIALS):
            return ConfigError(
                f"Athena lets nobody in ({here}): {says}. Check the AWS credentials and their rights."
            )
        if isinstance(cause, botocore.exceptions.BotoCoreError):
            return StorageError(f"Cannot reach Athena ({here}): {says}. See athena: in params.")
        if code in _THROTTLED:
            return QueryError(
                f"Athena had no room for the query ({here}), asked {self.settings.attempts} times: {says}. "
                "Ask less at once, or raise athena.attempts."
            )
        if "WorkGroup" in says and code == "InvalidRequestException":
            return ConfigError(f"Athena refuses the {here}: {says}. See athena.workgroup in params.")
        if "output location" in says.lower() and code == "InvalidRequestException":
            return ConfigError(
                f"Athena has no place for results ({here}): {says}. Set athena.output, or the workgroup's own."
            )
        if "Bytes scanned limit" in says:
            return QueryError(
                f"Athena ended the query at the limit of {here}: {says} Bound its time and `day`, or raise the limit there."
            )
        hint = no_such_table("Glue") if "does not exist" in says or "not found" in says else ""
        return QueryError(f"Athena refuses the query: {says}{hint}")


def _cancel(cursor: Cursor) -> None:
    if cursor.query_id:
        # it may have ended by itself meanwhile
        with suppress(pyathena.error.Error):
            cursor.cancel()


def _literal(value: Any) -> str:
    """A value as Athena takes it beside the text of a query, where it is read as an expression of its own."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"double '{value}'"
    if isinstance(value, datetime):
        return f"timestamp '{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03d}'"
    if isinstance(value, str):
        quoted = "'" + value.replace("'", "''") + "'"
        if len(quoted) > _VALUE_CHARACTERS_MAX:
            raise QueryError(
                f"A value of {len(value)} characters: Athena takes {_VALUE_CHARACTERS_MAX - 2} at most."
            )
        return quoted
    raise QueryError(f"A value of type {type(value).__name__}: text, numbers, times and null can be bound.")


def _type(column: tuple) -> pa.DataType | None:
    _, name, _, _, precision, scale, _ = column
    if name == "decimal":
        return pa.decimal128(precision, scale)
    return pa.list_(pa.string()) if name == "array" else arrow_type(name)


def _from_csv(body: bytes, described: list[tuple], types: list[pa.DataType | None]) -> pa.Table:
    """A result file: an absent value is empty without quotes, an empty text is empty with them."""
    places = [str(index) for index in range(len(described))]
    # what has no form in CSV that Arrow reads comes as text
    plain = [kind is not None and not _is_spelled(kind) for kind in types]
    table = csv.read_csv(
        pa.BufferReader(body),
        # two columns may have one name
        read_options=csv.ReadOptions(column_names=places, skip_rows=1),
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types={
                place: kind if simple else pa.string()
                for place, kind, simple in zip(places, types, plain, strict=True)
            },
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            timestamp_parsers=[csv.ISO8601],
        ),
    )
    spelled = _converter()
    columns = [
        column
        if simple
        else pa.array([spelled.convert(about[1], text) for text in column.to_pylist()], type=kind)
        for column, about, kind, simple in zip(table.columns, described, types, plain, strict=True)
    ]
    return pa.Table.from_arrays(columns, names=[about[0] for about in described])


def _converter() -> DefaultTypeConverter:
    converter = DefaultTypeConverter()
    # [12e4, 77] may be names of alerts: nothing in the answer says what is in an array
    converter.set("array", _texts)
    return converter


def _texts(text: str | None) -> list[str] | None:
    if text is None:
        return None
    inner = text.removeprefix("[").removesuffix("]")
    return [None if one == "null" else one for one in inner.split(", ")] if inner else []


def _is_spelled(kind: pa.DataType) -> bool:
    zoned = pa.types.is_timestamp(kind) and kind.tz is not None
    return zoned or pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_null(kind)
