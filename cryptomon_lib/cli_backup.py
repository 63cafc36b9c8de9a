"""The command line's part for what must not be lost: `backup`, `restore`."""

from typing import Annotated

import typer

from cryptomon_lib.cli_options import Environment, Flags, choose, print_table

At = Annotated[str, typer.Option(help="A backup's name, as --list shows it; the newest where empty.")]


def add_to(app: typer.Typer) -> None:
    """Make these commands part of an app."""
    for command in (backup, restore):
        app.command()(command)


def backup(
    target: Annotated[str, typer.Argument(help="A folder or s3://bucket/prefix, apart from the root.")],
    keep: Annotated[
        int | None, typer.Option(help="So many backups stay there, this one among them.", min=1)
    ] = None,
    without: Annotated[list[str], typer.Option(help="A prefix that is left out: archive/, runs/.")] = [],  # noqa: B006
    show: Annotated[
        bool, typer.Option("--list", help="Show the backups that are there, and take none.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read a backup whole against its checksums, and take none.")
    ] = False,
    at: At = "",
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Copy the root while the monitor goes on; what an earlier backup there has is not copied again.

    With --verify, exit 3 where something is missing or damaged.
    """
    from cryptomon_lib.backup import back_up
    from cryptomon_lib.monitor import open_monitor
    from cryptomon_lib.progress import progress_bar
    from cryptomon_lib.storage import Storage

    choose(environment, flags)
    monitor = open_monitor(environment)
    place = Storage(target, monitor.settings.endpoint_url)
    if show:
        _show(place)
    elif verify:
        _verify(place, at)
    else:
        with progress_bar("backup", "objects") as told:
            done = back_up(monitor, target, without=without, keep=keep, progress=told)
        one = done.backup
        typer.echo(
            f"{one.name}: {len(one.objects):,} objects, {one.bytes / 1e6:,.1f} MB, {len(one.tables)} tables; "
            f"new in {target}: {done.copied:,} contents, {done.copied_bytes / 1e6:,.1f} MB"
            + (f"; {done.let_go} older backups deleted" if done.let_go else "")
        )


def restore(
    source: Annotated[str, typer.Argument(help="Where `cryptomon backup` has put it.")],
    at: At = "",
    environment: Environment = "local",
    flags: Flags = [],  # noqa: B006
) -> None:
    """Make the root, which has to be empty, what a backup says; ended anywhere, the same command goes on."""
    from cryptomon_lib.backup import restore as bring_back
    from cryptomon_lib.monitor import open_monitor
    from cryptomon_lib.progress import progress_bar

    choose(environment, flags)
    monitor = open_monitor(environment)
    with progress_bar("restore", "objects") as told:
        found = bring_back(monitor, source, at or None, told)
    typer.echo(
        f"{monitor.storage.root} is as {found.root} was at {found.at:%Y-%m-%d %H:%M} UTC: {len(found.objects):,} objects, "
        f"{found.bytes / 1e6:,.1f} MB, {len(found.tables)} tables. Next: cryptomon doctor; then let it run, and backfill "
        "fetches what exchanges still have of the time since."
    )


def _show(place) -> None:
    from cryptomon_lib.backup import backups, load_backup

    rows = []
    for name in backups(place):
        one = load_backup(place, name)
        rows.append([name, one.root, one.cryptomon, f"{len(one.objects):,}", f"{one.bytes / 1e6:,.1f}"])
    print_table(["backup", "of", "cryptomon", "objects", "MB"], rows)


def _verify(place, at: str) -> None:
    from cryptomon_lib.backup import load_backup, verify_backup
    from cryptomon_lib.errors import StorageError
    from cryptomon_lib.progress import progress_bar

    one = load_backup(place, at or None)
    with progress_bar("verify", "contents") as told:
        wrong = verify_backup(place, one, told)
    if wrong:
        print_table(["object", "found"], [[key, says] for key, says in wrong.items()])
        raise StorageError(
            f"{len(wrong)} of {len(one.objects)} objects of backup {one.name} cannot be restored."
        )
    typer.echo(f"{one.name}: {len(one.objects):,} objects, {one.bytes / 1e6:,.1f} MB, all as they were")
