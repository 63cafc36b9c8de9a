"""A bar that says how far a long job is: in a terminal, in a notebook, and in its executed copy; a line for programs."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cryptomon_lib import logs

_WIDTH = 30
_EVERY_S = 0.2


@contextmanager
def progress_bar(says: str, unit: str = "calls") -> Iterator[Callable[[int, int], None]]:
    """Shows a bar while it is open; gives what moves it: `told(done, of)`."""
    shown = _in_notebook if _is_notebook() else _in_lines if logs.is_json() else _in_terminal
    with shown(says, unit) as told:
        yield told


class _Bar:
    """The bar as text, for a notebook's cell."""

    def __init__(self, says: str, unit: str):
        self.says, self.unit, self.done, self.of, self.began = says, unit, 0, 0, time.monotonic()

    def __repr__(self) -> str:
        share = self.done / self.of if self.of else 1.0
        full = round(_WIDTH * share)
        counts = f"{self.done:,} of {self.of:,} {self.unit}, {time.monotonic() - self.began:.0f} s"
        return f"{self.says} {'█' * full}{'░' * (_WIDTH - full)} {share:4.0%}  {counts}"


@contextmanager
def _in_notebook(says: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    from IPython.display import display

    bar, shown_at = _Bar(says, unit), 0.0
    handle = display(bar, display_id=True)

    def told(done: int, of: int) -> None:
        nonlocal shown_at
        bar.done, bar.of = done, of
        if time.monotonic() - shown_at > _EVERY_S:
            shown_at = time.monotonic()
            handle.update(bar)

    try:
        yield told
    finally:
        handle.update(bar)


@contextmanager
def _in_lines(says: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """No bar: how far it was at the end, as a log line."""
    bar = _Bar(says, unit)

    def told(done: int, of: int) -> None:
        bar.done, bar.of = done, of

    try:
        yield told
    finally:
        seconds = time.monotonic() - bar.began
        logs.tell(f"{says}: {bar.done:,} of {bar.of:,} {unit}, {seconds:.0f} s")


@contextmanager
def _in_terminal(says: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(says),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(says, total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def _is_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")
