"""What rows a query needs of each table that it reads, found in its text before it runs: place by place.

A filter on a column is followed from where it stands down to the tables: through subqueries, steps, unions,
groups and views, as far as it can be shown to hold there, and no further. What comes out are conditions of
the forms `column >= constant`, `column <= constant` and `column in (constants)`; a row that meets none of a
place's alternatives cannot change the query's result, so a file without such a row need not be read.
Where anything is unsure there is no condition, and all is read.

Through a view whose text hides the way (windows, aggregates over time) the header leads: the view's rows of a
time depend on rows no further than its `reach` from that time, and on nothing older than its `lookback`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import product

from sqlglot import exp

from cryptomon_lib import sql
from cryptomon_lib.sql import CLOCK
from cryptomon_lib.tables import TABLES

# more alternatives than this are given up for "everything": they would be no help
_ALTERNATIVES = 24
# stands for all sources of a select
_ALL = -1
_COMPARED = {exp.GT: "ge", exp.GTE: "ge", exp.LT: "le", exp.LTE: "le", exp.EQ: "in"}
_TURNED = {"ge": "le", "le": "ge", "in": "in"}
_UNITS = {
    "millisecond": timedelta(milliseconds=1),
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}
# not the same each time, or not known to be
_CHANGING = (exp.Rand, exp.Randn, exp.Uuid, exp.Anonymous)
_UNSURE = (*_CHANGING, exp.AggFunc, exp.Window, exp.Star, exp.Column, exp.Any, exp.All, exp.Query)


@dataclass(frozen=True)
class Atom:
    """One condition: column `of` (or the text `of`, where it is a literal) against constants, as Trino SQL.

    how: ge, le, or in. Strict comparisons count as these: a file too many does no harm.
    back: what is to be taken off the constant.
    """

    of: str
    how: str
    constants: tuple[str, ...]
    back: timedelta = timedelta(0)
    literal: bool = False


# alternatives, each a set of conditions that hold together; none is "no row", an empty one is "any row"
Demand = frozenset[frozenset[Atom]]
ANY: Demand = frozenset({frozenset()})
NOTHING: Demand = frozenset()


def either(one: Demand, other: Demand) -> Demand:
    """What two readers of the same rows need together."""
    found = one | other
    kept = frozenset(part for part in found if not any(less < part for less in found))
    return kept if len(kept) <= _ALTERNATIVES else ANY


def both(one: Demand, other: Demand) -> Demand:
    """What is needed where two demands hold at once."""
    if len(one) * len(other) > _ALTERNATIVES * 2:
        return one
    return either(frozenset(left | right for left, right in product(one, other)), NOTHING)


@dataclass(frozen=True)
class Read:
    """A table read at some place, and which of its rows are needed there."""

    table: str
    demand: Demand


@dataclass(frozen=True)
class Step:
    """A query or view over what it reads.

    reads: in the order of `sql.sources`, the number of the step or read that each place stands for.
    branches: selects of a union, by their place among all selects, and when one of their rows is needed.
    """

    view: str | None
    reads: tuple[int, ...]
    branches: tuple[tuple[int, Demand], ...] = ()


@dataclass
class Plan:
    """How a query is put together: reads and steps, each after those that it reads; the last is the query.

    constants: Trino expressions that the conditions compare with; some are queries themselves.
    """

    nodes: list[Read | Step] = field(default_factory=list)
    constants: set[str] = field(default_factory=set)

    @property
    def tables(self) -> frozenset[str]:
        """All tables that are read."""
        return frozenset(node.table for node in self.nodes if isinstance(node, Read))


def plan(tree: exp.Expression, known: Mapping[str, sql.View]) -> Plan:
    """The plan of one query over tables and views."""
    return _Planner(known).planned(tree)


def plan_all(names: Iterable[str], known: Mapping[str, sql.View]) -> tuple[Plan, dict[str, int]]:
    """One plan for all rows of tables and views, and the number of each by its name.

    A view is there once, whoever reads it: what its readers need of it is not followed into it.
    """
    planner = _Planner(known, once=True)
    numbers = {name: planner.place(name, ANY, ANY, None) for name in names}
    return planner.finished(), numbers


class _Planner:
    """Builds one plan; views that need the same of all that they read are one step."""

    def __init__(self, known: Mapping[str, sql.View], once: bool = False):
        self.known, self.plan, self._once = known, Plan(), once
        self._numbers: dict[Read | Step, int] = {}
        self._views: dict[tuple, int] = {}

    def planned(self, tree: exp.Expression) -> Plan:
        self._step(None, tree, ANY, ANY, None)
        return self.finished()

    def finished(self) -> Plan:
        for node in self.plan.nodes:
            of = [node.demand] if isinstance(node, Read) else [demand for _, demand in node.branches]
            for atom in (atom for demand in of for part in demand for atom in part):
                self.plan.constants.update(atom.constants)
        return self.plan

    def _number(self, node: Read | Step) -> int:
        if node not in self._numbers:
            self._numbers[node] = len(self.plan.nodes)
            self.plan.nodes.append(node)
        return self._numbers[node]

    def _step(
        self, view: str | None, tree: exp.Expression, demand: Demand, since: Demand, floor: timedelta | None
    ) -> int:
        """since: what the view's header says of the time of all that it reads, its column named ''."""
        analysis = Analysis(lambda name: columns_of(name, self.known))
        analysis.query(tree, demand, {})
        reads = []
        for place in sql.sources(tree):
            wanted = analysis.places.get(id(place), ANY)
            reads.append(self.place(sql.source_name(place), wanted, since, floor))
        branches = [
            (number, analysis.branches[id(select)])
            for number, select in enumerate(tree.find_all(exp.Select))
            if analysis.branches.get(id(select), ANY) != ANY
        ]
        return self._number(Step(view, tuple(reads), tuple(branches)))

    def place(self, name: str, demand: Demand, since: Demand, floor: timedelta | None) -> int:
        time = _time_column(name, self.known)
        if self._once and name in self.known:
            demand, since, floor = ANY, ANY, None
        if time:
            demand = both(demand, _renamed(since, time))
        if name not in self.known:
            table = sql.table_of(name, self.known) or name
            if floor is not None and time:
                demand = both(demand, frozenset({frozenset({Atom(time, "ge", (CLOCK,), floor)})}))
            return self._number(Read(table, _of_columns(demand, table)))
        view = self.known[name]
        if view.lookback is not None:
            floor = view.lookback if floor is None else min(floor, view.lookback)
        inner = _widened(demand, view.time, view.reach) if view.time else ANY
        asked = name, demand, inner, floor
        if asked not in self._views:
            self._views[asked] = self._step(name, view.tree, demand, inner, floor)
        return self._views[asked]


