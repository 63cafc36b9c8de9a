"""Portability of view files: that a text means the same to Athena, Trino and DuckDB, found without running it.

Owns the rules and what each says to write instead, and the type of every column of every view, which follows
from the data dictionary. A construct that only one engine takes, or that all take and understand differently,
is a problem; so is a column that nothing has, and a type that cannot be told.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify
from sqlglot.schema import MappingSchema
from sqlglot.tokens import Token, TokenType

from cryptomon_lib import sql
from cryptomon_lib.errors import MetricError, QueryError
from cryptomon_lib.sql import CLOCK
from cryptomon_lib.tables import TABLES

_TYPES = {
    "text": "varchar",
    "number": "double",
    "count": "bigint",
    "time": "timestamp(3)",
    "texts": "array(varchar)",
}
_Type = exp.DataType.Type
_WHOLE = {_Type.INT, _Type.BIGINT, _Type.SMALLINT, _Type.TINYINT}
_NUMBERS = {*_WHOLE, _Type.DOUBLE, _Type.FLOAT, _Type.DECIMAL}
_TEXTS = {_Type.VARCHAR, _Type.TEXT, _Type.CHAR}
_TIMES = {_Type.TIMESTAMP, _Type.TIMESTAMPNTZ, _Type.DATETIME}
_UNSURE = {_Type.UNKNOWN, _Type.NULL}
_KINDS = {
    **dict.fromkeys(_WHOLE, "count"),
    **dict.fromkeys(_TEXTS, "text"),
    **dict.fromkeys(_TIMES, "time"),
    _Type.DOUBLE: "number",
    _Type.FLOAT: "number",
    _Type.BOOLEAN: "flag",
    _Type.DATE: "date",
    _Type.ARRAY: "texts",
}
# what means the same on all three, nulls and errors included, as far as the rules below do not say otherwise
_FUNCTIONS = {
    exp.Abs, exp.And, exp.ArgMax, exp.ArgMin, exp.Array, exp.Avg, exp.Case, exp.Cast, exp.Ceil, exp.Coalesce, exp.Concat,
    exp.Corr, exp.Count, exp.CountIf, exp.CovarPop, exp.CovarSamp, exp.CurrentTimestamp, exp.Date, exp.DateDiff,
    exp.DenseRank, exp.Exists, exp.Exp, exp.Extract, exp.Floor, exp.Greatest, exp.If, exp.Lag, exp.Lead, exp.Least,
    exp.Length, exp.Ln, exp.LogicalAnd, exp.LogicalOr, exp.Lower, exp.Max, exp.Min, exp.Mod, exp.Nullif, exp.Or,
    exp.PercentRank, exp.Pow, exp.Rank, exp.Round, exp.Sign, exp.Sqrt, exp.Stddev, exp.StddevPop, exp.StddevSamp,
    exp.StrPosition, exp.Struct, exp.Substring, exp.Sum, exp.TimestampTrunc, exp.Trim, exp.Upper, exp.Variance,
    exp.VariancePop,
}  # fmt: skip
_INSTEAD = {
    exp.Anonymous: "only functions that all three engines know and understand alike",
    exp.AnyValue: "min(…) or max(…), which are the same each time",
    exp.ApproxDistinct: "count(distinct …)",
    exp.ArrayAgg: "an aggregate that has no order of its own",
    exp.CurrentDate: f"date({CLOCK})",
    exp.CurrentTime: CLOCK,
    exp.Localtime: CLOCK,
    exp.Localtimestamp: CLOCK,
    exp.FirstValue: "min_by(…, at) with a group by",
    exp.LastValue: "max_by(…, at) with a group by",
    exp.Format: "the plain value; text is made where it is shown",
    exp.Log: "ln(x) / ln(2e0), ln(x) / ln(10e0)",
    exp.Ntile: "rank() and count(*) over ()",
    exp.Rand: "nothing that differs from call to call",
    exp.RowNumber: "rank(), where those of a tie share a place; or join the row by its max(at)",
    exp.TimeToStr: "the plain time; text is made where it is shown",
    exp.TryCast: "cast(…), of what can be cast",
}
# may not stand as a name without quotes in Trino
_RESERVED = """
    alter and as auto between by case cast constraint create cross cube current_catalog current_date current_path
    current_role current_schema current_time current_timestamp current_user deallocate delete describe distinct
    drop else end escape except execute exists extract false for from full group grouping having in inner insert
    intersect into is join json_array json_exists json_object json_query json_table json_value left like listagg
    localtime localtimestamp natural normalize not null on or order outer prepare recursive right rollup select
    skip table then trim true uescape union unnest using values when where with
