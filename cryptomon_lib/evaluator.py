"""The one evaluator of alert rules, for this minute and for history: readings and the state before, to transitions.

Owns what pending, firing, over, silent and cooling down mean. Everything is set-wise SQL in DuckDB over all markets and
rules at once; rules that compare one column with a number are rows of a table, not text, so a million of them cost one
join. A reading may come late, or many at once: each pair of rule and series is followed in the order of its readings.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from cryptomon_lib.rules import FIELDS, Rule, condition_in, filled, matcher, spelled
from cryptomon_lib.tables import schema

log = logging.getLogger(__name__)

# further apart than this, two readings are not one after the other: what has to hold for a while begins anew
GAP_CADENCES = 2.5
# a series that is silent for so long is forgotten
FORGOTTEN = timedelta(hours=25)
TIMES = ("at", "collected_at", "last_at")
_TEXT, _NUMBER, _WHOLE, _YES = pa.string(), pa.float64(), pa.int64(), pa.bool_()
_SERIES = [("market_id", _TEXT), ("measure", _TEXT)]
# times are milliseconds since 1970
PAIRS = pa.schema(
    [
        ("rule", _TEXT),
        *_SERIES,
        ("last_at", _WHOLE),
        ("holds", _YES),
        ("recovered", _YES),
        ("firing", _YES),
        ("held_since", _WHOLE),
        ("recovered_since", _WHOLE),
        ("started_at", _WHOLE),
        ("fired_at", _WHOLE),
        ("told", _YES),
        ("told_at", _WHOLE),
        ("told_size", _NUMBER),
    ]
)
SEEN = pa.schema([("view", _TEXT), *_SERIES, ("at_ms", _WHOLE)])
SILENT = pa.schema([("rule", _TEXT), *_SERIES, ("since", _WHOLE)])
NAMES = pa.schema([("market_id", _TEXT), ("exchange", _TEXT), ("symbol", _TEXT), ("market", _TEXT)])
# rules for programs: one row a rule, each of one market and measure, each one comparison
TABLE = pa.schema(
    [(column, schema("alert_rules").field(column).type) for column in schema("alert_rules").names]
)


@dataclass(frozen=True)
class State:
    """What has to be known of the past: pairs that are not at rest, the newest reading of each series, silent ones.

    pairs: one row per rule, market_id, measure that is pending, firing or cooling down. names: what markets are called.
    """

    pairs: pa.Table = field(default_factory=PAIRS.empty_table)
    seen: pa.Table = field(default_factory=SEEN.empty_table)
    silent: pa.Table = field(default_factory=SILENT.empty_table)
    names: pa.Table = field(default_factory=NAMES.empty_table)


class Evaluator:
    """Rules, compiled, and the state that they are in.

    rules: of people, with patterns and SQL. table: of programs, as the table `alert_rules`. cadence_s: seconds between
    readings. track: follow what was read and which series are silent; a back-test, which reads each row once, need not.
    messages: fill them in.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        table: pa.Table | None = None,
        cadence_s: int = 60,
        track: bool = True,
        messages: bool = True,
    ):
        self.rules = tuple(rules)
        self.table = TABLE.empty_table() if table is None else table
        self.cadence_s, self.track, self.messages = cadence_s, track, messages
        self._scopes = {
            patterns: number for number, patterns in enumerate(dict.fromkeys(r.markets for r in rules))
        }
        self._db = duckdb.connect(":memory:")
        self._db.execute("set TimeZone = 'UTC'; set preserve_insertion_order = false")
        self._reading: dict[str, list[str]] = {}
        self._compile()
        self.load(State())

    @property
    def views(self) -> dict[str, tuple[str, ...] | None]:
        """The views that the rules read, and of each the measures that they need; None is all."""
        found: dict[str, set[str] | None] = {}
        for view, measure in self._db.execute("select distinct view, measure from watch").fetchall():
            if measure is None or found.get(view, ()) is None:
                found[view] = None
            else:
                found.setdefault(view, set()).add(measure)
        return {
            view: None if names is None else tuple(sorted(names)) for view, names in sorted(found.items())
        }

    def load(self, state: State) -> None:
        """Take over a state; what is of rules that are no more ends with the next step."""
        for name in ("pairs", "seen", "silent", "names"):
            self._put(name, getattr(state, name))
        self._db.execute(
            """
            create or replace table state as
            select policy.rule_no, pairs.* from pairs inner join policy using (rule);
            create or replace table orphan as
            select * from pairs anti join policy using (rule) where firing;
            create or replace table hushed as
            select policy.rule_no, silent.* from silent inner join policy using (rule);
            create or replace table scope (scope_no integer, market_id varchar);
            drop table pairs;
            drop table silent;
            """
        )
        self._scope(state.names)

    def state(self) -> State:
        """The state as it is now."""
        return State(
            pairs=self._table(
                "select * exclude (rule_no) from state order by rule, market_id, measure", PAIRS
            ),
            seen=self._table("select * from seen order by view, measure, market_id", SEEN),
            silent=self._table(
                "select * exclude (rule_no) from hushed order by rule, market_id, measure", SILENT
            ),
            names=self._table("select * from names order by market_id", NAMES),
        )

    def unknown(self, readings: Mapping[str, pa.Table]) -> list[str]:
        """Those of the readings' markets whose names are not known yet."""
        known = set(self._db.sql("select market_id from names").to_arrow_table()["market_id"].to_pylist())
        return sorted(
            {one for rows in readings.values() for one in rows["market_id"].unique().to_pylist()} - known
        )

    def learn(self, names: pa.Table) -> None:
        """Take in what further markets are called: market_id, exchange, symbol, market."""
        names = names.select(NAMES.names).cast(NAMES)
        self._put("learned", names)
        self._db.execute(
            "insert into names select * from learned anti join names using (market_id); drop table learned"
        )
        self._scope(names)

    def advance(self, readings: Mapping[str, pa.Table], now: datetime) -> pa.Table:
        """Evaluate all rules on readings that came since; gives the transitions, as rows of the table `alerts`.

        readings: by view; market_id, measure where the view has one, at (naive UTC), and the columns that conditions
        name. Of a series only what is newer than all before counts. now: the moment of the evaluation.
        """
        now_ms = _ms(now)
        if missing := self.unknown(readings):
            self.learn(pa.Table.from_pylist([_named(one) for one in missing], schema=NAMES))
        self._reading = {
            view: self._read(view, rows, now_ms) for view, rows in readings.items() if rows.num_rows
        }
        self._pair()
        self._hit()
        self._follow()
        self._tell()
        self._settle(now_ms)
        self._silence(now_ms)
        return self._transitions(now_ms)

    # ---- rules to tables

    def _compile(self) -> None:
        """policy: one row a rule. wide, narrow_<n>: rules that compare one column with a number, of patterns and of one
        series. watch: which measures of which views are read. heed: who waits for which series to be silent.
        """
        self._put(
            "own", pa.Table.from_pylist([self._policy(*one) for one in enumerate(self.rules)], schema=_POLICY)
        )
        measures = [
            {"rule_no": number, "measure": measure}
            for number, rule in enumerate(self.rules)
            for measure in (rule.measures or (None,))
        ]
        self._put("own_measure", pa.Table.from_pylist(measures, schema=_MEASURE))
        self._put("given", self.table)
        self._db.execute(
            f"""
            create table numbered as
            select (row_number() over () - 1 + {len(self.rules)})::integer as rule_no, * from given;
            create table series as
            select (row_number() over ())::integer as series_no, market_id, measure
            from (select distinct market_id, coalesce(measure, '') as measure from given);
            create table watch as
            select distinct own.view, own_measure.measure from own inner join own_measure using (rule_no)
            union
            select distinct view, measure from numbered;
            create table shape as
            select (row_number() over ())::integer as shape_no, * from (
                select distinct view, compared, compare from own where plain
                union
                select distinct view, compared, compare from numbered
            );
            create table policy as
            select own.* exclude (plain), case when own.plain then shape.shape_no end as shape_no
            from own left join shape using (view, compared, compare)
            union all by name
            select
                numbered.rule_no, numbered.rule, numbered.view, numbered.severity, numbered.compared, numbered.compare,
                numbered.threshold, coalesce(numbered.recover, numbered.threshold) as release,
                coalesce(numbered.min_samples, 0)::integer as min_samples,
                (coalesce(numbered.for_s, 0) * 1e3)::bigint as for_ms,
                (coalesce(numbered.keep_firing_s, 0) * 1e3)::bigint as keep_ms,
                (coalesce(numbered.cool_down_s, 0) * 1e3)::bigint as cool_ms,
                numbered.rearm, (numbered.no_data_s * 1e3)::bigint as no_data_ms, numbered.message, shape.shape_no
            from numbered inner join shape using (view, compared, compare);
            create table wide as
            select policy.rule_no, shape_no, scope_no, measure, threshold, min_samples
            from policy inner join own_measure using (rule_no) where shape_no is not null;
            create table narrow as
            select numbered.rule_no, shape.shape_no, series.series_no, numbered.threshold,
                coalesce(numbered.min_samples, 0)::integer as min_samples
            from numbered
            inner join shape using (view, compared, compare)
            inner join series
            on series.market_id = numbered.market_id and series.measure = coalesce(numbered.measure, '');
            create table heed as
            select rule_no, series_no from narrow
            inner join policy using (rule_no) where policy.no_data_ms is not null;
            drop table given;
            drop table numbered;
            drop table own;
            """
        )
        self._shapes = self._db.execute("select shape_no, view, compared, compare from shape").fetchall()
        self._free = [one for one in enumerate(self.rules) if not _is_plain(one[1])]
        for shape_no, *_ in self._shapes:
            # one table a shape: a million rows are not asked each time which shape they are of
            self._db.execute(
                f"create table narrow_{shape_no} as select rule_no, series_no, threshold, min_samples from narrow "
                f"where shape_no = {shape_no}"
            )
        self._db.execute("drop table narrow")

    def _policy(self, number: int, rule: Rule) -> dict[str, Any]:
        return {
            "rule_no": number,
            "rule": rule.name,
            "view": rule.view,
            "severity": rule.severity,
            "compared": rule.compared,
            "compare": rule.compare,
            "threshold": rule.threshold,
            "release": rule.threshold if rule.recover is None else rule.recover,
            "min_samples": rule.min_samples,
            "for_ms": round(rule.for_s * 1e3),
            "keep_ms": round(rule.keep_firing_s * 1e3),
            "cool_ms": round(rule.cool_down_s * 1e3),
            "rearm": rule.rearm,
            "no_data_ms": None if rule.no_data_s is None else round(rule.no_data_s * 1e3),
            "message": rule.message,
            "scope_no": self._scopes[rule.markets],
            "plain": _is_plain(rule),
        }

    def _scope(self, names: pa.Table) -> None:
        """Find out which of new markets the rules' patterns mean."""
        rows = names.to_pylist() if self._scopes else []
        found = [
            {"scope_no": number, "market_id": row["market_id"]}
            for patterns, number in self._scopes.items()
            for matches in (matcher(patterns),)
            for row in rows
            if matches(row["market_id"], row["market"])
        ]
        self._put("fitting", pa.Table.from_pylist(found, schema=_SCOPE))
        self._db.execute("insert into scope select * from fitting; drop table fitting")

    # ---- one step

    def _read(self, view: str, rows: pa.Table, now_ms: int) -> list[str]:
        """reading_<view>: what is new of the view, times in milliseconds; gives its columns."""
        self._put("fresh", _with_series(rows, now_ms))
        newer = (
            f"left join seen on seen.view = '{view}' and seen.market_id = fresh.market_id "
            "and seen.measure = fresh.measure where seen.at_ms is null or fresh.at_ms > seen.at_ms"
        )
        self._db.execute(
            f"""
            create or replace table reading_{view} as
            select fresh.*, series.series_no
            from fresh
            left join series on series.market_id = fresh.market_id and series.measure = fresh.measure
            {newer if self.track else ""};
            drop table fresh
            """
        )
        return rows.column_names

    def _pair(self) -> None:
        """pair: rule and series that something may happen to: not at rest, or with a reading that meets the condition."""
        parts = ["select rule_no, market_id, measure from state"]
        for shape_no, view, compared, compare in self._shapes:
            if view not in self._reading:
                continue
            passes = (
                f'reading."{compared}" {compare} rule.threshold and {self._enough(view, "rule.min_samples")}'
            )
            parts += [
                f"""
                select rule.rule_no, reading.market_id, reading.measure
                from narrow_{shape_no} as rule
                inner join reading_{view} as reading on reading.series_no = rule.series_no
                where {passes}""",
                f"""
                select rule.rule_no, reading.market_id, reading.measure
                from reading_{view} as reading
                inner join scope on scope.market_id = reading.market_id
                inner join wide as rule on rule.scope_no = scope.scope_no and rule.shape_no = {shape_no}
                where {passes} and (rule.measure is null or rule.measure = reading.measure)""",
            ]
        for number, rule in self._free:
            if rule.view in self._reading:
                parts.append(
                    f"""
                    select {number}, reading.market_id, reading.measure
                    from reading_{rule.view} as reading
                    inner join scope
                    on scope.market_id = reading.market_id and scope.scope_no = {self._scopes[rule.markets]}
                    where ({spelled(rule.condition)}) and {self._enough(rule.view, str(rule.min_samples))}
                        and {_of_measures(rule)}"""
                )
        self._db.execute(
            f"""
            create or replace table pair as
            select (row_number() over ())::integer as pair_no, found.*, policy.* exclude (rule_no)
            from (select distinct * from ({" union all ".join(parts)})) as found
            inner join policy on policy.rule_no = found.rule_no
            """
        )

    def _hit(self) -> None:
        """hit: each new reading of those pairs, whether the condition holds, whether it is over; null is not known."""
        parts = [_NO_HIT]
        for shape_no, view, compared, compare in self._shapes:
            if view in self._reading:
                reached = f'reading."{compared}"'
                holds, over = f"{reached} {compare} pair.threshold", f"not ({reached} {compare} pair.release)"
                parts.append(self._hit_of(view, f"pair.shape_no = {shape_no}", holds, over, compared))
        for number, rule in self._free:
            if rule.view in self._reading:
                holds, over = spelled(rule.condition), condition_in(rule)
                parts.append(self._hit_of(rule.view, f"pair.rule_no = {number}", holds, over, rule.compared))
        self._db.execute(f"create or replace table hit as {' union all '.join(parts)}")

    def _hit_of(self, view: str, which: str, holds: str, over: str, compared: str | None) -> str:
        columns = self._reading[view]

        def one(prefix: str, kind: str = "double", otherwise: str = "null") -> str:
            name = next((column for column in columns if column.startswith(prefix)), None)
            return f'reading."{name}"::{kind}' if name else f"{otherwise}::{kind}"

        reached = f'reading."{compared}"::double' if compared else "null::double"
        # `null and false` is false: of a condition of several parts, the column that it is about has to be known
        known = f'reading."{compared}" is not null' if compared else "true"
        return f"""
            select
                pair.pair_no,
                reading.at_ms,
                case when {self._enough(view, "pair.min_samples")} and {known} then ({holds}) end as holds,
                not ({holds}) and coalesce({over}, false) as recovered,
                {one("value", otherwise=reached)} as value,
                {one("average_")} as average,
                {one("ratio_")} as ratio,
                {reached} as reached,
                {one("samples", "bigint")} as samples
            from pair
            inner join reading_{view} as reading
            on reading.market_id = pair.market_id and reading.measure = pair.measure
            where {which}"""

    def _enough(self, view: str, floor: str) -> str:
        return f"reading.samples >= {floor}" if "samples" in self._reading[view] else "true"

    def _follow(self) -> None:
        """line: each pair's readings in order after the state that it was in, with what it is then.

        A pair fires when the condition has held for `for`, and is over when it has been recovered for `keep_firing_for`.
        """
        gap_ms = int(GAP_CADENCES * self.cadence_s * 1e3)
        window = "(partition by pair_no order by at_ms)"
        so_far = "(partition by pair_no order by at_ms rows between unbounded preceding and current row)"
        self._db.execute(
            f"""
            create or replace table before as
            select pair.pair_no, state.* exclude (rule_no, rule, market_id, measure)
            from state inner join pair using (rule_no, market_id, measure);

            create or replace table line as
            with merged as (
                select
                    pair_no, last_at as at_ms, true as kept, holds, recovered, held_since as held_at,
                    recovered_since as recovered_at, firing as signal, started_at as started, fired_at as fired_when,
                    null::double as value, null::double as average, null::double as ratio, null::double as reached,
                    null::bigint as samples
                from before
                union all
                select
                    hit.pair_no, hit.at_ms, false, hit.holds, hit.recovered, null, null, null, null, null,
                    hit.value, hit.average, hit.ratio, hit.reached, hit.samples
                from hit left join before using (pair_no)
                where hit.holds is not null and (before.last_at is null or hit.at_ms > before.last_at)
            ),
            beside as (
                select
                    merged.*,
                    coalesce(lag(holds) over {window}, false) as held_before,
                    coalesce(lag(recovered) over {window}, false) as recovered_before,
                    coalesce(at_ms - lag(at_ms) over {window} > {gap_ms}, false) as broken
                from merged
            ),
            begun as (
                select
                    beside.* replace (
                        case when kept then held_at when holds and (not held_before or broken) then at_ms end as held_at,
                        case
                            when kept then recovered_at when recovered and (not recovered_before or broken) then at_ms
                        end as recovered_at
                    ),
                    not kept and holds and (not held_before or broken) as begins
                from beside
            ),
            since as (
                select
                    *,
                    last_value(held_at ignore nulls) over {so_far} as held_since,
                    last_value(recovered_at ignore nulls) over {so_far} as recovered_since
                from begun
            ),
            signalled as (
                select
                    since.* replace (
                        case
                            when kept then signal
                            when holds and at_ms - held_since >= pair.for_ms then true
                            when recovered and at_ms - recovered_since >= pair.keep_ms then false
                        end as signal
                    )
                from since inner join pair using (pair_no)
            ),
            latched as (
                select *, coalesce(last_value(signal ignore nulls) over {so_far}, false) as firing from signalled
            ),
            moved as (
                select
                    *,
                    coalesce(lag(firing) over {window}, false) as fired_before,
                    lag(held_since) over {window} as held_since_before
                from latched
            ),
            changed as (
                select
                    *,
                    not kept and firing and not fired_before as fires,
                    not kept and fired_before and not firing as resolves
                from moved
            )
            select
                * exclude (held_at, recovered_at, signal, started, fired_when),
                last_value(case when kept then started when fires then held_since end ignore nulls) over {so_far}
                    as started_at,
                last_value(case when kept then fired_when when fires then at_ms end ignore nulls) over {so_far} as fired_at
            from changed
            """
        )

    def _tell(self) -> None:
        """told: what people are told of a pair, row by row where there is something to tell or to keep quiet about.

        A cool-down counts from what was told last: that has an order which no window knows, so it is walked through.
        These are few rows: of pairs that fire, until they are told.
        """
        rows = self._db.execute(
            """
            select
                line.pair_no, line.at_ms, line.fires, line.resolves,
                case
                    when pair.threshold is null then null
                    when pair.compare in ('>', '>=') and pair.threshold > 0 then line.reached / pair.threshold
                    when pair.compare in ('<', '<=') and pair.threshold < 0 then line.reached / pair.threshold
                    when pair.compare in ('<', '<=') and pair.threshold > 0
                        then coalesce(pair.threshold / nullif(greatest(line.reached, 0e0), 0e0), 1e300)
                    else abs(line.reached - pair.threshold)
                end as size,
                pair.cool_ms, pair.rearm, before.told, before.told_at, before.told_size
            from line
            inner join pair using (pair_no)
            left join before using (pair_no)
            where not line.kept and (
                line.fires or line.resolves
                or (line.firing and (pair.rearm is not null or pair.cool_ms > 0 and not coalesce(before.told, false)))
            )
            order by line.pair_no, line.at_ms
            """
        ).fetchall()
        self._put("told", _walked(rows))

    def _settle(self, now_ms: int) -> None:
        """change: the transitions of rules. state: what each pair is in now."""
        seen_as = "value, average, ratio, reached, samples"
        self._db.execute(
            f"""
            create or replace table change as
            select pair_no, case when resolves then 'resolved' else 'firing' end as state, at_ms, started_at, fired_at,
                told.quiet, {seen_as}
            from line inner join told using (pair_no, at_ms)
            where fires or resolves or told.again
            union all
            select pair_no, 'pending', at_ms, held_since, null, null, {seen_as} from line where begins and not firing
            union all
            select pair_no, 'lapsed', at_ms, held_since_before, null, null, {seen_as}
            from line where not kept and held_before and not fired_before and (begins or not holds);

            create or replace table state as
            with newest as (
                select * from line qualify row_number() over (partition by pair_no order by at_ms desc) = 1
            ),
            last_told as (
                select * from told qualify row_number() over (partition by pair_no order by at_ms desc) = 1
            )
            select
                pair.rule_no, pair.rule, pair.market_id, pair.measure, newest.at_ms as last_at, newest.holds,
                coalesce(newest.recovered, false) as recovered, newest.firing, newest.held_since,
                newest.recovered_since, newest.started_at, newest.fired_at,
                coalesce(last_told.told, before.told, false) as told,
                coalesce(last_told.told_at, before.told_at) as told_at,
                coalesce(last_told.told_size, before.told_size) as told_size
            from newest
            inner join pair using (pair_no)
            left join last_told using (pair_no)
            left join before using (pair_no)
            where
                newest.firing
                or newest.holds
                or coalesce(last_told.told_at, before.told_at) + pair.cool_ms > {now_ms}
            """
        )

    def _silence(self, now_ms: int) -> None:
        """hush: silences longer than a rule has patience, with when they ended. seen: the newest of each series.

        It is no matter of conditions: a silent series neither fires nor resolves anything.
        """
        if not self.track:
            return
        heard = [
            f"select '{view}' as view, market_id, measure, at_ms from reading_{view}"
            for view in self._reading
        ]
        self._db.execute(
            f"""
            create or replace table heard as {" union all ".join(["select * from seen", *heard])};
            create or replace table pause as
            with patient as (
                select view, min(no_data_ms) as no_data_ms from policy where no_data_ms is not null group by view
            ),
            apart as (
                select heard.*, lead(at_ms) over (partition by view, market_id, measure order by at_ms) as next_at
                from heard semi join patient using (view)
            )
            select apart.*, coalesce(next_at, {now_ms}) - at_ms as silent_ms
            from apart inner join patient using (view)
            where coalesce(next_at, {now_ms}) - at_ms > no_data_ms;

            create or replace table hush as
            with waiting as (
                select policy.rule_no, pause.*
                from pause
                inner join scope on scope.market_id = pause.market_id
                inner join policy on policy.scope_no = scope.scope_no and policy.view = pause.view
                inner join own_measure on own_measure.rule_no = policy.rule_no
                where own_measure.measure is null or own_measure.measure = pause.measure
                union all
                select heed.rule_no, pause.*
                from pause
                inner join series on series.market_id = pause.market_id and series.measure = pause.measure
                inner join heed using (series_no)
                inner join policy on policy.rule_no = heed.rule_no and policy.view = pause.view
            )
            select
                policy.rule_no, policy.rule, waiting.market_id, waiting.measure, waiting.at_ms as since, waiting.next_at,
                waiting.at_ms + policy.no_data_ms as at_ms, hushed.since is not null as known
            from waiting
            inner join policy using (rule_no)
            left join hushed
            on hushed.rule_no = waiting.rule_no and hushed.market_id = waiting.market_id
                and hushed.measure = waiting.measure and hushed.since = waiting.at_ms
            where waiting.silent_ms > policy.no_data_ms;

            create or replace table hushed as
            select rule_no, rule, market_id, measure, since from hush where next_at is null;
            create or replace table seen as
            select view, market_id, measure, max(at_ms) as at_ms from heard
            group by view, market_id, measure
            having max(at_ms) > {now_ms - round(FORGOTTEN.total_seconds() * 1e3)};
            """
        )

    def _transitions(self, now_ms: int) -> pa.Table:
        """All that changed, as rows of the table `alerts`, by time."""
        silences = """
            union all by name
            select policy.rule, hush.market_id, hush.measure, 'no_data' as state, hush.at_ms, hush.since as started_at,
                policy.* exclude (rule, view)
            from hush inner join policy using (rule_no) where not hush.known
            union all by name
            select policy.rule, hush.market_id, hush.measure, 'data' as state, hush.next_at as at_ms,
                hush.since as started_at,
                policy.* exclude (rule, view)
            from hush inner join policy using (rule_no) where hush.next_at is not null
        """
        found = self._db.sql(
            f"""
            with every as (
                select pair.rule, pair.market_id, pair.measure, change.* exclude (pair_no),
                    pair.severity, pair.compared, pair.threshold, pair.message
                from change inner join pair using (pair_no)
                union all by name
                select rule, market_id, measure, 'resolved' as state, {now_ms}::bigint as at_ms, started_at, fired_at,
                    'rule_removed' as quiet
                from orphan
                {silences if self.track else ""}
            )
            select
                substr(sha256(concat_ws(chr(10), rule, every.market_id, measure, started_at,
                    case when state in ('no_data', 'data') then 'no_data' end)), 1, 24) as alert_id,
                state, make_timestamptz(at_ms * 1000) as at, rule, every.market_id, names.exchange, names.symbol,
                names.market, measure, value, average, ratio, compared, reached, threshold, samples,
                coalesce(severity, 'info') as severity, make_timestamptz(started_at * 1000) as started_at,
                make_timestamptz(fired_at * 1000) as fired_at, quiet, message as says,
                make_timestamptz({now_ms}::bigint * 1000) as evaluated_at,
                strftime(make_timestamp(at_ms * 1000), '%Y-%m-%d') as day
            from every left join names on names.market_id = every.market_id
            order by at_ms, rule, market_id, measure, state
            """
        ).to_arrow_table()
        self._db.execute("delete from orphan")
        found = found.cast(schema("alerts"))
        return _with_messages(found) if self.messages else found

    def _put(self, name: str, rows: pa.Table) -> None:
        self._db.register("arriving", rows)
        self._db.execute(f"create or replace table {name} as select * from arriving")
        self._db.unregister("arriving")

    def _table(self, text: str, kind: pa.Schema) -> pa.Table:
        return self._db.sql(text).to_arrow_table().cast(kind)