def columns_of(name: str, known: Mapping[str, sql.View]) -> tuple[str, ...] | None:
    """The columns of a table or view, in order; None where they cannot be told."""
    if name in known:
        named = [column.lower() for column in known[name].tree.named_selects]
        return None if "*" in named or "" in named else tuple(named)
    table = sql.table_of(name, known)
    return tuple(TABLES[table].column_names) if table else None


def _time_column(name: str, known: Mapping[str, sql.View]) -> str | None:
    if name in known:
        return known[name].time
    table = sql.table_of(name, known)
    return TABLES[table].day_of if table else None


def _renamed(demand: Demand, column: str) -> Demand:
    return frozenset(frozenset(replace(atom, of=column) for atom in part) for part in demand)


def _widened(demand: Demand, time: str, reach: timedelta) -> Demand:
    """Of a demand on a view what it says of the time of the rows that the view reads."""
    wide = frozenset(
        frozenset(
            replace(atom, back=atom.back + (reach if atom.how == "ge" else -reach))
            for atom in part
            if atom.of == time and atom.how in ("ge", "le") and not atom.literal
        )
        for part in demand
    )
    return either(wide, NOTHING)


def _of_columns(demand: Demand, table: str) -> Demand:
    """Only the conditions by which files differ: on times, partitions, and what rows are sorted by."""
    described = TABLES[table]
    useful = {column.name for column in described.columns if column.type == "time"}
    useful |= {*described.partition_by, *described.led_by}
    kept = frozenset(frozenset(a for a in part if a.literal or a.of in useful) for part in demand)
    return either(kept, NOTHING)