"""
# whole ones are counted alike: DuckDB is given date_sub in its place
_SPANS = ("millisecond", "second", "minute", "hour", "day")
_UNITS = ("year", "month", "day", "hour", "minute", "second")


@dataclass(frozen=True, order=True)
class Problem:
    """What is not portable: the file, the line, what it is, what to write instead."""

    file: str
    line: int
    what: str
    instead: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}; write {self.instead}"


def lint_file(path: Path) -> list[Problem]:
    """The problems of one view file, by line; of the project's, an analyst's, or one that lies anywhere.

    It may read the project's views, an analyst's, and those beside it in its folder.

    Raises MetricError: there is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MetricError(f"{path} cannot be read: {error}. Name a file of SQL.") from error
    found = []
    try:
        view = sql.read_view(path)
        absent = [column for column in view.grain if column not in view.tree.named_selects]
        if absent:
            what = f"the grain has {', '.join(absent)}, which the view does not select"
            found.append(Problem(path.name, 1, what, "the columns that no two rows share"))
    except MetricError as error:
        found.append(
            Problem(path.name, 1, str(error), "the header as the other views have it, over one query")
        )
    known = {name: view for name, view in (_beside(path) | sql.views()).items() if name != path.stem}
    return sorted({*found, *lint_text(text, path.name, known)})


def _beside(path: Path) -> dict[str, sql.View]:
    """The views in the folder of a file, without those that cannot be read: they have problems of their own."""
    found = {}
    if path.parent.resolve() != sql.FOLDER.resolve():
        for other in sorted(path.parent.glob("*.sql")):
            with suppress(MetricError):
                found[other.stem] = sql.read_view(other)
    return found


def lint_text(text: str, file: str = "query", known: Mapping[str, sql.View] | None = None) -> list[Problem]:
    """The problems of one query over tables and views, by line."""
    known = sql.views() if known is None else known
    found = [Problem(file, *problem) for problem in _of_tokens(text)]
    try:
        tree = sql.parse(text)
    except QueryError as error:
        if not found:
            found.append(Problem(file, 1, str(error), "one query, as Trino takes it"))
        return sorted(set(found))
    found += [Problem(file, *problem) for problem in _of_shape(tree)]
    try:
        dictionary = _Dictionary(known)
        typed = _typed(tree, {name: dictionary.key(name) for name in sql.reads(tree)})
    except (sqlglot.errors.SqlglotError, MetricError) as error:
        found.append(Problem(file, _line_told(error), _first_line(error), "a column that is there"))
    else:
        found += [Problem(file, *problem) for problem in _of_types(typed)]
    return sorted(set(found))


def columns(name: str, known: Mapping[str, sql.View] | None = None) -> dict[str, str]:
    """The columns of a view or table in order, each with its type: text, number, count, time, flag, date or texts.

    Raises MetricError: no such view, or a type cannot be told.
    """
    found = _Dictionary(sql.views() if known is None else known).columns(name)
    unsure = [column for column, kind in found.items() if kind.this not in _KINDS]
    if unsure:
        raise MetricError(f"The type of {', '.join(unsure)} of {name} cannot be told: cast it.")
    return {column: _KINDS[kind.this] for column, kind in found.items()}


# ---- types


class _Dictionary:
    """What columns of what types the tables and views have."""

    def __init__(self, known: Mapping[str, sql.View]):
        self.known = known

    def columns(self, name: str) -> Mapping[str, exp.DataType]:
        """Raises MetricError: nothing is called so."""
        table = sql.table_of(name, self.known)
        if table:
            return {
                column.name: exp.DataType.build(_TYPES[column.type], dialect="trino")
                for column in TABLES[table].columns
            }
        if name not in self.known:
            raise MetricError(f"No table or view is called {name}")
        view = self.known[name]
        return dict(_selected(view.text, tuple(sorted((read, self.key(read)) for read in view.reads))))

    def key(self, name: str) -> tuple:
        """All that the columns of a name follow from, so that they are found once in a process."""
        return tuple(sorted((column, kind.sql("trino")) for column, kind in self.columns(name).items()))


