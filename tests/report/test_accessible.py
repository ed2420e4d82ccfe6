"""axe-core looks at the report with all parts open: light and dark, wide and narrow, chosen runs and one run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from runner.records import find
from runner.records.paths import SweepFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def violations():
    """What axe finds in a page: rule and first element."""
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None and spec.origin is not None
    axe = (Path(spec.origin).parent / "axe.min.js").read_text()

    def look(page):
        page.tab.evaluate(axe)
        found = page.tab.evaluate("axe.run(document)")["violations"]
        return {one["id"]: one["nodes"][0]["html"] for one in found}

    return look


@pytest.mark.parametrize("colors", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1400])
@pytest.mark.parametrize("sweep", ["hostile", "mixed", "searched"])
def test_axe_finds_no_violation(sweep, width, colors, opened, swept, violations):
    first, second, *_ = [row.label for row in find.read_rows(SweepFolder(swept / sweep))]
    page = opened(sweep, f"#chosen={first},{second}&color=output_norm", color_scheme=colors, bypass_csp=True)
    page.tab.set_viewport_size({"width": width, "height": 900})
    page.show_all()
    assert violations(page) == {}
    page = opened(sweep, f"#run={first}", color_scheme=colors, bypass_csp=True)
    page.show_all()
    assert violations(page) == {}


def test_axe_finds_what_is_wrong(opened, violations):
    page = opened("mixed", bypass_csp=True)
    page.tab.evaluate("document.querySelector('label').replaceWith(document.getElementById('search'))")
    assert "label" in violations(page)
