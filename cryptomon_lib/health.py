"""Quality: what is wrong with the data now, since when, and when it ended.

A check is one function below, marked `@check`: it is given a `Look` and yields (subject, severity, what it says).
Nothing else lists checks. Owns the table `findings`, which gets a row when something is found, once a day while
it stands, when it gets worse or better, and when it is gone; and `health.json`, which says how it is now.
"""

import hashlib
import json
import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter

import pandas as pd
import pyarrow as pa

from cryptomon_lib.config import HealthLimits
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CryptomonError, PayloadError, Unhealthy
from cryptomon_lib.holes import DAY, FILLED, TICKS, first_polls, load_holes, minute_of
from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import Monitor, budgets
from cryptomon_lib.payloads import INGEST, QUARANTINE, parse_key
from cryptomon_lib.runs import load_runs
from cryptomon_lib.sql import CLOCK
from cryptomon_lib.tables import day_of, schema

log = logging.getLogger(__name__)

FINDINGS, REPORT = "findings", "health.json"
INFO, WARNING, CRITICAL = "info", "warning", "critical"
_SEVERITIES = (INFO, WARNING, CRITICAL)
# a finding that stands has a row each day: older rows say nothing of now
_LOOKBACK_DAYS = 3
# of one check and source so many findings are told one by one; more are told as one
_EACH = 10

Found = tuple[str, str, str]


@dataclass(frozen=True)
class Look:
    """What a check is given: the monitor, queries as of now, now itself, and the thresholds of the params."""

    monitor: Monitor
    engine: Engine
    now: datetime
    limits: HealthLimits

    def ticks(self, columns: str, minutes: int, rest: str) -> pd.DataFrame:
        """Rows of a query over the ticks of the last minutes; `rest` follows its where."""
        text = (
            f"select {columns} from ticks where collected_at > {CLOCK} - interval '{minutes}' minute "
            f"and collected_at <= {CLOCK} and day >= cast(date({CLOCK} - interval '{minutes}' minute) as varchar) {rest}"
        )
        return self.engine.query(text).to_pandas()


@dataclass(frozen=True)
class Finding:
    """Something that is wrong now. since: when it was found first."""

    check: str
    subject: str
    severity: str
    says: str
    since: datetime


@dataclass
class Report:
    """How it is now. seconds: what each check took. changes: rows that this look wrote to `findings`."""

    at: datetime
    findings: list[Finding] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    changes: int = 0

    @property
    def status(self) -> str:
        """The worst severity, or ok."""
        counts = self.counts
        return next((one for one in (CRITICAL, WARNING) if counts[one]), "ok")

    @property
    def counts(self) -> Counter:
        """Findings by severity."""
        return Counter(finding.severity for finding in self.findings)

    @property
    def table(self) -> pd.DataFrame:
        """One row per finding, the worst first; since in UTC."""
        rows = [vars(one) | {"since": f"{one.since:%Y-%m-%d %H:%M}"} for one in self.findings]
        return pd.DataFrame(rows, columns=["severity", "check", "subject", "says", "since"])

    def check(self, strict: bool = False) -> None:
        """Nothing, where the data is as it should be.

        Raises Unhealthy: there is a critical finding, or with strict a warning.
        """
        wrong = [
            one for one in self.findings if one.severity == CRITICAL or (strict and one.severity == WARNING)
        ]
        if wrong:
            told = " | ".join(f"{one.check}, {one.subject}: {one.says}" for one in wrong[:3])
            more = f" | and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise Unhealthy(f"{len(wrong)} findings: {told}{more}")


_CHECKS: dict[str, Callable[[Look], Iterable[Found]]] = {}


def check(function: Callable[[Look], Iterable[Found]]) -> Callable[[Look], Iterable[Found]]:
    """Makes a function a check; its name is the check's."""
    _CHECKS[function.__name__] = function
    return function


def checks() -> dict[str, str]:
    """Every check by name, with what it looks at."""
    return {name: (function.__doc__ or "").strip().partition("\n")[0] for name, function in _CHECKS.items()}


