"""What a notebook has to tell about its run: shown in the notebook, and read from it by the runner."""

from collections.abc import Mapping
from typing import Any

MIME = "application/vnd.cryptomon.facts+json"


class Facts:
    """Numbers and words about a run; as a cell's last value they are shown and recorded.

    rows=1530, failed=0: any JSON values by name.
    """

    def __init__(self, **facts: Any):
        self.facts = facts

    def __repr__(self) -> str:
        return ", ".join(f"{name}: {value}" for name, value in self.facts.items())

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        return {MIME: self.facts, "text/plain": repr(self)}


def facts_of(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """All facts that an executed notebook shows; of one name the last."""
    found: dict[str, Any] = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            found |= output.get("data", {}).get(MIME, {})
    return found
