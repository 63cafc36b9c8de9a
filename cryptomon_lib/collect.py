"""Poll exchanges side by side and keep each payload as received, before anything understands it.

Owns the grid of slots, which calls a run makes, and what counts as a run that brought nothing.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import msgspec
import pandas as pd

from cryptomon_lib import exchanges as known
from cryptomon_lib.clock import Clock, floor_to, wait_for_slot
from cryptomon_lib.errors import CollectError, ConfigError, FetchError, PayloadError
from cryptomon_lib.fetch import Answer, Fetcher
from cryptomon_lib.monitor import Monitor, hosts, open_fetcher
from cryptomon_lib.payloads import ARCHIVE, INGEST, QUARANTINE, Request, pack, parse_moment, truncated
from cryptomon_lib.shape import Instrument

log = logging.getLogger(__name__)

ENDPOINTS = ("all", "tickers", "candles", "instruments")
# candles are asked for again for so long, so that a poll that failed is made up for by the next
_OVERLAP = timedelta(minutes=4)
_INSTRUMENTS_AGE = timedelta(days=1)
# so many calls of a replay are under way before their outcomes are looked at
_CHUNK = 512


@dataclass
class Outcome:
    """What became of one call. state: stored, already (the slot has its payload) or failed."""

    source: str
    endpoint: str
    slot: datetime
    state: str
    symbol: str | None = None
    key: str | None = None
    bytes: int = 0
    markets: int | None = None
    says: str = ""


@dataclass
class Collected:
    """All outcomes of a run."""

    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, state: str) -> int:
        """How many calls ended in that state."""
        return sum(outcome.state == state for outcome in self.outcomes)

    @property
    def failures(self) -> dict[str, int]:
        """How many calls failed, of each source with any."""
        return dict(Counter(outcome.source for outcome in self.outcomes if outcome.state == "failed"))

    @property
    def problems(self) -> dict[str, str]:
        """The newest problem of each source that had one."""
        return {outcome.source: outcome.says for outcome in self.outcomes if outcome.says}

    @property
    def table(self) -> pd.DataFrame:
        """One row per source, endpoint: calls stored, already there, failed; bytes; markets; the last problem."""
        found = pd.DataFrame([vars(outcome) for outcome in self.outcomes])
        if found.empty:
            return found
        return found.groupby(["source", "endpoint"], as_index=False).agg(
            stored=("state", lambda state: (state == "stored").sum()),
            already=("state", lambda state: (state == "already").sum()),
            failed=("state", lambda state: (state == "failed").sum()),
            bytes=("bytes", "sum"),
            markets=("markets", "max"),
            says=("says", lambda says: next((one for one in reversed(list(says)) if one), "")),
        )


def collect_payloads(
    monitor: Monitor,
    exchanges: Sequence[str] = (),
    endpoint: str = "all",
    markets: Sequence[str] = (),
    samples: int = 1,
    every_s: int | None = None,
    as_of: str | datetime | None = None,
    *,
    fetcher: Fetcher | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    clock: Clock | None = None,
) -> Collected:
    """Poll, and store each payload under its identity in ingest/.

    exchanges, markets: empty takes those of the params (markets: the watchlist).
    endpoint: tickers, candles, instruments, all (tickers, the watchlist's candles, and the routes that
        params name under `endpoints`), or a /route of the exchange's API.
    samples, every_s: how many slots, and seconds between them (None: the cadence of the params). Slots that pass
        while a poll takes longer, or because the clock is set forward, are left out; so many are polled all the same.
    as_of: replay: the slots start there, nothing waits, and payloads count as collected at their slot.
    progress: called with samples done and samples in all.
    clock: None is the machine's.

    Raises ConfigError: an unknown exchange or endpoint. CollectError: no call brought anything.
    """
    names = [known.named(name) for name in exchanges or monitor.settings.exchanges]
    every_s = every_s or monitor.settings.cadence_s
    _check(monitor, names, endpoint, samples, every_s)
    fetcher = fetcher or open_fetcher(monitor.settings)
    poll = Poll(monitor, fetcher, as_of is not None)
    clock = clock or Clock()
    start = _start(monitor, as_of, every_s, clock)
    with ThreadPoolExecutor(monitor.settings.fetch.workers) as pool:
        listed = dict(
            zip(names, pool.map(lambda name: poll.instruments(name, endpoint, start), names), strict=True)
        )
        wanted = markets or monitor.settings.watchlist

        def calls(slot: datetime) -> list[Request]:
            made = (_requests(monitor, name, endpoint, wanted, listed[name], slot, every_s) for name in names)
            return [request for requests in made for request in requests]

        if as_of is None:
            outcomes = _live(pool, poll, calls, _slots(start, samples, every_s, clock), samples, progress)
        else:
            plan = [(slot, calls(slot)) for slot in _replayed(start, samples, every_s)]
            outcomes = _replay(pool, poll, plan, progress)
    poll.check_newest()
    collected = Collected(poll.outcomes + outcomes)
    _check_collected(collected, names, endpoint)
    return collected


def load_instruments(monitor: Monitor, source: str) -> dict[str, Instrument]:
    """What is known of an exchange's symbols, by symbol; empty where its list was never collected."""
    key = f"instruments/{source}.json"
    if not monitor.storage.exists(key):
        return {}
    return msgspec.json.decode(monitor.storage.get(key), type=dict[str, Instrument])


