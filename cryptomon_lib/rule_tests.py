"""Unit tests of rules: given series, expected alerts, as YAML files that need no data and no clock.

Owns the files' form and how a difference is shown. A test runs the rule through the evaluator that runs live; averages
are computed from the given values. `params/alert_tests/` has examples.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cryptomon_lib import history
from cryptomon_lib.config import home, nearest, read_yaml
from cryptomon_lib.errors import ConfigError
from cryptomon_lib.evaluator import Evaluator
from cryptomon_lib.rules import WINDOWS, Rule, duration_s, load_rules, read_rule

START = datetime(2026, 1, 1, tzinfo=UTC)
_TERM = re.compile(r"(_|-?\d+(?:\.\d+)?(?:e-?\d+)?)(?:\+(-?\d+(?:\.\d+)?))?(?:x(\d+))?", re.IGNORECASE)
_TERMS_MAX = 100_000


class _Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    at: str | float
    state: str
    market: str | None = None
    measure: str | None = None
    quiet: str | None = None
    says: str | None = None


class _Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """values: of a measure. columns: of a view, by name, for rules that do not look at averages of the hour."""

    market: str = "kraken:kraken:BTC-USD"
    measure: str | None = None
    values: str | None = None
    columns: dict[str, str] = {}


class _Test(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    rule: str | dict[str, Any]
    given: tuple[_Series, ...]
    expect: tuple[_Expected, ...] = ()
    every: str | float = "1m"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    tests: tuple[_Test, ...]


@dataclass(frozen=True)
class Outcome:
    """One test: its file, its name, and how what came differs from what was expected; empty where it does not."""

    file: str
    name: str
    difference: str

    @property
    def passed(self) -> bool:
        """Whether what came is what was expected."""
        return not self.difference


def run_rule_tests(folder: Path | None = None, rules: Iterable[Rule] | None = None) -> list[Outcome]:
    """All tests of a folder's files, `params/alert_tests` where none is named.

    rules: those that tests mean by name; those of params/alerts.yaml where not given.

    Raises ConfigError: a file cannot be read as tests; names the file, the test and the key.
    """
    folder = folder or home() / "params" / "alert_tests"
    known = {rule.name: rule for rule in (load_rules() if rules is None else rules)}
    files = sorted(folder.glob("*.yaml")) if folder.is_dir() else [folder]
    return [outcome for path in files for outcome in _of_file(path, known)]


def _of_file(path: Path, known: Mapping[str, Rule]) -> list[Outcome]:
    try:
        read = msgspec.convert(read_yaml(path), _File)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{path.name}: {error}. A file is tests: [{{name, rule, given, expect}}]."
        ) from error
    return [_outcome(path.name, test, known) for test in read.tests]


def _outcome(file: str, test: _Test, known: Mapping[str, Rule]) -> Outcome:
    place = f"{file}: test {test.name!r}"
    rule = _rule(test.rule, known, place)
    every = timedelta(seconds=duration_s(test.every, f"{place}: every"))
    if not every:
        raise ConfigError(f"{place}: every is {test.every!r}; time has to go on.")
    readings = _readings(rule, test.given, every, place)
    found = _run(rule, readings, every)
    came = [_line(row["at"] - START, row, test.expect) for row in found]
    wanted = [_wanted(one, test, place) for one in test.expect]
    if sorted(came) == sorted(wanted):
        return Outcome(file, test.name, "")
    shown = difflib.ndiff([*sorted(wanted), ""], [*sorted(came), ""])
    lines = [line.rstrip() for line in shown if line.strip() and not line.startswith("?")]
    return Outcome(file, test.name, "\n".join(["- expected, + came:", *lines]))


def _rule(named: str | dict, known: Mapping[str, Rule], place: str) -> Rule:
    if isinstance(named, dict):
        return read_rule("given", named, place)
    if named not in known:
        raise ConfigError(f"{place}: no rule is called {named!r}.{nearest(named, known)}")
    return known[named]


def _run(rule: Rule, readings: pa.Table, every: timedelta) -> list[dict[str, Any]]:
    """The transitions until the last minute that is given."""
    if readings.num_rows == 0:
        return []
    evaluator = Evaluator([rule], cadence_s=max(1, round(every.total_seconds())))
    end = pc.max(readings["at"]).as_py().replace(tzinfo=UTC)
    # all at once comes to the same as minute by minute; minutes without a value are there to be silent in
    rows = readings.filter(pc.is_valid(readings["there"])).drop_columns("there")
    return evaluator.advance({rule.view: rows}, end).to_pylist()


def _readings(rule: Rule, given: Iterable[_Series], every: timedelta, place: str) -> pa.Table:
    parts = []
    for series in given:
        if (series.values is None) == (not series.columns):
            raise ConfigError(f"{place}: given needs values of a measure or columns of a view, one of them.")
        window = WINDOWS.get(rule.view)
        if series.values is not None and not window:
            raise ConfigError(
                f"{place}: view {rule.view} has columns, not values; give columns: {{name: series}}."
            )
        measure = series.measure or (rule.measures or ("price",))[0]
        if series.values is not None:
            parts.append(_averaged(series, measure, expanded(series.values, place), every, window))
        else:
            parts.append(_columns(series, measure if window else series.measure, every, place))
    return pa.concat_tables(parts, promote_options="permissive")


def _averaged(
    series: _Series, measure: str, values: list[float | None], every: timedelta, window: str
) -> pa.Table:
    """A series beside its average of the window before, as the window's view; what is absent is marked."""
    step = round(every.total_seconds() * 1e3)
    times = round(START.timestamp() * 1e3) + step * np.arange(len(values))
    there = np.array([value is not None for value in values])
    matrix = np.array([np.nan if value is None else value for value in values]).reshape(-1, 1)
    markets = np.array([series.market], object)
    known = history.Hours(window) if history.HOURS[window] > 1 else None
    blocks = history.averaged(
        measure, markets, times[there], matrix[there], times[0] - 1, times[-1], window, known
    )
    rows = [block.rows(np.ones(block.value.shape, bool)) for block in blocks]
    found = pa.concat_tables([history.reading(window).empty_table(), *rows])
    found = found.append_column("there", pa.repeat(pa.scalar(True), found.num_rows))
    absent = pa.table({"at": pa.array(times[~there]).cast(pa.timestamp("ms"))})
    return pa.concat_tables([found, absent], promote_options="permissive")


