"""Take payloads from the queue into the tables: each once, whatever is killed when.

A payload's id is recorded by the commit that writes its rows, so a second run skips what is in and only
moves the payload on. What cannot be flattened goes to quarantine with the reason and stops nothing else.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

import msgspec
import pandas as pd

from cryptomon_lib import exchanges
from cryptomon_lib.collect import load_instruments
from cryptomon_lib.errors import AccountingError, PayloadError, StorageError
from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.payloads import ARCHIVE, INGEST, QUARANTINE, Payload, unpack
from cryptomon_lib.shape import UNFINISHED, Flattened, Instrument

log = logging.getLogger(__name__)

TABLES = ("ticks", "candles")
REJECTED = "rejected"
# payloads read ahead; reading and unpacking leave the interpreter to the others
_AHEAD = 64
_WORKERS = 4
# what a payload of another form than documented may raise in an exchange's module
_UNFIT = (
    PayloadError,
    msgspec.MsgspecError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
)
# a list of rejects that explains itself needs no more than these
_REJECTS_SHOWN = 200


@dataclass
class Summary:
    """What a run did. entries == rows + rejected + known, always.

    payloads: taken from the queue; already: their rows were in. known: rows that an earlier, overlapping
    payload had brought. reasons: how many rows were rejected for what.
    """

    payloads: int = 0
    already: int = 0
    quarantined: int = 0
    unflattened: int = 0
    entries: int = 0
    rows: int = 0
    rejected: int = 0
    known: int = 0
    commits: int = 0
    reasons: Counter = field(default_factory=Counter)
    rows_by_table: Counter = field(default_factory=Counter)

    @property
    def table(self) -> pd.DataFrame:
        """One row per quantity, with what it counts."""
        told = {
            "payloads": "taken from the queue",
            "already": "payloads whose rows were in",
            "quarantined": "payloads that could not be flattened",
            "unflattened": "payloads of endpoints that are only archived",
            "entries": "in the payloads: written + rejected + known",
            "rows": "written",
            "rejected": "rows refused",
            "known": "rows that an earlier payload had brought",
            "commits": "to the tables",
        }
        return pd.DataFrame(
            {"count": [getattr(self, name) for name in told], "of": list(told.values())}, index=list(told)
        )

    @property
    def refusals(self) -> pd.DataFrame:
        """One row per reason, most frequent first: rows refused for it."""
        return pd.DataFrame(self.reasons.most_common(), columns=["reason", "rows"])

    def check(self) -> None:
        """Nothing, where the run is usable.

        Raises PayloadError: every payload of the queue went to quarantine.
        """
        if self.quarantined and self.quarantined == self.payloads:
            raise PayloadError(
                f"All {self.payloads} payloads of the queue went to quarantine; their reasons are beside them there."
            )


@dataclass
class _Taken:
    """One payload on its way: what it became, or why it did not."""

    key: str
    payload: Payload | None = None
    flattened: Flattened | None = None
    problem: str | None = None


def flatten_payloads(
    monitor: Monitor,
    progress: Callable[[int, int], None] = lambda done, of: None,
    keys: Sequence[str] | None = None,
) -> Summary:
    """Flatten all of ingest/, oldest slot first; commit once per table for each `limits.batch_bytes`.

    progress: called with payloads done and payloads in all. keys: only these of the queue. Another run may flatten
    the same queue at the same time: each payload's rows are written by the one that commits first.

    Raises StorageError: the root cannot be read or written. AccountingError: rows were lost; nothing moved.
    """
    keys = [one.key for one in monitor.storage.objects(INGEST)] if keys is None else list(keys)
    return _flatten_keys(monitor, keys, progress, again=False)


def reflatten_payloads(
    monitor: Monitor,
    exchange: str | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Summary:
    """Try quarantine and archive again, after a fix: rows that the tables lack are added, none is doubled.

    exchange: only payloads of that one.
    """
    host = exchanges.get(exchange).HOST if exchange else None
    keys = [
        one.key
        for folder in (QUARANTINE, ARCHIVE)
        for one in monitor.storage.objects(folder if host is None else f"{folder}/{host}")
        if one.key.endswith(".json.gz")
    ]
    return _flatten_keys(monitor, keys, progress, again=True)


def _flatten_keys(monitor: Monitor, keys: list[str], progress, again: bool) -> Summary:
    summary = Summary()
    # oldest slot first; by name, since a key that is no identity has its turn too
    queue = iter(sorted(keys, key=lambda key: key.rsplit("/", 1)[-1]))
    instruments = _Instruments(monitor)
    with ThreadPoolExecutor(_WORKERS) as pool:
        for batch in _batches(monitor, pool, queue):
            _flatten_batch(monitor, batch, instruments, summary, again)
            progress(summary.payloads, len(keys))
    log.info("flattened %s", {name: value for name, value in vars(summary).items() if value})
    return summary


def _batches(monitor: Monitor, pool: ThreadPoolExecutor, queue: Iterator[str]) -> Iterator[list[_Taken]]:
    """Payloads read and unpacked, in groups of at most batch_bytes."""
    batch, size = [], 0
    while ahead := list(islice(queue, _AHEAD)):
        for taken in pool.map(lambda key: _read(monitor, key), ahead):
            if taken is None:
                continue
            batch.append(taken)
            size += len(taken.payload.body) if taken.payload else 0
            if size >= monitor.settings.limits.batch_bytes:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _read(monitor: Monitor, key: str) -> _Taken | None:
    """A payload; None where another run has taken it out of the queue meanwhile."""
    try:
        packed = monitor.storage.get(key)
    except StorageError:
        if monitor.storage.exists(key):
            raise
        return None
    try:
        return _Taken(key, unpack(key, packed, monitor.settings.fetch.body_bytes_max))
    except PayloadError as error:
        return _Taken(key, problem=str(error))


def _flatten_batch(monitor: Monitor, batch: list[_Taken], instruments, summary: Summary, again: bool) -> None:
    written = set() if again else _written(monitor, batch)
    for taken in batch:
        if taken.payload and taken.payload.id not in written:
            _shape(taken, instruments)
    fresh = [taken for taken in batch if taken.flattened]
    # before the commit: after it, a run that was killed here would not look at these rows again
    for taken in fresh:
        _keep_rejects(monitor, taken, again)
    for name in TABLES:
        _append(monitor, name, [one for one in fresh if one.flattened.table == name], summary, again)
    summary.payloads += len(batch)
    summary.already += sum(bool(one.payload and one.payload.id in written) for one in batch)
    summary.quarantined += sum(one.problem is not None for one in batch)
    summary.unflattened += sum(_is_unflattened(one, written) for one in batch)
    for taken in batch:
        try:
            _move_on(monitor, taken)
        except StorageError:
            # another run, which found the same rows written, may have moved it just now
            if monitor.storage.exists(taken.key):
                raise


def _written(monitor: Monitor, batch: list[_Taken]) -> set[str]:
    """Ids of the payloads whose rows are in; each is looked for in the table that its kind of payload goes to."""
    ids: dict[str, list[str]] = {}
    for taken in batch:
        if taken.payload and (name := exchanges.table_of(taken.payload)):
            ids.setdefault(name, []).append(taken.payload.id)
    return {id for name, mine in ids.items() for id in monitor.lake.written(name, mine)}


def _is_unflattened(taken: _Taken, written: set[str]) -> bool:
    return (
        taken.payload is not None
        and taken.payload.id not in written
        and not (taken.flattened or taken.problem)
    )


def _shape(taken: _Taken, instruments: "_Instruments") -> None:
    try:
        source = exchanges.by_host(taken.payload.host)
        taken.flattened = exchanges.flatten(taken.payload, instruments.of(source), source)
    except _UNFIT as error:
        taken.problem = f"{type(error).__name__}: {error}"
        return
    finally:
        # the body is what takes the memory, and its rows are out
        object.__setattr__(taken.payload, "body", b"")
    found = taken.flattened
    if found is not None and found.entries != found.rows.num_rows + len(found.rejected):
        raise AccountingError(
            f"{taken.key}: {found.entries} entries, but {found.rows.num_rows} rows and "
            f"{len(found.rejected)} rejects. Nothing was written or moved; this is a bug in shape.py."
        )


def _append(monitor: Monitor, name: str, taken: list[_Taken], summary: Summary, again: bool) -> None:
    if not taken:
        return
    run = f"@{datetime.now(UTC):%Y%m%dT%H%M%S%f}" if again else ""
    batches = [Batch(one.payload.id + run, one.flattened.rows) for one in taken]
    appended = monitor.lake.append(
        name, batches, fresh=lambda table, rows: monitor.lake.missing(name, table, rows)
    )
    mine = [one.flattened for one, batch in zip(taken, batches, strict=True) if batch.id in appended.ids]
    offered = sum(one.rows.num_rows for one in mine)
    reasons = Counter(reason for one in mine for _, reason in one.rejected)
    summary.entries += sum(one.entries for one in mine)
    summary.rejected += reasons.total()
    summary.reasons += reasons
    summary.rows += appended.rows
    summary.rows_by_table[name] += appended.rows
    summary.known += offered - appended.rows
    summary.commits += bool(mine)
    if summary.entries != summary.rows + summary.rejected + summary.known or appended.rows > offered:
        raise AccountingError(
            f"{name}: entries are not written + rejected + known: {summary}. This is a bug."
        )
    faults = Counter({reason: count for reason, count in reasons.items() if reason != UNFINISHED})
    if faults:
        log.warning("%s, rows rejected: %d. %s", name, faults.total(), dict(faults.most_common(5)))


def _keep_rejects(monitor: Monitor, taken: _Taken, again: bool) -> None:
    # a candle that has not ended comes again in the next poll: that is no fault of the row
    faults = [one for one in taken.flattened.rejected if one[1] != UNFINISHED]
    key = f"{REJECTED}/{taken.payload.id.removesuffix('.json.gz')}.json"
    if faults:
        says = {"payload": taken.payload.id, "count": len(faults), "rows": faults[:_REJECTS_SHOWN]}
        monitor.storage.put(key, json.dumps(says, indent=1).encode())
    elif again:
        # after the fix there is nothing to tell of any more
        monitor.storage.delete(key)


def _move_on(monitor: Monitor, taken: _Taken) -> None:
    """Away from the queue: to quarantine, to the archive, or gone where the params keep no archive."""
    storage, (folder, rest) = monitor.storage, taken.key.split("/", 1)
    if taken.problem is not None:
        reason = {
            "payload": rest,
            "reason": taken.problem,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        storage.put(f"{QUARANTINE}/{rest}.reason.json", json.dumps(reason, indent=1).encode())
        log.error("%s goes to quarantine: %s", rest, taken.problem)
        target = f"{QUARANTINE}/{rest}"
    else:
        target = f"{ARCHIVE}/{rest}" if monitor.settings.retention.archive_days else None
    if folder == QUARANTINE and taken.problem is None:
        storage.delete(f"{QUARANTINE}/{rest}.reason.json")
    if target is None or (target != taken.key and folder == INGEST and storage.exists(target)):
        # the archive's copy is the one whose rows are in the table
        storage.delete(taken.key)
    elif target != taken.key and not (folder == ARCHIVE and taken.problem):
        storage.move(taken.key, target)


class _Instruments:
    """Each exchange's instruments, read once a run."""

    def __init__(self, monitor: Monitor):
        self._monitor, self._known = monitor, {}

    def of(self, source: str) -> dict[str, Instrument]:
        if source not in self._known:
            self._known[source] = load_instruments(self._monitor, source)
        return self._known[source]
