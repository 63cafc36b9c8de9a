"""Alert rules: `params/alerts.yaml` as frozen values, each checked before anything is evaluated.

Owns what a rule may say and the wording of every error about it. A rule names a view and a condition in SQL, or is
in the short form: a measure, and how many times its average of the hour, day or week before. `params/alerts.yaml`
explains the keys.
"""

import re
import string
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import sqlglot
from sqlglot import exp

from cryptomon_lib import sql
from cryptomon_lib.config import home, nearest, read_yaml
from cryptomon_lib.errors import ConfigError

SEVERITIES = ("info", "warning", "critical")
# the views that put a value beside its average of a window, by the window
AVERAGES = {"1h": "now_1h", "24h": "now_24h", "7d": "now_7d"}
# all that do, and their windows
WINDOWS = {view: window for window, view in AVERAGES.items()} | {"trailing_1h": "1h"}
DEFAULT_MESSAGE = "{market} {measure} {value:.6g}: {compared} {reached:.4g}, threshold {threshold:.4g}"
_TIMES_MESSAGE = (
    "{{market}} {{measure}} is {{ratio:.2f}} x its average of the {} before: "
    "{{value:.6g}}, average {{average:.6g}}"
)
_SAID = {"1h": "hour", "24h": "24 h", "7d": "7 days"}
FIELDS: Mapping[str, Any] = {
    **dict.fromkeys(("rule", "market_id", "exchange", "symbol", "market", "measure", "compared"), "x"),
    **dict.fromkeys(("severity", "state"), "x"),
    **dict.fromkeys(("value", "average", "ratio", "reached", "threshold"), 1.5),
    "samples": 60,
    "at": datetime(2026, 1, 31, 12, tzinfo=UTC),
    "started_at": datetime(2026, 1, 31, 12, tzinfo=UTC),
}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
# what a condition may be made of; whatever else SQL has (subqueries, windows, aggregates, clocks) does not belong to
# one row of one minute
_ALLOWED = (
    exp.Column, exp.Identifier, exp.Literal, exp.Boolean, exp.Null, exp.Paren, exp.Neg, exp.Not, exp.Connector,
    exp.Predicate, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Abs, exp.Coalesce, exp.Nullif, exp.Least,
    exp.Greatest, exp.Round, exp.Ln, exp.Sqrt, exp.Pow, exp.Sign, exp.Lower, exp.Upper, exp.Case, exp.If, exp.Tuple,
    exp.Cast, exp.DataType,
)  # fmt: skip
_COMPARING = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is, exp.Like)
_REFUSED = (exp.Exists, exp.SubqueryPredicate)
_MIRRORED = {exp.GT: exp.LT, exp.LT: exp.GT, exp.GTE: exp.LTE, exp.LTE: exp.GTE}
Compare = Literal[">", ">=", "<", "<="]
_SIGNS: Mapping[type, Compare] = {exp.GT: ">", exp.GTE: ">=", exp.LT: "<", exp.LTE: "<="}


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule, checked. Durations in seconds; conditions are Trino SQL over one row of the view.

    measures: None is all. compared, compare, threshold: the first comparison of a column with a number in the
    condition, which messages and larger moves go by; None where there is none. simple: the condition is that
    comparison and nothing else. recovery: the condition under which it is over; None: whenever the condition is not.
    recover: the same as a number that `compared` is held against. rearm: a move so many times larger is told within
    the cool-down. no_data_s: silence so long is told as a state of its own; None: never.
    """

    name: str
    says: str = ""
    view: str = "now_1h"
    markets: tuple[str, ...] = ("*",)
    measures: tuple[str, ...] | None = None
    condition: str
    recovery: str | None = None
    recover: float | None = None
    compared: str | None = None
    compare: Compare | None = None
    threshold: float | None = None
    simple: bool = False
    for_s: float = 0
    keep_firing_s: float = 0
    cool_down_s: float = 0
    rearm: float | None = None
    min_samples: int = 0
    severity: str = "warning"
    message: str = DEFAULT_MESSAGE
    receivers: tuple[str, ...] = ()
    no_data_s: float | None = None


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"for_": "for"}):
    """One rule as the file has it."""

    says: str = ""
    view: str | None = None
    condition: str | None = None
    measure: str | tuple[str, ...] | None = None
    times: float | None = None
    over: str | None = None
    markets: str | tuple[str, ...] = "*"
    for_: str | float = 0
    recover: str | float | None = None
    keep_firing_for: str | float = 0
    cool_down: str | float = 0
    rearm: float | None = None
    min_samples: int = 0
    severity: str = "warning"
    message: str | None = None
    receivers: str | tuple[str, ...] = ()
    no_data: str | float | None = None


def load_rules(path: Path | None = None) -> tuple[Rule, ...]:
    """The rules of a file, `params/alerts.yaml` where none is named; none where there is no such file.

    Raises ConfigError: names the file, the rule, the key, and the nearest known one.
    """
    path = path or home() / "params" / "alerts.yaml"
    if not path.is_file():
        return ()
    read = read_yaml(path) or {}
    where = f"{path.parent.name}/{path.name}"
    if not isinstance(read, dict) or not isinstance(read.get("rules", {}), dict):
        raise ConfigError(f"{where} has to be rules: {{name: {{measure: …, times: …}}}}.")
    for key in read:
        if key != "rules":
            raise ConfigError(f"{where}: unknown key {key}.{nearest(str(key), ['rules'])}")
    return tuple(read_rule(str(name), entry, where) for name, entry in (read.get("rules") or {}).items())


def rule_named(name: str, path: Path | None = None) -> Rule:
    """The rule of that name.

    Raises ConfigError: there is none; names the nearest.
    """
    known = {rule.name: rule for rule in load_rules(path)}
    if name not in known:
        raise ConfigError(f"No rule of params/alerts.yaml is called {name!r}.{nearest(name, known)}")
    return known[name]


def read_rule(name: str, entry: Any, where: str = "rule") -> Rule:
    """One rule from its keys and values.

    Raises ConfigError: names where it stands, the rule, the key, and the nearest known one.
    """
    place = f"{where}: rule {name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{place}: a name is lower case letters, digits and _, begins with a letter, at most 63."
        )
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{place} is {entry!r}; it has to be keys and values.")
    known = msgspec.structs.fields(_Entry)
    for key in entry:
        if key not in {field.encode_name for field in known}:
            raise ConfigError(
                f"{place}: unknown key {key}.{nearest(str(key), [field.encode_name for field in known])}"
            )
    try:
        given = msgspec.convert(dict(entry), _Entry)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{place}: {error}.") from error
    return _checked(name, given, place)


def with_threshold(rule: Rule, threshold: float) -> Rule:
    """The same rule with another threshold; a number that it recovers at keeps its distance as a share.

    Raises ConfigError: the rule compares no column with a number.
    """
    if rule.threshold is None:
        raise ConfigError(
            f"rule {rule.name} compares no column with a number, so it has no threshold to set; change its condition."
        )
    recover = rule.recover
    if recover is not None:
        recover = recover * threshold / rule.threshold if rule.threshold else threshold + recover
    tree = _condition(rule.condition)
    _headline(tree)[3].replace(exp.Literal.number(repr(float(threshold))))
    return msgspec.structs.replace(rule, condition=tree.sql("trino"), threshold=threshold, recover=recover)


def read_settings(rule: Rule, settings: Mapping[str, Iterable[float | str]]) -> dict[str, Rule]:
    """The rule under each combination of settings, by what it is called: `threshold=2`; its own name where there is none.

    Raises ConfigError: no such setting, or a value that it cannot take.
    """
    variants = {"": rule}
    for key, values in settings.items():
        if key not in _SETTINGS:
            raise ConfigError(f"rule {rule.name}: no setting {key}.{nearest(key, _SETTINGS)}")
        variants = {
            f"{name} {key}={value}".strip(): _SETTINGS[key](one, value, f"rule {rule.name}: {key}")
            for name, one in variants.items()
            for value in values
        }
    return {name or rule.name: one for name, one in variants.items()}


def spelled(condition: str) -> str:
    """A condition in DuckDB's spelling, over rows called `reading`: whatever they are joined with has names, too."""
    tree = _condition(condition)
    for column in list(tree.find_all(exp.Column)):
        column.set("table", exp.to_identifier("reading"))
    return sql.for_duckdb(f"select {tree.sql('trino')}").removeprefix("SELECT ")


