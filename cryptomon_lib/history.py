"""Readings of the past: each value of a measure beside the average of the hour before it, for any length of time.

Owns one thing: the same numbers as the view `trailing_1h`, in bounded memory and without a window over every row. An
hour's window is the end of one clock hour and the beginning of the next, so two running sums, one from each side, give
every average by one addition; nothing is subtracted, so one absurd value spoils only the hour that it is in.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cryptomon_lib.engine import Engine
from cryptomon_lib.monitor import Monitor

log = logging.getLogger(__name__)

HOUR_MS = 3_600_000
# as in trailing_1h: with fewer samples there is no average
SAMPLES_MIN = 30
# so much is read at a time; an hour before it is read again
CHUNK = timedelta(hours=6)
CELLS_MAX = 8_000_000
_CLOCK = "cast(current_timestamp at time zone 'UTC' as timestamp(3))"
READING = pa.schema(
    [
        ("market_id", pa.string()),
        ("measure", pa.string()),
        ("at", pa.timestamp("ms")),
        ("value", pa.float64()),
        ("average_1h", pa.float64()),
        ("ratio_1h", pa.float64()),
        ("samples", pa.int64()),
        ("expected", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Block:
    """A measure's values of at most a clock hour: times down, markets across; NaN where there is none.

    at_ms: milliseconds since 1970. average: of the hour before each time, NaN below the floor. samples: in it.
    """

    measure: str
    market_ids: np.ndarray
    at_ms: np.ndarray
    value: np.ndarray
    average: np.ndarray
    samples: np.ndarray

    @property
    def ratio(self) -> np.ndarray:
        """Value as a multiple of the average; NaN where there is none, or it is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.average == 0, np.nan, self.value / self.average)

    def rows(self, chosen: np.ndarray) -> pa.Table:
        """The chosen cells as rows of trailing_1h."""
        times, markets = np.nonzero(chosen & ~np.isnan(self.value))
        cells = (times, markets)
        size = len(times)
        average, ratio = self.average[cells], self.ratio[cells]
        return pa.table(
            [
                pa.array(self.market_ids[markets], pa.string()),
                pa.repeat(pa.scalar(self.measure), size),
                pa.array(self.at_ms[times]).cast(pa.timestamp("ms")),
                pa.array(self.value[cells]),
                pa.array(average, mask=np.isnan(average)),
                pa.array(ratio, mask=np.isnan(ratio)),
                pa.array(self.samples[cells].astype(np.int64)),
                pa.array(np.full(size, 60, np.int64)),
            ],
            schema=READING,
        )


def blocks(
    monitor: Monitor,
    measure: str,
    since: datetime,
    until: datetime,
    markets: Sequence[str] | None = None,
    chunk: timedelta = CHUNK,
) -> Iterator[Block]:
    """The values at after since and not after until, hour by hour of the clock, in order of time.

    markets: only these. Of one hour there may be several blocks, of different markets.
    """
    for _, found in of_spans(monitor, spans((measure,), since, until, chunk), markets):
        yield from found


def spans(
    measures: Sequence[str], since: datetime, until: datetime, chunk: timedelta = CHUNK
) -> list[tuple[str, datetime, datetime]]:
    """The pieces that measures are read in: all measures of a chunk, then those of the next."""
    starts = [since + chunk * number for number in range(math.ceil((until - since) / chunk))]
    return [(measure, start, min(start + chunk, until)) for start in starts for measure in measures]


def of_spans(
    monitor: Monitor, pieces: Sequence[tuple[str, datetime, datetime]], markets: Sequence[str] | None = None
) -> Iterator[tuple[datetime, Iterator[Block]]]:
    """The end and the blocks of each piece; one is read while the one before it is added up."""
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(_values, monitor, *pieces[0], markets) if pieces else None
        for number, (measure, start, end) in enumerate(pieces):
            values = coming.result()
            if number + 1 < len(pieces):
                coming = ahead.submit(_values, monitor, *pieces[number + 1], markets)
            yield end, _of_chunk(*values, measure, _ms(start), _ms(end))


def readings(
    monitor: Monitor,
    measures: Sequence[str],
    since: datetime,
    until: datetime,
    markets: Sequence[str] | None = None,
) -> pa.Table:
    """All readings of a short time as rows of trailing_1h, in order of time."""
    found = [
        block.rows(np.ones(block.value.shape, bool))
        for measure in measures
        for block in blocks(monitor, measure, since, until, markets)
    ]
    return pa.concat_tables([READING.empty_table(), *found]).sort_by("at")


def thinned(
    block: Block,
    holds: np.ndarray,
    recovered: np.ndarray,
    known: np.ndarray,
    keep_ms: int,
    gap_ms: int,
    past: "Past",
) -> np.ndarray:
    """Which cells can change anything for a rule: what is not recovered, and after it until it is for certain.

    Of a series at rest the first cell at rest is enough. past: what was before the block; it is moved on.
    """
    chosen = np.zeros(block.value.shape, bool)
    for row, at in enumerate(block.at_ms):
        seen, over = known[row], recovered[row] & ~holds[row]
        begins = over & (~past.recovered | (at - past.at > gap_ms))
        past.since = np.where(seen & begins, at, past.since)
        chosen[row] = seen & (~over | begins | (past.at - past.since < keep_ms))
        past.recovered = np.where(seen, over, past.recovered)
        past.at = np.where(seen, at, past.at)
    return chosen


