"""The docs are true: their commands and code run, and what is made from the code is as the code is."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import documented_pages
import pytest
import taken_targets

from runner.commands import main
from tests.benchmarks import pictures, reference

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
# Those of pipelines run with the pipelines' sources: tests/pipelines.
RUNNABLE = [
    name for name, page in PAGES.items() if not name.startswith("pipelines/") and documented_pages.runs_something(page)
]


@pytest.fixture(scope="module")
def hooks():
    sys.path.insert(0, str(DOCS))
    try:
        yield pytest.importorskip("hooks")
    finally:
        sys.path.remove(str(DOCS))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNABLE)
def test_a_page_of_the_docs_runs(name, tmp_path):
    documented_pages.run_page(PAGES[name], tmp_path)


PRINTS = "```bash\necho 'took 3.1 ms'; exit 1  # exits 1\n```\n```text\ntook 27 ms\n```\n"


def test_a_page_that_holds_runs(tmp_path):
    documented_pages.run_page(f"```python\n# some/file.py\nx = 1\n```\n{PRINTS}", tmp_path)
    assert (tmp_path / "some" / "file.py").read_text() == "# some/file.py\nx = 1\n"


@pytest.mark.parametrize(
    ("true", "untrue"),
    [("  # exits 1", ""), ("took 27", "took over"), ("```text\n", "```text\nanother line\n"), ("ms'; exit 1", "ms'")],
)
def test_a_page_that_is_untrue_fails(true, untrue, tmp_path):
    with pytest.raises(AssertionError):
        documented_pages.run_page(PRINTS.replace(true, untrue), tmp_path)


def test_reference_pages_are_current():
    stale = [name for name, page in reference.pages().items() if PAGES[f"reference/{name}"] != page]
    assert not stale, "python tests/benchmarks/reference.py"


def test_folder_in_the_nav_means_its_pages(hooks):
    nav = ["index.md", {"How to": "how-to/"}, {"Notebooks": "notebooks/"}, {"About": ["about/design.md"]}]
    made = hooks.unfolded(nav, ["how-to/b.md", "how-to/a.md", "index.md"])
    assert made == ["index.md", {"How to": ["how-to/b.md", "how-to/a.md"]}, {"About": ["about/design.md"]}]


def test_notebook_becomes_a_page(hooks):
    cells = [
        '{"cell_type": "markdown", "source": ["# Title"]}',
        '{"cell_type": "code", "source": ["1 + 1"], "outputs": [{"data": {"text/plain": ["2"]}}]}',
    ]
    page = hooks.as_markdown(f'{{"cells": [{", ".join(cells)}]}}')
    assert page == "# Title\n\n```python\n1 + 1\n```\n\n```text\n2\n```"


def test_pictures_show_the_current_report():
    shown = json.loads(pictures.SHOWN.read_text())
    assert shown["report"] == pictures.report_digest(), "python tests/benchmarks/pictures.py"


@pytest.mark.slow
def test_pictures_show_what_check_prints():
    shown = json.loads(pictures.SHOWN.read_text())
    assert shown["check"] == pictures.shown_by_check(pictures.check_output()), "python tests/benchmarks/pictures.py"


def test_pictures_are_small_and_name_no_path():
    files = sorted(pictures.FOLDER.glob("*.*g"))
    assert len(files) == 2 * (len(pictures.VIEWS) + 1)
    assert [path.name for path in files if path.stat().st_size > pictures.MAX_BYTES] == []
    text = "".join(path.read_text() for path in files if path.suffix == ".svg")
    assert [word for word in (str(Path.home()), tempfile.gettempdir(), "url(http") if word in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", taken_targets.LAYERS)
def test_layer_target_is_taken_as_documented(name, capsys):
    _checked(f"layer=custom layer.target=taken_targets.{name.strip()}", taken_targets.LAYERS[name], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", taken_targets.HOSTS)
def test_host_target_is_taken_as_documented(name, capsys):
    _checked(f"layer=linear host.target=taken_targets.{name.strip()}", taken_targets.HOSTS[name], capsys)


def _checked(typed: str, expected: tuple[str, int, str], capsys) -> None:
    more, code, named = expected
    assert main.main(["check", "--traced", *typed.split(), *more.split(), "input_shape=[2,8]", "features=8"]) == code
    printed = capsys.readouterr()
    assert named in " ".join((printed.out + printed.err).split())