def condition_in(rule: Rule) -> str:
    """When a rule is over, in DuckDB's spelling over rows called `reading`; true where that is whenever it does not hold."""
    if rule.recovery is not None:
        return spelled(rule.recovery)
    if rule.recover is not None:
        return f'not (reading."{rule.compared}" {rule.compare} {rule.recover!r})'
    return "true"


def matcher(patterns: Iterable[str]):
    """A function (market_id, market) -> whether any pattern matches.

    `*` and `?` stand for any text and any character; upper and lower case are the same. A pattern is held against
    market_id (`kraken:kraken:BTC/USD`), `exchange:symbol`, `symbol`, `exchange:BASE-QUOTE` and `BASE-QUOTE`.
    """
    found = [_glob(pattern) for pattern in patterns]
    if any(pattern == "*" for pattern in patterns):
        return lambda market_id, market: True

    def matches(market_id: str, market: str | None) -> bool:
        _, exchange, symbol = [*market_id.split(":", 2), "", ""][:3]
        names = [
            market_id,
            f"{exchange}:{symbol}",
            symbol,
            *((f"{exchange}:{market}", market) if market else ()),
        ]
        return any(one.fullmatch(name) for one in found for name in names)

    return matches


def duration_s(value: str | float, place: str) -> float:
    """Seconds of `90s`, `5m`, `1h`, `2d`, or a number of seconds.

    Raises ConfigError: names the place.
    """
    if isinstance(value, str) and not value.strip().isdigit():
        match = _DURATION.fullmatch(value.strip())
        if not match:
            raise ConfigError(f"{place} is {value!r}; write it as 90s, 5m, 1h or 2d.")
        value = float(match[1]) * _SECONDS[match[2]]
    value = float(value)
    if not 0 <= value <= 366 * 86400:
        raise ConfigError(f"{place} is {value!r}; it has to be from 0 to 366 days.")
    return value