class Poll:
    """The calls of one run; replay: as of their slots."""

    def __init__(self, monitor: Monitor, fetcher: Fetcher, replay: bool):
        self.monitor, self.fetcher, self.replay = monitor, fetcher, replay
        self.outcomes: list[Outcome] = []
        self.newest_lock = threading.Lock()
        self.hosts = hosts(monitor.settings)
        # of each source the newest slot's tickers, page by page
        self.newest: dict[str, list[tuple[Outcome, bytes]]] = {}

    def one(self, slot: datetime, request: Request) -> Outcome:
        """Make one call and store its payload; nothing is asked where the slot has one."""
        outcome = Outcome(
            request.source, request.endpoint, slot, "already", request.symbol, request.key(slot)
        )
        if self._there(outcome.key):
            return outcome
        try:
            body = self._store(outcome, request)
        except FetchError as error:
            log.warning("%s", error)
            outcome.state, outcome.says = "failed", str(error)
            return outcome
        if request.endpoint == "tickers":
            with self.newest_lock:
                found = self.newest.setdefault(request.source, [])
                if not found or found[0][0].slot <= slot:
                    pages = [one for one in found if one[0].slot == slot]
                    self.newest[request.source] = [*pages, (outcome, body)]
        return outcome

    def instruments(self, name: str, endpoint: str, slot: datetime) -> dict[str, Instrument]:
        """The exchange's instruments, asked for where they are needed and older than a day."""
        if not _needs_instruments(self.monitor, name, endpoint):
            return {}
        have = load_instruments(self.monitor, name)
        if have and (self.replay or self._listed_lately(name)):
            return have
        request = known.request(name, "instruments")
        outcome = Outcome(name, "instruments", slot, "already", key=request.key(slot))
        self.outcomes.append(outcome)
        try:
            body = self._store(outcome, request)
            listed = {one.symbol: one for one in known.get(name).read_instruments(body)}
        except (FetchError, PayloadError) as error:
            log.warning("%s: going on with the %d instruments known. %s", name, len(have), error)
            outcome.state, outcome.says = "failed", str(error)
            return have
        outcome.markets = len(listed)
        # what is not listed any more stays known: history has its rows
        self.monitor.storage.put(instruments_key(name), msgspec.json.encode(have | listed))
        return have | listed

    def check_newest(self) -> None:
        """Says of each exchange's newest tickers when they are fewer than they should be."""
        for name, pages in self.newest.items():
            outcome = max((one for one, _ in pages), key=lambda one: one.key)
            try:
                symbols = sorted(symbol for _, body in pages for symbol in known.get(name).list_symbols(body))
            except PayloadError as error:
                outcome.says = f"stored, but it will not flatten: {error}"
                continue
            outcome.markets = len(symbols)
            if len(pages) < getattr(known.get(name), "TICKERS_PAGES", 1):
                # a page that failed says so itself; what it would have brought has not vanished
                continue
            outcome.says = self._too_few(name, symbols)
            if outcome.says:
                log.warning("%s: %s", name, outcome.says)

    def _too_few(self, name: str, symbols: list[str]) -> str:
        settings, key = self.monitor.settings, f"instruments/{name}.seen.json"
        before = (
            set(msgspec.json.decode(self.monitor.storage.get(key)))
            if self.monitor.storage.exists(key)
            else set()
        )
        if before != set(symbols):
            self.monitor.storage.put(key, msgspec.json.encode(symbols))
        if len(symbols) < settings.min_markets:
            return f"only {len(symbols)} markets; min_markets in params is {settings.min_markets}"
        gone = len(before.difference(symbols)) / len(before) if before else 0.0
        return (
            f"{gone:.0%} of the markets vanished since last time"
            if gone > settings.limits.vanished_share_max
            else ""
        )

    def _store(self, outcome: Outcome, request: Request) -> bytes:
        answer = self._answer(outcome, request)
        left = getattr(known.get(request.source), "allowance", lambda body: None)(answer.body)
        if answer.limits or left:
            log.info("%s says of its limits: %s", request.source, answer.limits or left)
        collected_at = outcome.slot if self.replay else answer.collected_at
        packed = pack(answer.body, collected_at, request.symbol, request.origin)
        outcome.state = "stored" if self.monitor.storage.create(outcome.key, packed) else "already"
        outcome.bytes = len(answer.body)
        return answer.body

    def _answer(self, outcome: Outcome, request: Request) -> Answer:
        """What the exchange answers: to one GET, or to those that its module makes."""
        module, base = known.get(request.source), self.hosts.get(request.source)
        # the simulated exchange and a replay answer as of that moment
        as_of = {"X-As-Of": outcome.slot.isoformat().replace("+00:00", "Z")} if self.replay else {}
        answers: list[Answer] = []

        def ask(url: str, headers: Mapping[str, str], refused: Callable[[bytes], str | None]) -> bytes:
            answers.append(
                self.fetcher.get(
                    url,
                    exchange=request.source,
                    refused=refused,
                    # without markets something is wrong; no candle, no trade, a page beyond the last are answers
                    may_be_empty=request.endpoint not in ("tickers", "instruments")
                    or (request.page or 1) > 1,
                    elsewhere=getattr(module, "ELSEWHERE", None),
                    headers={**headers, **as_of},
                )
            )
            return answers[-1].body

        if hasattr(module, "fetch"):
            body = module.fetch(ask, base)
            return replace(answers[-1], body=body)
        ask(request.url(base), {}, module.refused)
        return answers[-1]

    def _listed_lately(self, name: str) -> bool:
        listed = [
            one for one in self.monitor.storage.objects("instruments") if one.key == instruments_key(name)
        ]
        return bool(listed) and datetime.now(UTC) - listed[0].modified_at < _INSTRUMENTS_AGE

    def _there(self, key: str) -> bool:
        rest = key.split("/", 1)[1]
        return any(
            self.monitor.storage.exists(f"{folder}/{rest}") for folder in (INGEST, ARCHIVE, QUARANTINE)
        )


