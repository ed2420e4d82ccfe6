"""The notebooks of the docs: committed without outputs, and executed as Jupyter executes them."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def leftovers(notebook: nbformat.NotebookNode) -> list[str]:
    """What an execution leaves in a notebook, and what only one machine knows."""
    found = [f"metadata {name}" for name in notebook.metadata if name not in ("kernelspec", "language_info")]
    for num, cell in enumerate(notebook.cells):
        if cell.metadata:
            found.append(f"cell {num}: metadata")
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None):
            found.append(f"cell {num}: outputs")
    return found


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The executed notebook; a cell gets two minutes."""
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # Jupyter has its own
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute(env=environment)
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    assert leftovers(read(path)) == []
    nbformat.validate(read(path))
    assert path.read_text().endswith("}\n")


def test_leftovers_of_an_execution_are_found():
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text="1")])
    counted = nbformat.v4.new_code_cell("1", execution_count=3, metadata={"scrolled": True})
    notebook = nbformat.v4.new_notebook(cells=[cell, counted], metadata={"widgets": {}})
    assert leftovers(notebook) == ["metadata widgets", "cell 0: outputs", "cell 1: metadata", "cell 1: outputs"]


@pytest.mark.slow
def test_the_first_layer_is_executed(tmp_path):
    executed = execute(read(ROOT / "docs" / "notebooks" / "first_layer.ipynb"), tmp_path)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    shown = [output.data for output in outputs if output.output_type == "execute_result"]
    tables = [data["text/html"] for data in shown if "text/html" in data]
    assert ["fail" in table for table in tables[:2]] == [True, False]
    assert "6 runs, 6 done" in tables[2] and "<th>features</th>" in tables[2]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert (tmp_path / "outputs" / "first" / "report.html").exists()


@pytest.mark.slow
def test_a_failing_cell_is_found(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2, 'not equal'")])
    with pytest.raises(CellExecutionError, match="not equal"):
        execute(notebook, tmp_path)
