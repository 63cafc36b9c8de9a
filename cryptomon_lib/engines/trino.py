"""A Trino of one's own beside S3-compatible storage, by the `trino` client.

Owns the connection, how values are bound and how rows become Arrow; what an interrupted query leaves behind
on the server: nothing.
"""

import logging
from contextlib import suppress
from datetime import datetime
from threading import Lock
from typing import Any

import requests
import trino

from cryptomon_lib import config, sql
from cryptomon_lib.engines import Answer, arrow_type, columns_of, no_such_table, plain_types
from cryptomon_lib.errors import ConfigError, QueryError, StorageError
from cryptomon_lib.monitor import Monitor

log = logging.getLogger(__name__)


class Backend:
    """Queries by a Trino server; each on a request of its own, so that threads do not wait for each other."""

    def __init__(self, monitor: Monitor):
        self.settings = monitor.settings.trino
        self._connection: trino.dbapi.Connection | None = None
        self._opening = Lock()

    def run(self, text: str, values: dict[str, Any], now: datetime | None) -> Answer:
        """The rows of one checked Trino query.

        Raises QueryError: Trino refuses it, or it took too long. StorageError: no server answers.
        """
        if now is not None:
            text = sql.inlined(text, sql.views(), now)
        text, names = sql.positional(text)
        return self.do(text, [values[name] for name in names])

    def do(self, statement: str, values: list[Any] | None = None) -> Answer:
        """What one statement gives, `?` in it bound to values; also one that creates something.

        Raises as `run`.
        """
        cursor = self._open().cursor()
        try:
            cursor.execute(statement, values or None)
            rows = cursor.fetchall()
        except trino.exceptions.TrinoQueryError as error:
            raise _refused(error) from error
        except (trino.exceptions.Error, trino.exceptions.HttpError, requests.RequestException) as error:
            raise StorageError(
                f"Cannot reach Trino at {self._address}: {error}. See trino: in params."
            ) from error
        except BaseException:
            # whoever was interrupted leaves no query running
            with suppress(trino.exceptions.Error, trino.exceptions.HttpError):
                cursor.cancel()
            raise
        described = cursor.description or []
        types = [arrow_type(column.type_code) for column in described]
        table = columns_of([column.name for column in described], types, rows)
        scanned = (cursor.stats or {}).get("physicalInputBytes")
        log.info("Trino query %s: %s bytes read", cursor.query_id, scanned)
        return Answer(plain_types(table), bytes_scanned=scanned)

    def close(self) -> None:
        """Give the connection back; a query after it opens a new one."""
        with self._opening:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    @property
    def _address(self) -> str:
        return f"{self.settings.scheme}://{self.settings.host}:{self.settings.port}"

    def _open(self) -> trino.dbapi.Connection:
        with self._opening:
            if self._connection is None:
                self._connection = trino.dbapi.connect(
                    host=self.settings.host,
                    port=self.settings.port,
                    http_scheme=self.settings.scheme,
                    user=self.settings.user,
                    auth=self._auth(),
                    source="cryptomon",
                    catalog=self.settings.catalog,
                    schema=self.settings.database,
                    timezone="UTC",
                    session_properties={
                        "query_max_run_time": f"{self.settings.timeout_s}s",
                        # latest alone is 146 stages on 476, a server allows 150: who joins it to another needs more
                        "query_max_stage_count": "1000",
                    },
                    # one way of binding, known beforehand: the client would ask the server which it has
                    legacy_prepared_statements=False,
                )
            return self._connection

    def _auth(self) -> trino.auth.Authentication | None:
        named = self.settings.token_from or self.settings.password_from
        if not named:
            return None
        if self.settings.scheme != "https":
            raise ConfigError(f"trino: the secret of {named} is not sent by http; set scheme: https.")
        if self.settings.token_from:
            return trino.auth.JWTAuthentication(config.secret(named))
        return trino.auth.BasicAuthentication(self.settings.user, config.secret(named))


def _refused(error: trino.exceptions.TrinoQueryError) -> QueryError:
    if error.error_name == "EXCEEDED_TIME_LIMIT":
        return QueryError(f"Trino ended the query: {error.message}. Raise trino.timeout_s, or ask for less.")
    hint = no_such_table("trino") if error.error_name in ("TABLE_NOT_FOUND", "SCHEMA_NOT_FOUND") else ""
    return QueryError(f"Trino refuses the query: {error.message}{hint}")
