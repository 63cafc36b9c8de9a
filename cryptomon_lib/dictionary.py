"""docs/data-dictionary.md, written from tables.py, the headers of the views, and the notebooks' first cells.

`python -m cryptomon_lib.dictionary` writes it (`make docs`); a test holds the file to what is written here.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from cryptomon_lib import lint, sql
from cryptomon_lib.config import home
from cryptomon_lib.markdown import table
from cryptomon_lib.tables import TABLES, Table, column_of

PAGE = "docs/data-dictionary.md"
_HEAD = """\
# Data dictionary

Written by `make docs` from [`cryptomon_lib/tables.py`](../cryptomon_lib/tables.py), the views in
[`cryptomon_lib/views/`](../cryptomon_lib/views) and the notebooks' first cells: change those, not this page.

- **null** is "not known" or "no such thing", never 0. A column that is never null says so; of others its meaning, or the
  view's floor of samples, says when it is.
- **Times** are UTC. Tables keep them with their zone; in SQL they are plain timestamps, also of UTC.
- **A key** names one row; of a view it is "one row per". A table whose name a view has, too, is `stored_NAME` in SQL, as
  `stored_latest`: what the view said at the last tick.
- How long rows stay, and what the files look like: [storage](storage.md). Where each column of `ticks` and `candles` comes
  from, exchange by exchange: [exchanges](exchanges.md).
"""
_TYPES = (
    ("text", "varchar", "string"),
    ("number", "double", "float64"),
    ("count", "bigint", "int64"),
    ("time", "timestamp(3)", "timestamp, microseconds, UTC; whole milliseconds"),
    ("texts", "array(varchar)", "list of strings"),
)


def page() -> str:
    """The whole page, as Markdown."""
    known = sql.views(sql.FOLDER)
    parts = [_HEAD, table(("type here", "in SQL", "in Parquet"), _TYPES)]
    parts += ["## Tables", _overview(), *(_of_table(one, known) for one in TABLES.values())]
    parts += ["## Views", _order(known), *(_of_view(known[name], known) for name in sorted(known))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main() -> None:
    """Write the page."""
    Path(home() / PAGE).write_text(page(), encoding="utf-8")


def writers() -> Mapping[str, list[str]]:
    """The notebooks that write each table, as their first cells say."""
    found: dict[str, list[str]] = {name: [] for name in TABLES}
    for path in sorted((home() / "notebooks").glob("*.ipynb")):
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        says = re.search(r"Writes: (.*?) Runs:", first, re.S)
        for name in re.findall(r"`(\w+)`", says[1] if says else ""):
            if name in TABLES:
                found[name].append(path.stem)
    return found


def _overview() -> str:
    written = writers()
    rows = [
        (
            f"[{one.name}](#{one.name})",
            ", ".join(one.key),
            ", ".join(one.partition_by),
            ", ".join(f"`{name}`" for name in written[one.name]) or "programs",
        )
        for one in TABLES.values()
    ]
    return table(("table", "key", "partition", "written by"), rows)


def _of_table(one: Table, known: Mapping[str, sql.View]) -> str:
    readers = [
        name
        for name in sorted(known)
        if any(sql.table_of(read, known) == one.name for read in known[name].reads)
    ]
    facts = [one.meaning]
    facts += [f"`day` is the UTC date of `{one.day_of}`."] if one.day_of else []
    facts += [f"Sorted by {', '.join(one.order)} in closed files."]
    facts += [f"Read by the views {', '.join(map(_link, readers))}."] if readers else []
    rows = [
        (
            f"`{column.name}`",
            column.type,
            column.unit,
            "never" if column.name in one.never_null else "",
            column.meaning,
        )
        for column in one.columns
    ]
    return f"### {one.name}\n\n{' '.join(facts)}\n\n" + table(
        ("column", "type", "unit", "null", "meaning"), rows
    )


def _order(known: Mapping[str, sql.View]) -> str:
    rows = [(_link(name), ", ".join(known[name].grain), known[name].says) for name in sorted(known)]
    return table(("view", "one row per", "says"), rows)


def _of_view(view: sql.View, known: Mapping[str, sql.View]) -> str:
    facts = [view.says, f"**One row per** {', '.join(view.grain)}. **Units:** {view.units}."]
    facts += [
        f"**Looks back** {_span(view)}." if view.lookback else "**Looks back** as far as there is data."
    ]
    facts += [f"**Reads** {', '.join(map(_link, sorted(view.reads)))}."]
    rows = []
    for name, kind in lint.columns(view.name, known).items():
        column = column_of(view.name, name)
        never = "never" if name in view.grain else ""
        rows.append(
            (
                f"`{name}`",
                kind,
                *((column.unit, never, column.meaning) if column else ("", never, "see above")),
            )
        )
    columns = table(("column", "type", "unit", "null", "meaning"), rows)
    return f"### {_title(view.name)}\n\n{' '.join(facts)}\n\n{_sentence(view.why)}\n\n{columns}"


def _title(view: str) -> str:
    # a heading of a table's name would have the same address
    return f"{view} (view)" if view in TABLES else view


def _link(name: str) -> str:
    return f"[{name}](#{name}{'-view' if name in TABLES and name in sql.views(sql.FOLDER) else ''})"


def _span(view: sql.View) -> str:
    hours = view.lookback.total_seconds() / 3600
    return f"{hours / 24:g} days" if hours > 72 else f"{hours:g} h"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    main()
