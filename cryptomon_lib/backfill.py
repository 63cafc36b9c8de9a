"""Ask for what was missed: holes are filled from the exchanges' one-minute candles, newest first.

Owns which calls that takes, and what their answers say of each missing minute: it has a candle, nothing was
traded in it, or it cannot be had any more. Payloads are kept as all others are; a run that was ended anywhere
is taken up by the next, since what to ask for follows from the tables.
"""

import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import monotonic

import pandas as pd

from cryptomon_lib import exchanges as known
from cryptomon_lib.collect import Outcome, Poll
from cryptomon_lib.config import nearest
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CollectError, ConfigError, ParameterError, PayloadError, UnknownMarket
from cryptomon_lib.fetch import Fetcher
from cryptomon_lib.flatten import flatten_payloads
from cryptomon_lib.holes import (
    DAY,
    FILLED,
    MEASURES,
    NOT_ASKED,
    OPEN,
    PRICE,
    RECENT,
    TICKS,
    UNFILLABLE,
    Hole,
    Span,
    common,
    first_polls,
    load_holes,
    load_judged,
    minute_of,
    moment_of,
    note_holes,
    opened,
    save_judged,
    settle,
    size,
    spans_of,
    union,
    update_holes,
    without,
)
from cryptomon_lib.monitor import Monitor, open_fetcher
from cryptomon_lib.payloads import (
    ARCHIVE,
    INGEST,
    QUARANTINE,
    Payload,
    Request,
    parse_moment,
    truncated,
    unpack,
)
from cryptomon_lib.shape import UNFINISHED, Instrument

log = logging.getLogger(__name__)

ORIGIN = "backfill"
# calls between two looks at what they brought: so much work is lost at most when a run is killed
_ROUND = 16
# a source that fails so often in a row is left alone until the next run
_FAILURES_MAX = 3
# where the exchange had no candle for so long, what is older is not asked for
_EMPTY_MINUTES = 2 * DAY
# a minute without a candle may still get one for so long
_SETTLED = 60
_SINCE = re.compile(r"(\d+)\s*(min|h|d)")
_UNITS = {"min": "minutes", "h": "hours", "d": "days"}


@dataclass
class Ask:
    """One call: a market's minutes from first to last (by their ends), of which these are missing."""

    source: str
    market_id: str
    first: int
    last: int
    missing: list[Span]
    request: Request


@dataclass
class Backfilled:
    """What a run did. minutes, by market and what became of them: filled, untraded, lost or open."""

    calls: int = 0
    failed: int = 0
    rows: int = 0
    minutes: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    problems: dict[str, str] = field(default_factory=dict)

    def count(self, what: str) -> int:
        """Minutes of all markets that came to this."""
        return sum(counts[what] for counts in self.minutes.values())

    def check(self) -> None:
        """Nothing, where the run is usable.

        Raises CollectError: calls were made and none brought an answer.
        """
        if self.failed and self.failed == self.calls:
            raise CollectError(
                f"None of {self.calls} calls brought candles. {' | '.join(self.problems.values())}"
            )

    @property
    def table(self) -> pd.DataFrame:
        """One row per market that lacked something: its minutes by what became of them."""
        kinds = ["filled", "untraded", "lost", "open"]
        rows = {market: [counts[kind] for kind in kinds] for market, counts in sorted(self.minutes.items())}
        return pd.DataFrame.from_dict(rows, orient="index", columns=kinds).rename_axis("market_id")


