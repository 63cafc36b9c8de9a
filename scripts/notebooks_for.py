"""Copies of the jobs' notebooks that run on another environment than their defaults', for nbval: `make notebooks-on`.

nbval gives no parameters, so they are written into the copies as papermill would.
Run: python scripts/notebooks_for.py ENVIRONMENT FOLDER
"""

import sys
from pathlib import Path

from cryptomon_lib.config import home, load_settings

# the tours make up their own data, and are compared by `make notebooks`
PATTERNS = ("[1-9]*.ipynb", "dashboard.ipynb")
# a test ends: what is not done by then, the next run of the job does
SECONDS = 60


def prepare(environment: str, folder: Path) -> list[Path]:
    """The copies, in the order in which a tick and the hourly jobs run.

    Raises ConfigError: there is no such environment.
    """
    load_settings(environment)
    # seconds to import, and a wrong name is told at once
    from papermill.iorw import load_notebook_node, write_ipynb
    from papermill.parameterize import parameterize_notebook

    from cryptomon_lib.run import declared_parameters

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for path in [path for pattern in PATTERNS for path in sorted((home() / "notebooks").glob(pattern))]:
        given = {"environment": environment, "seconds": SECONDS}
        own = {name: value for name, value in given.items() if name in declared_parameters(path)}
        copy = folder / path.name
        write_ipynb(parameterize_notebook(load_notebook_node(str(path)), own), str(copy))
        made.append(copy)
    return made


if __name__ == "__main__":
    prepare(sys.argv[1], Path(sys.argv[2]))