_POLICY = pa.schema(
    [
        ("rule_no", pa.int32()),
        *((name, _TEXT) for name in ("rule", "view", "severity", "compared", "compare")),
        ("threshold", _NUMBER),
        ("release", _NUMBER),
        ("min_samples", pa.int32()),
        ("for_ms", _WHOLE),
        ("keep_ms", _WHOLE),
        ("cool_ms", _WHOLE),
        ("rearm", _NUMBER),
        ("no_data_ms", _WHOLE),
        ("message", _TEXT),
        ("scope_no", pa.int32()),
        ("plain", _YES),
    ]
)
_MEASURE = pa.schema([("rule_no", pa.int32()), ("measure", _TEXT)])
_SCOPE = pa.schema([("scope_no", pa.int32()), ("market_id", _TEXT)])
_TOLD = pa.schema(
    [
        ("pair_no", pa.int32()),
        ("at_ms", _WHOLE),
        ("again", _YES),
        ("quiet", _TEXT),
        ("told", _YES),
        ("told_at", _WHOLE),
        ("told_size", _NUMBER),
    ]
)
_NO_HIT = """
    select null::integer as pair_no, null::bigint as at_ms, null::boolean as holds, null::boolean as recovered,
        null::double as value, null::double as average, null::double as ratio, null::double as reached,
        null::bigint as samples
    where false"""