# ---- one text


@dataclass
class _Named:
    """A step of a query while it is looked at: its text, its columns, and what its readers need of it."""

    columns: tuple[str, ...] | None
    demand: Demand = NOTHING


@dataclass
class _Source:
    """One thing in a from clause."""

    alias: str
    node: exp.Expression
    columns: tuple[str, ...] | None


class Analysis:
    """What one text needs at each place where it reads: `places`, by the id of the place's node; and when it needs
    a select of a union at all: `branches`, likewise."""

    def __init__(self, columns: Callable[[str], tuple[str, ...] | None]):
        self._columns = columns
        self.places: dict[int, Demand] = {}
        self.branches: dict[int, Demand] = {}
        self._outputs: dict[int, tuple[str, ...] | None] = {}

    def query(self, node: exp.Expression, demand: Demand, steps: Mapping[str, _Named]) -> None:
        """Note what a query needs of what it reads, of whose rows `demand` is needed."""
        steps, own = dict(steps), []
        within = node.args.get("with_")
        for step in within.expressions if within else ():
            before = dict(steps)
            if within.args.get("recursive"):
                # what it reads of itself is not followed
                before[step.alias.lower()] = _Named(None)
            named = _Named(_aliased(step, self.outputs(step.this, before)))
            own.append((step, named, before))
            steps[step.alias.lower()] = named
        self._body(node, demand, steps)
        for step, named, before in reversed(own):
            wanted = ANY if within.args.get("recursive") else named.demand
            if step.args.get("alias") and step.args["alias"].columns:
                wanted = _any_of(wanted)
            self.query(step.this, wanted, before)

    def outputs(self, node: exp.Expression, steps: Mapping[str, _Named]) -> tuple[str, ...] | None:
        """The names of a query's columns; None where one cannot be told."""
        if id(node) not in self._outputs:
            self._outputs[id(node)] = self._find_outputs(node, steps)
        return self._outputs[id(node)]

    def _find_outputs(self, node: exp.Expression, steps: Mapping[str, _Named]) -> tuple[str, ...] | None:
        steps = dict(steps)
        within = node.args.get("with_")
        for step in within.expressions if within else ():
            before = {**steps, step.alias.lower(): _Named(None)} if within.args.get("recursive") else steps
            steps[step.alias.lower()] = _Named(_aliased(step, self.outputs(step.this, before)))
        if isinstance(node, exp.SetOperation):
            return self.outputs(node.this, steps)
        if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Query):
            return self.outputs(node.this, steps)
        if not isinstance(node, exp.Select):
            return None
        names: list[str] = []
        for one in node.expressions:
            more = self._expanded(node, one, steps) if _is_star(one) else (one.alias_or_name.lower(),)
            if more is None or "" in more:
                return None
            names.extend(more)
        return tuple(names)

    def _expanded(self, node: exp.Select, star: exp.Expression, steps) -> tuple[str, ...] | None:
        if any(join.args.get("using") or join.method for join in node.args.get("joins") or ()):
            return None
        sources = self._sources(node, steps)
        table = star.text("table").lower()
        wanted = [one for one in sources if table in ("", one.alias)]
        if not wanted or any(one.columns is None for one in wanted):
            return None
        return tuple(name for one in wanted for name in one.columns)

    # ---- bodies

    def _body(self, node: exp.Expression, demand: Demand, steps: Mapping[str, _Named]) -> None:
        if isinstance(node, exp.Select):
            self._select(node, demand, steps)
        elif isinstance(node, exp.Union):
            self._union(node, _any_of(demand) if _cut(node) else demand, steps)
        elif (
            isinstance(node, exp.Subquery) and isinstance(node.this, exp.Query) and not node.args.get("joins")
        ):
            self.query(node.this, _any_of(demand) if _cut(node) else demand, steps)
        else:
            self._anywhere(node, steps)

    def _union(self, node: exp.Union, demand: Demand, steps) -> None:
        names = self.outputs(node, steps)
        for side in (node.this, node.expression):
            own = self.outputs(side, steps)
            if names is None or own is None or len(set(names)) < len(names) or len(own) != len(names):
                self.query(side, _any_of(demand), steps)
                continue
            there = dict(zip(names, own, strict=True))
            # names that stand twice on one side say nothing about a column
            safe = {name for name in names if own.count(there[name]) == 1}
            moved = frozenset(
                frozenset(
                    atom if atom.literal else replace(atom, of=there[atom.of])
                    for atom in part
                    if atom.literal or atom.of in safe
                )
                for part in demand
            )
            self.query(side, either(moved, NOTHING), steps)
        for key, value in node.args.items():
            if key not in ("this", "expression", "with_"):
                self._inside(value, steps)

    def _anywhere(self, node: exp.Expression, steps) -> None:
        """All that a construct reads that is not followed: every row of it."""
        if isinstance(node, exp.Query) and not isinstance(node, exp.Subquery | exp.Table):
            # its own conditions still hold inside it, unless it is what is not understood
            if isinstance(node, exp.Select | exp.Union):
                self.query(node, ANY, steps)
                return
            within = node.args.get("with_")
            if within:
                # names that it gives are not looked up any more
                steps = {**steps, **{step.alias.lower(): _Named(None) for step in within.expressions}}
        if isinstance(node, exp.Table):
            self._need(node, ANY, steps)
        for child in node.iter_expressions():
            self._anywhere(child, steps)

    def _inside(self, value, steps) -> None:
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, exp.Expression):
                self._anywhere(one, steps)

    def _need(self, table: exp.Table, demand: Demand, steps: Mapping[str, _Named]) -> None:
        name = sql.source_name(table)
        if name in steps:
            steps[name].demand = either(steps[name].demand, demand)
        else:
            self.places[id(table)] = either(self.places.get(id(table), NOTHING), demand)

    # ---- one select

    def _sources(self, node: exp.Select, steps: Mapping[str, _Named]) -> list[_Source]:
        found = []
        for one in _from(node):
            columns = None
            if isinstance(one, exp.Table) and _is_plain(one):
                name = sql.source_name(one)
                columns = steps[name].columns if name in steps else self._columns(name)
            elif isinstance(one, exp.Subquery) and isinstance(one.this, exp.Query) and _is_plain(one):
                columns = self.outputs(one.this, steps)
            alias = one.args.get("alias")
            if alias and alias.args.get("columns"):
                columns = None
            found.append(_Source(one.alias_or_name.lower(), one, columns))
        return found

    def _select(self, node: exp.Select, demand: Demand, steps: Mapping[str, _Named]) -> None:
        sources = self._sources(node, steps)
        own, same = self._conditions(node, sources, steps)
        alternatives = []
        for part in demand:
            mapped = self._mapped(node, part, sources)
            alternatives.append(_closed(_joined(own, mapped), same))
        if isinstance(node.parent, exp.Union):
            needed = either(frozenset(one.get(_ALL, frozenset()) for one in alternatives), NOTHING)
            self.branches[id(node)] = either(self.branches.get(id(node), NOTHING), needed)
        for number, source in enumerate(sources):
            wanted = frozenset(
                one.get(number, frozenset()) | one.get(_ALL, frozenset()) for one in alternatives
            )
            self._source(source, either(wanted, NOTHING), steps)
        for key, value in node.args.items():
            if key not in ("from_", "joins", "with_"):
                self._inside(value, steps)
        for join in node.args.get("joins") or ():
            self._inside(join.args.get("on"), steps)
        for lateral in node.args.get("laterals") or ():
            self._anywhere(lateral, steps)

    def _source(self, source: _Source, demand: Demand, steps) -> None:
        node = source.node
        if source.columns is None and not (isinstance(node, exp.Table) and _is_plain(node)):
            demand = _any_of(demand)
        if isinstance(node, exp.Table) and _is_plain(node):
            self._need(node, demand, steps)
        elif isinstance(node, exp.Subquery) and isinstance(node.this, exp.Query) and _is_plain(node):
            self.query(node.this, demand, steps)
        else:
            self._anywhere(node, steps)

    def _conditions(self, node: exp.Select, sources: list[_Source], steps):
        """Conditions on each source by the select's own text, and pairs of columns: what holds for the first in a
        row of the result holds for the second in the row that it comes from."""
        own: dict[int, set[Atom]] = {}
        same: list[tuple[tuple[int, str], tuple[int, str]]] = []
        everywhere = set(range(len(sources)))
        where = node.args.get("where")
        clauses = [(where.this, everywhere, True)] if where else []
        first = len(sources) - len(node.args.get("joins") or ())
        for place, join in enumerate(node.args.get("joins") or (), first):
            if join.args.get("on") is not None:
                seen = set(range(place + 1))
                allowed = {"": seen, "LEFT": {place}, "RIGHT": set(range(place))}.get(join.side, set())
                known = join.kind in ("", "INNER", "CROSS", "OUTER") and not join.method
                clauses.append((join.args["on"], allowed if known else set(), known and not join.side))
        for clause, allowed, inner in clauses:
            for one in _conjuncts(clause):
                ends = _equal(one, sources)
                if ends and inner:
                    same += [ends, ends[::-1]]
                elif ends and len(allowed) == 1:
                    # the right side of a left join: of the rows that it meets, not of all
                    same += [
                        pair
                        for pair in (ends, ends[::-1])
                        if pair[1][0] in allowed and pair[0][0] not in allowed
                    ]
                for column, atom in self._atoms(one, steps):
                    shifted = _shifted(column, sources)
                    if shifted and shifted[0][0] in allowed:
                        number, name = shifted[0]
                        own.setdefault(number, set()).update(_moved(atom, name, *shifted[1:]))
        return own, same

    def _atoms(self, node: exp.Expression, steps) -> Iterator[tuple[exp.Expression, Atom]]:
        """A conjunct as conditions on columns, as far as it is of a known form."""
        if isinstance(node, exp.Between) and not node.args.get("symmetric"):
            for how, bound in (("ge", node.args["low"]), ("le", node.args["high"])):
                if self._constant(bound, steps):
                    yield node.this, Atom("", how, (_text(bound),))
        elif isinstance(node, exp.In) and node.expressions and not node.args.get("query"):
            if all(self._constant(one, steps) for one in node.expressions):
                yield node.this, Atom("", "in", tuple(_text(one) for one in node.expressions))
        elif type(node) in _COMPARED:
            how = _COMPARED[type(node)]
            for column, other, so in (
                (node.this, node.expression, how),
                (node.expression, node.this, _TURNED[how]),
            ):
                if self._constant(other, steps):
                    yield column, Atom("", so, (_text(other),))

    def _constant(self, node: exp.Expression, steps) -> bool:
        """Whether an expression is the same for every row: it names no column, or only those of a query of its own."""
        if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Select):
            return self._stands_alone(node.this, steps)
        if isinstance(node, _UNSURE):
            return False
        return all(self._constant(child, steps) for child in node.iter_expressions())

    def _stands_alone(self, query: exp.Select, steps) -> bool:
        """Whether a scalar subquery is one plain select that can be asked by itself, whatever row it stands beside."""
        if len(list(query.find_all(exp.Query))) != 1:
            return False
        sources = self._sources(query, {})
        if any(one.columns is None or sql.source_name(one.node) in steps for one in sources):
            return False
        changing = any(isinstance(node, _CHANGING) for node in query.walk())
        return not changing and all(_resolved(column, sources) for column in query.find_all(exp.Column))

    def _mapped(self, node: exp.Select, part: frozenset[Atom], sources) -> dict[int, set[Atom]]:
        """Conditions on a select's columns as conditions on its sources; those for all of them under -1."""
        found: dict[int, set[Atom]] = {_ALL: {atom for atom in part if atom.literal}}
        if _cut(node):
            return found
        if any(_is_star(one) for one in node.expressions):
            return self._through_star(node, part, sources, found)
        named: dict[str, list[exp.Expression]] = {}
        for one in node.expressions:
            named.setdefault(one.alias_or_name.lower(), []).append(one.unalias())
        for atom in part:
            if atom.literal or len(named.get(atom.of, ())) != 1:
                continue
            value = named[atom.of][0]
            if isinstance(value, exp.Literal) and value.is_string and atom.how == "in":
                found[_ALL].add(replace(atom, of=value.this, literal=True))
                continue
            shifted = _shifted(value, sources)
            if shifted and _commutes(node, value, shifted[0], sources):
                number, column = shifted[0]
                found.setdefault(number, set()).update(_moved(atom, column, *shifted[1:]))
        return found

    def _through_star(self, node: exp.Select, part, sources, found):
        one = node.expressions[0]
        plain = len(node.expressions) == len(sources) == 1 and sources[0].columns is not None
        if plain and isinstance(one, exp.Star) and not any(one.args.values()) and not node.args.get("group"):
            found[0] = {atom for atom in part if not atom.literal and sources[0].columns.count(atom.of) == 1}
        return found


