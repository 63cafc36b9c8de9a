"""The command line's part for AWS: `deploy` the stacks, `sample` as jobs there do."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cryptomon_lib import config, logs
from cryptomon_lib.cli_options import Environment
from cryptomon_lib.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Make these commands part of an app."""
    for command in (deploy, sample):
        app.command()(command)


def deploy(
    environment: Environment,
    apply: Annotated[bool, typer.Option("--apply", help="Make it so.")] = False,
    destroy: Annotated[
        bool, typer.Option("--destroy", help="Remove all stacks but the one with the data; asks first.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what there would be; needs no account, asks nobody.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(help="With --dry-run: a folder that the templates go to, too.")
    ] = None,
    confirm: Annotated[
        str, typer.Option(help="With --destroy: the environment's name, in place of being asked for it.")
    ] = "",
    delete_data: Annotated[
        str,
        typer.Option(help="With --destroy: the bucket's name; its data goes, too, and cannot be had again."),
    ] = "",
) -> None:
    """Show what would change on AWS; with --apply change it, with --destroy remove it. Running it again does no harm."""
    from cryptomon_lib.aws import deploy as stacks
    from cryptomon_lib.aws.pipelines import schedule_stack
    from cryptomon_lib.aws.stacks import stacks_of
    from cryptomon_lib.schedule import load_schedule

    if sum((apply, destroy, dry_run)) > 1:
        raise ConfigError(
            "--apply, --destroy and --dry-run exclude each other: say one of them, or none for a plan."
        )
    if (confirm or delete_data) and not destroy:
        raise ConfigError("--confirm and --delete-data go with --destroy.")
    if write and not dry_run:
        raise ConfigError("--write goes with --dry-run.")
    config.choose_environment(environment)
    settings = config.load_settings(environment)
    wanted = stacks_of(settings, schedule_stack(load_schedule(), settings))
    if dry_run:
        _show_wanted(settings, wanted, write)
        return
    account = stacks.Account(settings)
    if destroy:
        _confirmed(environment, confirm, [one.name for one in wanted])
        gone = stacks.destroy(account, wanted, delete_data or None, typer.echo)
        typer.echo(f"{_stacks(len(gone))} removed" if gone else "Nothing to remove.")
        return
    wanted = stacks.as_switched(account, wanted)
    if apply:
        done = stacks.apply(account, wanted, typer.echo)
        _told(done, "changed")
        for name, value in stacks.outputs(account, wanted).items():
            typer.echo(f"{name:<22} {value}")
    else:
        _show(planned := stacks.plan(account, wanted))
        _told(planned, "to change: --apply makes it so")


def sample(
    job: Annotated[str, typer.Argument(help="A job of the schedule (tick), or a notebook.")],
    samples: Annotated[int, typer.Option(help="How many moments.", min=1)] = 75,
    every_s: Annotated[int, typer.Option(help="Seconds between them, on the grid of the clock.", min=1)] = 60,
    environment: Environment = "local",
) -> None:
    """Run a job at each of so many moments of the clock, in one process, as an hourly job of SageMaker does."""
    from cryptomon_lib import sampling
    from cryptomon_lib.run import Stopped, signals

    config.choose_environment(environment)
    say = partial(logs.tell, output=sys.stdout)
    try:
        with signals():
            done = sampling.sample(environment, job, samples, every_s, say)
    except Stopped as stop:
        stop.answered.set()
        sys.exit(128 + stop.number)
    say(
        f"{done.succeeded} runs succeeded, {done.failed} failed, {done.busy} found another at it, {done.missed} missed"
    )
    done.check()


def _confirmed(environment: str, confirm: str, names: list[str]) -> None:
    """Nothing, once somebody has said the environment's name.

    Raises ConfigError: another name, or nobody can be asked.
    """
    if not confirm:
        if not sys.stdin.isatty():
            raise ConfigError(f"Nobody can be asked here: add --confirm {environment}.")
        typer.echo("To be removed: " + ", ".join(names))
        confirm = typer.prompt(f"Type {environment} to go on")
    if confirm != environment:
        raise ConfigError(f"That is not {environment}: nothing was removed.")


def _show_wanted(settings: config.Settings, wanted: list, folder: Path | None) -> None:
    from cryptomon_lib.aws.stacks import Output

    typer.echo(
        f"environment {settings.environment}, region {settings.athena.region}; nobody was asked what is there"
    )
    for stack in wanted:
        typer.echo(f"\n{stack.name}")
        for name, kind in stack.resources.items():
            typer.echo(f"  {name:<22} {kind}")
        for name, value in stack.parameters.items():
            shown = f"({value.name} of {value.concern})" if isinstance(value, Output) else value
            typer.echo(f"    {name} = {shown or '(empty)'}")
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            ending = "json" if stack.template.startswith("{") else "yaml"
            (folder / f"{stack.name}.{ending}").write_text(stack.template, encoding="utf-8")
    parts = sum(len(stack.resources) for stack in wanted)
    typer.echo(
        f"\n{_stacks(len(wanted))} of {parts} parts; without --dry-run AWS is asked which of them are there"
    )


def _show(planned: list) -> None:
    for one in planned:
        typer.echo(f"{one.stack.name}: {one.action}" + (f", {one.says}" if one.says else ""))
        for action, name, kind in one.changes:
            typer.echo(f"  {action:<8} {name:<22} {kind}")


def _told(planned: list, what: str) -> None:
    from cryptomon_lib.aws.deploy import UNCHANGED

    changed = sum(one.action != UNCHANGED for one in planned)
    typer.echo(f"{changed} of {_stacks(len(planned))} {what}" if changed else "Nothing to change.")


def _stacks(count: int) -> str:
    return f"{count} stack{'' if count == 1 else 's'}"