def _is_plain(rule: Rule) -> bool:
    return rule.simple and rule.recovery is None


def _of_measures(rule: Rule) -> str:
    if rule.measures is None:
        return "true"
    return f"reading.measure in ({', '.join(_quoted(measure) for measure in rule.measures)})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _walked(rows: Iterable[tuple]) -> pa.Table:
    """What is told of each row; rows by pair and time."""
    out: list[tuple] = []
    pair, told, told_at, told_size = None, False, None, None
    for pair_no, at, fires, resolves, size, cool_ms, rearm, *known in rows:
        if pair_no != pair:
            pair, (told, told_at, told_size) = pair_no, known
        quiet, again = None, False
        if resolves:
            quiet = None if told else "cool_down"
        else:
            told = bool(told) and not fires
            cooled = told_at is None or at - told_at >= cool_ms
            larger = (
                rearm is not None and size is not None and told_size is not None and size > rearm * told_size
            )
            tell = larger or (not told and cooled)
            if tell:
                told, told_at, told_size, again = True, at, size, not fires
            elif fires:
                quiet = "cool_down"
        out.append((pair_no, at, again, quiet, bool(told), told_at, told_size))
    columns = list(zip(*out, strict=True)) or [()] * len(_TOLD)
    return pa.table(
        [pa.array(column, kind.type) for column, kind in zip(columns, _TOLD, strict=True)], schema=_TOLD
    )