def filled(message: str, fields: Mapping[str, Any]) -> str:
    """The message with its fields filled in; what is not known is a question mark."""
    return _Filler().vformat(message, (), fields)


class _Unknown(str):
    """What stands for a value that is not there, whatever its format."""

    def __format__(self, spec: str) -> str:
        return "?"


class _Filler(string.Formatter):
    """Plain fields and formats; no attribute, no index, nothing that reaches behind a value."""

    def get_field(self, field_name, args, kwargs):
        value = kwargs.get(field_name)
        return (_Unknown() if value is None else value), field_name


@cache
def _glob(pattern: str) -> re.Pattern:
    parts = [
        ".*" if part == "*" else "." if part == "?" else re.escape(part)
        for part in re.split(r"([*?])", pattern)
    ]
    return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)


def _checked(name: str, given: _Entry, place: str) -> Rule:
    view, condition = _what(given, place)
    columns = _columns(view, f"{place}: view")
    tree = _condition(condition, f"{place}: condition", columns, view)
    column, compare, threshold = _headline(tree)[:3]
    for key, wanted in (("measure", given.measure), ("min_samples", given.min_samples or None)):
        needs = "samples" if key == "min_samples" else key
        if wanted is not None and needs not in columns:
            raise ConfigError(
                f"{place}: {key} needs a column {needs}, and view {view} has none; leave it out."
            )
    if given.severity not in SEVERITIES:
        raise ConfigError(f"{place}: severity is {given.severity!r}.{nearest(given.severity, SEVERITIES)}")
    if given.min_samples < 0:
        raise ConfigError(f"{place}: min_samples is {given.min_samples}; it has to be 0 or more.")
    if given.rearm is not None and (threshold is None or not 1 < given.rearm < float("inf")):
        raise ConfigError(
            f"{place}: rearm is {given.rearm}: a larger move is one so many times (more than 1) as large as the one "
            "told last; it needs a condition that compares a column with a number."
        )
    recovery, recover = _recovery(given.recover, column, compare, threshold, columns, view, place)
    message = given.message or (
        _TIMES_MESSAGE.format(_SAID[WINDOWS[view]]) if given.times is not None else DEFAULT_MESSAGE
    )
    _check_message(message, place)
    return Rule(
        name=name,
        says=given.says,
        view=view,
        markets=_texts(given.markets, f"{place}: markets"),
        measures=None if given.measure in (None, "*") else _texts(given.measure, f"{place}: measure"),
        condition=tree.sql("trino", comments=False),
        recovery=recovery,
        recover=recover,
        compared=column,
        compare=compare,
        threshold=threshold,
        simple=isinstance(tree.unnest(), tuple(_SIGNS)) and threshold is not None,
        for_s=duration_s(given.for_, f"{place}: for"),
        keep_firing_s=duration_s(given.keep_firing_for, f"{place}: keep_firing_for"),
        cool_down_s=duration_s(given.cool_down, f"{place}: cool_down"),
        rearm=given.rearm,
        min_samples=given.min_samples,
        severity=given.severity,
        message=message,
        receivers=_texts(given.receivers, f"{place}: receivers") if given.receivers else (),
        no_data_s=None if given.no_data is None else duration_s(given.no_data, f"{place}: no_data"),
    )


