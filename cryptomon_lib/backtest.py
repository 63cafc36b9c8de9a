"""When a rule would have fired: the same evaluator over the past, several settings side by side.

Owns the way from the history's blocks to what can change anything, and what is said about it: how often, on which
markets, how long, what the price did in the hour after, and how many notices people would have got. Memory is bounded by
an hour of all markets and by what fired.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cryptomon_lib import history
from cryptomon_lib.alerts import readings_now, spans_of
from cryptomon_lib.engine import Engine
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.evaluator import GAP_CADENCES, Evaluator
from cryptomon_lib.history import Block, Past
from cryptomon_lib.monitor import Monitor
from cryptomon_lib.notices import notices_of, transitions_of
from cryptomon_lib.payloads import parse_moment
from cryptomon_lib.receivers import User
from cryptomon_lib.rules import WINDOWS, Rule, condition_in, duration_s, read_settings, spelled
from cryptomon_lib.tables import empty

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 400_000
_AFTER = timedelta(hours=1)
_OLD_MS = 150_000
_SIGNS = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal}


@dataclass(frozen=True)
class Backtest:
    """What would have been.

    settings: one row per setting: firings, markets, per_day, minutes_median, told (after the cool-down), notices (of a
    user who subscribes to the rule, grouped), after_1h_pct_median, moved_up_pct. firings: one row per setting, alert:
    as alert_spans, with price, after_1h_pct. notices: one row per setting, notice: at, alerts.
    """

    rule: Rule
    since: datetime
    until: datetime
    settings: pd.DataFrame
    firings: pd.DataFrame
    notices: pd.DataFrame
    transitions: pa.Table


def backtest_rule(
    monitor: Monitor,
    rule: Rule,
    since: datetime,
    until: datetime,
    settings: Mapping[str, Sequence[float | str]] | None = None,
    markets: Sequence[str] | None = None,
    user: User | None = None,
) -> Backtest:
    """Evaluate a rule on the time from since to until; beside it the same rule under other settings.

    settings: by key of the rule (threshold, recover, for, keep_firing_for, cool_down, rearm, min_samples), values to
    try, one setting each; several keys make all combinations. markets: only these. user: whose grouping and cap hold.

    Raises ConfigError: the rule has no such key, or cannot take the value.
    """
    if since >= until:
        raise ConfigError(f"A back-test from {since} to {until} is of no time; name a moment before its end.")
    variants = read_settings(rule, settings or {})
    found = _evaluated(monitor, variants, since, until, markets)
    firings = spans_of(found, until).rename(columns={"rule": "setting"})
    firings = firings.merge(_after(monitor, firings, until), on="alert_id", how="left")
    told = {name: _notices(found, name, rule.name, user, until) for name in variants}
    notices = pd.DataFrame(
        [
            (name, one.at, len(one.transitions) + one.more, one.kind)
            for name, all_ in told.items()
            for one in all_
        ],
        columns=["setting", "at", "transitions", "kind"],
    )
    days = (until - since) / timedelta(days=1)
    summary = pd.DataFrame([_summed(name, firings, notices, days) for name in variants]).set_index("setting")
    return Backtest(rule, since, until, summary, firings, notices, found)


def window(since: str, until: str = "") -> tuple[datetime, datetime]:
    """From when to when: `7d` back from until, or moments in ISO 8601; now where until is empty.

    Raises ConfigError, PayloadError: neither; says how to write it.
    """
    end = parse_moment(until) if until else datetime.now(UTC)
    if "-" in since:
        return parse_moment(since), end
    return end - timedelta(seconds=duration_s(since, "since")), end


def other_threshold(
    monitor: Monitor, rule: Rule, threshold: float, market_id: str, until: datetime, hours: int = 24
) -> pd.DataFrame:
    """What another threshold would have done on one market in the last hours: one row per alert, as alert_spans."""
    found = backtest_rule(
        monitor, rule, until - timedelta(hours=hours), until, {"threshold": [threshold]}, [market_id]
    )
    return found.firings


# ---- evaluating


def _evaluated(
    monitor: Monitor,
    variants: Mapping[str, Rule],
    since: datetime,
    until: datetime,
    markets: Sequence[str] | None,
) -> pa.Table:
    """The transitions of all variants; a variant's rule is called as its setting."""
    (rule,) = {(one.view, one.measures, one.markets) for one in variants.values()}
    named = [_renamed(one, name) for name, one in variants.items()]
    evaluator = Evaluator(named, cadence_s=monitor.settings.cadence_s, track=False, messages=False)
    view, measures, _ = rule
    parts = []
    if view in WINDOWS:
        batches = _averaged(monitor, evaluator, WINDOWS[view], measures, since, until, markets)
    else:
        batches = _minutely(monitor, evaluator, since, until)
    for rows, now in batches:
        if markets is not None:
            rows = rows.filter(pc.is_in(rows["market_id"], value_set=pa.array(markets, pa.string())))
        parts.append(evaluator.advance({view: rows}, now))
    found = pa.concat_tables([empty("alerts"), *parts])
    return found.filter(
        pc.is_in(found["state"], value_set=pa.array(["firing", "resolved", "pending", "lapsed"]))
    )


