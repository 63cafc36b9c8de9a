"""Alerts: all rules evaluated after each tick, their state kept, their transitions written; and what they are now.

Owns that nothing is missed and nothing is doubled. A step's outcome, state and transitions, is one object,
`alert_state/<number>.zip`, put where nothing is yet: of two evaluators one gets through and the other looks again. Only
then are the transitions appended to the table `alerts`, under the step's number; whoever comes next does it where it was
not done. Killed at any point, the next run goes on from there.
"""

import io
import logging
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cryptomon_lib import history, sql
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import CommitConflict, ConfigError, StorageError
from cryptomon_lib.evaluator import GAP_CADENCES, NAMES, PAIRS, SEEN, SILENT, TABLE, Evaluator, State
from cryptomon_lib.lake import Batch
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.payloads import truncated
from cryptomon_lib.rules import AVERAGES, SEVERITIES, WINDOWS, Rule, load_rules
from cryptomon_lib.tables import empty, schema

log = logging.getLogger(__name__)

STATES = "alert_state"
# an hour's candles may come at once: so late may a reading come
LATE = timedelta(minutes=75)
# what was missed for longer than that is evaluated from here on only
MISSED_MAX = timedelta(hours=24)
# an alert that began to fire longer ago is not looked for
FIRING_MAX = timedelta(days=31)
_KEPT = 5
_TRIES = 5
_PARTS = {"pairs": PAIRS, "seen": SEEN, "silent": SILENT, "names": NAMES}
# rules that were compiled before, by root: a resident runner need not do it each minute
_compiled: dict[str, tuple[Any, Evaluator]] = {}


@dataclass(frozen=True)
class Step:
    """What one evaluation came to: its number, until when everything is evaluated, the state, what changed."""

    number: int
    at: datetime | None
    state: State
    transitions: pa.Table
    rules: int = 0


def evaluate_alerts(
    monitor: Monitor, as_of: str | datetime | None = None, rules: Sequence[Rule] | None = None
) -> Step:
    """Evaluate all rules on what came since the last time, up to now or as_of; the transitions are in `alerts` then.

    rules: those of params/alerts.yaml where not given; the table `alert_rules` is evaluated beside them.
    A moment that was evaluated already is not again. Minutes that were missed are made up for, in order.

    Raises ConfigError: a rule cannot be used. CommitConflict: other evaluators came first at each try.
    """
    rules = load_rules() if rules is None else tuple(rules)
    engine = Engine(monitor, as_of)
    evaluator = _evaluator(monitor, rules)
    for _ in range(_TRIES):
        now = truncated(engine.now)
        last = last_step(monitor)
        publish(monitor, last)
        if last.at is not None and now <= last.at:
            return replace(last, transitions=empty("alerts"), rules=_count(evaluator))
        evaluator.load(last.state)
        transitions = evaluator.advance(_readings(monitor, evaluator, last, now), now)
        step = Step(last.number + 1, now, evaluator.state(), transitions, _count(evaluator))
        if monitor.storage.create(_key(step.number), _packed(step)):
            publish(monitor, step)
            _forget(monitor, step.number)
            return step
        log.info("another evaluator came first, looking again")
    raise CommitConflict(
        f"{monitor.storage.root}/{STATES}: other evaluators came first {_TRIES} times; run one at a time."
    )


def last_step(monitor: Monitor) -> Step:
    """The newest step that was kept; one without a moment where there is none."""
    for _ in range(_TRIES):
        keys = [one.key for one in monitor.storage.objects(STATES)]
        if not keys:
            return Step(0, None, State(), empty("alerts"))
        try:
            body = monitor.storage.get(keys[-1])
        except StorageError:
            # a newer one replaced it meanwhile
            log.info("%s is gone, looking again", keys[-1])
            continue
        return _unpacked(body, keys[-1])
    raise CommitConflict(f"{monitor.storage.root}/{STATES}: its objects vanish as fast as they are read.")


def publish(monitor: Monitor, step: Step) -> int:
    """Append a step's transitions to the table `alerts` where that was not done; how many were written now."""
    if step.transitions.num_rows == 0:
        return 0
    return monitor.lake.append("alerts", [Batch(f"alerts:{step.number}", step.transitions)]).rows


def save_rules(monitor: Monitor, rows: pa.Table) -> int:
    """Replace the table `alert_rules`, the rules that programs keep; how many there are now.

    rows: as the table; columns that may be null may be left out.

    Raises ConfigError: a rule cannot be used; says which and why. Nothing is replaced then.
    """
    whole = _whole_rules(rows)
    monitor.lake.replace("alert_rules", whole)
    return whole.num_rows


