"""Where an exchange's fields are, as data: what reads the rows is also what docs/exchanges.md shows.

A mapping gives for each column of a table the field of the payload's row, in the payload's own names:
`lastPrice`, `price.last` (an object within the row), `v[1]` (a place in a list within it), `[7]` (in a row that
is a list), and sums of these and numbers from left to right: `v[1] * p[1]`, `last - changePrice`,
`price24hPcnt * 100`. What is absent is None, and so is what is computed from it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from cryptomon_lib.shape import Columns, Number, numbers

Fields = Mapping[str, str]
# a row that is a list: its places hold numbers, text, or a flag
Listed = list[float | str | bool | None]

_PATH = re.compile(r"(?P<name>[A-Za-z_][\w.]*)?(?:\[(?P<at>\d+)\])?")


def row_type(fields: Fields, **also: Any) -> type[msgspec.Struct]:
    """The msgspec type of a row that is a flat object: `symbol` has to be there and text, any other may be absent.

    also: fields that the mapping does not name, with their types.
    """
    names = {path for text in fields.values() for path in paths(text)}
    symbol = fields["symbol"]
    optional = [(name, Number, None) for name in sorted(names - {symbol} - set(also))]
    return msgspec.defstruct(
        "Row", [(symbol, str), *optional, *((name, kind, None) for name, kind in also.items())], gc=False
    )


def pick(rows: Sequence[Any], fields: Fields) -> Columns:
    """Columns of decoded rows, as a mapping says; numbers as the exchange gives them, computed ones as floats."""
    return {column: _values(rows, text) for column, text in fields.items()}


def pairs(symbols: Sequence[str], split: Callable[[str], tuple[str | None, str | None]]) -> Columns:
    """Base and quote of symbols that tell them apart."""
    found = [split(symbol) for symbol in symbols]
    return {"base": [base for base, _ in found], "quote": [quote for _, quote in found]}


def split_at(separator: str) -> Callable[[str], tuple[str | None, str | None]]:
    """What splits `BASE-QUOTE`; it gives None, None where a symbol is not of that form."""

    def split(symbol: str) -> tuple[str | None, str | None]:
        base, found, quote = symbol.partition(separator)
        return (base.upper(), quote.upper()) if base and found and quote else (None, None)

    return split


def ascending(rows: list[Any], opened: str) -> list[Any]:
    """Rows of candles in the order that they opened; exchanges give them in either order."""
    first_and_last = numbers(_values([rows[0], rows[-1]], opened)) if rows else [0, 0]
    return rows[::-1] if first_and_last[0] > first_and_last[1] else rows


def paths(text: str) -> list[str]:
    """The fields of the payload that an entry of a mapping reads."""
    return [term for term in text.split()[::2] if not _is_number(term)]


def _values(rows: Sequence[Any], text: str) -> Sequence[Any] | np.ndarray:
    first, *rest = text.split()
    if not rest:
        return list(map(_getter(first), rows))
    found = numbers(list(map(_getter(first), rows)))
    with np.errstate(over="ignore", invalid="ignore"):
        for sign, term in zip(rest[::2], rest[1::2], strict=True):
            other = float(term) if _is_number(term) else numbers(list(map(_getter(term), rows)))
            found = found * other if sign == "*" else found - other
            if sign == "-":
                # what is computed so is a price or a time: below zero its parts do not belong together
                found[found < 0] = np.nan
    return found


@cache
def _getter(path: str) -> Callable[[Any], Any]:
    parts = _PATH.fullmatch(path)
    name, at = parts["name"], parts["at"]
    if at is None:
        return attrgetter(name)
    place, inner = int(at), attrgetter(name) if name else None

    def placed(row: Any) -> Any:
        try:
            return inner(row)[place] if inner else row[place]
        except IndexError:
            return None

    return placed


def _is_number(term: str) -> bool:
    return term.replace(".", "", 1).isdecimal()
