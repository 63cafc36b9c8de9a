"""Tell people: transitions of the table `alerts` become messages in the outbox, and are sent from there.

A run reads what is new, asks `notices.step` for each receiver of each user what goes out now, writes that as one
plan, and only then sends. Whatever is killed when, the next run goes on: each message is sent at least once,
with the same id at every attempt. `watch` tells people when alerts themselves are not evaluated any more,
`tell_failed` and `tell_works` when a job of the schedule fails, and when it works again.
"""

import fnmatch
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cryptomon_lib.channels import Message
from cryptomon_lib.delivery import deliver
from cryptomon_lib.errors import CommitConflict, NotifyError
from cryptomon_lib.messages import text_of, title_of
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.notices import (
    Notice,
    Stream,
    Transition,
    keys_of,
    notice_id,
    step,
    told_of,
    transitions_of,
)
from cryptomon_lib.outbox import (
    FAILED,
    PARKED_STATE,
    SENT,
    Delivery,
    Incident,
    Outbox,
    Plan,
    begin_incident,
    end_incident,
    evaluated_at,
    mark_evaluated,
)
from cryptomon_lib.payloads import parse_moment
from cryptomon_lib.receivers import WATCH, Subscription, User, load_users
from cryptomon_lib.rules import load_rules

log = logging.getLogger(__name__)

# evaluations that other evaluators commit late are looked for so far back
_OVERLAP = timedelta(minutes=10)
# what a first run tells of
_FIRST = timedelta(hours=24)
_TRIES = 10
# under which name people hear of a job that fails
_JOB_FAILED = "job_failed"
_REASON = 400


@dataclass
class Told:
    """What a run told.

    transitions: read for the first time; planned: messages written to the outbox; sent, failed, parked: attempts
    of this run; waiting: messages on their way; held: transitions that quiet hours, a cap or a receiver that is
    away hold back; given_up: messages parked in all, until somebody looks; unevaluated: minutes since alerts
    were evaluated, where that is too long, else 0.
    """

    users: int = 0
    transitions: int = 0
    planned: int = 0
    sent: int = 0
    failed: int = 0
    parked: int = 0
    waiting: int = 0
    held: int = 0
    given_up: int = 0
    unevaluated: int = 0

    @property
    def facts(self) -> dict[str, int]:
        """What the record of a run keeps: told, untold, waiting, parked."""
        return {"told": self.sent, "untold": self.failed, "waiting": self.waiting, "parked": self.parked}

    @property
    def table(self) -> pd.DataFrame:
        """One row per quantity, with what it counts."""
        told = {
            "users": "who are told in this environment",
            "transitions": "read for the first time",
            "planned": "messages written to the outbox",
            "sent": "messages that were taken",
            "failed": "attempts that failed; they are repeated",
            "parked": "messages given up in this run",
            "waiting": "messages on their way",
            "held": "transitions that wait: quiet hours, cap, away",
            "given_up": "messages in outbox/parked, in all",
            "unevaluated": "minutes without evaluation, if too long",
        }
        return pd.DataFrame(
            {"count": [getattr(self, name) for name in told], "of": list(told.values())}, index=list(told)
        )


def users_of(monitor: Monitor) -> Mapping[str, User]:
    """The users who are told in the monitor's environment, each subscription held against the rules there are.

    Raises ConfigError: params/receivers.yaml or params/alerts.yaml cannot be used.
    """
    return _users(monitor, {rule.name: rule.receivers for rule in load_rules()})