def _from(node: exp.Select) -> list[exp.Expression]:
    start = node.args.get("from_")
    joins = node.args.get("joins") or ()
    return ([start.this] if start else []) + [join.this for join in joins]


def _equal(node: exp.Expression, sources: list[_Source]):
    """The two columns that a conjunct says are equal."""
    if not isinstance(node, exp.EQ):
        return None
    ends = _resolved(node.this, sources), _resolved(node.expression, sources)
    return None if None in ends else ends


def _is_star(node: exp.Expression) -> bool:
    return isinstance(node, exp.Star) or (isinstance(node, exp.Column) and isinstance(node.this, exp.Star))


def _is_plain(node: exp.Expression) -> bool:
    """A table or subquery with nothing hung on it: no sample, pivot or nested join."""
    return not any(value for key, value in node.args.items() if key not in ("this", "alias", "db", "catalog"))


def _cut(node: exp.Expression) -> bool:
    """Whether a query keeps some of its rows only, so that what is asked of them is not asked of all."""
    return any(node.args.get(key) for key in ("limit", "offset", "sample", "qualify", "match"))


def _any_of(demand: Demand) -> Demand:
    """The demand without its conditions on columns: those on literals say whether a row is needed at all."""
    return either(frozenset(frozenset(a for a in part if a.literal) for part in demand), NOTHING)