def instruments_key(source: str) -> str:
    """Where what is known of an exchange's symbols is kept."""
    return f"instruments/{source}.json"


def _needs_instruments(monitor: Monitor, name: str, endpoint: str) -> bool:
    module = known.get(name)
    if endpoint == "instruments" or not hasattr(module, "INSTRUMENTS"):
        return False
    routes = monitor.settings.endpoints.get(name, ()) if endpoint == "all" else (endpoint,)
    if any("{" in route for route in routes):
        return True
    for_candles = endpoint in ("all", "candles") and hasattr(module, "candles_request")
    return for_candles or getattr(module, "SPLIT_BY_INSTRUMENTS", False)


def _requests(
    monitor: Monitor,
    name: str,
    endpoint: str,
    markets: Sequence[str],
    instruments: Mapping[str, Instrument],
    slot: datetime,
    every_s: int,
) -> Iterator[Request]:
    """The calls of one exchange for one slot."""
    if endpoint not in ("all", "candles"):
        yield from known.requests(name, endpoint, instruments, markets)
    if endpoint == "all":
        yield from known.requests(name, "tickers")
        for route in monitor.settings.endpoints.get(name, ()):
            yield from known.requests(name, route, instruments, markets)
    candles_request = getattr(known.get(name), "candles_request", None)
    if endpoint in ("all", "candles") and candles_request:
        since = slot - timedelta(seconds=max(every_s, monitor.settings.cadence_s)) - _OVERLAP
        # minutes beyond what one call brings are a hole, which backfill fills
        since = max(since, slot - timedelta(minutes=known.get(name).CANDLES_MAX - 1))
        for one in known.followed(instruments, markets):
            yield candles_request(one, since, slot)


