"""SQL over the tables and views, whichever engine the params name; nobody who asks sees which.

Owns the check of a query before any engine has it: that it is one query, over names that there are, with a
value for every name in it; and what each query took.
"""

import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import pyarrow as pa

from cryptomon_lib import sql
from cryptomon_lib.engines import open_backend
from cryptomon_lib.errors import QueryError
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.payloads import as_moment
from cryptomon_lib.tables import TABLES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """What a query took: rows given, seconds, bytes scanned and US dollars; None where the engine does not say."""

    rows: int
    seconds: float
    bytes_scanned: int | None
    cost_usd: float | None


class Engine:
    """Queries on one monitor's tables and views, now or as of a moment.

    as_of: the moment that the views take for now: a datetime, or ISO 8601 text; None follows the clock.

    Raises ConfigError: the params name an engine that cannot be had here.
    """

    def __init__(self, monitor: Monitor, as_of: str | datetime | None = None):
        self.monitor = monitor
        self._as_of = as_moment(as_of)
        self._backend = open_backend(monitor)
        self._own = threading.local()

    @property
    def now(self) -> datetime:
        """The moment that views take for now (UTC)."""
        return self._as_of or datetime.now(UTC)

    @property
    def last(self) -> Cost | None:
        """What this thread's newest query took; None before the first."""
        return getattr(self._own, "last", None)

    def query(self, text: str, **values: Any) -> pa.Table:
        """The rows of one Trino query over tables and views; `:name` in it stands for a value, always bound.

        Times come back as naive UTC timestamps in milliseconds.

        Raises QueryError: it is no query, a name is unknown, a value is missing, or the engine refuses it.
        """
        began = perf_counter()
        _check(text, values)
        answer = self._backend.run(text, values, self._as_of)
        taken = Cost(answer.rows.num_rows, perf_counter() - began, answer.bytes_scanned, answer.cost_usd)
        self._own.last = taken
        log.debug(
            "%d rows in %.0f ms, %s bytes scanned, %s USD: %s",
            taken.rows, taken.seconds * 1e3, taken.bytes_scanned, taken.cost_usd, text,
        )  # fmt: skip
        return answer.rows

    def close(self) -> None:
        """Give back what the engine holds; a query after it opens anew."""
        self._backend.close()


def _check(text: str, values: dict[str, Any]) -> None:
    tree, known = sql.parsed(text), sql.views()
    offered = {*known, *TABLES, *(f"stored_{name}" for name in TABLES)}
    unknown = sql.reads(tree) - offered
    if unusable := [says for name, says in sql.unusable().items() if name in unknown]:
        raise QueryError(" ".join(unusable))
    if unknown:
        raise QueryError(
            f"No table or view is called {', '.join(sorted(unknown))}. Known: {', '.join(sorted({*TABLES, *known}))}."
        )
    asked = sql.placeholders(tree)
    if lacking := asked - values.keys():
        raise QueryError(f"No value for {', '.join(f':{name}' for name in sorted(lacking))} in the query.")
    if spare := values.keys() - asked:
        raise QueryError(f"A value for {', '.join(sorted(spare))}, but no :name of that in the query.")
