"""The views as text: their files, headers and order, and the DuckDB spelling of what is written as Trino SQL.

A file goes to Athena and Trino as it stands. For DuckDB, sqlglot spells it anew, and the constructs that
would silently mean something else there are rewritten here.
"""

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.tokens import TokenType

from cryptomon_lib.config import home
from cryptomon_lib.errors import ConfigError, MetricError, QueryError
from cryptomon_lib.tables import TABLES

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "views"
HEADER = ("grain", "units", "why")
_FIELD = re.compile(r"^--\s*(grain|units|lookback|time|reach|why):\s*(.*)$")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SPAN = re.compile(r"(\d+)\s*(min|h|d)")
_UNITS = {"min": "minutes", "h": "hours", "d": "days"}
# stands for "now" in the spelled text until a query knows the moment
_NOW = "$$now$$"
# now, as every view and query in Trino SQL writes it
CLOCK = "cast(current_timestamp at time zone 'UTC' as timestamp(3))"
# the view that a tick computes once and keeps, for whoever asks for it after
NOW_1H = "now_1h"
_PLACE = re.compile(r'"\$\$place (\d+)\$\$"')
# the one clock, as Trino text
_CLOCK = re.compile(
    r"(?i)cast\s*\(\s*current_timestamp\s+at\s+time\s+zone\s+'UTC'\s+as\s+timestamp\s*\(\s*3\s*\)\s*\)"
)


@dataclass(frozen=True)
class View:
    """One view file: its name, what its header says, its text, and the tables and views it reads.

    lookback: how far before now its rows reach; None where it reads all there is.
    time: the column that carries its rows' time; None where rows have none, or not one that bounds what is read.
    reach: how far from its own rows' time the rows are that it reads, as an hour for a trailing mean.
    """

    name: str
    says: str
    grain: tuple[str, ...]
    units: str
    why: str
    lookback: timedelta | None
    time: str | None
    reach: timedelta
    text: str
    reads: frozenset[str]

    @cached_property
    def tree(self) -> exp.Expression:
        """Its text, parsed once; not to be changed."""
        return parsed(self.text)


_mine: list[Path] = []
_with_kept: dict[str, Mapping] = {}


def use_views(folder: Path | str) -> Path:
    """In this process, an analyst's own views are those of this folder and not of notebooks/mine."""
    _mine[:] = [Path(folder)]
    return _mine[0]


def own_folder() -> Path | None:
    """Where an analyst's own views are: notebooks/mine, which no upgrade touches; None without a project."""
    with suppress(ConfigError):
        return _mine[0] if _mine else home() / "notebooks" / "mine"
    return None


def folders() -> list[Path]:
    """Where view files are: the project's own folder, and an analyst's."""
    own = own_folder()
    return [FOLDER, own] if own else [FOLDER]


def views(folder: Path | None = None) -> Mapping[str, View]:
    """All views by name, each after those that it reads: the project's, and an analyst's own beside them.

    A file that was written, changed or taken away since is seen. An analyst's file that cannot be used stops
    nothing: it is left out, and `unusable` says why. folder: only the views of that one.

    Raises MetricError: a header or the SQL of a file cannot be read, a name is unknown, or views read each
    other in a circle. Names the file.
    """
    return _views(*([folder] if folder else folders())).known


def unusable() -> Mapping[str, str]:
    """Of an analyst's view files those that cannot be used: name, and why."""
    return _views(*folders()).unusable


@dataclass(frozen=True)
class _Views:
    known: Mapping[str, View]
    unusable: Mapping[str, str]


def _views(house: Path, own: Path | None = None) -> _Views:
    return _loaded(_files(house), _files(own) if own else ())


def _files(folder: Path) -> tuple[tuple[Path, int, int], ...]:
    """The files of a folder, each with what changes when it is written anew."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        with suppress(FileNotFoundError):
            stat = path.stat()
            found.append((path, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


@lru_cache(16)
def _loaded(house: tuple, own: tuple) -> _Views:
    known = _in_order({path.stem: read_view(path) for path, *_ in house})
    waiting: dict[str, View] = {}
    why: dict[str, str] = {}
    for path, *_ in own:
        try:
            check_own_name(path.stem, known)
            waiting[path.stem] = read_view(path)
        except MetricError as error:
            why[path.stem] = str(error)
    while ready := [view for view in waiting.values() if all(_there(read, known) for read in view.reads)]:
        known |= {view.name: waiting.pop(view.name) for view in ready}
    for view in waiting.values():
        absent = sorted(read for read in view.reads if not _there(read, known))
        why[view.name] = f"{view.name}.sql reads {', '.join(absent)}, which is no table and no usable view."
    for says in why.values():
        log.warning("a view of notebooks/mine is left out: %s", says)
    return _Views(known, why)


def check_own_name(name: str, house: Mapping[str, View] | None = None) -> None:
    """Raises MetricError: a view of one's own cannot be called so."""
    if name in (views(FOLDER) if house is None else house) or name in TABLES:
        raise MetricError(f"{name}.sql: there is a view or table of that name; give it another.")
    if not _NAME.fullmatch(name):
        raise MetricError(f"{name}.sql: SQL takes names of small letters, digits and _: rename it.")


