"""Readings of the past: each value of a measure beside the average of a window before it, for any length of time.

Owns one thing: the same numbers as the views `trailing_1h`, `now_24h` and `now_7d`, in bounded memory and without a window
over every row. An hour's window is the end of one clock hour and the beginning of the next, so two running sums, one from
each side, give every average by one addition. Longer windows are of full clock hours before that of the value, whose sums
are added up once an hour. Nothing is subtracted, so one absurd value spoils only the windows that it is in.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cryptomon_lib.engine import Engine
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.sql import CLOCK

log = logging.getLogger(__name__)

HOUR_MS = 3_600_000
# windows of averages, by their hours
HOURS = {"1h": 1, "24h": 24, "7d": 168}
# as in the views: with fewer samples than half of a window's there is no average
_SAMPLES_MIN_H = 30
# so much is read at a time; an hour before it is read again
CHUNK = timedelta(hours=8)
CELLS_MAX = 8_000_000


@cache
def reading(window: str = "1h") -> pa.Schema:
    """The columns of readings, as the view of that window has them."""
    return pa.schema(
        [
            ("market_id", pa.string()),
            ("measure", pa.string()),
            ("at", pa.timestamp("ms")),
            ("value", pa.float64()),
            (f"average_{window}", pa.float64()),
            (f"ratio_{window}", pa.float64()),
            ("samples", pa.int64()),
            ("expected", pa.int64()),
        ]
    )


@dataclass(frozen=True)
class Block:
    """A measure's values of at most a clock hour: times down, markets across; NaN where there is none.

    at_ms: milliseconds since 1970. average: of the window before each time, NaN below the floor. samples: in it.
    """

    measure: str
    market_ids: np.ndarray
    at_ms: np.ndarray
    value: np.ndarray
    average: np.ndarray
    samples: np.ndarray
    window: str = "1h"

    @property
    def expected(self) -> np.ndarray:
        """How many samples the window of each time may have."""
        hours = HOURS[self.window]
        so_far = 0 if hours == 1 else self.at_ms % HOUR_MS // 60_000
        return np.full(len(self.at_ms), 60 * hours, np.int64) + so_far

    @property
    def ratio(self) -> np.ndarray:
        """Value as a multiple of the average; NaN where there is none, or it is 0."""
        return _ratio(self.value, self.average)

    def rows(self, chosen: np.ndarray) -> pa.Table:
        """The chosen cells as rows of the window's view."""
        times, markets = np.nonzero(chosen & ~np.isnan(self.value))
        cells = (times, markets)
        size = len(times)
        average = self.average[cells]
        ratio = _ratio(self.value[cells], average)
        return pa.table(
            [
                pa.array(self.market_ids[markets], pa.string()),
                pa.repeat(pa.scalar(self.measure), size),
                pa.array(self.at_ms[times]).cast(pa.timestamp("ms")),
                pa.array(self.value[cells]),
                pa.array(average, mask=np.isnan(average)),
                pa.array(ratio, mask=np.isnan(ratio)),
                pa.array(self.samples[cells].astype(np.int64)),
                pa.array(self.expected[times]),
            ],
            schema=reading(self.window),
        )


def _ratio(value: np.ndarray, average: np.ndarray) -> np.ndarray:
    found = np.full(value.shape, np.nan)
    return np.divide(value, average, out=found, where=average != 0)