@cache
def _selected(text: str, reads: tuple[tuple[str, tuple], ...]) -> tuple[tuple[str, exp.DataType], ...]:
    """The columns of a view's text over columns of certain types, with theirs."""
    typed = _typed(sql.parse(text), dict(reads))
    return tuple((one.alias_or_name, one.type) for one in typed.selects)


def _typed(tree: exp.Expression, columns_of: Mapping[str, tuple]) -> exp.Expression:
    """The tree with every column resolved and every type that follows from those of what it reads."""
    schema = MappingSchema(dialect="trino")
    for name, own in columns_of.items():
        schema.add_table(name, dict(own), dialect="trino")
    resolved = qualify(tree.copy(), schema=schema, dialect="trino", quote_identifiers=False, identify=False)
    own = dict(sqlglot.Dialect.get_or_raise("trino").EXPRESSION_METADATA)
    for kind in (exp.ArgMax, exp.ArgMin, exp.TimestampTrunc, exp.Filter):
        own[kind] = {"annotator": lambda self, node: self._annotate_by_args(node, "this")}
    return annotate_types(resolved, schema=schema, expression_metadata=own, dialect="trino")


# ---- rules on the words: what Trino's grammar does not have, though other readers take it


def _of_tokens(text: str) -> Iterator[tuple[int, str, str]]:
    try:
        tokens = sqlglot.tokenize(text, read="trino")
    except sqlglot.errors.SqlglotError:
        return
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        yield from _of_token(before, token, after, tokens)


def _of_token(before: Token | None, token: Token, after: Token | None, tokens: list[Token]):
    word, line = token.text.lower(), token.line
    if token.token_type == TokenType.NUMBER and "." in word and "e" not in word:
        yield line, f"{word} is a double on Athena and a decimal on Trino", f"{word}e0"
    elif token.token_type == TokenType.DCOLON:
        yield line, "`::` is not Trino's", "cast(… as …)"
    elif token.token_type == TokenType.L_BRACKET and not _indexes(before):
        yield line, "a list in brackets is not Trino's", "array[…]"
    elif token.token_type == TokenType.L_BRACE:
        yield line, "a value in braces is not Trino's", "row(…)"
    elif token.text == "==":
        yield line, "`==` is not Trino's", "="
    elif token.token_type == TokenType.DIV and token.text == "//":
        yield line, "`//` is not Trino's", "floor(cast(a as double) / b)"
    elif token.token_type == TokenType.INTERVAL:
        yield from _of_interval(token, tokens)
    elif word in _GRAMMAR and (token.token_type not in (TokenType.STRING, TokenType.IDENTIFIER)):
        followed, what, instead = _GRAMMAR[word]
        if followed is None or (after is not None and after.text.lower() in followed):
            yield line, what, instead


_GRAMMAR = {
    "qualify": (None, "`qualify` is not Trino's", "the window in a step, and `where` in the next"),
    "asof": (
        ("join", "left", "inner"),
        "an asof join is not Trino's",
        "a join on max(at) of what came before",
    ),
    "positional": (("join",), "a positional join is not Trino's", "a join on columns"),
    "semi": (("join",), "a semi join is not Trino's", "where … in (select …)"),
    "anti": (("join",), "an anti join is not Trino's", "a left join, and where … is null"),
    "ilike": (None, "`ilike` is not Trino's", "lower(…) like …"),
    "pivot": (None, "`pivot` is not Trino's", "max(case when … then … end) a column"),
    "group by": (("all",), "`group by all` is not Trino's", "the columns by name"),
    "order by": (("all",), "`order by all` is not Trino's", "the columns by name"),
}


def _indexes(before: Token | None) -> bool:
    # an element of something, or array[…]
    return before is not None and (
        before.token_type in (TokenType.VAR, TokenType.IDENTIFIER, TokenType.R_PAREN, TokenType.R_BRACKET)
        or before.text.lower() == "array"
    )


