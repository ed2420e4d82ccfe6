"""Renders a report as a single HTML file with template, style, scripts and data inline, so it works offline. Pure."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PARTS = Path(__file__).resolve().parent / "assets"
VENDOR = PARTS / "vendor"

# Our own scripts, in dependency order; third-party bundles come before them.
SCRIPTS = (
    *("data.js", "address.js", "scales.js", "table.js", "charts.js", "times.js", "outcomes.js", "checks.js"),
    *("chosen.js", "explore.js", "parallel.js", "groups.js", "weights.js", "save.js"),
    *("figures.js", "sections.js", "run.js", "theme.js", "page.js"),
)
# Those of the index of a folder.
INDEX_SCRIPTS = ("data.js", "scales.js", "charts.js", "save.js", "theme.js", "index.js")
STYLE = "page.css"

# Devtools would try to load the files that these lines name.
SOURCE_MAP = "//# sourceMappingURL="


def to_html(data: Mapping[str, Any], *, live: bool = False) -> bytes:
    """The page of a sweep, in UTF-8.

    All text is escaped by Jinja or packed, so a layer may be called `<script>`; the page's policy blocks all loading,
    and all scripts except those that it lists by digest.

    Args:
      data: The data from `runner.report.html.data.Report.data`.
      live: Whether the page is served, and polls its server for updates.
    """
    return _rendered("page.html", SCRIPTS, data, live=live)


def index_html(data: Mapping[str, Any]) -> bytes:
    """The index of a folder of sweeps, in UTF-8, as self-contained as a sweep's page.

    Args:
      data: The data from `runner.report.html.index_data.data`.
    """
    return _rendered("index.html", INDEX_SCRIPTS, data, without=("tabulator-tables",))


def _rendered(
    template: str, names: Sequence[str], data: Mapping[str, Any], *, live: bool = False, without: Sequence[str] = ()
) -> bytes:
    bundles = [entry for entry in manifest() if entry["package"] not in without]
    scripts = [_script(entry) for entry in bundles if entry["file"].endswith(".js")]
    scripts += [(PARTS / name).read_text(encoding="utf-8") for name in names]
    sheets = [(VENDOR / entry["file"]).read_text() for entry in bundles if entry["file"].endswith(".css")]
    sheets.append((PARTS / STYLE).read_text(encoding="utf-8"))
    drawn = [style for entry in bundles for style in entry.get("styles", ())]
    html = _template(template).render(
        head=data["head"],
        packed=pack({key: value for key, value in data.items() if key != "head"}),
        policy=policy(scripts, sheets, drawn, live=live),
        scripts=scripts,
        sheets=sheets,
        bundles={f"{entry['package']} {entry['version']}": entry["license"] for entry in bundles},
        live=live,
    )
    # A lone surrogate, as in an error about a file name, is not valid UTF-8.
    return html.encode(errors="replace")


def manifest() -> list[dict[str, Any]]:
    """The third-party bundles included: file, package, version, licence, SHA-256, and the styles that they inject."""
    entries: list[dict[str, Any]] = json.loads((VENDOR / "manifest.json").read_text())
    return entries


def pack(data: Mapping[str, Any]) -> str:
    """`data` as compressed JSON in base64: a tenth of its size, and nothing to escape."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def policy(scripts: list[str], sheets: list[str], drawn: list[str], *, live: bool = False) -> str:
    """The page's Content-Security-Policy.

    Args:
      scripts: The scripts that may run.
      sheets: The style sheets that may be used.
      drawn: Digests of style elements that the bundles inject.
      live: Whether the page polls its server for updates.
    """
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(f"'{_digest(script)}'" for script in scripts),
        "style-src": " ".join(f"'{style}'" for style in [*map(_digest, sheets), *drawn]),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    if live:
        rules["connect-src"] = "'self'"
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _script(entry: Mapping[str, Any]) -> str:
    return (VENDOR / entry["file"]).read_text(encoding="utf-8").partition(SOURCE_MAP)[0]


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@functools.cache
def _template(name: str) -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PARTS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