class Hours:
    """Sums of the clock hours before: what a window of many of them is added up from."""

    def __init__(self, window: str):
        self.length = HOURS[window]
        self._places: dict[str, int] = {}
        # by hour since 1970: sums and counts, market by market
        self._held: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, hour: int, market_ids: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> None:
        """Take in an hour of some markets, in place of what there was of it; what no window reaches any more is let go."""
        places = self._of(market_ids)
        held = self._held.get(hour, (np.zeros(0), np.zeros(0)))
        held = tuple(np.pad(one, (0, len(self._places) - len(one))) for one in held)
        held[0][places], held[1][places] = sums, counts
        self._held[hour] = held
        for old in [one for one in self._held if one < hour - self.length]:
            del self._held[old]

    def before(self, hour: int, market_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums and counts of the window's hours before that one."""
        total, samples = np.zeros(len(self._places)), np.zeros(len(self._places))
        for one in range(hour - self.length, hour):
            if one in self._held:
                sums, counts = self._held[one]
                total[: len(sums)] += sums
                samples[: len(counts)] += counts
        places = self._of(market_ids)
        pad = (0, len(self._places) - len(total))
        return np.pad(total, pad)[places], np.pad(samples, pad)[places]

    def _of(self, market_ids: np.ndarray) -> np.ndarray:
        return np.array([self._places.setdefault(one, len(self._places)) for one in market_ids], np.int64)


def blocks(
    monitor: Monitor,
    measure: str,
    since: datetime,
    until: datetime,
    markets: Sequence[str] | None = None,
    chunk: timedelta = CHUNK,
    window: str = "1h",
) -> Iterator[Block]:
    """The values at after since and not after until, hour by hour of the clock, in order of time.

    markets: only these. window: a key of HOURS. Of one hour there may be several blocks, of different markets.
    """
    for _, found in of_spans(monitor, spans((measure,), since, until, chunk), markets, window):
        yield from found


def spans(
    measures: Sequence[str], since: datetime, until: datetime, chunk: timedelta = CHUNK
) -> list[tuple[str, datetime, datetime]]:
    """The pieces that measures are read in: all measures of a chunk, then those of the next."""
    starts = [since + chunk * number for number in range(math.ceil((until - since) / chunk))]
    return [(measure, start, min(start + chunk, until)) for start in starts for measure in measures]


def of_spans(
    monitor: Monitor,
    pieces: Sequence[tuple[str, datetime, datetime]],
    markets: Sequence[str] | None = None,
    window: str = "1h",
) -> Iterator[tuple[datetime, Iterator[Block]]]:
    """The end and the blocks of each piece; one is read while the one before it is added up."""
    hours = {} if HOURS[window] == 1 else {measure: Hours(window) for measure, *_ in pieces}
    for measure, known in hours.items():
        start = next(start for one, start, _ in pieces if one == measure)
        _load_hours(monitor, known, measure, start, markets)
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(_values, monitor, *pieces[0], markets, window) if pieces else None
        for number, (measure, start, end) in enumerate(pieces):
            values = coming.result()
            if number + 1 < len(pieces):
                coming = ahead.submit(_values, monitor, *pieces[number + 1], markets, window)
            yield end, _of_chunk(*values, measure, _ms(start), _ms(end), window, hours.get(measure))


def readings(
    monitor: Monitor,
    measures: Sequence[str],
    since: datetime,
    until: datetime,
    markets: Sequence[str] | None = None,
    window: str = "1h",
) -> pa.Table:
    """All readings of a short time as rows of the window's view, in order of time."""
    found = [
        block.rows(np.ones(block.value.shape, bool))
        for measure in measures
        for block in blocks(monitor, measure, since, until, markets, window=window)
    ]
    return pa.concat_tables([reading(window).empty_table(), *found]).sort_by("at")


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


def _values(monitor: Monitor, measure: str, start: datetime, end: datetime, markets, window: str) -> tuple:
    """Markets, and of each value its market's number, its time and itself; also what windows need of before start:
    an hour, or what its clock hour had so far."""
    whole = HOURS[window] > 1
    back = _ms(start) % HOUR_MS // 1000 + 2 if whole else 3600
    only, chosen = _only(markets)
    rows = Engine(monitor, end).query(
        f"select market_id, at, value from measures where measure = :measure {only} "
        f"and at >= {CLOCK} - interval '{int((end - start).total_seconds()) + back}' second and at <= {CLOCK}",
        measure=measure,
        **chosen,
    )
    if whole:
        # not a second of the hour before, which would pass for all of it
        hour = pa.scalar(_ms(start) // HOUR_MS * HOUR_MS).cast(pa.timestamp("ms"))
        rows = rows.filter(pc.greater_equal(rows["at"].cast(pa.timestamp("ms")), hour))
    market_ids, codes = _coded(rows["market_id"])
    return market_ids, codes, rows["at"].cast(pa.int64()).to_numpy(), rows["value"].to_numpy()


def _load_hours(monitor: Monitor, hours: Hours, measure: str, start: datetime, markets) -> None:
    """The hours before that of start: rolled up, or of their values as far as those are looked for."""
    begins = _ms(start) // HOUR_MS
    only, chosen = _only(markets)
    # as of the end of the last of them, so that none is there in part
    rows = (
        Engine(monitor, datetime.fromtimestamp(begins * 3600, UTC))
        .query(
            f"select market_id, hour_at, samples, samples * mean as total from measures_1h where measure = :measure {only} "
            f"and hour_at >= date_trunc('hour', {CLOCK}) - interval '{hours.length}' hour "
            f"and hour_at < date_trunc('hour', {CLOCK}) order by hour_at",
            measure=measure,
            **chosen,
        )
        .to_pandas()
    )
    for hour_at, own in rows.groupby("hour_at"):
        hour = _ms(hour_at.to_pydatetime()) // HOUR_MS
        hours.add(hour, own["market_id"].to_numpy(), own["total"].to_numpy(), own["samples"].to_numpy())


def _only(markets: Sequence[str] | None) -> tuple[str, dict[str, str]]:
    chosen = {f"m{number}": name for number, name in enumerate(markets or ())}
    return (f"and market_id in ({', '.join(f':{name}' for name in chosen)})" if chosen else ""), chosen


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
    window: str,
    known: Hours | None,
) -> Iterator[Block]:
    times, places = _factorised(at)
    if not len(times):
        return
    # a source polls all of its markets at once: together they are a full matrix, sources among each other are not
    for group in _groups(tuple(market_ids.tolist()), len(times)):
        new = np.full(len(market_ids), -1, np.int32)
        new[group] = np.arange(len(group), dtype=np.int32)
        own = new[codes]
        here, values, used = places, value, slice(None)
        if len(group) < len(market_ids):
            mine = np.flatnonzero(own >= 0)
            own, here, values = own[mine], places[mine], value[mine]
            used = np.zeros(len(times), bool)
            used[here] = True
            here = (np.cumsum(used) - 1)[here]
        matrix = np.full((len(times[used]), len(group)), np.nan)
        matrix.ravel()[here * len(group) + own] = values
        yield from averaged(measure, market_ids[group], times[used], matrix, after, until, window, known)


def averaged(
    measure: str,
    market_ids: np.ndarray,
    times: np.ndarray,
    matrix: np.ndarray,
    after: int,
    until: int,
    window: str = "1h",
    known: Hours | None = None,
) -> Iterator[Block]:
    """Blocks of a matrix, times down and markets across, of what is after `after` and not after `until` (ms).

    known: the hours before, of a window of many; those of the matrix are added to it.
    """
    hours = times // HOUR_MS
    # row i looks at rows first[i] to i - 1
    first = np.searchsorted(times, times - HOUR_MS, "left")
    floor = _SAMPLES_MIN_H * HOURS[window]
    before: tuple | None = None
    for hour in np.unique(hours):
        low, high = np.searchsorted(hours, [hour, hour + 1])
        part = matrix[low:high]
        there = ~np.isnan(part)
        if there.all():
            # most hours have no hole: what there is then needs no counting, market by market
            plain, there = part, np.ones((len(part), 1), np.float32)
        else:
            plain, there = np.where(there, part, 0.0), there.astype(np.float32)
        from_left = _running(plain), _running(there)
        total, samples = np.zeros_like(part), np.zeros(part.shape, np.float32)
        # what of this hour is before each row
        total[1:], samples[1:] = from_left[0][:-1], from_left[1][:-1]
        if known is not None:
            earlier = known.before(int(hour), market_ids)
            total += earlier[0]
            samples += earlier[1].astype(np.float32)
            known.add(
                int(hour), market_ids, from_left[0][-1], np.broadcast_to(from_left[1][-1], len(market_ids))
            )
        elif before is not None and before[0] == hour - 1:
            _, earlier, sums, counts = before
            tail = first[low:high] - earlier
            short = tail < len(sums)
            total[short] += sums[tail[short]]
            samples[short] += counts[tail[short]]
        if known is None:
            before = (hour, low, _running(plain[::-1])[::-1], _running(there[::-1])[::-1])
        inside = slice(*(np.searchsorted(times[low:high], [after, until], "right")))
        if inside.start < inside.stop:
            enough = samples[inside] >= floor
            average = np.full(enough.shape, np.nan)
            np.divide(total[inside], samples[inside], out=average, where=enough)
            cells = times[low:high][inside], part[inside], average, samples[inside]
            yield Block(measure, market_ids, *cells, window)


def _running(values: np.ndarray) -> np.ndarray:
    return np.cumsum(values, axis=0)


def _factorised(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct times, ascending, and of each value the place of its time."""
    found = pa.array(at).dictionary_encode()
    times = found.dictionary.to_numpy(zero_copy_only=False)
    order = np.argsort(times)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return times[order], rank[found.indices.to_numpy()]


@lru_cache(8)
def _groups(market_ids: tuple[str, ...], times: int) -> tuple[np.ndarray, ...]:
    """Markets by source, few enough that a matrix of them is bounded."""
    sources, found = defaultdict(list), []
    for place in sorted(range(len(market_ids)), key=market_ids.__getitem__):
        sources[market_ids[place].partition(":")[0]].append(place)
    most = max(1, CELLS_MAX // max(times, 1))
    for source in sorted(sources):
        group = np.array(sources[source], np.int64)
        found += [group[start : start + most] for start in range(0, len(group), most)]
    return tuple(found)


def _ms(moment: datetime) -> int:
    return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1e3)