def _aliased(step: exp.CTE, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
    alias = step.args.get("alias")
    given = tuple(one.name.lower() for one in alias.columns) if alias else ()
    return given or columns


def _conjuncts(node: exp.Expression) -> Iterator[exp.Expression]:
    if isinstance(node, exp.And):
        yield from _conjuncts(node.this)
        yield from _conjuncts(node.expression)
    elif isinstance(node, exp.Paren):
        yield from _conjuncts(node.this)
    else:
        yield node


def _resolved(node: exp.Expression, sources: list[_Source]) -> tuple[int, str] | None:
    """The source and column that a name stands for, where it can stand for no other."""
    if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star) or node.db:
        return None
    name, table = node.name.lower(), node.table.lower()
    if table:
        numbers = [number for number, one in enumerate(sources) if one.alias == table]
    elif any(one.columns is None for one in sources):
        return None
    else:
        numbers = [number for number, one in enumerate(sources) if name in one.columns]
    if len(numbers) != 1:
        return None
    columns = sources[numbers[0]].columns
    return (numbers[0], name) if columns is not None and columns.count(name) == 1 else None


def _shifted(
    node: exp.Expression, sources: list[_Source]
) -> tuple[tuple[int, str], timedelta, timedelta] | None:
    """The column that an expression follows, and between which two differences from it the expression always is."""
    if isinstance(node, exp.Paren):
        return _shifted(node.this, sources)
    if isinstance(node, exp.Add | exp.Sub) and isinstance(node.expression, exp.Interval):
        found, by = _shifted(node.this, sources), _length(node.expression)
        if not found or by is None:
            return None
        by = -by if isinstance(node, exp.Sub) else by
        return found[0], found[1] + by, found[2] + by
    if isinstance(node, exp.DateTrunc | exp.TimestampTrunc):
        found, by = _shifted(node.this, sources), _UNITS.get(node.text("unit").lower())
        return (found[0], found[1] - by, found[2]) if found and by else None
    at = _resolved(node, sources)
    return (at, timedelta(0), timedelta(0)) if at else None