def _averaged(
    monitor: Monitor, evaluator: Evaluator, window: str, measures, since: datetime, until: datetime, markets
) -> Iterator[tuple[pa.Table, datetime]]:
    """Batches of readings that can change anything, of views that hold a value against the average before it."""
    names = (
        measures or Engine(monitor, until).query("select distinct measure from now_1h")["measure"].to_pylist()
    )
    _name_markets(monitor, evaluator, since, until)
    held, size = [], 0
    pasts: dict[tuple, list[Past]] = {}
    for end, blocks in history.of_spans(monitor, history.spans(names, since, until), markets, window):
        for block in blocks:
            rows = block.rows(_chosen(block, evaluator, pasts))
            held.append(rows)
            size += rows.num_rows
        if size > _ROWS_AT_ONCE:
            yield pa.concat_tables([history.reading(window).empty_table(), *held]), end
            held, size = [], 0
    yield pa.concat_tables([history.reading(window).empty_table(), *held]), until


def _chosen(block: Block, evaluator: Evaluator, pasts: dict[tuple, list[Past]]) -> np.ndarray:
    """The cells that any of the rules needs; pasts: what was before, by measure and markets."""
    key = (block.measure, len(block.market_ids), block.market_ids[0], block.market_ids[-1])
    if key not in pasts:
        # markets come and go: whoever is not as before begins anew, which costs one row each
        for other in [
            one
            for one in pasts
            if one[0] == block.measure and one[2].partition(":")[0] == key[2].partition(":")[0]
        ]:
            del pasts[other]
        pasts[key] = [Past.none(len(block.market_ids)) for _ in evaluator.rules]
    chosen = np.zeros(block.value.shape, bool)
    gap_ms = round(GAP_CADENCES * evaluator.cadence_s * 1e3)
    for rule, past in zip(evaluator.rules, pasts[key], strict=True):
        holds, over, known = _conditions(block, rule)
        chosen |= history.thinned(block, holds, over, known, round(rule.keep_firing_s * 1e3), gap_ms, past)
    return chosen


