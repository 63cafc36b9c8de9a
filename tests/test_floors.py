"""The house stands on its floors: imports only go down, one module reads the environment, nothing prints."""

import ast
from pathlib import Path

import pytest

import cryptomon_lib
from cryptomon_lib import errors

LIBRARY = Path(cryptomon_lib.__file__).parent
# a module may import from its own floor and from those below; a folder counts as one module
FLOORS = {
    "errors": 0,
    "facts": 0,
    "markdown": 0,
    "simulated_universe": 0,
    "clock": 0,
    "config": 1,
    "tables": 1,
    "discretion": 0,
    "logs": 2,
    "progress": 3,
    "receivers": 2,
    "pings": 2,
    "notices": 3,
    "messages": 4,
    "channels": 5,
    "outbox": 6,
    "delivery": 7,
    "notify": 8,
    "simulated_market": 1,
    "storage": 2,
    "budget": 2,
    "fetch": 2,
    "payloads": 2,
    "schedule": 3,
    "simulated_replies": 2,
    "simulated_venues": 2,
    "simulated_formats": 2,
    "parquet": 3,
    "lake": 3,
    "shape": 3,
    "sql": 3,
    "replay": 3,
    "simulated_faults": 3,
    "lint": 4,
    "bounds": 4,
    "simulator": 4,
    "fields": 4,
    "exchanges": 4,
    "monitor": 4,
    "catalogue": 5,
    "dictionary": 5,
    "aws": 5,
    "sampling": 10,
    "cli_aws": 12,
    "collect": 5,
    "engines": 5,
    "engine": 5,
    "flatten": 6,
    "rules": 4,
    "evaluator": 5,
    "history": 6,
    "holes": 6,
    "backfill": 7,
    "health": 9,
    "metrics": 6,
    "alerts": 7,
    "backup": 9,
    "cli_backup": 12,
    "cost": 2,
    "cli_cost": 12,
    "rule_tests": 7,
    "backtest": 8,
    "charts": 6,
    "retention": 7,
    "compact": 6,
    "latest": 6,
    "rollups": 6,
    "run": 9,
    "dashboard_readings": 7,
    "runs": 5,
    "operations": 6,
    "rank_card": 7,
    "readable": 1,
    "report": 9,
    "page_data": 9,
    "api_answers": 7,
    "api_questions": 8,
    "api": 9,
    "client": 1,
    "catalog": 6,
    "export": 6,
    "dashboard": 10,
    "dashboard_voila": 11,
    "dashboard_server": 11,
    "resident": 10,
    "scheduling": 11,
    "up": 12,
    "cli_options": 2,
    "cli_schedule": 12,
    "status": 9,
    "doctor": 9,
    "prometheus": 9,
    "cli_operations": 12,
    "cli": 13,
    "commands": 14,
    # names only, which bring their modules when they are used
    "__init__": 14,
}
# besides config, which reads the settings: run hands the environment on to the kernels that it starts, the server to
# Voila, and Voila tells a page by it what was asked for
WITH_AN_ENVIRONMENT = {"config", "run", "dashboard", "dashboard_server", "dashboard_voila"}

FILES = sorted(LIBRARY.rglob("*.py"))


def module_of(path):
    """The module, or the folder, that a file belongs to."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def shown(path):
    return str(path.relative_to(LIBRARY))


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(tree):
    """Names of the library's modules that a file imports, wherever in it, and at which line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: an import relative to the file hides its floor"
            below = node.module == "cryptomon_lib"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if below else [node.module]
        else:
            continue
        yield from ((name.split(".")[1], node.lineno) for name in names if name.startswith("cryptomon_lib."))


every_file = pytest.mark.parametrize("path", FILES, ids=shown)


@every_file
def test_a_module_has_its_floor(path):
    module = module_of(path)
    assert module in FLOORS, f"{module} is new: give it a floor in FLOORS, one above what it imports"


@every_file
def test_imports_only_go_down(path):
    floor = FLOORS.get(module_of(path), 0)
    up = [
        f"{shown(path)}:{line} imports {name}, of floor {FLOORS.get(name)}"
        for name, line in imported(tree_of(path))
        if name in FLOORS and FLOORS[name] > floor
    ]
    assert up == []


def test_no_two_modules_import_each_other():
    reads = {}
    for path in FILES:
        reads.setdefault(module_of(path), set()).update(name for name, _ in imported(tree_of(path)))
    assert [
        (one, two) for one in reads for two in reads[one] if one < two and one in reads.get(two, ())
    ] == []


def test_every_floor_listed_is_that_of_a_module_that_is_there():
    assert FLOORS.keys() <= {module_of(path) for path in FILES}


@every_file
def test_only_config_reads_the_environment(path):
    reads = {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb"))
        or (isinstance(node, ast.alias) and node.name in ("environ", "getenv"))
    }
    assert not reads or module_of(path) in WITH_AN_ENVIRONMENT


@every_file
def test_nothing_prints_and_no_error_is_caught_without_a_name(path):
    for node in ast.walk(tree_of(path)):
        called = node.func if isinstance(node, ast.Call) else None
        assert not (isinstance(called, ast.Name) and called.id in ("print", "breakpoint", "eval", "exec")), (
            f"{shown(path)}:{node.lineno} calls {called.id}"
        )
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), (
            f"bare except, line {node.lineno}"
        )


@every_file
def test_what_is_public_says_what_it_is(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{shown(path)} has no docstring"
    silent = [
        f"{node.name}, line {node.lineno}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


# ---- the public names, and the tree of errors


def test_the_names_that_notebooks_use_are_there():
    for name in cryptomon_lib.__all__:
        assert getattr(cryptomon_lib, name).__doc__, name
    assert len(cryptomon_lib.__all__) >= 12
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cryptomon_lib.nothing


def test_every_error_stands_in_the_tree_that_the_module_draws():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    drawn = [line.strip("│├└─ ").split()[0] for line in errors.__doc__.splitlines()[2:] if line.strip()]
    assert sorted(drawn) == sorted(kind.__name__ for kind in kinds)
    for kind in kinds:
        assert issubclass(kind, errors.CryptomonError) and kind.__doc__


def test_the_exit_codes_are_those_that_the_module_draws():
    for line in errors.__doc__.splitlines()[2:]:
        words = line.strip("│├└─ ").replace("exit code ", "").split()
        if len(words) > 1 and words[1].isdigit():
            assert getattr(errors, words[0]).exit_code == int(words[1]), words[0]
