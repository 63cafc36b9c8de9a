"""Print what is installed beside what running cryptomon needs, by name: for `pip uninstall`, after the whole lock was
installed by its hashes. What running needs is the package with the extras given, and what those need in turn.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution, distributions

from packaging.requirements import Requirement


def plain(name: str) -> str:
    """A name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(name: str, extras: frozenset[str]) -> set[str]:
    """Names of the package and of all that it needs here."""
    found: set[str] = set()
    waiting, seen = [(name, extras)], set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            # needed on another platform, or the notice of it is wrong: the import that fails will say so
            continue
        found.add(plain(name))
        for text in requires:
            one = Requirement(text)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                waiting.append((plain(one.name), frozenset(one.extras)))
    return found


if __name__ == "__main__":
    kept = needed("cryptomon", frozenset(sys.argv[1:])) | {"pip"}
    sys.stdout.write("\n".join(sorted({plain(one.name) for one in distributions()} - kept)) + "\n")