def _slots(start: datetime, samples: int, every_s: int, clock: Clock) -> Iterator[datetime]:
    """Slots of the wall clock, each when its time has come."""
    yield start
    for _ in range(samples - 1):
        start = wait_for_slot(start, every_s, clock)
        yield start


def _replayed(start: datetime, samples: int, every_s: int) -> list[datetime]:
    return [start + timedelta(seconds=every_s * index) for index in range(samples)]


def _live(
    pool: ThreadPoolExecutor,
    poll: Poll,
    calls: Callable[[datetime], list[Request]],
    slots: Iterator[datetime],
    samples: int,
    progress: Callable[[int, int], None],
) -> list[Outcome]:
    """One slot after the other, each at its time."""
    outcomes = []
    for done, slot in enumerate(slots, 1):
        requests = calls(slot)
        outcomes += pool.map(poll.one, [slot] * len(requests), requests)
        progress(done, samples)
    return outcomes


def _replay(
    pool: ThreadPoolExecutor, poll: Poll, plan: list, progress: Callable[[int, int], None]
) -> list[Outcome]:
    """All slots as fast as they come."""
    outcomes: list[Outcome] = []
    calls = [(slot, request) for slot, requests in plan for request in requests]
    for start in range(0, len(calls), _CHUNK):
        chunk = calls[start : start + _CHUNK]
        outcomes += pool.map(poll.one, *zip(*chunk, strict=True))
        progress(round(len(outcomes) / len(calls) * len(plan)), len(plan))
    return outcomes


def _check(monitor: Monitor, names: list[str], endpoint: str, samples: int, every_s: int) -> None:
    if not names:
        raise ConfigError("No exchange to poll: name some in params under exchanges.")
    for name in {*names, *monitor.settings.endpoints, *monitor.settings.hosts}:
        getattr(known.get(name), "check", lambda: None)()
    if endpoint not in ENDPOINTS and not endpoint.startswith("/"):
        raise ConfigError(f"endpoint is {endpoint!r}: one of {', '.join(ENDPOINTS)}, or a /route of the API.")
    if samples < 1 or every_s < 1:
        raise ConfigError(f"samples is {samples} and every_s is {every_s}: both have to be 1 or more.")


def _check_collected(collected: Collected, names: list[str], endpoint: str) -> None:
    # an instruments list alone is no market data; a run of nothing but instruments asked for it
    asked = endpoint != "instruments"
    useful = [one for one in collected.outcomes if not (asked and one.endpoint == "instruments")]
    if all(outcome.state == "failed" for outcome in useful):
        last = {outcome.source: outcome.says for outcome in useful or collected.outcomes if outcome.says}
        why = (
            " | ".join(last.values())
            or "There was nothing to ask for: no market of the watchlist has candles there."
        )
        raise CollectError(f"None of {', '.join(names)} gave a payload. {why}")


def _start(monitor: Monitor, as_of: str | datetime | None, every_s: int, clock: Clock) -> datetime:
    """The first slot: on the grid of the samples, or in a replay at the moment asked for."""
    if as_of is None:
        return floor_to(clock.now(), every_s)
    moment = truncated(as_of) if isinstance(as_of, datetime) else parse_moment(as_of)
    return floor_to(moment, min(every_s, monitor.settings.cadence_s))