def _with_series(rows: pa.Table, now_ms: int) -> pa.Table:
    """The rows with a measure and at_ms."""
    if "measure" not in rows.column_names:
        rows = rows.append_column("measure", pa.repeat(pa.scalar("", _TEXT), rows.num_rows))
    column = next((name for name in TIMES if name in rows.column_names), None)
    if column is None:
        return rows.append_column("at_ms", pa.repeat(pa.scalar(now_ms, _WHOLE), rows.num_rows))
    return rows.append_column("at_ms", rows[column].cast(pa.timestamp("ms")).cast(_WHOLE))


def _named(market_id: str) -> dict[str, str | None]:
    """What a market is called as far as its id says."""
    _, exchange, symbol = [*market_id.split(":", 2), "", ""][:3]
    return {"market_id": market_id, "exchange": exchange, "symbol": symbol, "market": None}


def _with_messages(rows: pa.Table) -> pa.Table:
    """The rows, their messages filled in."""
    fields = rows.select([name for name in rows.column_names if name in FIELDS]).to_pylist()
    says = [
        f"{one['rule']} no longer exists" if message is None else _said(one, message)
        for message, one in zip(rows["says"].to_pylist(), fields, strict=True)
    ]
    place = rows.schema.get_field_index("says")
    return rows.set_column(place, rows.schema.field(place), pa.array(says, _TEXT))


def _said(one: dict[str, Any], message: str) -> str:
    one["market"] = one["market"] or one["symbol"]
    if one["state"] in ("no_data", "data"):
        silent = "is silent" if one["state"] == "no_data" else "has data again"
        return f"{one['market']} {one['measure']} {silent}; last reading before it at {one['started_at']:%Y-%m-%d %H:%M} UTC"
    return filled(message, one)


def _ms(moment: datetime) -> int:
    return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1e3)