def _length(node: exp.Interval) -> timedelta | None:
    unit, amount = _UNITS.get(node.text("unit").lower()), node.this
    if not unit or not isinstance(amount, exp.Literal):
        return None
    try:
        return unit * float(amount.name)
    except (ValueError, OverflowError):
        return None


def _moved(atom: Atom, column: str, low: timedelta, high: timedelta) -> list[Atom]:
    """A condition on what lies between `low` and `high` from a column, as conditions on the column."""
    if not low and not high:
        return [replace(atom, of=column)]
    if len(atom.constants) > 1:
        return []
    return [
        replace(atom, of=column, how=how, back=atom.back + by)
        for how, by in (("ge", high), ("le", low))
        if atom.how in (how, "in")
    ]


def _commutes(node: exp.Select, value: exp.Expression, at: tuple[int, str], sources: list[_Source]) -> bool:
    """Whether a condition on this value means the same before the select's groups and windows as after."""

    def among(expressions) -> bool:
        return any(one == value or _resolved(one, sources) == at for one in expressions)

    group = node.args.get("group")
    if group:
        if any(value for key, value in group.args.items() if key != "expressions"):
            return False
        places = [
            node.expressions[int(one.name) - 1].unalias() if one.is_int else one for one in group.expressions
        ]
        if not among(places):
            return False
    distinct = node.args.get("distinct")
    if distinct and distinct.args.get("on"):
        return False
    return all(among(window.args.get("partition_by") or ()) for window in _windows(node))


