"""How it is now, on one screen: last tick, freshness, completeness, runs, alerts, storage, holes, what is refused.

Owns what is read for it, so that it is quick on a folder and on S3: the logs of the tables, small objects, the
newest records of runs, and six listings (two days of runs, ingest, quarantine, outbox). No row of ticks is read.
A part is one function below, marked `@part`; one that cannot be told says why and stops no other.
"""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from threading import Lock
from typing import Any

import pyarrow.compute as pc

from cryptomon_lib.alerts import firing_of, last_step
from cryptomon_lib.errors import CryptomonError, PayloadError, Unhealthy
from cryptomon_lib.exchanges import source_of
from cryptomon_lib.health import REPORT, spoken
from cryptomon_lib.holes import DAY, FILLED, OPEN, TICKS, UNFILLABLE, Hole, load_holes, load_judged, minute_of
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.outbox import Outbox, evaluated_at
from cryptomon_lib.payloads import INGEST, QUARANTINE, parse_key
from cryptomon_lib.runs import newest_of_each
from cryptomon_lib.schedule import is_scheduled
from cryptomon_lib.tables import TABLES

log = logging.getLogger(__name__)

# the checks run hourly: what they said longer ago than this says nothing of now
_REPORT_MAX = timedelta(hours=3)


@dataclass
class Part:
    """What one part says: values for programs, lines for people, and what is wrong."""

    title: str
    values: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    exit_code: int = 0


@dataclass
class Status:
    """How a monitor is at a moment (UTC)."""

    at: datetime
    environment: str
    root: str
    simulated: bool
    parts: dict[str, Part]

    @property
    def wrong(self) -> list[str]:
        """Everything that is not as it should be, part by part."""
        return [f"{part.title}: {says}" for part in self.parts.values() for says in part.wrong]

    @property
    def exit_code(self) -> int:
        """0 where all is well; that of storage where something could not be read, else that of Unhealthy."""
        read = next((part.exit_code for part in self.parts.values() if part.exit_code), 0)
        return read or (Unhealthy.exit_code if self.wrong else 0)

    def as_json(self) -> str:
        """The same for programs: {at, environment, root, simulated, well, exit_code, wrong, parts}."""
        told = {
            "at": self.at.isoformat(timespec="seconds"),
            "environment": self.environment,
            "root": self.root,
            "simulated": self.simulated,
            "well": not self.wrong,
            "exit_code": self.exit_code,
            "wrong": self.wrong,
            "parts": {name: part.values for name, part in self.parts.items()},
        }
        return json.dumps(told, indent=1, ensure_ascii=False, default=_plain)


@dataclass(frozen=True)
class Look:
    """What a part is given: the monitor, and now (UTC)."""

    monitor: Monitor
    now: datetime
    _reading: Lock = field(default_factory=Lock)

    @property
    def holes(self) -> list[Hole]:
        """The table holes, read once for all parts."""
        with self._reading:
            return self._holes

    @cached_property
    def _holes(self) -> list[Hole]:
        return load_holes(self.monitor)

    def age_s(self, moment: datetime) -> float:
        """Seconds from a moment until now."""
        return round((self.now - moment).total_seconds(), 1)


_PARTS: dict[str, tuple[str, Callable[[Look, Part], None]]] = {}


def part(title: str) -> Callable:
    """Makes a function a part of the screen; its name is the part's."""

    def marked(function: Callable[[Look, Part], None]) -> Callable[[Look, Part], None]:
        _PARTS[function.__name__] = (title, function)
        return function

    return marked


def status_of(monitor: Monitor, now: datetime | None = None) -> Status:
    """How the monitor is now; a part that cannot be read says so and has its error's exit code."""
    look = Look(monitor, now or datetime.now(UTC))
    with ThreadPoolExecutor(len(_PARTS)) as pool:
        parts = pool.map(lambda named: _told(look, *named), _PARTS.values())
    settings = monitor.settings
    return Status(
        look.now,
        settings.environment,
        settings.root,
        settings.simulated,
        dict(zip(_PARTS, parts, strict=True)),
    )


def _told(look: Look, title: str, function: Callable[[Look, Part], None]) -> Part:
    made = Part(title)
    try:
        function(look, made)
    except CryptomonError as error:
        made.wrong.append(str(error))
        made.exit_code = error.exit_code
    except (ValueError, KeyError, TypeError, OSError) as error:
        # an object that is not what we write: damaged, or by another hand
        log.info("%s", title, exc_info=error)
        made.wrong.append(f"cannot be told: {type(error).__name__}: {error}; see CRYPTOMON_LOG_LEVEL=INFO")
        made.exit_code = 3
    return made


# ---- the parts