def _there(name: str, known: Mapping[str, View]) -> bool:
    return name in known or table_of(name, known) is not None


def _in_order(found: Mapping[str, View]) -> dict[str, View]:
    for view in found.values():
        unknown = {name for name in view.reads if not _there(name, found)}
        if unknown:
            raise MetricError(
                f"views/{view.name}.sql reads {', '.join(sorted(unknown))}, which is no table and no view."
            )
    try:
        order = TopologicalSorter(
            {name: view.reads & found.keys() for name, view in found.items()}
        ).static_order()
        return {name: found[name] for name in order}
    except CycleError as error:
        raise MetricError(f"The views {' -> '.join(error.args[1])} read each other in a circle.") from error


def needed(names: frozenset[str], known: Mapping[str, View]) -> tuple[list[str], dict[str, timedelta | None]]:
    """What a query over names needs: views in order, and of each table how far back (None: all of it).

    A view that declares a lookback needs nothing older from what it reads, directly or through others.
    """
    used: set[str] = set()
    tables: dict[str, timedelta | None] = {}

    def walk(name: str, bound: timedelta | None) -> None:
        if name in known:
            used.add(name)
            view = known[name]
            bound = view.lookback if bound is None else min(bound, view.lookback or bound)
            for read in view.reads:
                walk(read, bound)
        else:
            table = table_of(name, known) or name
            have = tables.get(table, timedelta(0))
            tables[table] = None if bound is None or have is None else max(have, bound)

    for name in names:
        walk(name, None)
    return [name for name in known if name in used], tables


def with_kept(known: Mapping[str, View]) -> Mapping[str, View]:
    """The views with `now_1h` read from the table that a tick kept it as, in place of computed; the same for the same."""
    if _with_kept.get("of") is not known:
        view = known[NOW_1H]
        text = (
            f"select {', '.join(view.tree.named_selects)} from stored_{NOW_1H} "
            f"where at > {CLOCK} - interval '10' minute"
        )
        kept = replace(view, text=text, reads=frozenset({f"stored_{NOW_1H}"}))
        _with_kept.update(of=known, views={**known, NOW_1H: kept})
    return _with_kept["views"]


def parse(text: str) -> exp.Expression:
    """The tree of one Trino query.

    Raises QueryError: it is none; shows the place.
    """
    try:
        trees = [tree for tree in sqlglot.parse(text, read="trino") if tree is not None]
    except sqlglot.errors.SqlglotError as error:
        raise QueryError(f"Not Trino SQL: {_first_line(error)}") from error
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise QueryError("One query at a time, and nothing but a query: select … or with …")
    for call in list(trees[0].find_all(exp.Anonymous)):
        # one spelling of two; sqlglot writes it and does not read it
        if call.name.lower() == "at_timezone" and len(call.expressions) == 2:
            call.replace(exp.AtTimeZone(this=call.expressions[0], zone=call.expressions[1]))
    return trees[0]


@lru_cache(2000)
def parsed(text: str) -> exp.Expression:
    """As `parse`, once for each text: the tree is shared and not to be changed."""
    return parse(text)


def reads(tree: exp.Expression) -> frozenset[str]:
    """The tables and views that a query reads, without its own steps; names in lower case."""
    return frozenset(source_name(table) for table in sources(tree))


def sources(tree: exp.Expression, steps: frozenset[str] = frozenset()) -> Iterator[exp.Table]:
    """Every place where a query reads what is no step of its own.

    A step hides a table of its name from what comes after it, not from itself: `with ticks as (select … from
    ticks)` reads the table.
    """
    if isinstance(tree, exp.Table) and source_name(tree) not in steps:
        yield tree
    within = tree.args.get("with_")
    for step in within.expressions if within else ():
        own = frozenset({step.alias.lower()})
        yield from sources(step.this, steps | own if within.args.get("recursive") else steps)
        steps |= own
    for child in tree.iter_expressions():
        if child is not within:
            yield from sources(child, steps)