# ---- what they are: for pages, notebooks and programs


def firing_alerts(engine: Engine) -> pd.DataFrame:
    """One row per alert that fires now, newest first: the row of its newest transition, of at most a month ago."""
    text = (
        "select * from (select alerts.*, row_number() over (partition by alert_id order by at desc, "
        "case state when 'resolved' then 0 else 1 end) as place from alerts where day >= :day and at <= :now "
        "and state in ('firing', 'resolved')) as ordered where place = 1 and state = 'firing' order by fired_at desc"
    )
    since = _naive(engine.now) - FIRING_MAX
    found = engine.query(text, now=_naive(engine.now), day=f"{since:%Y-%m-%d}")
    return found.to_pandas().drop(columns="place")


def firing_of(step: Step) -> pd.DataFrame:
    """One row per alert that fires after a step, newest first: rule, market_id, measure, started_at, fired_at, told."""
    found = step.state.pairs.filter(step.state.pairs["firing"]).to_pandas()
    for column in ("started_at", "fired_at"):
        found[column] = pd.to_datetime(found[column], unit="ms")
    columns = ["rule", "market_id", "measure", "started_at", "fired_at", "told"]
    return found[columns].sort_values("fired_at", ascending=False, ignore_index=True)


def alert_history(
    engine: Engine,
    since: datetime,
    market_id: str | None = None,
    rule: str | None = None,
    states: Sequence[str] = ("firing", "resolved"),
) -> pd.DataFrame:
    """One row per transition since a moment, newest first; of one market, one rule, some states where named."""
    given = {"since": _naive(since), "now": _naive(engine.now), "day": f"{_naive(since):%Y-%m-%d}"}
    given |= {name: value for name, value in (("market_id", market_id), ("rule", rule)) if value is not None}
    named = {f"state{number}": state for number, state in enumerate(states)}
    wanted = [f"{name} = :{name}" for name in ("market_id", "rule") if name in given]
    where = " and ".join(
        [
            "day >= :day",
            "at >= :since",
            "at <= :now",
            f"state in ({', '.join(f':{name}' for name in named)})",
            *wanted,
        ]
    )
    return engine.query(
        f"select * from alerts where {where} order by at desc, rule, market_id", **given, **named
    ).to_pandas()


def alert_spans(
    engine: Engine, since: datetime, market_id: str | None = None, rule: str | None = None
) -> pd.DataFrame:
    """One row per alert that fired since a moment, newest first: alert_id, rule, market_id, measure, severity,
    started_at, fired_at, resolved_at (NaT while it fires), minutes, reached (the highest told), told (whether people were).
    """
    return spans_of(alert_history(engine, since, market_id, rule), engine.now)


def spans_of(transitions: pa.Table | pd.DataFrame, until: datetime) -> pd.DataFrame:
    """The transitions of alerts put together, one row each; as alert_spans."""
    found = transitions if isinstance(transitions, pd.DataFrame) else transitions.to_pandas()
    for column in ("at", "started_at", "fired_at"):
        if getattr(found[column].dtype, "tz", None) is not None:
            found[column] = found[column].dt.tz_localize(None)
    fired = found[found["state"] == "firing"]
    columns = ["rule", "market_id", "measure", "severity", "started_at", "fired_at"]
    each = fired.sort_values("at").groupby("alert_id")[columns].first()
    each["resolved_at"] = found[found["state"] == "resolved"].groupby("alert_id")["at"].max()
    each["resolved_at"] = pd.to_datetime(each["resolved_at"])
    ended = each["resolved_at"].fillna(pd.Timestamp(_naive(until)))
    each["minutes"] = (ended - pd.to_datetime(each["fired_at"])).dt.total_seconds() / 60
    each["reached"] = fired.groupby("alert_id")["reached"].max()
    each["told"] = fired["quiet"].isna().groupby(fired["alert_id"]).any()
    each["told"] = each["told"].fillna(value=False).astype(bool)
    return each.reset_index().sort_values("fired_at", ascending=False, ignore_index=True)


# ---- readings