@dataclass
class Past:
    """By market of a block: the newest time that was known, whether it was recovered then, and since when."""

    at: np.ndarray
    since: np.ndarray
    recovered: np.ndarray

    @classmethod
    def none(cls, markets: int) -> "Past":
        """Nothing was before."""
        return cls(np.zeros(markets, np.int64), np.zeros(markets, np.int64), np.zeros(markets, bool))


def _values(monitor: Monitor, measure: str, start: datetime, end: datetime, markets) -> tuple:
    """Markets, and of each value its market's number, its time and itself; an hour before start too."""
    back = int((end - start).total_seconds()) + 3600
    chosen = {f"m{number}": name for number, name in enumerate(markets or ())}
    only = f"and market_id in ({', '.join(f':{name}' for name in chosen)})" if chosen else ""
    rows = Engine(monitor, end).query(
        f"select market_id, at, value from measures where measure = :measure {only} "
        f"and at >= {_CLOCK} - interval '{back}' second and at <= {_CLOCK}",
        measure=measure,
        **chosen,
    )
    market_ids, codes = _coded(rows["market_id"])
    return market_ids, codes, rows["at"].cast(pa.int64()).to_numpy(), rows["value"].to_numpy()


def _coded(names: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct names, and of each row the place of its name; rows of a market mostly follow each other."""
    runs = [pc.run_end_encode(chunk) for chunk in names.chunks]
    found = pa.chunked_array([run.values for run in runs], names.type).combine_chunks().dictionary_encode()
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    lengths = [np.diff(run.run_ends.to_numpy(), prepend=0) for run in runs]
    places = found.indices.to_numpy()
    codes = np.repeat(places, np.concatenate(lengths)) if lengths else places
    return np.asarray(found.dictionary.to_pylist(), object), codes


def _of_chunk(
    market_ids: np.ndarray,
    codes: np.ndarray,
    at: np.ndarray,
    value: np.ndarray,
    measure: str,
    after: int,
    until: int,
) -> Iterator[Block]:
    times, places = _factorised(at)
    if not len(times):
        return
    # a source polls all of its markets at once: together they are a full matrix, sources among each other are not
    for group in _groups(market_ids, len(times)):
        new = np.full(len(market_ids), -1, np.int32)
        new[group] = np.arange(len(group), dtype=np.int32)
        own = new[codes]
        here, values = places, value
        if len(group) < len(market_ids):
            mine = np.flatnonzero(own >= 0)
            own, here, values = own[mine], places[mine], value[mine]
        used = np.zeros(len(times), bool)
        used[here] = True
        row = np.cumsum(used) - 1
        matrix = np.full((int(used.sum()), len(group)), np.nan)
        matrix.ravel()[row[here] * len(group) + own] = values
        yield from averaged(measure, market_ids[group], times[used], matrix, after, until)


def averaged(
    measure: str, market_ids: np.ndarray, times: np.ndarray, matrix: np.ndarray, after: int, until: int
) -> Iterator[Block]:
    """Blocks of a matrix, times down and markets across, of what is after `after` and not after `until` (ms)."""
    hours = times // HOUR_MS
    # row i looks at rows first[i] to i - 1
    first = np.searchsorted(times, times - HOUR_MS, "left")
    before: tuple | None = None
    for hour in np.unique(hours):
        low, high = np.searchsorted(hours, [hour, hour + 1])
        part = matrix[low:high]
        there = ~np.isnan(part)
        plain = np.where(there, part, 0.0)
        from_left = _running(plain), _running(there.astype(np.float32))
        total, samples = np.zeros_like(part), np.zeros(part.shape, np.float32)
        # what of this hour is before each row
        total[1:], samples[1:] = from_left[0][:-1], from_left[1][:-1]
        if before is not None and before[0] == hour - 1:
            _, earlier, sums, counts = before
            tail = first[low:high] - earlier
            short = tail < len(sums)
            total[short] += sums[tail[short]]
            samples[short] += counts[tail[short]]
        before = (hour, low, _running(plain[::-1])[::-1], _running(there[::-1].astype(np.float32))[::-1])
        inside = slice(*(np.searchsorted(times[low:high], [after, until], "right")))
        if inside.start < inside.stop:
            enough = samples[inside] >= SAMPLES_MIN
            average = np.where(enough, total[inside] / np.maximum(samples[inside], 1), np.nan)
            yield Block(measure, market_ids, times[low:high][inside], part[inside], average, samples[inside])


def _running(values: np.ndarray) -> np.ndarray:
    return np.cumsum(values, axis=0)


def _factorised(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct times, ascending, and of each value the place of its time."""
    found = pa.array(at).dictionary_encode()
    times = found.dictionary.to_numpy(zero_copy_only=False)
    order = np.argsort(times)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return times[order], rank[found.indices.to_numpy()]


def _groups(market_ids: np.ndarray, times: int) -> Iterator[np.ndarray]:
    """Markets by source, few enough that a matrix of them is bounded."""
    sources = np.array([name.partition(":")[0] for name in market_ids], object)
    most = max(1, CELLS_MAX // max(times, 1))
    for source in sorted(set(sources)):
        group = np.flatnonzero(sources == source)
        group = group[np.argsort(market_ids[group])]
        for start in range(0, len(group), most):
            yield group[start : start + most]


def _ms(moment: datetime) -> int:
    return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1e3)
