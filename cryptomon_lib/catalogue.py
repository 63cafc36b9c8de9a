"""docs/exchanges.md, written from the exchanges' modules: addresses, limits, field by field, what differs and why.

`python -m cryptomon_lib.catalogue` writes it (`make docs`); a test holds the file to what is written here.
"""

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from cryptomon_lib import exchanges
from cryptomon_lib.config import home
from cryptomon_lib.exchanges import _ccxt
from cryptomon_lib.markdown import table
from cryptomon_lib.tables import TABLES

PAGE = "docs/exchanges.md"
_HEAD = """\
# Exchanges

Written from the modules in [`cryptomon_lib/exchanges/`](../cryptomon_lib/exchanges) by `make docs`: change the module,
not this page.

What holds for all of them, and is decided in one place (`cryptomon_lib/shape.py`):

- **Zero or absent means "no trade"** and becomes null, never a price of 0; so does `"NaN"`, `"N/A"`, `"--"`, an empty
  text, Infinity. Without a last price there is no high, low or change either. A volume of 0 stays 0.
- **Percent is percent.** Where an exchange gives a fraction, the field is shown with `* 100`. Where it gives only an
  open, the change and its percent follow from it.
- A row is **rejected**, with the reason, when a number is negative or absurd, high is below low, the symbol is absent
  or there twice.
- **Nothing is estimated.** A quote volume that is not given is null, except volume times average price, where the
  average is given.
- Candles are kept once they are closed: by the clock, and by the exchange's own word where it gives one.
- A payload of any other route, named in params, is archived as it came.
"""
_UNITS = {column.name: column.unit for name in ("ticks", "candles") for column in TABLES[name].columns}
_TIMES = {"opened_at_ms": "opened_at", "is_closed": "(closed?)"}


def page() -> str:
    """The whole page, as Markdown."""
    modules = {name: exchanges.get(name) for name in exchanges.names()}
    sections = [_HEAD, _overview(modules), _differences(modules)]
    sections += [_section(name, module) for name, module in modules.items()]
    sections.append(_by_ccxt())
    return "\n".join(section.rstrip() + "\n" for section in sections)


def main() -> None:
    """Write the page."""
    Path(home() / PAGE).write_text(page(), encoding="utf-8")


def _overview(modules: Mapping[str, ModuleType]) -> str:
    rows = [
        (
            f"[{name}](#{name})",
            f"`{module.HOST}`",
            _calls(module),
            _candles(module),
            "by its list" if getattr(module, "SPLIT_BY_INSTRUMENTS", False) else "by the symbol",
        )
        for name, module in modules.items()
    ]
    head = (
        "exchange",
        "host",
        "calls a minute, at most",
        "1-minute candles: rows a call, how far back",
        "base and quote",
    )
    return "## All of them\n\n" + table(head, rows)


def _calls(module: ModuleType) -> str:
    return str(getattr(module, "CALLS_PER_MIN", "params"))


def _candles(module: ModuleType) -> str:
    if not hasattr(module, "CANDLES"):
        return "none"
    kept = f"{module.CANDLES_KEPT:,} minutes" if module.CANDLES_KEPT else "as far as the market goes"
    return f"{module.CANDLES_MAX:,}; {kept}" if hasattr(module, "candles_request") else "by replay"


def _differences(modules: Mapping[str, ModuleType]) -> str:
    rows = [
        (f"[{name}](#{name})", f"`{column}`", why)
        for name, module in modules.items()
        for column, why in getattr(module, "DIFFERS", {}).items()
    ]
    says = (
        "## Where we differ from ccxt\n\n"
        "Rows that were recorded with what ccxt made of them (of nine exchanges) are read by us as by ccxt, within\n"
        "rounding of floats, column by column, but for these. A market without a trade has a price of 0 there and null\n"
        "here, everywhere.\n\n"
    )
    return says + table(("exchange", "column", "why"), rows)


def _section(name: str, module: ModuleType) -> str:
    says = inspect.getdoc(module) or ""
    parts = [f"## {name}", says, table(("call", "address"), list(_calls_of(module)))]
    parts.append(_fields("ticks", module.FIELDS | getattr(module, "OF_THE_PAYLOAD", {})))
    if hasattr(module, "OLD_FIELDS"):
        parts.append(_fields("ticks, of the API's first version", module.OLD_FIELDS))
    if hasattr(module, "CANDLE_FIELDS"):
        parts.append(_fields("candles", module.CANDLE_FIELDS))
    return "\n\n".join(parts)


def _calls_of(module: ModuleType) -> Iterator[tuple[str, str]]:
    names = {
        "TICKERS": "all markets",
        "INSTRUMENTS": "list of instruments",
        "CANDLES": "candles",
        "OLDER_CANDLES": "older candles",
    }
    for attribute, says in names.items():
        if target := getattr(module, attribute, None):
            pages = getattr(module, "TICKERS_PAGES", 1) if attribute == "TICKERS" else 1
            yield f"{says}, {pages} pages" if pages > 1 else says, f"`https://{module.HOST}{target}`"
    if elsewhere := getattr(module, "ELSEWHERE", None):
        yield "another host, for countries that are not served", f"`{elsewhere}`"
    if header := getattr(module, "KEY_HEADER", None):
        yield "key, if params name one", f"header `{header}`"


def _fields(of: str, fields: Mapping[str, str]) -> str:
    rows = [
        (f"`{_TIMES.get(column, column)}`", _UNITS.get(column, ""), f"`{text}`")
        for column, text in fields.items()
    ]
    return table((f"column of {of}", "unit", "field"), rows)


def _by_ccxt() -> str:
    known = "\n".join(textwrap.wrap(inspect.getdoc(_ccxt) or "", 10_000, replace_whitespace=False))
    return "## ccxt:… (more than a hundred others)\n\n" + known + "\n\n" + _fields("ticks", _ccxt.FIELDS)


if __name__ == "__main__":
    main()