def source_name(table: exp.Table) -> str:
    """What a place reads, in lower case; a name with a schema, or a function, as it is written."""
    plain = isinstance(table.this, exp.Identifier) and not table.db
    return table.name.lower() if plain else table.sql(dialect="trino")


def base_name(table: str, known: Mapping[str, View]) -> str:
    """What a table is called in SQL: its name, or `stored_` and its name where a view has that."""
    return f"stored_{table}" if table in known else table


def table_of(name: str, known: Mapping[str, View]) -> str | None:
    """The table that a name in SQL stands for; None where it is a view's, or nobody's."""
    if name in known:
        return None
    plain = name.removeprefix("stored_")
    return plain if plain in TABLES else None


def placeholders(tree: exp.Expression) -> frozenset[str]:
    """The names for which a query wants values."""
    return frozenset(place.name for place in tree.find_all(exp.Placeholder) if place.name)


def positional(text: str) -> tuple[str, list[str]]:
    """A Trino query with `?` for each `:name`, and the names in the order of their places."""
    tokens = sqlglot.tokenize(text, read="trino")
    spans, names = [], []
    for colon, name in pairwise(tokens):
        if colon.token_type == TokenType.COLON and name.start == colon.end + 1:
            spans.append((colon.start, name.end + 1, "?"))
            names.append(name.text)
    return _spliced(text, spans), names


def inlined(text: str, known: Mapping[str, View], now: datetime) -> str:
    """A Trino query as of a moment: every view that it reads becomes a step of it, and the clock that moment.

    Tables stay names. The text is kept as it was written but for the clock and the views' names, which get
    `as_of_` before them, so that they meet no step of the query's own.
    """
    views, _ = needed(reads(parsed(text)), known)
    steps = [f"as_of_{name} as (\n{_renamed(known[name].text, known)}\n)" for name in views]
    body = _renamed(text, known)
    if steps:
        opening = re.match(r"(?is)(?:\s|--[^\n]*\n|/\*.*?\*/)*with\s+(?:recursive\s+)?", body)
        before, rest = (body[: opening.end()], body[opening.end() :]) if opening else ("with ", body)
        body = before + ",\n".join(steps) + (",\n" if opening else "\n") + rest
    return trino_at(body, now)


def trino_at(text: str, now: datetime) -> str:
    """Trino SQL whose clock stands still at a moment (aware, or naive UTC)."""
    moment = f"{now:%Y-%m-%d %H:%M:%S}.{now.microsecond // 1000:03d}"
    text = _CLOCK.sub(f"timestamp '{moment}'", text)
    frozen = {
        "CURRENT_TIMESTAMP": f"timestamp '{moment} UTC'",
        "LOCALTIMESTAMP": f"timestamp '{moment}'",
        "CURRENT_DATE": f"date '{now:%Y-%m-%d}'",
    }
    spans = [
        (token.start, token.end + 1, frozen[token.text.upper()])
        for token in sqlglot.tokenize(text, read="trino")
        if token.text.upper() in frozen and token.token_type != TokenType.STRING
    ]
    return _spliced(text, spans)


def _renamed(text: str, known: Mapping[str, View]) -> str:
    spans = []
    for table in sources(parsed(text)):
        name = source_name(table)
        if name in known:
            place = table.this.meta
            called = "" if table.alias else f" as {name}"
            spans.append((place["start"], place["end"] + 1, f"as_of_{name}{called}"))
    return _spliced(text, spans).rstrip().rstrip(";")


def _spliced(text: str, spans: list[tuple[int, int, str]]) -> str:
    for start, end, new in sorted(spans, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def for_duckdb(text: str) -> str:
    """A query in DuckDB's spelling; `now` in it is a placeholder that `at_moment` fills."""
    return _spelled(_read_again(parse(text)))


def pieces_for_duckdb(tree: exp.Expression, without: Collection[int] = ()) -> tuple[str, ...]:
    """A query in DuckDB's spelling, cut where it reads: between two pieces comes what stands for a table or view.

    The odd pieces are numbers of `sources`, as text; each place keeps the name that the query calls it by.
    without: selects that give no row that is needed, by their place among all selects: where one stands in a
    union of all, only the other side is left, and so are steps that nobody reads any more.
    """
    tree = _read_again(tree.copy())
    idle = {id(select) for number, select in enumerate(tree.find_all(exp.Select)) if number in without}
    for number, table in enumerate(list(sources(tree))):
        if not table.alias:
            table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name, quoted=True)))
        table.set("this", exp.to_identifier(f"$$place {number}$$", quoted=True))
    if idle:
        _leave_out(tree, idle)
    return tuple(_PLACE.split(_spelled(tree)))