@part("ticks")
def ticks(look: Look, told: Part) -> None:
    """Each source's newest tick, by the table's log, and how many of today's minutes are in."""
    monitor, limits = look.monitor, look.monitor.settings.health
    table = monitor.lake.open("ticks")
    newest, first, today = {}, {}, _today(look)
    if table is not None:
        actions = monitor.lake.actions(table)
        if "max.collected_at" in actions.column_names:
            times = actions.group_by("partition.source").aggregate(
                [("max.collected_at", "max"), ("min.collected_at", "min")]
            )
            for row in times.to_pylist():
                newest[row["partition.source"]] = row["max.collected_at_max"]
                first[row["partition.source"]] = row["min.collected_at_min"]
    for source in sorted({*monitor.settings.exchanges, *newest}):
        at, polled = newest.get(source), source in monitor.settings.exchanges
        if at is None:
            told.values[source] = {"newest_at": None, "age_s": None, "polls": 0, "expected": 0, "share": None}
            told.lines.append(f"{source:<12} no tick")
            told.wrong.append(f"{source} has no tick: cryptomon run tick -e {monitor.settings.environment}")
            continue
        minutes, lost = today(source, first[source])
        share = round(1 - lost / minutes, 4) if minutes else None
        age = look.age_s(at)
        told.values[source] = {
            "newest_at": at,
            "age_s": age,
            "polls": minutes - lost,
            "expected": minutes,
            "share": share,
        }
        says = f"{minutes - lost:,} of {minutes:,} minutes today, {_percent(share)}"
        if not minutes:
            says = "completeness of today: cryptomon run health tells"
        told.lines.append(f"{source:<12} {span(age):>8} old   {says}")
        if polled and age > limits.stale_s:
            told.wrong.append(f"the newest of {source} is {span(age)} old; does the job tick run?")
        if polled and share is not None and share < limits.complete_min:
            told.wrong.append(f"{source} lacks {lost:,} of {minutes:,} minutes of today")


@part("runs")
def runs(look: Look, told: Part) -> None:
    """Of each notebook the newest run, and how many of a day did not succeed."""
    for notebook, ran in newest_of_each(look.monitor, look.now).items():
        newest = ran.newest
        started = datetime.fromisoformat(newest["started_at"])
        told.values[notebook] = {
            "job": newest["job"],
            "started_at": started,
            "status": newest["status"],
            "duration_s": newest["duration_s"],
            "reason": newest["reason"],
            "facts": newest["facts"],
            "succeeded_at": ran.succeeded_at,
            "success_age_s": look.age_s(ran.succeeded_at) if ran.succeeded_at else None,
            "failures_24h": ran.failures,
            "more_failures": ran.more,
        }
        took = f"{newest['duration_s']:.1f} s" if newest["duration_s"] is not None else ""
        failed = f"{ran.failures}{'+' if ran.more else ''} failed in 24 h" if ran.failures else ""
        ago = span(look.age_s(started))
        told.lines.append(f"{notebook:<18} {newest['status']:<9} {ago:>8} ago {took:>8}   {failed}".rstrip())
        if newest["status"] not in ("succeeded", "running"):
            told.wrong.append(f"{notebook} {newest['status']}: {(newest['reason'] or '')[:200]}")
    if not told.values:
        told.wrong.append("none in two days: is the schedule followed? cryptomon schedule list")


@part("alerts")
def alerts(look: Look, told: Part) -> None:
    """What fires, when alerts were evaluated, and which messages are on their way or given up."""
    monitor = look.monitor
    evaluated, firing = evaluated_at(monitor.storage), firing_of(last_step(monitor))
    box = Outbox(monitor)
    told.values |= {
        "evaluated_at": evaluated,
        "evaluated_age_s": look.age_s(evaluated) if evaluated else None,
        "firing": len(firing),
        "firing_by_rule": dict(Counter(firing["rule"])),
        "undelivered": len(box.pending()),
        "parked": box.parked,
    }
    by_rule = ", ".join(f"{rule} {count}" for rule, count in told.values["firing_by_rule"].items())
    told.lines.append(f"{len(firing)} firing{': ' if by_rule else ''}{by_rule}")
    told.lines.append(f"{told.values['undelivered']} messages on their way, {box.parked} given up")
    if evaluated is None:
        told.lines.append("never evaluated")
    elif (age := look.age_s(evaluated)) > 60 * monitor.settings.notify.silent_m and is_scheduled("40_alerts"):
        told.wrong.append(f"not evaluated for {span(age)}; see the runs of 40_alerts")
    if box.parked:
        told.wrong.append(
            f"{box.parked} messages were given up: cryptomon notify --check, then --retry-parked"
        )