def _readings(monitor: Monitor, evaluator: Evaluator, last: Step, now: datetime) -> dict[str, pa.Table]:
    """By view: what may be new since the last step, in order of time."""
    engine, found = Engine(monitor, now), {}
    missed = last.at is not None and now - last.at > timedelta(seconds=GAP_CADENCES * evaluator.cadence_s)
    for view, measures in evaluator.views.items():
        if view in WINDOWS:
            rows = readings_now(engine, AVERAGES[WINDOWS[view]], measures)
            found[view] = _with_skipped(monitor, rows, last, now, view, evaluator.cadence_s)
        else:
            moments = _missed(last.at, now, evaluator.cadence_s) if missed else []
            parts = [readings_now(Engine(monitor, moment), view, measures) for moment in moments]
            found[view] = pa.concat_tables(
                [*parts, readings_now(engine, view, measures)], promote_options="permissive"
            )
    if unknown := evaluator.unknown(found):
        evaluator.learn(_names(engine, unknown))
    return found


def readings_now(engine: Engine, view: str, measures: tuple[str, ...] | None) -> pa.Table:
    """What a view says now of the measures (None: all), each row with a time."""
    named = {f"measure{number}": name for number, name in enumerate(measures or ())}
    columns = sql.views()[view].tree.named_selects
    only = f" where measure in ({', '.join(f':{name}' for name in named)})" if named else ""
    rows = engine.query(f"select * from {view}{only}", **named)
    if any(name in columns for name in ("at", "collected_at", "last_at")):
        return rows
    return rows.append_column(
        "at", pa.repeat(pa.scalar(_naive(engine.now), pa.timestamp("ms")), rows.num_rows)
    )


def _with_skipped(
    monitor: Monitor, rows: pa.Table, last: Step, now: datetime, view: str, cadence_s: int
) -> pa.Table:
    """The newest readings, and before them those that came late or while nobody looked.

    A view of now has the newest reading of a series only. Where the one before it was not seen just a minute ago,
    others may be between: the history says so.
    """
    if last.at is None or rows.num_rows == 0:
        return rows
    seen = last.state.seen.filter(pc.equal(last.state.seen["view"], view)).select(
        ["market_id", "measure", "at_ms"]
    )
    joined = rows.select(["market_id", "measure", "at"]).join(seen, ["market_id", "measure"])
    apart = pc.subtract(joined["at"].cast(pa.int64()), joined["at_ms"])
    skipped = joined.filter(pc.fill_null(pc.greater(apart, round(1.5e3 * cadence_s)), False))
    if skipped.num_rows == 0:
        return rows
    oldest = datetime.fromtimestamp(pc.min(skipped["at_ms"]).as_py() / 1e3, UTC)
    since = max(now - MISSED_MAX, last.at - LATE, oldest)
    markets = skipped["market_id"].unique().to_pylist()
    earlier = history.readings(
        monitor,
        sorted(skipped["measure"].unique().to_pylist()),
        since,
        now,
        markets if len(markets) <= 200 else None,
        WINDOWS[view],
    )
    # the view's own row of a reading comes first and stands
    key = ["market_id", "measure", "at"]
    fresh = earlier.join(rows.select(key), key, join_type="left anti")
    fresh = fresh.join(seen, ["market_id", "measure"], join_type="inner")
    fresh = fresh.filter(pc.greater(fresh["at"].cast(pa.int64()), fresh["at_ms"]))
    log.info("%d readings were late or missed", fresh.num_rows)
    columns = history.reading(WINDOWS[view]).names
    return pa.concat_tables(
        [fresh.select(columns), rows.select(columns)], promote_options="permissive"
    ).sort_by("at")


def _missed(since: datetime, now: datetime, cadence_s: int) -> list[datetime]:
    """The moments between, one a cadence."""
    since, step = max(since, now - MISSED_MAX), timedelta(seconds=cadence_s)
    return [
        since + step * number
        for number in range(1, int((now - since) / step) + 1)
        if since + step * number < now
    ]


def _names(engine: Engine, market_ids: list[str]) -> pa.Table:
    """What markets are called, of those that ticked in the last day."""
    rows = engine.query("select market_id, exchange, symbol, market from markets")
    return rows.filter(pc.is_in(rows["market_id"], value_set=pa.array(market_ids, pa.string())))


# ---- rules


def _evaluator(monitor: Monitor, rules: tuple[Rule, ...]) -> Evaluator:
    table = monitor.lake.open("alert_rules")
    key = (rules, monitor.settings.cadence_s, None if table is None else table.version())
    known = _compiled.get(monitor.storage.root)
    if known is None or known[0] != key:
        rows = None if table is None else table.to_pyarrow_table().cast(schema("alert_rules"))
        _check_names(rules, rows)
        known = _compiled[monitor.storage.root] = (key, Evaluator(rules, rows, monitor.settings.cadence_s))
    return known[1]