def fill_holes(
    monitor: Monitor,
    since: str | datetime | None = None,
    markets: Sequence[str] = (),
    exchanges: Sequence[str] = (),
    as_of: str | datetime | None = None,
    *,
    seconds: float | None = None,
    fetcher: Fetcher | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Backfilled:
    """Fill the holes of these markets, and their history since a moment where they have none; first history too.

    since: 30d, 12h, a moment, or None: `backfill.days` of the params. markets: BASE-QUOTE; empty takes the watchlist.
    exchanges: empty takes those of the params that have candles. as_of: replay: that moment is now.
    seconds: no call begins later than this; the next run goes on. progress: called with calls done and calls in all.

    Raises ConfigError: an unknown exchange, or none with candles of those or for the markets that were asked for (where
    nothing was asked for and nothing has candles, nothing is filled). UnknownMarket: no exchange has one of markets.
    StorageError, CommitConflict: the root cannot be read or written. A call that fails leaves its hole open.
    """
    now = _now(as_of)
    begins = parse_since(since or f"{monitor.settings.backfill.days}d", now)
    run = _Run(
        monitor, fetcher or open_fetcher(monitor.settings, monitor.settings.backfill.share), now, as_of
    )
    # what waits in the queue may be what is missing
    flatten_payloads(monitor)
    note_holes(monitor, now if as_of else None)
    run.choose(exchanges, markets)
    asks = run.plan(begins)
    run.fill(asks, progress, seconds)
    run.finish()
    return run.done


def parse_since(text: str | datetime, now: datetime) -> datetime:
    """The moment that 30d, 12h, 90min (before now), or a time in ISO 8601 stands for.

    Raises ParameterError: it is none of these, or not in the past.
    """
    if isinstance(text, str):
        match = _SINCE.fullmatch(text.strip())
        try:
            text = now - timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else parse_moment(text)
        except (PayloadError, OverflowError) as error:
            raise ParameterError(
                f"since is {text!r}: write it as 30d, 12h, or 2026-01-31T12:00:00Z."
            ) from error
    if text >= now:
        raise ParameterError(f"since is {text:%Y-%m-%d %H:%M} UTC, which is not before {now:%Y-%m-%d %H:%M}.")
    return text


class _Run:
    """One run: its markets, what they have, and what became of what they lacked."""

    def __init__(self, monitor: Monitor, fetcher: Fetcher, now: datetime, as_of):
        self.monitor, self.now, self.minute = monitor, now, minute_of(now)
        self.poll = Poll(monitor, fetcher, as_of is not None)
        self.engine = Engine(monitor, now if as_of else None)
        self.done = Backfilled()
        self.chosen: dict[str, tuple[str, Instrument]] = {}
        # of these the history is looked for too, of the others only what is known to be missing
        self.followed: set[str] = set()
        # by market: minutes with a candle, as far back as this run looks
        self.have: dict[str, set[int]] = defaultdict(set)
        # asked for, answered, and older than any candle known so far
        self.older: dict[str, list[Span]] = defaultdict(list)
        self.failures: Counter = Counter()
        self.since = self.minute

    def choose(self, exchanges: Sequence[str], markets: Sequence[str]) -> None:
        """Which markets to look after."""
        names = list(exchanges or self.monitor.settings.exchanges)
        with_candles = [name for name in names if hasattr(known.get(name), "candles_request")]
        # the schedule runs it for whatever is polled; only who asks for something is told that it cannot be
        if not with_candles and (exchanges or markets):
            raise ConfigError(f"None of {', '.join(names) or 'no exchanges'} has candles to fill holes from.")
        wanted = {market.upper() for market in markets or self.monitor.settings.watchlist}
        # what an earlier run was asked for and could not fill is not forgotten
        waiting = set() if markets else {one.subject for one in load_holes(self.monitor) if one.state == OPEN}
        offered: set[str] = set()
        for name in with_candles:
            for one in self.poll.instruments(name, "candles", self.now).values():
                pair, market = f"{one.base}-{one.quote}", f"{name}:{name}:{one.symbol}"
                offered.add(pair)
                if pair in wanted and one.kind == "spot" and (one.trading or markets):
                    self.chosen[market] = name, one
                    self.followed.add(market)
                elif market in waiting:
                    self.chosen[market] = name, one
        absent = wanted - offered if markets else set()
        if absent:
            first = min(absent)
            raise UnknownMarket(
                f"None of {', '.join(with_candles)} has a market {', '.join(sorted(absent))}.{nearest(first, offered)}"
            )

    def plan(self, since: datetime) -> list[Ask]:
        """The calls to make, newest first; what is missing and cannot be had is named in the table."""
        self.since = minute_of(since) + 1
        judged = load_judged(self.monitor)
        history = {
            market: (self.since, min(judged.get(market, (self.minute,))[0] - 1, self.minute - RECENT))
            for market in self.chosen
        }
        polled = first_polls(self.monitor)

        def change(holes: list[Hole]) -> list[Hole]:
            self._look(holes)
            for market, (source, _) in self.chosen.items():
                if market in self.followed:
                    holes = self._with_history(holes, market, source, history[market], polled.get(source))
                holes = self._without_what_is_there(holes, market)
                holes = self._without_what_is_gone(holes, market, source)
            return holes

        holes = update_holes(self.monitor, change, self.minute)
        asks = [ask for market in self.chosen for ask in self._asks(market, self._open(holes, market))]
        for market in self.chosen:
            self.done.minutes[market]["open"] = size(self._open(holes, market))
        return sorted(asks, key=lambda ask: (-ask.last, ask.market_id))

    def fill(
        self, asks: list[Ask], progress: Callable[[int, int], None], seconds: float | None = None
    ) -> None:
        """Make the calls, a round at a time; after each, what it brought is in the tables."""
        of, empty = len(asks), Counter()
        ends = monotonic() + seconds if seconds is not None else math.inf

        def ask_one(ask: Ask) -> Outcome | None:
            return self.poll.one(self.now, ask.request) if monotonic() < ends else None

        progress(0, of)
        while asks and monotonic() < ends:
            now, asks = asks[:_ROUND], asks[_ROUND:]
            with ThreadPoolExecutor(self.monitor.settings.fetch.workers) as pool:
                made = list(pool.map(ask_one, now))
            now = [ask for ask, outcome in zip(now, made, strict=True) if outcome]
            outcomes = [outcome for outcome in made if outcome]
            payloads = [self._payload(outcome.key) for outcome in outcomes]
            queued = [one.key for one in outcomes if one.state in ("stored", "already")]
            self.done.rows += flatten_payloads(self.monitor, keys=queued).rows
            verdicts = []
            for ask, outcome, payload in zip(now, outcomes, payloads, strict=True):
                found = self._failed(ask, outcome) if payload is None else self._answered(ask, payload)
                empty[ask.market_id] = (
                    0
                    if self._brought(found) or payload is None
                    else empty[ask.market_id] + ask.last - ask.first + 1
                )
                verdicts += found
            self._settle(verdicts)
            asks = self._still_worth(asks, empty)
            progress(of - len(asks), of)

    def finish(self) -> None:
        """What is older than the oldest candle is named so; how far back was looked is kept."""
        verdicts = []
        for market, spans in self.older.items():
            source, first = self.chosen[market][0], min(self.have[market], default=None)
            untraded = common(spans, [(first, self.minute)]) if first is not None else []
            verdicts.append((market, untraded, FILLED, "nothing was traded"))
            reason = f"{source} has no candle that old: the market did not exist yet, or it keeps none"
            verdicts.append((market, without(spans, untraded), UNFILLABLE, reason))
        holes = self._settle(verdicts)
        judged = load_judged(self.monitor)
        for market in self.chosen:
            left = size(self._open(holes, market))
            self.done.minutes[market]["open"] = left
            if not left and market in self.followed:
                have = judged.get(market, (self.minute, self.minute - RECENT))
                judged[market] = (min(have[0], self.since), have[1])
            if not self.done.minutes[market].total():
                del self.done.minutes[market]
        save_judged(self.monitor, judged)

    # ---- what is missing

    def _look(self, holes: list[Hole]) -> None:
        """The minutes that have a candle, as far back as any open hole of the chosen markets and the history."""
        mine = [one.first for one in holes if one.subject in self.chosen and one.state == OPEN]
        # a day more: what lies before a hole tells whether the market existed
        first = moment_of(min([self.since, *mine]) - DAY)
        self.have.clear()
        for source in {source for source, _ in self.chosen.values()}:
            rows = self.engine.query(
                "select market_id, opened_at from candles where interval_s = 60 and source = :source "
                "and day >= :first and day <= :last",
                source=source,
                first=f"{first:%Y-%m-%d}",
                last=f"{self.now:%Y-%m-%d}",
            ).to_pandas()
            rows["minute"] = rows["opened_at"].astype("datetime64[s]").astype("int64") // 60 + 1
            for market, minutes in rows.groupby("market_id")["minute"]:
                if market in self.chosen:
                    self.have[market] = set(minutes.tolist())

    def _with_history(
        self, holes: list[Hole], market: str, source: str, span: Span, first_poll: int | None
    ) -> list[Hole]:
        """Minutes of before the market was looked after, that have no candle; a price is missing where no poll was."""
        missing = without([span], spans_of(self.have[market]))
        unpolled = [one.span for one in holes if one.key == (source, TICKS)]
        before = [(0, (first_poll if first_poll is not None else self.minute) - 1)]
        for measure in MEASURES:
            spans = common(missing, [*unpolled, *before]) if measure == PRICE else missing
            holes = opened(holes, (market, measure), spans, NOT_ASKED, self.minute)
        return holes

    def _without_what_is_there(self, holes: list[Hole], market: str) -> list[Hole]:
        there = common(self._open(holes, market), spans_of(self.have[market]))
        return self._closed(holes, market, there, FILLED, "has a candle")

    def _without_what_is_gone(self, holes: list[Hole], market: str, source: str) -> list[Hole]:
        kept = getattr(known.get(source), "CANDLES_KEPT", None)
        if kept is None:
            return holes
        gone = common(self._open(holes, market), [(0, self._gone(kept))])
        # set, not added: the table may have to be looked at again
        self.done.minutes[market]["lost"] = size(gone)
        return self._closed(holes, market, gone, UNFILLABLE, self._kept(source, kept))

    def _gone(self, kept: int) -> int:
        """The newest minute that an exchange which keeps so many, the running one included, has no more."""
        return self.minute - kept + 1

    @staticmethod
    def _kept(source: str, kept: int) -> str:
        return f"{source} keeps the newest {kept} minutes of candles only"

    def _closed(
        self, holes: list[Hole], market: str, spans: list[Span], state: str, reason: str
    ) -> list[Hole]:
        for measure in MEASURES if spans else ():
            holes = settle(holes, (market, measure), spans, state, reason, self.minute)
        return holes

    def _open(self, holes: list[Hole], market: str) -> list[Span]:
        return union(one.span for one in holes if one.subject == market and one.state == OPEN)

    def _asks(self, market: str, missing: list[Span]) -> list[Ask]:
        """Calls for a market's missing minutes, newest first; what lies close together is one call."""
        source, instrument = self.chosen[market]
        most = getattr(known.get(source), "CANDLES_MAX", 300)
        asks: list[Ask] = []
        left = [span for span in missing if span[0] <= self.minute - RECENT]
        while left:
            last = left[-1][1]
            first = max(last - most + 1, left[0][0])
            mine = common(left, [(first, last)])
            left = without(left, [(first, last)])
            first = mine[0][0]
            # a candle is asked for by its start
            pages = known.candles_pages(
                source, instrument, moment_of(first - 1), moment_of(last - 1), self.now
            )
            request = next(iter(pages), None)
            if request is not None:
                asks.append(Ask(source, market, first, last, mine, replace(request, origin=ORIGIN)))
        return asks

    # ---- what an answer says

    def _payload(self, key: str) -> Payload | None:
        """The stored answer, wherever another run may have moved it."""
        rest = key.split("/", 1)[1]
        for folder in (INGEST, ARCHIVE, QUARANTINE, INGEST):
            if self.monitor.storage.exists(f"{folder}/{rest}"):
                try:
                    return unpack(f"{folder}/{rest}", self.monitor.storage.get(f"{folder}/{rest}"))
                except PayloadError as error:
                    log.warning("%s", error)
                    return None
        return None

    def _failed(self, ask: Ask, outcome: Outcome) -> list[tuple]:
        self.done.failed += 1
        self.done.calls += 1
        self.failures[ask.source] += 1
        self.done.problems[ask.source] = outcome.says
        return [(ask.market_id, ask.missing, OPEN, f"the call failed: {outcome.says[:160]}")]

    def _answered(self, ask: Ask, payload: Payload) -> list[tuple]:
        """What became of each minute asked for."""
        self.done.calls += 1
        self.failures[ask.source] = 0
        try:
            flattened = known.flatten(payload, {}, ask.source)
            columns, _ = known.get(ask.source).flatten_candles(payload.body)
        except (PayloadError, ValueError, TypeError, LookupError, AttributeError) as error:
            return [(ask.market_id, ask.missing, OPEN, f"the answer cannot be read: {error}"[:200])]
        accepted = {minute_of(at) + 1 for at in flattened.rows["opened_at"].to_pylist()}
        given = {int(ms) // 60000 + 1 for ms in columns["opened_at_ms"]}
        have = self.have[ask.market_id]
        have |= accepted
        got = common(ask.missing, spans_of(accepted))
        refused = common(without(ask.missing, got), spans_of(given))
        left = without(ask.missing, got + refused)
        kept = getattr(known.get(ask.source), "CANDLES_KEPT", None)
        gone = common(left, [(0, self._gone(kept))]) if kept else []
        left = without(left, gone)
        untraded, older, young = self._silent(left, have)
        self.older[ask.market_id] += older
        why = next((reason for _, reason in flattened.rejected if reason != UNFINISHED), "not valid")
        return [
            (ask.market_id, got, FILLED, f"candles of {ask.source}"),
            (ask.market_id, refused, UNFILLABLE, f"the exchange's candle is refused: {why}"),
            (ask.market_id, gone, UNFILLABLE, self._kept(ask.source, kept or 0)),
            (ask.market_id, untraded, FILLED, "nothing was traded"),
            (ask.market_id, young, OPEN, "the exchange has no candle of it yet"),
        ]

    def _silent(self, spans: list[Span], have: set[int]) -> tuple[list[Span], list[Span], list[Span]]:
        """Minutes without a candle in the answer: untraded, older than all candles, too young to tell."""
        if not have:
            return [], spans, []
        older = common(spans, [(0, min(have) - 1)])
        settled = max(max(have), self.minute - _SETTLED)
        young = common(spans, [(settled + 1, self.minute)])
        return without(spans, older + young), older, young

    @staticmethod
    def _brought(verdicts: list[tuple]) -> bool:
        return any(state == FILLED and spans for _, spans, state, _ in verdicts)

    def _still_worth(self, asks: list[Ask], empty: Counter) -> list[Ask]:
        """Without sources that fail, and without what is older than two days in which the exchange had nothing."""
        kept, verdicts = [], []
        for ask in asks:
            if self.failures[ask.source] >= _FAILURES_MAX:
                says = f"not asked after {_FAILURES_MAX} failures: {self.done.problems[ask.source]}"
                verdicts.append((ask.market_id, ask.missing, OPEN, says[:200]))
            elif empty[ask.market_id] >= _EMPTY_MINUTES:
                self.older[ask.market_id] += ask.missing
            else:
                kept.append(ask)
        self._settle(verdicts)
        return kept

    def _settle(self, verdicts: list[tuple]) -> list[Hole]:
        """Write what became of minutes; counts them."""

        def change(holes: list[Hole]) -> list[Hole]:
            for market, spans, state, reason in verdicts:
                holes = self._closed(holes, market, spans, state, reason)
            return holes

        for market, spans, state, reason in verdicts:
            kind = {
                UNFILLABLE: "lost",
                FILLED: "untraded" if reason == "nothing was traded" else "filled",
            }.get(state)
            if kind:
                self.done.minutes[market][kind] += size(spans)
        return update_holes(self.monitor, change, self.minute)


def _now(as_of: str | datetime | None) -> datetime:
    moment = (
        parse_moment(as_of) if isinstance(as_of, str) and as_of else truncated(as_of or datetime.now(UTC))
    )
    return moment.replace(second=0, microsecond=0)
