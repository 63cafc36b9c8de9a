"""The command line's part for whoever runs it: `status`, `doctor`, `metrics`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cryptomon_lib import logs
from cryptomon_lib.cli_options import Environment, Flags, choose, print_table

Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def add_to(app: typer.Typer) -> None:
    """Make these commands part of an app."""
    for command in (status, doctor, metrics):
        app.command()(command)


def status(as_json: Json = False, environment: Environment = "local", flags: Flags = []) -> None:  # noqa: B006
    """Show how it is now; exit 0 where all is well, 8 where something is not, 3 where the root cannot be read.

    Read are the logs of the tables, small objects and six listings; no row of ticks.
    """
    from cryptomon_lib.monitor import open_monitor
    from cryptomon_lib.status import status_of

    choose(environment, flags)
    found = status_of(open_monitor(environment))
    if as_json:
        typer.echo(found.as_json())
    else:
        _show(found)
    sys.exit(found.exit_code)


def doctor(
    seconds: Annotated[
        float, typer.Option(help="What has not answered by then is told as that.", min=1)
    ] = 30,
    as_json: Json = False,
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Check params, rules, credentials by name, root, hosts, clocks, disk, versions, engine; say what to do. Exit 0 or 8."""
    from cryptomon_lib.doctor import OK, examine

    choose(environment, flags)
    made = examine(environment, seconds)
    if as_json:
        typer.echo(made.as_json())
    else:
        rows = [[one.state, one.check, one.subject, one.says, one.do] for one in made.sorted]
        print_table(["", "check", "of", "found", "what to do"], rows)
        wrong = sum(one.state != OK for one in made.found)
        logs.tell(f"{len(made.found)} looked at, {wrong} to read")
    # a check that hangs in a library's own threads must not keep us
    sys.stdout.flush()
    sys.exit(made.exit_code)


def metrics(
    output: Annotated[
        Path | None,
        typer.Option(
            help="A file to write at once, for node_exporter's textfile collector: …/cryptomon.prom."
        ),
    ] = None,
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Print how it is now for Prometheus, or write it to a file; `metrics_file` in params does so after each run."""
    from cryptomon_lib.monitor import open_monitor
    from cryptomon_lib.prometheus import exposition, write_textfile

    choose(environment, flags)
    monitor = open_monitor(environment)
    if output is None:
        typer.echo(exposition(monitor), nl=False)
    else:
        write_textfile(monitor, output)


def _show(found) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    kind = "simulated data" if found.simulated else "live data"
    console.print(
        Text.assemble(
            (f"cryptomon {found.environment}", "bold"),
            f"  {kind}  {found.root}  {found.at:%Y-%m-%d %H:%M:%S} UTC",
        ),
        soft_wrap=True,
    )
    for part in found.parts.values():
        mark = ("!", "red") if part.wrong else ("·", "green")
        for number, line in enumerate(part.lines or [""]):
            title = f"{part.title:<8}" if number == 0 else " " * 8
            console.print(
                Text.assemble(mark if number == 0 else " ", " ", (title, "bold"), " ", line), soft_wrap=True
            )
    for says in found.wrong:
        console.print(Text.assemble(("! ", "red"), says), soft_wrap=True)
    if not found.wrong:
        console.print(Text("all is well", "green"))