def _columns(series: _Series, measure: str | None, every: timedelta, place: str) -> pa.Table:
    columns = {name: expanded(text, f"{place}: {name}") for name, text in series.columns.items()}
    sizes = {len(values) for values in columns.values()}
    if len(sizes) != 1:
        raise ConfigError(f"{place}: the columns have {sorted(sizes)} values; all need as many.")
    (size,) = sizes
    at = [(START + every * number).replace(tzinfo=None) for number in range(size)]
    there = [
        True if any(values[number] is not None for values in columns.values()) else None
        for number in range(size)
    ]
    named = {} if measure is None else {"measure": pa.array([measure] * size)}
    return pa.table(
        {
            "market_id": pa.array([series.market] * size),
            **named,
            "at": pa.array(at, pa.timestamp("ms")),
            **{name: pa.array(values, pa.float64()) for name, values in columns.items()},
            "there": pa.array(there, pa.bool_()),
        }
    )


def expanded(text: str, place: str) -> list[float | None]:
    """The values of a series as a test writes it: `100x60 300 _x3 1+2x4` is 60 times 100, 300, three that are absent,
    and 1 3 5 7.

    Raises ConfigError: names the place and the term.
    """
    values: list[float | None] = []
    for term in str(text).split():
        match = _TERM.fullmatch(term)
        if not match or (match[1] == "_" and match[2]):
            raise ConfigError(
                f"{place}: {term!r} is no term; write 100, 100x60, _ for absent, or 1+2x4 for 1 3 5 7."
            )
        times = int(match[3] or 1)
        if len(values) + times > _TERMS_MAX:
            raise ConfigError(f"{place}: more than {_TERMS_MAX:,} values.")
        first, step = match[1], float(match[2] or 0)
        values += [None if first == "_" else float(first) + step * number for number in range(times)]
    return values


def _wanted(one: _Expected, test: _Test, place: str) -> str:
    at = timedelta(seconds=duration_s(one.at, f"{place}: expect: at"))
    row = {
        "market_id": one.market or test.given[0].market,
        "measure": one.measure,
        "state": one.state,
        "quiet": one.quiet,
        "says": one.says,
    }
    return _line(at, row, test.expect)


def _line(at: timedelta, row: Mapping[str, Any], expected: Iterable[_Expected]) -> str:
    """A transition as a line; what no expectation speaks of is left out."""
    minutes, seconds = divmod(round(at.total_seconds()), 60)
    parts = [f"{minutes:>5}m{f'{seconds:02d}s' if seconds else ''}", f"{row['state']:<8}", row["market_id"]]
    parts += [row["measure"] or ""] if any(one.measure for one in expected) else []
    parts += [f"quiet: {row['quiet']}"] if row["quiet"] else []
    parts += [row["says"] or ""] if any(one.says for one in expected) else []
    return "  ".join(parts)