def _what(given: _Entry, place: str) -> tuple[str, str]:
    """The view and the condition, from either form."""
    if (given.condition is None) == (given.times is None):
        raise ConfigError(
            f"{place}: give a condition in SQL (condition: ratio_1h > 3) or the short form (measure: volume_1m, "
            "times: 3), one of them."
        )
    if given.condition is not None:
        if given.over is not None:
            raise ConfigError(
                f"{place}: over belongs to the short form; a condition names its column itself."
            )
        return given.view or "now_1h", given.condition
    if given.view is not None:
        raise ConfigError(
            f"{place}: the short form knows its view by over; leave view out, or give a condition."
        )
    if given.measure is None:
        raise ConfigError(f"{place}: the short form needs a measure; '*' is all of them.")
    over = _window(given.over or "1h", f"{place}: over")
    if not 0 < given.times < float("inf"):
        raise ConfigError(f"{place}: times is {given.times}; it has to be a number above 0.")
    return AVERAGES[over], f"ratio_{over} > {given.times!r}"


def _window(over: str, place: str) -> str:
    """The window that `over` means: 24h is 1d is 1440m."""
    length = duration_s(over, place)
    found = next((one for one in AVERAGES if duration_s(one, place) == length), None)
    if found is None:
        raise ConfigError(
            f"{place} is {over!r}; there are averages over {', '.join(AVERAGES)}. Over another time: a view of your own "
            "that has them, and a condition on it."
        )
    return found


def _columns(view: str, place: str) -> tuple[str, ...]:
    known = sql.views()
    if view not in known:
        raise ConfigError(f"{place} is {view!r}.{nearest(view, known)}")
    columns = tuple(known[view].tree.named_selects)
    if "market_id" not in columns:
        raise ConfigError(f"{place} is {view}, which has no market_id: a rule watches markets.")
    return columns


def _condition(
    text: str, place: str = "condition", columns: Iterable[str] | None = None, view: str = ""
) -> exp.Expression:
    """The tree of one boolean expression over columns."""
    try:
        trees = sqlglot.parse(f"select {text}", read="trino")
    except sqlglot.errors.SqlglotError as error:
        raise ConfigError(f"{place} is {text!r}, which is not SQL: {_first_line(error)}") from error
    select = trees[0]
    plain = isinstance(select, exp.Select) and {key for key, value in select.args.items() if value} <= {
        "expressions"
    }
    if len(trees) != 1 or not plain or len(select.expressions) != 1:
        raise ConfigError(
            f"{place} is {text!r}; it has to be one expression that is true or false, and nothing else."
        )
    tree = select.expressions[0]
    for node in tree.walk():
        if not isinstance(node, _ALLOWED) or isinstance(node, _REFUSED):
            raise ConfigError(
                f"{place} is {text!r}: {node.sql('trino')!r} is not allowed in it; it may compare and calculate with "
                "the columns of one row."
            )
        if columns is not None and isinstance(node, exp.Column) and (node.table or node.name not in columns):
            raise ConfigError(
                f"{place}: view {view} has no column {node.sql('trino')}.{nearest(node.name, columns)}"
            )
    if not _is_boolean(tree):
        raise ConfigError(f"{place} is {text!r}, which is a value; compare it: {text} > 3.")
    return tree


def _is_boolean(tree: exp.Expression) -> bool:
    tree = tree.unnest()
    if isinstance(tree, exp.Connector):
        return _is_boolean(tree.left) and _is_boolean(tree.right)
    if isinstance(tree, exp.Not):
        return _is_boolean(tree.this)
    return isinstance(tree, _COMPARING) or (
        isinstance(tree, exp.Predicate) and not isinstance(tree, exp.Binary)
    )