def _of_interval(token: Token, tokens: list[Token]):
    at = tokens.index(token) + 1
    if at < len(tokens) and tokens[at].token_type in (TokenType.DASH, TokenType.PLUS):
        at += 1
    value, unit, *_ = [*tokens[at : at + 2], None, None]
    if value is None or value.token_type != TokenType.STRING:
        yield token.line, "an interval without quotes is not Trino's", "interval '1' hour"
    elif unit is None or unit.text.lower() not in _UNITS:
        said = "" if unit is None else f" with the unit {unit.text.lower()}"
        yield token.line, f"an interval{said} is not Trino's", "interval '1' hour, or another of its units"


# ---- rules on the shape


def _of_shape(tree: exp.Expression) -> Iterator[tuple[int, str, str]]:
    for node in tree.walk():
        for what, instead in _of_node(node):
            yield _line(node), what, instead


def _of_node(node: exp.Expression) -> Iterator[tuple[str, str]]:
    if isinstance(node, exp.Star) and not isinstance(node.parent, exp.Count):
        yield "`select *` gives other columns when a table grows, and Athena's views go stale", "every column"
    elif isinstance(node, exp.Distinct) and node.args.get("on"):
        yield "`distinct on` is not Trino's", "max_by(…, at) with a group by"
    elif isinstance(node, exp.WindowSpec):
        if node.args.get("exclude"):
            yield "`exclude` in a frame is not Trino's", "a frame that ends before the row"
        if (node.args.get("kind") or "").lower() == "rows":
            yield (
                "a frame of rows reaches further back over a hole",
                "range between interval '3600' second preceding and …",
            )
    elif isinstance(node, exp.Group) and any(one.is_int for one in node.expressions):
        yield "a group by number", "the columns by name"
    elif isinstance(node, exp.Identifier) and not node.args.get("quoted"):
        if node.name.lower() in _RESERVED.split():
            yield f"{node.name} is a reserved word in Trino", f'another name, or "{node.name}"'
    elif isinstance(node, exp.AtTimeZone) and not isinstance(node.this, exp.CurrentTimestamp):
        yield (
            "`at time zone` takes a plain time for one of the session's zone",
            "times as they are: all are UTC",
        )
    elif isinstance(node, exp.Func):
        yield from _of_function(node)


def _of_function(node: exp.Func) -> Iterator[tuple[str, str]]:
    kind = type(node)
    if kind not in _FUNCTIONS:
        name = node.name if isinstance(node, exp.Anonymous) else node.sql_name().lower()
        yield (
            f"{name}() is unknown to some engine, or not alike on all three",
            _INSTEAD.get(kind, _INSTEAD[exp.Anonymous]),
        )
    elif kind is exp.CurrentTimestamp and not _is_clock(node):
        yield "a time of the session's zone", CLOCK
    elif kind is exp.DateDiff and node.text("unit").lower() not in _SPANS:
        unit = node.text("unit").lower() or "a unit"
        yield f"date_diff in {unit} is not of one length", "date_diff('day', a, b), or milliseconds divided"
    elif kind in (exp.ArgMax, exp.ArgMin) and not _skips_nulls(node):
        name = "max_by" if kind is exp.ArgMax else "min_by"
        yield (
            f"{name} is null on Trino where the value is null at that place, and another row's elsewhere",
            f"{name}(…) filter (where {node.this.sql(dialect='trino')} is not null)",
        )


def _is_clock(node: exp.CurrentTimestamp) -> bool:
    at = node.parent
    return (
        isinstance(at, exp.AtTimeZone)
        and at.args["zone"].name == "UTC"
        and isinstance(at.parent, exp.Cast)
        and at.parent.to.sql(dialect="trino").upper() == "TIMESTAMP(3)"
    )


def _skips_nulls(node: exp.Expression) -> bool:
    if not isinstance(node.parent, exp.Filter):
        return False
    return any(
        isinstance(one.this, exp.Is)
        and one.this.this == node.this
        and isinstance(one.this.expression, exp.Null)
        for one in node.parent.find_all(exp.Not)
    )


# ---- rules on types


def _of_types(tree: exp.Expression) -> Iterator[tuple[int, str, str]]:
    for node in tree.walk():
        for what, instead in _of_typed(node):
            yield _line(node), what, instead
    for one in tree.selects:
        if one.type is None or one.type.this not in _KINDS:
            yield (
                _line(one),
                f"the type of {one.alias_or_name} cannot be told",
                "cast(… as double), or what it is",
            )