def without_rows(tree: exp.Expression, places: Collection[int]) -> tuple[frozenset[int], bool]:
    """The selects that give no row where some places have none, by their place among all; and whether the query has none.

    places: numbers of `sources` whose table or view has no row. A select that is not in it may be without one, too.
    """
    found = _Rowless({id(table) for number, table in enumerate(sources(tree)) if number in places})
    whole = found.query(tree, frozenset())
    selects = enumerate(tree.find_all(exp.Select))
    return frozenset(number for number, select in selects if id(select) in found.selects), whole


class _Rowless:
    """Which parts of a query have no row: what they are of has none, and they make none themselves."""

    def __init__(self, places: set[int]):
        self.selects: set[int] = set()
        self._places = places

    def query(self, node: exp.Expression, steps: frozenset[str]) -> bool:
        """Whether a query has no row. steps: those before it that have none."""
        within = node.args.get("with_")
        for step in within.expressions if within else ():
            name = frozenset({step.alias.lower()})
            # a step hides another of its name
            none = self.query(step.this, steps) and not within.args.get("recursive")
            steps = steps | name if none else steps - name
        if isinstance(node, exp.Union):
            sides = [self.query(side, steps) for side in (node.this, node.expression)]
            return all(sides)
        if isinstance(node, exp.Subquery):
            return isinstance(node.this, exp.Query) and self.query(node.this, steps)
        if not isinstance(node, exp.Select):
            return False
        none = self._select(node, steps)
        if none:
            self.selects.add(id(node))
        return none

    def _select(self, node: exp.Select, steps: frozenset[str]) -> bool:
        start, joins = node.args.get("from_"), node.args.get("joins") or ()
        group = node.args.get("group")
        one_row = (not group or not group.expressions) and any(
            not isinstance(call.parent, exp.Window)
            for one in node.expressions
            for call in one.find_all(exp.AggFunc)
        )
        outer = any(join.side in ("RIGHT", "FULL") for join in joins)
        if start is None or one_row or outer or node.args.get("having") or node.args.get("laterals"):
            return False
        if group and not all(isinstance(one, exp.Column) for one in group.expressions):
            # a grouping set of nothing is a row of nothing
            return False
        if group and any(value for key, value in group.args.items() if key != "expressions"):
            return False
        inner = [join.this for join in joins if not join.side and join.kind in ("", "INNER", "CROSS")]
        return any(self._source(one, steps) for one in [start.this, *inner])

    def _source(self, node: exp.Expression, steps: frozenset[str]) -> bool:
        if isinstance(node, exp.Table):
            return id(node) in self._places or (not node.db and node.name.lower() in steps)
        return isinstance(node, exp.Subquery) and self.query(node, steps)


def _leave_out(tree: exp.Expression, idle: set[int]) -> None:
    for union in reversed(list(tree.find_all(exp.Union))):
        sides = [side for side in (union.this, union.expression) if id(side) not in idle]
        plain = not any(
            value for key, value in union.args.items() if key not in ("this", "expression", "with_")
        )
        if not sides:
            idle.add(id(union))
        elif len(sides) == 1 and plain and union.this.named_selects == union.expression.named_selects:
            (kept,) = sides
            within = union.args.get("with_")
            if union.parent is None or (within and kept.args.get("with_")):
                continue
            if within:
                kept.set("with_", within.pop())
            union.replace(kept)
    while unread := [step for step in tree.find_all(exp.CTE) if not _is_read(step)]:
        for step in unread:
            within = step.parent
            step.pop()
            if not within.expressions:
                within.pop()


def _is_read(step: exp.CTE) -> bool:
    return any(table.name.lower() == step.alias.lower() for table in step.parent.parent.find_all(exp.Table))


def _spelled(tree: exp.Expression) -> str:
    return tree.transform(_rewrite, copy=False).sql(dialect="duckdb", comments=False, copy=False)


def at_moment(spelled: str, now: datetime) -> str:
    """The spelled query as of a moment (naive UTC or aware)."""
    return spelled.replace(f'"{_NOW}"', f"TIMESTAMP '{now:%Y-%m-%d %H:%M:%S}.{now.microsecond // 1000:03d}'")