def _conditions(block: Block, rule: Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether a rule's condition holds, whether it is over, and whether that is known, cell by cell."""
    enough = ~np.isnan(block.value) & (block.samples >= rule.min_samples)
    ratio = f"ratio_{block.window}"
    columns = {
        "value": block.value,
        f"average_{block.window}": block.average,
        "samples": block.samples,
        ratio: None,
    }
    if rule.simple and rule.recovery is None and rule.compared in columns:
        reached = block.ratio if rule.compared == ratio else columns[rule.compared]
        passes = _SIGNS[rule.compare]
        with np.errstate(invalid="ignore"):
            holds = passes(reached, rule.threshold)
            over = ~passes(reached, rule.threshold if rule.recover is None else rule.recover)
        return holds & enough, over & enough, enough & ~np.isnan(reached)
    recovery = condition_in(rule)
    with duckdb.connect(":memory:") as connection:
        connection.register("cells", _cells(block))
        found = connection.sql(
            f"select ({spelled(rule.condition)}) as holds, ({recovery}) as over from cells as reading"
        ).to_arrow_table()
    shape = block.value.shape
    known = pc.is_valid(found["holds"]).to_numpy().reshape(shape) & enough
    if rule.compared in columns:
        known &= ~np.isnan(block.ratio if rule.compared == ratio else columns[rule.compared])
    holds = pc.fill_null(found["holds"], False).to_numpy().reshape(shape) & known
    over = pc.fill_null(found["over"], False).to_numpy().reshape(shape) & known
    return holds, over, known


def _cells(block: Block) -> pa.Table:
    """All cells as columns, time by time."""
    times, markets = block.value.shape
    ids = pa.DictionaryArray.from_arrays(
        pa.array(np.tile(np.arange(markets, dtype=np.int32), times)), pa.array(block.market_ids, pa.string())
    )
    average, ratio = block.average.ravel(), block.ratio.ravel()
    value = block.value.ravel()
    return pa.table(
        {
            "market_id": ids,
            "measure": pa.repeat(pa.scalar(block.measure), times * markets),
            "at": pa.array(np.repeat(block.at_ms, markets)).cast(pa.timestamp("ms")),
            "value": pa.array(value, mask=np.isnan(value)),
            f"average_{block.window}": pa.array(average, mask=np.isnan(average)),
            f"ratio_{block.window}": pa.array(ratio, mask=np.isnan(ratio)),
            "samples": pa.array(block.samples.ravel().astype(np.int64)),
            "expected": pa.array(np.repeat(block.expected, markets)),
        }
    )


def _minutely(
    monitor: Monitor, evaluator: Evaluator, since: datetime, until: datetime
) -> Iterator[tuple[pa.Table, datetime]]:
    """One batch a minute, of a view that only knows now: it is asked as of each minute."""
    step = timedelta(seconds=evaluator.cadence_s)
    _name_markets(monitor, evaluator, since, until)
    (view,) = evaluator.views
    moment = since + step
    while moment <= until:
        yield readings_now(Engine(monitor, moment), view, evaluator.views[view]), moment
        if moment.minute == 0:
            log.info("evaluated until %s", moment)
        moment += step


def _name_markets(monitor: Monitor, evaluator: Evaluator, since: datetime, until: datetime) -> None:
    moment = until
    while moment > since - timedelta(hours=1):
        names = Engine(monitor, moment).query("select market_id, exchange, symbol, market from markets")
        evaluator.learn(names)
        if all(rule.markets == ("*",) for rule in evaluator.rules):
            break
        moment -= timedelta(days=1)


def _renamed(rule: Rule, name: str) -> Rule:
    return type(rule)(**{field: getattr(rule, field) for field in rule.__struct_fields__} | {"name": name})


# ---- what followed


def _after(monitor: Monitor, firings: pd.DataFrame, until: datetime) -> pd.DataFrame:
    """One row per alert: price when it fired, after_1h_pct in percent of it; empty where either is not known."""
    columns = ["alert_id", "price", "after_1h_pct"]
    if firings.empty:
        return pd.DataFrame(columns=columns)
    asked = firings[["alert_id", "market_id", "fired_at"]].copy()
    asked["chunk"] = asked["fired_at"].dt.floor(history.CHUNK)
    parts = []
    for start, group in asked.groupby("chunk"):
        markets = sorted(group["market_id"].unique())
        begin = start.to_pydatetime().replace(tzinfo=UTC)
        end = min(begin + history.CHUNK + _AFTER, until)
        prices = _prices(monitor, markets, begin - timedelta(minutes=5), end)
        now = _price_at(prices, group["market_id"], group["fired_at"])
        later = _price_at(prices, group["market_id"], group["fired_at"] + _AFTER)
        parts.append(
            pd.DataFrame(
                {"alert_id": group["alert_id"], "price": now, "after_1h_pct": 100 * (later / now - 1)}
            )
        )
    return pd.concat(parts, ignore_index=True)


def _prices(monitor: Monitor, markets: list[str], start: datetime, end: datetime) -> list[Block]:
    few = markets if len(markets) <= 1000 else None
    return list(history.blocks(monitor, "price", start, end, few, chunk=end - start))


def _price_at(prices: list[Block], markets: pd.Series, moments: pd.Series) -> np.ndarray:
    """The newest price at or before each moment, NaN where it is older than 150 s."""
    found = np.full(len(markets), np.nan)
    newest = np.full(len(markets), -1, np.int64)
    names, at = markets.to_numpy(), moments.to_numpy().astype("datetime64[ms]").astype(np.int64)
    for block in prices:
        place = {name: number for number, name in enumerate(block.market_ids)}
        mine = np.array([place.get(name, -1) for name in names])
        for back in range(3):
            row = np.searchsorted(block.at_ms, at, "right") - 1 - back
            rows = np.flatnonzero((row >= 0) & (mine >= 0))
            when, value = block.at_ms[row[rows]], block.value[row[rows], mine[rows]]
            better = ~np.isnan(value) & (when > newest[rows]) & (at[rows] - when <= _OLD_MS)
            found[rows[better]], newest[rows[better]] = value[better], when[better]
    return found


def _notices(transitions: pa.Table, name: str, rule: str, user: User | None, until: datetime) -> list:
    """What a user would have got under a setting; people subscribe to the rule, whatever it is set to."""
    if user is None:
        return []
    own = transitions.filter(pc.equal(transitions["rule"], name))
    place = own.schema.get_field_index("rule")
    own = own.set_column(place, own.schema.field(place), pa.repeat(pa.scalar(rule), own.num_rows))
    return notices_of(user, transitions_of(own), until)


def _summed(name: str, firings: pd.DataFrame, notices: pd.DataFrame, days: float) -> dict:
    own = firings[firings["setting"] == name]
    after = own["after_1h_pct"].dropna()
    return {
        "setting": name,
        "firings": len(own),
        "markets": own["market_id"].nunique(),
        "per_day": len(own) / days,
        "minutes_median": own["minutes"].median(),
        "told": int(own["told"].sum()),
        "notices": int((notices["setting"] == name).sum()),
        "notices_per_day": (notices["setting"] == name).sum() / days,
        "after_1h_pct_median": after.median(),
        "moved_up_pct": 100 * (after > 0).mean() if len(after) else np.nan,
    }