def _of_typed(node: exp.Expression) -> Iterator[tuple[str, str]]:
    if isinstance(node, exp.Div):
        if _kind(node.this) in _WHOLE and _kind(node.expression) in _WHOLE:
            yield "a whole number by a whole number drops the rest on Trino", "cast(a as double) / b"
        elif {_kind(node.this), _kind(node.expression)} & _UNSURE:
            yield "a division of what types cannot be told", "cast(a as double) / b"
    if isinstance(node, exp.Div | exp.Mod) and not _not_zero(node.expression):
        yield "a division by zero is an error on one engine and infinity on another", "nullif(…, 0e0)"
    elif isinstance(node, exp.Cast):
        yield from _of_cast(node)
    elif isinstance(node, exp.EQ | exp.NEQ | exp.LT | exp.LTE | exp.GT | exp.GTE):
        if _family(node.this) and _family(node.expression) and _family(node.this) != _family(node.expression):
            yield f"a {_family(node.this)} compared with a {_family(node.expression)}", "both of one type"
    elif isinstance(node, exp.SetOperation):
        for left, right in zip(node.left.selects, node.right.selects, strict=False):
            if _family(left) and _family(right) and _family(left) != _family(right):
                yield (
                    f"{left.alias_or_name} is a {_family(left)} above and a {_family(right)} below",
                    "one type",
                )


def _of_cast(node: exp.Cast) -> Iterator[tuple[str, str]]:
    to, given = node.to.this, _kind(node.this)
    rounded = isinstance(node.this, exp.Round | exp.Floor | exp.Ceil)
    if to in _WHOLE and given not in _WHOLE and given is not _Type.BOOLEAN and not rounded:
        inner = _short(node.this)
        yield (
            "a cast to a whole number rounds on one engine and cuts on another",
            f"cast(round({inner}) as bigint)",
        )
    elif to in _TEXTS and given not in (*_TEXTS, *_WHOLE, _Type.DATE, _Type.BOOLEAN):
        yield (
            "a number or time as text looks different on each engine",
            "it as it is; text is made where it is shown",
        )
    elif to in _TIMES and given is _Type.TIMESTAMPTZ and not _in_utc(node.this):
        yield "a time with a zone becomes one of the session's zone", "… at time zone 'UTC'"
    elif to is _Type.DECIMAL:
        yield "decimals have other digits on each engine", "double"


def _in_utc(node: exp.Expression) -> bool:
    return isinstance(node, exp.AtTimeZone) and node.args["zone"].name == "UTC"


def _not_zero(node: exp.Expression) -> bool:
    if isinstance(node, exp.Paren):
        return _not_zero(node.this)
    if isinstance(node, exp.Literal):
        return float(node.name) != 0
    if isinstance(node, exp.Cast):
        return _not_zero(node.this)
    zero = node.args.get("expression") if isinstance(node, exp.Nullif) else None
    return isinstance(zero, exp.Literal) and float(zero.name) == 0


def _kind(node: exp.Expression):
    return node.type.this if node.type is not None else _Type.UNKNOWN


def _family(node: exp.Expression) -> str | None:
    kind = _kind(node)
    for name, kinds in (("number", _NUMBERS), ("text", _TEXTS), ("time", _TIMES), ("flag", {_Type.BOOLEAN})):
        if kind in kinds:
            return name
    return None


# ---- places and words


def _line(node: exp.Expression) -> int:
    """The line where a node begins, as far as its parts or the parts around it know."""
    at: exp.Expression | None = node
    while at is not None:
        lines = [part.meta["line"] for part in at.walk() if "line" in part.meta]
        if lines:
            return min(lines)
        at = at.parent
    return 1


def _short(node: exp.Expression) -> str:
    text = node.sql(dialect="trino", comments=False).lower()
    return text if len(text) <= 40 else "…"


def _line_told(error: Exception) -> int:
    told = getattr(error, "errors", None)
    if told and told[0].get("line"):
        return told[0]["line"]
    words = str(error).split("Line: ")
    return int(words[1].split(",")[0]) if len(words) > 1 and words[1].split(",")[0].isdigit() else 1


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