def _windows(node: exp.Select) -> Iterator[exp.Window]:
    if node.args.get("windows"):
        # named windows are not followed: as one that is partitioned by nothing
        yield exp.Window()
    for one in [*node.expressions, node.args.get("order")]:
        if one is not None:
            yield from one.find_all(exp.Window)


def _joined(one: Mapping[int, set[Atom]], other: Mapping[int, set[Atom]]) -> dict[int, set[Atom]]:
    return {number: one.get(number, set()) | other.get(number, set()) for number in {*one, *other}}


def _closed(found: dict[int, set[Atom]], same) -> dict[int, frozenset[Atom]]:
    """Conditions carried over to the columns that are equal."""
    grown = True
    while grown:
        grown = False
        for one, other in same:
            for atom in list(found.get(one[0], ())):
                moved = replace(atom, of=other[1])
                if atom.of == one[1] and not atom.literal and moved not in found.setdefault(other[0], set()):
                    found[other[0]].add(moved)
                    grown = True
    return {number: frozenset(atoms) for number, atoms in found.items()}


def _text(node: exp.Expression) -> str:
    # views are looked at again and again, and writing SQL is slow
    if "trino" not in node.meta:
        node.meta["trino"] = node.sql(dialect="trino", comments=False)
    return node.meta["trino"]
