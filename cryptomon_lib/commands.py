"""docs/commands.md, written from the command line itself: every command, its arguments and options.

`python -m cryptomon_lib.commands` writes it (`make docs`); a test holds the file to what is written here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from cryptomon_lib import cli
from cryptomon_lib.config import home
from cryptomon_lib.markdown import table

PAGE = "docs/commands.md"
# told once, for nearly all commands have them
_SHARED = {"environment": "`-e`", "flags": "`--set`"}
_HEAD = """\
# Commands

Written by `make docs` from the command line itself, which says the same: `cryptomon --help`, `cryptomon COMMAND --help`.
The command is `.venv/bin/cryptomon`; `source .venv/bin/activate` makes it `cryptomon`. What exit codes mean stands in the
[operators' page](operator.md#exit-codes).

**`-e`** is `--environment NAME`, a file of `params/` without its ending; `local` where nothing else is said.
**`--set`** is a setting for this one call, as `--set fetch.attempts=2`; it may be given several times.
"""


def page() -> str:
    """The whole page, as Markdown."""
    found = list(commands())
    rows = [(f"[{name}](#{_address(name)})", _first_sentence(one)) for name, one in found]
    parts = [_HEAD, table(("command", "does"), rows), *(_section(name, one) for name, one in found)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main() -> None:
    """Write the page."""
    Path(home() / PAGE).write_text(page(), encoding="utf-8")


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its full name, in alphabetical order, as the command line's own object."""
    yield from _members("cryptomon", typer.main.get_command(cli.app))


def _members(name: str, group: Any) -> Iterator[tuple[str, Any]]:
    for member, one in sorted(group.commands.items()):
        if hasattr(one, "commands"):
            yield from _members(f"{name} {member}", one)
        else:
            yield f"{name} {member}", one


def _section(name: str, one: Any) -> str:
    context = one.make_context(name, [], resilient_parsing=True)
    shared = {each.name for each in one.params if each.name in _SHARED and not each.required}
    takes = [says for key, says in _SHARED.items() if key in shared]
    usage = " ".join([name, *one.collect_usage_pieces(context)])
    rows = [
        (f"`{record[0]}`", record[1])
        for parameter in one.params
        if parameter.name not in shared and (record := parameter.get_help_record(context))
    ]
    parts = [f"## {name}", _says(one), f"`{usage}`" + (f", with {' and '.join(takes)}" if takes else "")]
    return "\n\n".join(parts + ([table(("argument or option", "says"), rows)] if rows else []))


def _says(one: Any) -> str:
    return " ".join((one.help or "").split())


def _first_sentence(one: Any) -> str:
    return _says(one).split(". ")[0].rstrip(".") + "."


def _address(name: str) -> str:
    return name.replace(" ", "-")


if __name__ == "__main__":
    main()
