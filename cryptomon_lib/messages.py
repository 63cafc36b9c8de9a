"""What a notice says: its title, its text for people and its JSON for programs. Pure."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from cryptomon_lib.notices import Notice, Transition

# a message is read on a telephone: what is beyond these lines is counted
_LINES = 25
_TITLE = 110
_GRAVE = {"critical": 0, "warning": 1, "info": 2}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class _Told:
    """An alert as a message tells it: its newest transition, and whether beginning and end are both in it."""

    newest: Transition
    over: bool
    severity: int


def title_of(notice: Notice, simulated: bool = False) -> str:
    """One line: how many alerts, of which rules, on which markets."""
    told = _told(notice.transitions)
    count = len(told) + notice.more
    firing = [one for one in told if not one.over]
    rules = _listed([one.newest.rule for one in told], 2)
    markets = _listed([_market(one.newest) for one in told], 3, "markets")
    if count == 1 and firing:
        said = f"{firing[0].newest.severity}: {rules} on {markets}"
    elif count == 1:
        said = f"over: {rules} on {markets}"
    elif firing:
        still = "" if len(firing) == len(told) else f", {len(firing):,} still firing"
        said = f"{count:,} alerts{still}: {rules} on {markets}"
    else:
        said = f"{count:,} alerts are over: {rules} on {markets}"
    prefix = ("[simulated data] " if simulated else "") + ("Digest: " if notice.kind == "digest" else "")
    return _shortened(_CONTROL.sub(" ", prefix + said), _TITLE)


def text_of(notice: Notice, zone: ZoneInfo, simulated: bool = False) -> str:
    """A line an alert, gravest first, times on the user's clock; beyond 25 of them counted by rule."""
    told = _told(notice.transitions)
    lines = [_line(one, zone) for one in told[:_LINES]]
    rest = Counter(one.newest.rule for one in told[_LINES:])
    if rest or notice.more:
        counted = [f"{number:,} of {rule}" for rule, number in rest.most_common()]
        counted += [f"{notice.more:,} not kept one by one"] if notice.more else []
        lines.append(f"and {rest.total() + notice.more:,} more: {', '.join(counted)}")
    if notice.kind == "digest" and told:
        first = min(one.at for one in notice.transitions).astimezone(zone)
        lines.insert(0, f"What was held back or is late, since {first:%Y-%m-%d %H:%M %Z}:")
    if simulated:
        lines.append("This is simulated data.")
    return "\n".join(_CONTROL.sub(" ", line) for line in lines)


def alert_json(one: Transition) -> dict[str, Any]:
    """A transition for programs; `id` is the alert's, made of rule, market and start."""
    return {
        "id": one.alert_id,
        "state": one.state,
        "at": _iso(one.at),
        "rule": one.rule,
        "severity": one.severity,
        "market_id": one.market_id,
        "exchange": one.place[0],
        "market": one.market,
        "measure": one.measure,
        "value": one.value,
        "compared": one.compared,
        "reached": one.reached,
        "threshold": one.threshold,
        "started_at": _iso(one.started_at),
        "says": one.says,
    }


def _told(transitions: Sequence[Transition]) -> list[_Told]:
    """One an alert, gravest first, then those that still fire, then by time."""
    newest: dict[str, Transition] = {}
    for one in sorted(transitions):
        newest[one.alert_id] = one
    told = [_Told(one, one.is_over, _GRAVE.get(one.severity, 9)) for one in newest.values()]
    return sorted(told, key=lambda one: (one.over, one.severity, one.newest.started_at, one.newest.market_id))


def _line(told: _Told, zone: ZoneInfo) -> str:
    one = told.newest
    began = one.started_at.astimezone(zone)
    # a rule's own words mostly name the market
    named = "" if one.says and one.place[1] in one.says else f"{_market(one)}: "
    says = f"{named}{one.says} ({one.rule})" if one.says else f"{one.rule} on {_market(one)}{_amount(one)}"
    if one.state == "no_data":
        says = f"{one.rule} on {_market(one)} has no data"
    if told.over:
        ended = one.at.astimezone(zone)
        return f"over      {says}, {began:%H:%M} to {ended:%H:%M %Z}"
    return f"{one.severity:<9} {says}, since {began:%H:%M %Z}"


def _amount(one: Transition) -> str:
    if one.value is None:
        return ""
    held = (
        f", {one.compared or 'limit'} {one.reached:.4g} of {one.threshold:.4g}"
        if one.reached and one.threshold
        else ""
    )
    return f": {one.measure or 'value'} {one.value:.6g}{held}"


def _market(one: Transition) -> str:
    return ":".join(one.place)


def _listed(names: Sequence[str], count: int, many: str = "") -> str:
    different = list(dict.fromkeys(names))
    if len(different) <= count:
        return ", ".join(different)
    if many:
        return f"{len(different):,} {many}"
    return f"{', '.join(different[:count])} and {len(different) - count:,} more"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
