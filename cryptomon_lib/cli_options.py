"""What the commands share: options that all take, and how a table is printed."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from cryptomon_lib import config
from cryptomon_lib.errors import ConfigError, ParameterError

Environment = Annotated[
    str, typer.Option("--environment", "-e", help="A file of params/, without its ending.")
]
Flags = Annotated[list[str], typer.Option("--set", help="A setting for this call: root=…, fetch.attempts=2.")]


def choose(environment: str, flags: Sequence[str]) -> None:
    """Make environment and flags hold for this process and those that it starts.

    Raises ConfigError, ParameterError: a flag is no setting, or no name=value.
    """
    config.choose_environment(environment)
    try:
        config.export({name: yaml.safe_load(value) for name, value in pairs(flags).items()})
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {flags}: not a YAML value: {error}") from error


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """Names and values of texts name=value.

    Raises ParameterError: one of them is none.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"{text!r} is no name=value.")
        found[name] = value
    return found


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their header, as wide as the terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 240, markup=False, highlight=False).print(table)