def check_health(monitor: Monitor, as_of: str | datetime | None = None) -> Report:
    """Make every check; write what changed to the table `findings`, and how it is to `health.json`.

    A check that fails is a finding of its own and stops no other.

    Raises StorageError: the root cannot be read or written.
    """
    engine = Engine(monitor, as_of or None)
    look = Look(monitor, engine, engine.now, monitor.settings.health)
    report = Report(look.now.replace(microsecond=look.now.microsecond // 1000 * 1000))
    standing = _standing(engine, report.at)
    found: dict[tuple[str, str], Found] = {}
    for name, function in _CHECKS.items():
        began = perf_counter()
        try:
            told = list(function(look))
        except CryptomonError as error:
            log.warning("check %s: %s", name, error)
            told = [("the check itself", WARNING, f"it could not be made: {error}"[:400])]
            # what it found before may stand still
            told += [(subject, *row) for (check, subject), row in _kept(standing, name)]
        found |= {(name, subject): (subject, severity, says) for subject, severity, says in told}
        report.seconds[name] = round(perf_counter() - began, 3)
    rows = _changes(found, standing, report.at)
    report.changes = _write(monitor, rows, report.at)
    since = {(row["check"], row["subject"]): row["since_at"] for row in rows}
    report.findings = sorted(
        (
            Finding(
                name,
                subject,
                severity,
                says,
                since.get((name, subject)) or standing[name, subject]["since_at"],
            )
            for (name, _), (subject, severity, says) in found.items()
        ),
        key=lambda one: (-_SEVERITIES.index(one.severity), one.check, one.subject),
    )
    monitor.storage.put(REPORT, _as_json(monitor, report))
    return report


# ---- the checks


@check
def fresh(look: Look) -> Iterator[Found]:
    """Each exchange's newest tick and candle are young."""
    rows = {row["source"]: row for row in look.engine.query("select * from freshness").to_pylist()}
    limits, begun = look.limits, first_polls(look.monitor)
    for source in sorted({*look.monitor.settings.exchanges, *rows}):
        row = rows.get(source)
        if row is None and source in begun:
            yield source, CRITICAL, "no tick in 24 h; look at the runs of 10_collect and 20_flatten"
        elif row is None:
            yield source, WARNING, "nothing was collected yet: cryptomon run tick"
        if row is None:
            continue
        age = row["age_s"]
        if age > limits.stale_s:
            severity = CRITICAL if age > limits.dead_s else WARNING
            yield (
                source,
                severity,
                f"the newest tick is {spoken(age)} old, of {row['collected_at']:%d %b %H:%M} UTC",
            )
        candle_age = row["candle_age_s"]
        if candle_age is not None and candle_age > limits.stale_s + 240 and age <= limits.stale_s:
            yield (
                f"{source} candles",
                WARNING,
                f"the newest candle is {spoken(candle_age)} old; volume_1m waits for it",
            )


@check
def stuck(look: Look) -> Iterator[Found]:
    """No payload waits in ingest/ longer than a run of 20_flatten takes."""
    waiting: dict[str, list[datetime]] = defaultdict(list)
    for one in look.monitor.storage.objects(INGEST):
        try:
            host, _, _, slot = parse_key(one.key)
        except PayloadError:
            host, slot = one.key.split("/")[1], one.modified_at
        if (look.now - slot).total_seconds() > look.limits.stuck_s:
            waiting[host].append(slot)
    for host, slots in sorted(waiting.items()):
        age = (look.now - min(slots)).total_seconds()
        severity = CRITICAL if age > 10 * look.limits.stuck_s else WARNING
        yield (
            host,
            severity,
            f"{len(slots)} payloads wait in ingest/, the oldest for {spoken(age)}; does 20_flatten run?",
        )


@check
def quarantine(look: Look) -> Iterator[Found]:
    """No payload of the last day is in quarantine."""
    newest: dict[str, list[str]] = defaultdict(list)
    for one in look.monitor.storage.objects(QUARANTINE):
        if one.key.endswith(".reason.json") and look.now - one.modified_at < timedelta(days=1):
            newest[one.key.split("/")[1]].append(one.key)
    for host, keys in sorted(newest.items()):
        reason = json.loads(look.monitor.storage.get(max(keys, key=lambda key: key.rsplit("/", 1)[1])))[
            "reason"
        ]
        severity = CRITICAL if len(keys) > look.limits.quarantine_max else WARNING
        yield host, severity, f"{len(keys)} payloads of 24 h are in quarantine; the newest: {reason[:200]}"


@check
def vanished(look: Look) -> Iterator[Found]:
    """Markets that ticked today and do not any more."""
    text = (
        "select source, market_id, last_at, max(last_at) over (partition by source) as newest_at, "
        "count(*) over (partition by source) as markets from markets"
    )
    rows = look.engine.query(text).to_pandas()
    gone = rows[rows["last_at"] < rows["newest_at"] - pd.Timedelta(minutes=30)]
    share_max = look.monitor.settings.limits.vanished_share_max
    for source, group in gone.groupby("source"):
        of = group["markets"].iloc[0]
        if len(group) > share_max * of:
            yield source, CRITICAL, f"{len(group):,} of {of:,} markets do not tick any more"
        else:
            yield from _each(
                source,
                group["market_id"],
                INFO,
                "does not tick any more: delisted, or not traded",
                "vanished",
            )


@check
def appeared(look: Look) -> Iterator[Found]:
    """Markets that ticked for the first time today."""
    text = "select source, market_id, first_at, min(first_at) over (partition by source) as oldest_at from markets"
    rows = look.engine.query(text).to_pandas()
    new = rows[rows["first_at"] > rows["oldest_at"] + pd.Timedelta(hours=1)]
    for source, group in new.groupby("source"):
        yield from _each(source, group["market_id"], INFO, "is new, or traded again", "appeared")


@check
def frozen(look: Look) -> Iterator[Found]:
    """No exchange gives the same answer again and again."""
    rows = look.ticks(
        "source, market_id, count(*) as samples, min(price) as low, max(price) as high, "
        "count(distinct volume_24h) as volumes",
        15,
        "and price is not null group by source, market_id having count(*) >= 10",
    )
    for source, group in rows.groupby("source"):
        still = (group["low"] == group["high"]) & (group["volumes"] <= 1)
        if len(group) >= 3 and still.all():
            yield source, CRITICAL, f"none of {len(group):,} markets changed price or volume in 15 minutes"


@check
def stale_price(look: Look) -> Iterator[Found]:
    """A price, its bid and its ask stand still although the market trades."""
    minutes = look.limits.unchanged_m
    rows = look.ticks(
        "source, market_id, count(*) as samples, count(distinct volume_24h) as volumes, max(price) as price",
        minutes,
        f"and price is not null and kind = 'spot' group by source, market_id having count(*) >= {minutes // 2} "
        "and min(price) = max(price) and coalesce(max(bid) - min(bid), 0e0) = 0e0 "
        # where a step of the price is much of it, it stands still often
        "and coalesce(max(ask) - min(ask), 0e0) = 0e0 and max(ask) < 1.005e0 * max(bid)",
    )
    # a rolling sum also moves when old trades leave it: only one that moves nearly always means trades
    rows = rows[rows["volumes"] > 0.8 * rows["samples"]]
    for source, group in rows.groupby("source"):
        says = f"price, bid and ask did not change in {minutes} minutes of trading"
        yield from _each(source, group["market_id"], WARNING, says, says)


@check
def outlier(look: Look) -> Iterator[Found]:
    """A price is close to that of the same pair elsewhere, where three or more exchanges have it."""
    rows = look.ticks(
        "market_id, market, exchange, max_by(price, collected_at) as price",
        10,
        "and price is not null and kind = 'spot' and market is not null group by market_id, market, exchange",
    )
    one_each = rows.groupby(["market", "exchange"])["price"].transform("count") == 1
    rows = rows[one_each]
    by_pair = rows.groupby("market")["price"]
    rows = rows.assign(median=by_pair.transform("median"), exchanges=by_pair.transform("count"))
    off = 100 * (rows["price"] / rows["median"] - 1)
    rows = rows.assign(off=off)[(rows["exchanges"] >= 3) & (off.abs() > look.limits.outlier_pct)]
    for row in rows.itertuples():
        yield (
            row.market_id,
            WARNING,
            f"{row.price:g} is {row.off:+.0f}% off {row.median:g}, the median of {row.exchanges} exchanges for "
            f"{row.market}; a wrong price, or another coin of the same code",
        )


@check
def clock(look: Look) -> Iterator[Found]:
    """The exchanges' own times agree with this machine's clock."""
    rows = look.ticks(
        "source, collected_at, max(exchange_at) as exchange_at",
        15,
        "and exchange_at is not null group by source, collected_at",
    )
    rows["ahead"] = (rows["exchange_at"] - rows["collected_at"]).dt.total_seconds()
    for source, ahead in rows.groupby("source")["ahead"].median().items():
        if ahead > look.limits.clock_skew_s:
            yield (
                source,
                WARNING,
                f"its newest trades are {ahead:.1f} s ahead of this machine's clock; is NTP running?",
            )
        elif ahead < -look.limits.clock_lag_s:
            yield (
                source,
                WARNING,
                f"its newest trades are {spoken(-ahead)} behind this machine's clock: old answers, or a clock that is fast",
            )


@check
def incomplete(look: Look) -> Iterator[Found]:
    """Yesterday is complete: polls of each source, price and volume of each followed market."""
    last = minute_of(look.now) // DAY * DAY
    begun = first_polls(look.monitor)
    missing: Counter = Counter()
    for one in load_holes(look.monitor):
        source = one.subject.partition(":")[0]
        # what was before the first poll is history that was never there, and no fault of that day
        first, after = max(last - DAY, begun.get(source, last)), last
        overlap = min(one.last + 1, after) - max(one.first, first)
        if one.state != FILLED and overlap > 0:
            missing[one.subject, one.measure] += min(one.minutes, overlap)
    allowed = (1 - look.limits.complete_min) * DAY
    for (subject, measure), minutes in sorted(missing.items()):
        if minutes > allowed:
            what = "polls" if measure == TICKS else f"minutes of {measure}"
            severity = CRITICAL if minutes > DAY / 2 else WARNING
            yield (
                subject if measure == TICKS else f"{subject} {measure}",
                severity,
                f"{minutes:,} of 1,440 {what} of yesterday are missing; the table holes says which and why",
            )


@check
def banned(look: Look) -> Iterator[Found]:
    """No exchange has shut this machine out."""
    for host, ban in budgets(look.monitor.settings).bans().items():
        yield (
            host,
            WARNING,
            f"not to be asked for another {spoken(ban.left_s)} ({ban.says}); lower calls_per_min",
        )


@check
def runs(look: Look) -> Iterator[Found]:
    """The newest run of each notebook succeeded."""
    newest: dict[str, list[dict]] = defaultdict(list)
    for record in load_runs(look.monitor, 1):
        # this one fails because of what it finds
        if record["notebook"] != "60_health" and record["status"] != "running":
            newest[record["notebook"]].append(record)
    for notebook, records in sorted(newest.items()):
        failed = next(
            (index for index, one in enumerate(records) if one["status"] == "succeeded"), len(records)
        )
        if failed:
            severity = CRITICAL if failed >= 3 else WARNING
            says = f"its last {failed} runs did not succeed; the newest {records[0]['status']}: {records[0]['reason']}"
            yield notebook, severity, says[:300]


@check
def disk(look: Look) -> Iterator[Found]:
    """There is space left where the data is."""
    if look.monitor.storage.is_s3:
        return
    folder = Path(look.monitor.settings.root)
    while not folder.exists():
        folder = folder.parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < look.limits.disk_free_gb:
        severity = CRITICAL if free_gb < look.limits.disk_free_gb / 5 else WARNING
        yield (
            look.monitor.settings.root,
            severity,
            f"{free_gb:.1f} GB are free; lower retention in params, or make space",
        )


# ---- inside


def _each(source: str, markets: Iterable[str], severity: str, says: str, together: str) -> Iterator[Found]:
    """One finding a market, or one for all where they are many."""
    markets = sorted(markets)
    if len(markets) <= _EACH:
        yield from ((market, severity, says) for market in markets)
    else:
        named = ", ".join(market.rpartition(":")[2] for market in markets[:_EACH])
        yield source, severity, f"{len(markets):,} markets, {named} and others: {together}"


def spoken(seconds: float) -> str:
    """A length of time as people say it: 40 s, 12 min, 3.5 h."""
    return (
        f"{seconds:.0f} s"
        if seconds < 180
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _standing(engine: Engine, now: datetime) -> dict[tuple[str, str], dict]:
    """The newest row of each finding that is not gone."""
    rows = engine.query(
        f"select * from {FINDINGS} where day >= :day", day=day_of(now - timedelta(days=_LOOKBACK_DAYS))
    ).to_pylist()
    newest: dict[tuple[str, str], dict] = {}
    for row in sorted(rows, key=lambda row: row["at"]):
        if row["at"].replace(tzinfo=UTC) <= now:
            aware = {name: row[name].replace(tzinfo=UTC) for name in ("at", "since_at")}
            newest[row["check"], row["subject"]] = row | aware
    return {key: row for key, row in newest.items() if row["state"] != "gone"}


def _kept(standing: dict, name: str) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    for key, row in standing.items():
        if key[0] == name and key[1] != "the check itself":
            yield key, (row["severity"], row["says"])


def _changes(found: dict[tuple[str, str], Found], standing: dict, now: datetime) -> list[dict]:
    """Rows for what is new, changed its severity, stands since another day, or is gone."""
    rows = []

    def add(key: tuple[str, str], state: str, severity: str, says: str, since: datetime) -> None:
        rows.append(
            {
                "check": key[0],
                "subject": key[1],
                "at": now,
                "state": state,
                "severity": severity,
                "says": says,
                "since_at": since,
                "day": day_of(now),
            }
        )

    for key, (_, severity, says) in found.items():
        before = standing.get(key)
        if before is None:
            add(key, "found", severity, says, now)
        elif before["severity"] != severity:
            worse = _SEVERITIES.index(severity) > _SEVERITIES.index(before["severity"])
            add(key, "worse" if worse else "better", severity, says, before["since_at"])
        elif day_of(before["at"]) != day_of(now):
            add(key, "still", severity, says, before["since_at"])
    for key, before in standing.items():
        if key not in found:
            add(key, "gone", before["severity"], before["says"], before["since_at"])
    return rows


def _write(monitor: Monitor, rows: list[dict], now: datetime) -> int:
    if not rows:
        return 0
    table = pa.Table.from_pylist(rows, schema=schema(FINDINGS))
    digest = hashlib.sha256(json.dumps(rows, default=str, sort_keys=True).encode()).hexdigest()[:16]
    batch = Batch(f"{FINDINGS}/{now.isoformat()}/{digest}", table)
    return monitor.lake.append(
        FINDINGS, [batch], fresh=lambda lake_table, new: monitor.lake.missing(FINDINGS, lake_table, new)
    ).rows


def _as_json(monitor: Monitor, report: Report) -> bytes:
    counts = report.counts
    told = {
        "at": report.at.isoformat(timespec="seconds"),
        "environment": monitor.settings.environment,
        "simulated": monitor.settings.simulated,
        "status": report.status,
        "exit_code": Unhealthy.exit_code if counts[CRITICAL] else 0,
        "counts": {severity: counts[severity] for severity in _SEVERITIES},
        "checks": report.seconds,
        "findings": [
            vars(one) | {"since": one.since.isoformat(timespec="seconds")} for one in report.findings[:200]
        ],
    }
    return json.dumps(told, indent=1, ensure_ascii=False).encode()