def send_notices(
    monitor: Monitor,
    *,
    evaluated: datetime | None = None,
    now: str | datetime | None = None,
    users: Mapping[str, User] | None = None,
) -> Told:
    """Tell users of what is new in `alerts`, and go on with what is on its way; what was told.

    evaluated: when alerts were evaluated, given by who just did; None leaves that as it is. now: the moment that
    quiet hours, caps and waits go by (a datetime, or ISO 8601). users: who is told; those of
    params/receivers.yaml where not given.

    A receiver that does not take a message fails no run; its messages are tried again, and parked after
    `notify.give_up_h`.

    Raises ConfigError: params/receivers.yaml. StorageError: outbox or tables.
    """
    now = (parse_moment(now) if isinstance(now, str) else now) or datetime.now(UTC)
    if evaluated is not None:
        mark_evaluated(monitor.storage, evaluated)
    rules = {rule.name: rule.receivers for rule in load_rules()}
    users = _users(monitor, rules) if users is None else users
    told, box = _planned(monitor, users, rules, now)
    tried = deliver(monitor, box, users, now)
    _count(told, box, tried)
    try:
        box.tell(tried)
        box.clean()
    except CommitConflict as error:
        # the story is told by the run that cleans up
        log.warning("the table notices is told later: %s", error)
    return told


def watch(monitor: Monitor, now: datetime | None = None) -> Told | None:
    """Look whether alerts are still evaluated; where they are not for `notify.silent_m`, users are told.

    For every job that is not the evaluation itself: one object is read. None where all is well.
    """
    now = now or datetime.now(UTC)
    last = evaluated_at(monitor.storage)
    if last is None:
        # where they never were, patience begins now
        mark_evaluated(monitor.storage, now)
        return None
    return send_notices(monitor, now=now) if _is_silent(monitor, last, now) else None


def tell_failed(
    monitor: Monitor, job: str, reason: str, users: Sequence[str], now: datetime | None = None
) -> None:
    """Tell users, by their names, that a job failed; of one that is known to fail nothing more is told.

    Raises ConfigError: params/receivers.yaml. StorageError: it can be kept nowhere.
    """
    now = now or datetime.now(UTC)
    begin_incident(monitor.storage, Incident(job, now, reason[:_REASON], tuple(users)))
    send_notices(monitor, now=now)


def tell_works(monitor: Monitor, job: str, now: datetime | None = None) -> None:
    """Tell those who heard that a job failed that it works again; where it did not fail, one object is asked for.

    Raises ConfigError, StorageError.
    """
    if end_incident(monitor.storage, job):
        send_notices(monitor, now=now)


def check_evaluated(monitor: Monitor, now: datetime | None = None) -> timedelta:
    """How long ago alerts were evaluated.

    Raises NotifyError: longer than `notify.silent_m`, or never.
    """
    now = now or datetime.now(UTC)
    last = evaluated_at(monitor.storage)
    if last is None:
        raise NotifyError(
            f"Alerts were never evaluated on {monitor.settings.root}: does the job with 40_alerts run?"
        )
    if _is_silent(monitor, last, now):
        raise NotifyError(
            f"Alerts were last evaluated {(now - last).total_seconds() / 60:.0f} minutes ago, at {last:%Y-%m-%d %H:%M} "
            f"UTC, on {monitor.settings.root}: see `cryptomon runs` for what ended the job with 40_alerts."
        )
    return now - last


def retry_parked(monitor: Monitor) -> int:
    """Put the messages that were given up into the outbox again, under the same ids; how many."""
    now = datetime.now(UTC)
    for _ in range(_TRIES):
        box = Outbox(monitor)
        parked = box.parked_messages()
        if not parked:
            return 0
        for message in parked:
            box.forget(message)
        before = box.newest or Plan(at=now)
        again = [msgspec.structs.replace(message, at=now) for message in parked]
        if box.add(msgspec.structs.replace(before, at=now, messages=again)):
            for message in parked:
                box.unpark(message)
            return len(parked)
    raise CommitConflict(
        f"{monitor.settings.root}: other notifiers planned first {_TRIES} times; run it again."
    )


def _users(monitor: Monitor, rules: Mapping[str, Sequence[str]]) -> Mapping[str, User]:
    return load_users(monitor.settings.environment, rules, lambda pattern: _is_kept_rule(monitor, pattern))