@part("queue")
def queue(look: Look, told: Part) -> None:
    """Payloads that wait, and those that were refused."""
    waiting: dict[str, list[float]] = defaultdict(list)
    for one in look.monitor.storage.objects(INGEST):
        host, slot = _host(one)
        waiting[source_of(host)].append(look.age_s(slot))
    refused = Counter(
        source_of(one.key.split("/")[1])
        for one in look.monitor.storage.objects(QUARANTINE)
        if one.key.endswith(".json.gz")
    )
    oldest = max((max(ages) for ages in waiting.values()), default=0.0)
    told.values |= {
        "waiting": {source: len(ages) for source, ages in sorted(waiting.items())},
        "oldest_s": oldest,
        "quarantine": dict(sorted(refused.items())),
    }
    wait = sum(map(len, waiting.values()))
    told.lines.append(f"{wait} payloads wait in ingest{f', the oldest for {span(oldest)}' if wait else ''}")
    by_source = ", ".join(f"{source} {count}" for source, count in sorted(refused.items()))
    told.lines.append(f"{refused.total()} in quarantine{': ' if by_source else ''}{by_source}")
    if oldest > look.monitor.settings.health.stuck_s:
        told.wrong.append(f"payloads wait for {span(oldest)}: does 20_flatten run?")


@part("holes")
def holes(look: Look, told: Part) -> None:
    """Minutes that are missing, of today and before, as the table holes says."""
    today = minute_of(look.now) // DAY * DAY
    minutes = Counter()
    for one in look.holes:
        if one.state in (OPEN, UNFILLABLE):
            minutes[one.state] += one.minutes
            if one.last >= today:
                minutes[f"{one.state}_today"] += one.minutes
    told.values |= {
        name: minutes[name] for name in (OPEN, UNFILLABLE, f"{OPEN}_today", f"{UNFILLABLE}_today")
    }
    told.lines.append(
        f"{minutes[OPEN]:,} minutes open ({minutes[f'{OPEN}_today']:,} of today), "
        f"{minutes[UNFILLABLE]:,} cannot be had any more"
    )


@part("storage")
def storage(look: Look, told: Part) -> None:
    """Rows, files and bytes of each table, by its log."""
    for name in TABLES:
        table = look.monitor.lake.open(name)
        actions = None if table is None else look.monitor.lake.actions(table)
        if actions is not None and actions.num_rows:
            told.values[name] = {
                "rows": pc.sum(actions["num_records"]).as_py() or 0,
                "files": actions.num_rows,
                "bytes": pc.sum(actions["size_bytes"]).as_py() or 0,
            }
    for name, row in told.values.items():
        told.lines.append(
            f"{name:<12} {row['rows']:>14,} rows {row['files']:>7,} files {row['bytes'] / 1e6:>10,.1f} MB"
        )


@part("checks")
def checks(look: Look, told: Part) -> None:
    """What the hourly checks of the data said last."""
    if not look.monitor.storage.exists(REPORT):
        told.lines.append("never made: cryptomon health")
        return
    report = json.loads(look.monitor.storage.get(REPORT))
    age = look.age_s(datetime.fromisoformat(report["at"]))
    told.values |= {"status": report["status"], "counts": report["counts"], "age_s": age}
    told.lines.append(f"{report['status']}, {span(age)} ago")
    if age > _REPORT_MAX.total_seconds() and is_scheduled("60_health"):
        told.wrong.append(f"made {span(age)} ago; does the job health run?")
    critical = [one for one in report["findings"] if one["severity"] == "critical"]
    told.wrong += [f"{one['check']}, {one['subject']}: {one['says']}" for one in critical[:5]]
    if len(critical) > 5:
        told.wrong.append(f"and {len(critical) - 5} more critical findings: cryptomon health")


# ---- inside


def span(seconds: float) -> str:
    """A length of time as people say it: 40 s, 12 min, 3.5 h, 4 d."""
    return spoken(seconds) if seconds < 172_800 else f"{seconds / 86_400:.0f} d"


def _today(look: Look) -> Callable[[str, datetime], tuple[int, int]]:
    """Of a source and its first tick: today's minutes that were judged, and those of them without a poll.

    The hourly job health notes what is missing in the table holes, so no row of ticks has to be read.
    """
    midnight = minute_of(look.now) // DAY * DAY
    judged = load_judged(look.monitor)
    missing = [one for one in look.holes if one.measure == TICKS and one.state != FILLED]

    def minutes(source: str, first: datetime) -> tuple[int, int]:
        begin, end = max(midnight, minute_of(first)), judged.get(source, (0, 0))[1]
        lost = 0
        for one in missing:
            overlap = min(one.last, end) - max(one.first, begin) + 1
            lost += min(one.minutes, max(0, overlap)) if one.subject == source else 0
        return max(0, end - begin + 1), lost

    return minutes


def _host(one: Any) -> tuple[str, datetime]:
    try:
        host, _, _, slot = parse_key(one.key)
    except PayloadError:
        return one.key.split("/")[1], one.modified_at
    return host, slot


def _percent(share: float | None) -> str:
    # 99.97 is not 100
    return "" if share is None else f"{int(share * 1000) / 10:.1f}%"


def _plain(value: Any) -> Any:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
