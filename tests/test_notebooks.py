"""The notebooks' shape, held for every file of the folder; that they run is what nbval shows."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

PROJECT = Path(__file__).parent.parent
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
# compared with their outputs by `make notebooks`; the others are only run
COMPARED = [path for path in NOTEBOOKS if path.name.startswith("0")]


def cells_of(path: Path) -> list:
    return nbformat.read(path, as_version=4).cells


def code_of(path: Path) -> list:
    return [cell for cell in cells_of(path) if cell.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_a_notebook_is_valid_and_of_a_length_that_one_reads(notebook):
    nbformat.validate(nbformat.read(notebook, as_version=4))

    assert 5 <= len(cells_of(notebook)) <= 22


def test_a_notebook_begins_with_its_title_a_sentence_and_what_it_reads_writes_and_when_it_runs(notebook):
    first = cells_of(notebook)[0]

    assert first.cell_type == "markdown" and first.source.startswith("# ")
    for word in ("Reads:", "Writes:", "Runs:"):
        assert word in first.source, f"the first cell does not say {word}"


def test_the_second_cell_declares_the_parameters_with_plain_defaults_and_a_comment_each(notebook):
    second = cells_of(notebook)[1]

    assert second.cell_type == "code" and "parameters" in second.metadata.get("tags", [])
    for statement, line in zip(ast.parse(second.source).body, second.source.splitlines(), strict=True):
        ast.literal_eval(statement.value)
        assert isinstance(statement, ast.Assign), "IPython takes `name: type = …` for a magic of that name"
        assert "  # " in line, f"{line!r} does not say its meaning or unit"


def test_a_code_cell_is_short_and_has_no_function_loop_path_shell_or_long_sql(notebook):
    for cell in code_of(notebook):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 12, (
            f"a cell of {len(lines)} lines: part of it belongs in the library\n{cell.source}"
        )
        assert not any(line.lstrip().startswith(("!", "%")) for line in lines), cell.source
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.For | ast.While), cell.source
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert "\n" not in node.value and len(node.value) <= 110, cell.source
                assert not node.value.startswith("/"), f"a path of one machine: {node.value}"


def test_the_last_cell_says_whether_the_result_is_usable(notebook):
    last = code_of(notebook)[-1].source

    assert any(word in last for word in ("assert ", "Facts(", ".check(", "end_marker")), last


def test_no_stored_output_is_an_error_and_none_names_this_machine(notebook):
    for cell in code_of(notebook):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert str(PROJECT) not in json.dumps(output) and str(Path.home()) not in json.dumps(output)


@pytest.mark.parametrize("path", COMPARED, ids=lambda path: path.stem)
def test_what_nbval_compares_has_outputs_to_compare_with(path):
    compared = [cell for cell in code_of(path) if "nbval-ignore-output" not in cell.metadata.get("tags", [])]
    kept = [cell for cell in compared if cell.outputs]

    assert len(kept) >= 5, "with outputs stripped nbval compares nothing and passes: run `make tour`"


def test_what_nbval_does_not_compare_is_stored_without_outputs(notebook):
    if notebook not in COMPARED:
        assert all(not cell.outputs and cell.execution_count is None for cell in code_of(notebook))


@pytest.mark.notebook
def test_nbval_fails_when_a_kept_output_differs_from_what_the_notebook_shows(tmp_path, monkeypatch):
    tour = nbformat.read(COMPARED[0], as_version=4)
    tour.cells = tour.cells[:3]
    next(cell for cell in tour.cells if cell.get("outputs")).outputs[0]["data"]["text/plain"] = "('nobody',)"
    nbformat.write(tour, tmp_path / "tour.ipynb")
    monkeypatch.setenv("CRYPTOMON_HOME", str(PROJECT))

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--nbval",
            "--nbval-current-env",
            "tour.ipynb",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 1 and "nobody" in done.stdout
