"""`cryptomon schedule`: the jobs, the resident runner, and what cron, systemd and SageMaker are given of them."""

import importlib
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from cryptomon_lib import logs
from cryptomon_lib.cli_options import Environment, Flags, choose, print_table
from cryptomon_lib.errors import ConfigError, ParameterError

app = typer.Typer(help="The jobs of scheduled/schedule.yaml.", no_args_is_help=True)


class Target(StrEnum):
    """Who runs the jobs; each is a module of scheduling/."""

    cron = "cron"
    systemd = "systemd"
    sagemaker = "sagemaker"


Where = Annotated[Target, typer.Option("--target", help="Who is to run the jobs.")]
EachJob = Annotated[
    bool,
    typer.Option("--each-job", help="A line or timer a job, in place of one runner that stays."),
]


@app.command("list")
def show() -> None:
    """List the jobs: when they are due next (UTC), and what happens when one is missed or fails."""
    from datetime import UTC, datetime

    from cryptomon_lib.schedule import load_schedule, next_due, scheduled_jobs

    scheduled_jobs()
    now = datetime.now(UTC)
    rows = [
        [
            name,
            job.cron,
            ", ".join(job.notebooks),
            f"{next_due(job, now):%Y-%m-%d %H:%M}" if job.cron else "",
            f"{job.timeout_s} s",
            job.catch_up,
            str(job.retries.times),
            ", ".join(job.tell),
        ]
        for name, job in load_schedule().items()
    ]
    print_table(
        ["job", "cron", "notebooks", "next (UTC)", "ended after", "catch-up", "retries", "told"], rows
    )


@app.command()
def follow(environment: Environment = "local", flags: Flags = []) -> None:  # noqa: B006
    """Run the jobs when they are due, until Ctrl-C or an upgrade: the resident runner, one on a root."""
    from rich.console import Console

    from cryptomon_lib.config import load_settings
    from cryptomon_lib.resident import follow as follow_schedule
    from cryptomon_lib.resident import only_one
    from cryptomon_lib.run import Kernels, Stopped, signals

    choose(environment, flags)
    console = Console(soft_wrap=True, highlight=False)
    kernels = Kernels(keep=True)
    with only_one(load_settings(environment)):
        try:
            with signals():
                follow_schedule(environment, kernels, told=console.print, ends_outdated=True)
        except Stopped:
            logs.tell("Ended.", output=console.file)
        finally:
            kernels.close()


@app.command("print")
def show_generated(
    target: Where,
    each_job: EachJob = False,
    output: Annotated[
        Path | None, typer.Option(help="A folder to write the files to, in place of printing them.")
    ] = None,
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Show what `install` would write; nothing is installed, and no secret is shown."""
    from cryptomon_lib.config import load_settings
    from cryptomon_lib.schedule import scheduled_jobs

    choose(environment, flags)
    module, options = _module(target), _options(target, each_job)
    files = module.render(scheduled_jobs(), load_settings(environment), **options)
    for name, text in files.items():
        if output is None:
            typer.echo(f"# ---- {name}\n{text}")
        else:
            path = output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            typer.echo(str(path))


@app.command()
def install(
    target: Where,
    each_job: EachJob = False,
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Have cron, systemd or SageMaker run the jobs of an environment; again after the schedule changed."""
    from cryptomon_lib.config import load_settings
    from cryptomon_lib.schedule import scheduled_jobs

    choose(environment, flags)
    module, options = _module(target), _options(target, each_job)
    for line in module.install(scheduled_jobs(), load_settings(environment), **options):
        typer.echo(line)


@app.command()
def remove(target: Where, environment: Environment = "local", flags: Flags = []) -> None:  # noqa: B006
    """Take back what `install` did for an environment; data stays."""
    from cryptomon_lib.config import load_settings

    choose(environment, flags)
    for line in _module(target).remove(load_settings(environment)):
        typer.echo(line)


def _module(target: Target) -> ModuleType:
    name = f"cryptomon_lib.scheduling.{target}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise ConfigError(
                f"--target {target} needs {error.name}, which is not installed: pip install 'cryptomon[aws]'."
            ) from error
        raise ConfigError(f"--target {target}: this version of cryptomon has no such target.") from error


def _options(target: Target, each_job: bool) -> dict[str, bool]:
    if target is not Target.sagemaker:
        return {"each_job": each_job}
    if each_job:
        raise ParameterError(
            "--each-job is for cron and systemd; SageMaker has a schedule for each job anyway."
        )
    return {}