def _headline(tree: exp.Expression) -> tuple[str | None, Compare | None, float | None, exp.Expression | None]:
    """The first comparison of a column with a number: column, sign, number, and the number's node."""
    for node in tree.find_all(*_SIGNS, bfs=False):
        if node.find_ancestor(exp.Not, exp.Case):
            continue
        left, right, kind = node.left.unnest(), node.right.unnest(), type(node)
        if isinstance(right, exp.Column) and _number(left) is not None:
            left, right, kind = right, left, _MIRRORED[kind]
        if isinstance(left, exp.Column) and _number(right) is not None:
            return left.name, _SIGNS[kind], _number(right), right
    return None, None, None, None


def _number(node: exp.Expression) -> float | None:
    if isinstance(node, exp.Neg):
        inner = _number(node.this.unnest())
        return None if inner is None else -inner
    return float(node.this) if isinstance(node, exp.Literal) and not node.is_string else None


def _recovery(
    recover, column, compare, threshold, columns, view: str, place: str
) -> tuple[str | None, float | None]:
    """The condition, or the number, under which an alert is over."""
    if isinstance(recover, str):
        _condition(recover, f"{place}: recover", columns, view)
        return recover, None
    if recover is None:
        return None, None
    if threshold is None:
        raise ConfigError(
            f"{place}: recover is {recover}, and the condition compares no column with a number; write it as a "
            "condition, as recover: ratio_1h < 2."
        )
    if (recover > threshold) if compare.startswith(">") else (recover < threshold):
        raise ConfigError(
            f"{place}: recover is {recover}, beyond the threshold {threshold} itself: an alert would be over while "
            "its condition holds."
        )
    return None, float(recover)


def _check_message(message: str, place: str) -> None:
    try:
        for _, field, spec, conversion in string.Formatter().parse(message):
            if field is None:
                continue
            if field not in FIELDS:
                raise ConfigError(f"{place}: message has no field {{{field}}}.{nearest(field, FIELDS)}")
            if conversion or "{" in (spec or ""):
                raise ConfigError(f"{place}: message, {{{field}}}: a format is as :.2f, and nothing else.")
            width = re.match(r".?[<>=^]?[-+ ]?#?0?(\d*)(?:[,_])?(?:\.(\d+))?", spec or "")
            if width and any(int(part or 0) > 100 for part in width.groups()):
                raise ConfigError(f"{place}: message, {{{field}:{spec}}}: at most 100 characters wide.")
        filled(message, FIELDS)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{place}: message cannot be filled in: {error}.") from error


def _with_recover(rule: Rule, value: float | str, place: str) -> Rule:
    columns = _columns(rule.view, place)
    value = _numeric(value, place)
    recovery, recover = _recovery(
        value, rule.compared, rule.compare, rule.threshold, columns, rule.view, place.rpartition(":")[0]
    )
    return msgspec.structs.replace(rule, recovery=recovery, recover=recover)


def _numeric(value: float | str, place: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise ConfigError(f"{place} is {value!r}; it has to be a number.") from error
    if not abs(number) < float("inf"):
        raise ConfigError(f"{place} is {value!r}; it has to be a finite number.")
    return number


def _seconds(field: str):
    return lambda rule, value, place: msgspec.structs.replace(rule, **{field: duration_s(value, place)})


_SETTINGS = {
    "threshold": lambda rule, value, place: with_threshold(rule, _numeric(value, place)),
    "recover": _with_recover,
    "for": _seconds("for_s"),
    "keep_firing_for": _seconds("keep_firing_s"),
    "cool_down": _seconds("cool_down_s"),
    "rearm": lambda rule, value, place: msgspec.structs.replace(rule, rearm=_numeric(value, place)),
    "min_samples": lambda rule, value, place: msgspec.structs.replace(
        rule, min_samples=int(_numeric(value, place))
    ),
}


def _texts(value: str | tuple[str, ...], place: str) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else tuple(value)
    if not found or not all(text.strip() for text in found):
        raise ConfigError(f"{place} is {value!r}; it has to be a text, or a list of them.")
    return found


def _first_line(error: Exception) -> str:
    # sqlglot underlines the place with terminal codes
    return re.sub(r"\x1b\[\d+m", "", str(error)).strip().splitlines()[0]