def _planned(
    monitor: Monitor, users: Mapping[str, User], rules: Mapping[str, Sequence[str]], now: datetime
) -> tuple[Told, Outbox]:
    """Decide what goes out and write it; again where another notifier was first."""
    for _ in range(_TRIES):
        box = Outbox(monitor)
        plan, read = _plan(monitor, box, users, rules, now)
        told = Told(users=len(users), transitions=read, planned=len(plan.messages))
        told.held = sum(len(one.held) + one.more for one in plan.streams.values())
        if plan.unevaluated is not None:
            told.unevaluated = max(1, int((now - plan.unevaluated.started_at).total_seconds() // 60))
        if _is_same(plan, box.newest) or box.add(plan):
            return told, box
        log.info("another notifier planned first, looking again")
    raise CommitConflict(
        f"{monitor.settings.root}: other notifiers planned first {_TRIES} times; run it again."
    )


def _plan(
    monitor: Monitor,
    box: Outbox,
    users: Mapping[str, User],
    rules: Mapping[str, Sequence[str]],
    now: datetime,
) -> tuple[Plan, int]:
    before = box.newest or Plan(at=now)
    new, read_until, seen = _read(monitor, before, now)
    unevaluated, own = _unevaluated(monitor, before.unevaluated, now)
    failing, jobs = _failing(box.incidents(), before.failing, now)
    away = {one.stream for one in box.pending() if one.failures}
    plan = Plan(at=now, read_until=read_until, seen=seen, unevaluated=unevaluated, failing=failing)
    late = timedelta(minutes=monitor.settings.notify.late_m)
    for user in users.values():
        of_jobs = [one for one, named in jobs if user.name in named]
        listening = _also_of_jobs(user) if of_jobs else user
        for name in user.receivers:
            key = f"{user.name}/{name}"
            # a rule may name receivers: of whoever subscribes, only those then hear of it
            mine = [one for one in new if name in (rules.get(one.rule) or (name,))]
            told = [*own, *of_jobs, *mine]
            stream, notice = step(
                listening, before.streams.get(key, Stream()), told, now, late, blocked=key in away
            )
            if stream != Stream():
                plan.streams[key] = stream
            if notice is not None:
                plan.messages.append(_message(monitor, user, name, notice))
    return plan, len(new)


def _is_same(plan: Plan, before: Plan | None) -> bool:
    """Whether the next run needs to know nothing new."""
    kept = {key: stream for key, stream in plan.streams.items() if stream.held or stream.more}
    if before is None or plan.messages or plan.unevaluated != before.unevaluated:
        return before is None and not (plan.messages or plan.seen or kept or plan.unevaluated or plan.failing)
    if plan.failing != before.failing:
        return False
    held = {key: stream for key, stream in before.streams.items() if stream.held or stream.more}
    return plan.read_until == before.read_until and plan.seen == before.seen and kept.keys() == held.keys()


def _read(
    monitor: Monitor, before: Plan, now: datetime
) -> tuple[list[Transition], datetime | None, list[str]]:
    """Transitions that no plan has; the newest evaluation read; the keys near it."""
    since = (before.read_until or now - _FIRST) - _OVERLAP
    table = monitor.lake.open("alerts")
    if table is None:
        return [], before.read_until, []
    actions, when = monitor.lake.actions(table), "max.evaluated_at"
    if when in actions.column_names:
        # of a day of small files those of the last minutes are opened; one without statistics has to be
        moment = pa.scalar(since, pa.timestamp("us", tz="UTC"))
        actions = actions.filter(pc.fill_null(pc.greater_equal(actions[when], moment), True))
    rows = monitor.lake.read("alerts", actions)
    rows = rows.filter(pc.greater_equal(rows["evaluated_at"], since))
    read_until = pc.max(rows["evaluated_at"]).as_py() or before.read_until
    rows = told_of(rows)
    keys = keys_of(rows)
    near = keys.filter(pc.greater_equal(rows["evaluated_at"], (read_until or since) - _OVERLAP))
    fresh = rows.filter(pc.invert(pc.is_in(keys, value_set=pa.array(before.seen, pa.string()))))
    # a key once, however often an evaluator wrote it
    new = {one.key: one for one in transitions_of(fresh)}
    return list(new.values()), read_until, sorted(near.unique().to_pylist())


def _is_kept_rule(monitor: Monitor, pattern: str) -> bool:
    """Whether a pattern fits a rule of the table `alert_rules`; only asked where none of the file's fits."""
    table = monitor.lake.open("alert_rules")
    if table is None:
        return False
    if not any(sign in pattern for sign in "*?["):
        return table.to_pyarrow_table(columns=["rule"], filters=[("rule", "=", pattern)]).num_rows > 0
    names = table.to_pyarrow_table(columns=["rule"])["rule"].to_pylist()
    return bool(fnmatch.filter(names, pattern))


def _unevaluated(
    monitor: Monitor, before: Transition | None, now: datetime
) -> tuple[Transition | None, list[Transition]]:
    """The alert that alerts are not evaluated, while it lasts, and what is new of it."""
    last = evaluated_at(monitor.storage)
    if last is None or not _is_silent(monitor, last, now):
        return None, [replace(before, state="resolved", at=now)] if before else []
    if before is not None:
        return before, []
    began = Transition(
        at=now,
        alert_id=hashlib.sha256(f"{WATCH}\n{last.isoformat()}".encode()).hexdigest()[:32],
        state="firing",
        rule=WATCH,
        market_id="cryptomon:cryptomon:all",
        severity="critical",
        started_at=last,
        says=f"last at {last:%Y-%m-%d %H:%M} UTC; until they are again, no other alert can come",
    )
    return began, [began]


def _failing(
    now_failing: Mapping[str, Incident], before: Mapping[str, Incident], now: datetime
) -> tuple[dict[str, Incident], list[tuple[Transition, tuple[str, ...]]]]:
    """Jobs that fail, and what is new of them with the users who are told: once that it began, once that it is over."""
    new = []
    for job, incident in {**before, **now_failing}.items():
        known = before.get(job)
        if known is not None and now_failing.get(job) != known:
            new.append((_job_alert(known, "resolved", max(now, known.since)), known.tell))
        if incident != known:
            new.append((_job_alert(incident, "firing", incident.since), incident.tell))
    return dict(now_failing), new


def _job_alert(incident: Incident, state: str, at: datetime) -> Transition:
    identity = f"{_JOB_FAILED}\n{incident.job}\n{incident.since.isoformat()}"
    return Transition(
        at=at,
        alert_id=hashlib.sha256(identity.encode()).hexdigest()[:32],
        state=state,
        rule=_JOB_FAILED,
        market_id=f"cryptomon:cryptomon:{incident.job}",
        severity="critical",
        started_at=incident.since,
        says=f"the job {incident.job} failed: {incident.reason}",
    )


def _also_of_jobs(user: User) -> User:
    """The user with a subscription to what the schedule names them for."""
    return msgspec.structs.replace(user, alerts=(*user.alerts, Subscription(rules=(_JOB_FAILED,))))


def _is_silent(monitor: Monitor, last: datetime, now: datetime) -> bool:
    return now - last > timedelta(minutes=monitor.settings.notify.silent_m)


def _message(monitor: Monitor, user: User, receiver: str, notice: Notice) -> Message:
    simulated = monitor.settings.simulated
    return Message(
        id=notice_id(user.name, receiver, notice),
        user=user.name,
        receiver=receiver,
        kind=notice.kind,
        at=notice.at,
        title=title_of(notice, simulated),
        text=text_of(notice, user.zone, simulated),
        transitions=notice.transitions,
        more=notice.more,
        environment=monitor.settings.environment,
        simulated=simulated,
    )


def _count(told: Told, box: Outbox, tried: Sequence[Delivery]) -> None:
    states = [one.last.state for one in tried]
    told.sent, told.failed, told.parked = (states.count(state) for state in (SENT, FAILED, PARKED_STATE))
    told.waiting, told.given_up = len(box.pending()), box.parked + told.parked