def _rewrite(node: exp.Expression) -> exp.Expression:
    if isinstance(node, exp.Cast) and isinstance(node.this, exp.AtTimeZone) and _is_now(node.this.this):
        return exp.column(_NOW, quoted=True)
    if _is_now(node):
        return exp.AtTimeZone(this=exp.column(_NOW, quoted=True), zone=exp.Literal.string("UTC"))
    if isinstance(node, exp.Localtimestamp):
        return exp.column(_NOW, quoted=True)
    if isinstance(node, exp.CurrentDate):
        return exp.cast(exp.column(_NOW, quoted=True), "date")
    if isinstance(node, exp.DataType) and node.this == exp.DataType.Type.TIMESTAMP:
        # DuckDB's millisecond type is another type than its timestamp
        return exp.DataType.build("timestamp")
    if isinstance(node, exp.DateDiff):
        # date_diff counts whole units in Trino and boundaries crossed in DuckDB, whose date_sub counts units
        unit = exp.Literal.string(node.text("unit").lower() or "day")
        return exp.func("date_sub", unit, *_inner(node.expression, node.this), dialect="duckdb")
    if isinstance(node, exp.ArgMax | exp.ArgMin):
        # at a null Trino says null; DuckDB's arg_max looks for the next row
        name = "arg_max_null" if isinstance(node, exp.ArgMax) else "arg_min_null"
        return exp.func(name, *_inner(node.this, node.expression), dialect="duckdb")
    return node


def _inner(*nodes: exp.Expression) -> list[exp.Expression]:
    # what is inside a node that was replaced is not visited by itself
    return [node.transform(_rewrite) for node in nodes]


def _read_again(tree: exp.Expression) -> exp.Expression:
    """DuckDB keeps what a step gave when it is read twice: whole tables, which are cheaper to read again."""
    for step in tree.find_all(exp.CTE):
        if _only_picks(step.this):
            step.set("materialized", False)
    return tree


def _only_picks(step: exp.Expression) -> bool:
    """Whether a step does nothing but pick columns and rows of one table."""
    if not isinstance(step, exp.Select) or step.find(exp.AggFunc, exp.Window, exp.Subquery):
        return False
    read = [source_name(table).removeprefix("stored_") for table in step.find_all(exp.Table)]
    parts = ("joins", "group", "distinct", "limit", "with_")
    return len(read) == 1 and read[0] in TABLES and not any(step.args.get(part) for part in parts)


def _is_now(node: exp.Expression) -> bool:
    return isinstance(node, exp.CurrentTimestamp)


def read_view(path: Path) -> View:
    """The view of one file.

    Raises MetricError: its header or its SQL cannot be read; names the file and what it lacks.
    """
    shown = f"{path.parent.name}/{path.name}"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MetricError(f"{shown} cannot be read: {error}. It has to be SQL in UTF-8.") from error
    fields, says = _header(text)
    absent = [name for name in HEADER if not fields.get(name)]
    if absent or not says:
        raise MetricError(
            f"{shown}: the header lacks {', '.join(absent) or 'its first sentence'}. It begins with a "
            "sentence and says grain:, units: and why: (and lookback:, as 26 h, where rows do not reach further; time: "
            "and reach:, where a bound on its rows' time bounds what it reads)."
        )
    try:
        tree = parse(text)
    except QueryError as error:
        raise MetricError(f"{shown}: {error}") from error
    time = fields.get("time")
    if time and time not in tree.named_selects:
        raise MetricError(
            f"{shown}: time is {time!r}, which it does not select. It has: {', '.join(tree.named_selects)}."
        )
    return View(
        name=path.stem,
        says=says,
        grain=tuple(column.strip() for column in fields["grain"].split(",")),
        units=fields["units"],
        why=fields["why"],
        lookback=_span(path, "lookback", fields),
        time=time,
        reach=_span(path, "reach", fields) or timedelta(0),
        text=text,
        reads=reads(tree),
    )


def _span(path: Path, field: str, fields: Mapping[str, str]) -> timedelta | None:
    if field not in fields:
        return None
    match = _SPAN.fullmatch(fields[field])
    if not match:
        raise MetricError(
            f"{path.parent.name}/{path.name}: {field} is {fields[field]!r}; write it as 75 min, 26 h or 8 d."
        )
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _header(text: str) -> tuple[dict[str, str], str]:
    fields: dict[str, str] = {}
    says, current = "", None
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        match = _FIELD.match(line)
        if match:
            current = match[1]
            fields[current] = match[2].strip()
        elif current:
            fields[current] += " " + line.lstrip("- ").strip()
        else:
            says += (" " if says else "") + line.lstrip("- ").strip()
    return fields, says


def _first_line(error: Exception) -> str:
    # sqlglot underlines the place with terminal codes
    return re.sub(r"\x1b\[\d+m", "", str(error)).strip().splitlines()[0]