def _count(evaluator: Evaluator) -> int:
    return len(evaluator.rules) + evaluator.table.num_rows


def _check_names(rules: tuple[Rule, ...], rows: pa.Table | None) -> None:
    mine = pa.array([rule.name for rule in rules], pa.string())
    if rows is not None and (both := rows.filter(pc.is_in(rows["rule"], value_set=mine))).num_rows:
        raise ConfigError(
            f"alert_rules has a rule {both['rule'][0]}, and so has params/alerts.yaml: rename one of them."
        )


def _whole_rules(rows: pa.Table) -> pa.Table:
    """The rows with all columns, checked."""
    for name in rows.column_names:
        if name not in TABLE.names:
            raise ConfigError(f"alert_rules has no column {name}; known: {', '.join(TABLE.names)}.")
    for name in TABLE.names:
        if name not in rows.column_names:
            filling = {"measure": "", "severity": "warning"}.get(name)
            rows = rows.append_column(
                name, pa.repeat(pa.scalar(filling, TABLE.field(name).type), rows.num_rows)
            )
    rows = rows.select(TABLE.names).cast(TABLE)
    for column in ("rule", "market_id", "view", "compared", "compare", "threshold", "severity"):
        if rows[column].null_count:
            raise ConfigError(
                f"alert_rules: {column} is null in {rows[column].null_count} rows; each rule needs it."
            )
    _check_values(rows)
    return rows


def _check_values(rows: pa.Table) -> None:
    if (names := pc.count_distinct(rows["rule"]).as_py()) != rows.num_rows:
        raise ConfigError(f"alert_rules: {rows.num_rows} rows have {names} names; a name is of one rule.")
    for column, allowed in (("compare", (">", ">=", "<", "<=")), ("severity", SEVERITIES)):
        if wrong := set(rows[column].unique().to_pylist()) - set(allowed):
            raise ConfigError(
                f"alert_rules: {column} is {sorted(wrong)[0]!r}; it is one of {', '.join(allowed)}."
            )
    known = sql.views()
    for view, compared in {
        (one["view"], one["compared"])
        for one in rows.select(["view", "compared"]).group_by(["view", "compared"]).aggregate([]).to_pylist()
    }:
        if view not in known or compared not in known[view].tree.named_selects:
            raise ConfigError(
                f"alert_rules: there is no column {compared} of a view {view}; see cryptomon_lib/views."
            )
    for column in ("threshold", "recover", "for_s", "keep_firing_s", "cool_down_s", "rearm", "no_data_s"):
        values = rows[column].drop_null()
        if not pc.all(pc.is_finite(values)).as_py() and len(values):
            raise ConfigError(f"alert_rules: {column} has values that are no finite numbers.")


# ---- steps as objects


def _key(number: int) -> str:
    return f"{STATES}/{number:012d}.zip"


def _packed(step: Step) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_STORED) as packed:
        about = {"number": step.number, "at": step.at.isoformat(), "rules": step.rules}
        packed.writestr("about.json", msgspec.json.encode(about))
        for name, rows in {
            **{name: getattr(step.state, name) for name in _PARTS},
            "transitions": step.transitions,
        }.items():
            part = io.BytesIO()
            pq.write_table(rows, part, compression="zstd")
            packed.writestr(f"{name}.parquet", part.getvalue())
    return body.getvalue()


def _unpacked(body: bytes, key: str) -> Step:
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as packed:
            about = msgspec.json.decode(packed.read("about.json"))
            read = {
                name: pq.read_table(io.BytesIO(packed.read(f"{name}.parquet")))
                for name in (*_PARTS, "transitions")
            }
    except (zipfile.BadZipFile, KeyError, pa.ArrowInvalid, msgspec.DecodeError) as error:
        raise StorageError(
            f"{key} is no step of alerts: {error}. Delete it to go on from the step before it."
        ) from error
    return Step(
        about["number"],
        datetime.fromisoformat(about["at"]),
        State(**{name: read[name].cast(kind) for name, kind in _PARTS.items()}),
        read["transitions"].cast(schema("alerts")),
        about["rules"],
    )


def _forget(monitor: Monitor, number: int) -> None:
    """Delete steps that are long done."""
    for one in monitor.storage.objects(STATES):
        match = re.search(r"(\d+)\.zip$", one.key)
        if match and int(match[1]) <= number - _KEPT:
            monitor.storage.delete(one.key)


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
