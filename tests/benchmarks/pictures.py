"""The pictures of README and docs, light and dark: `check` in a terminal, and the report in Chromium.

    python tests/benchmarks/pictures.py            takes those that are stale
    python tests/benchmarks/pictures.py --check    exits 1 and names them
    python tests/benchmarks/pictures.py --all      takes all

A picture is stale where what it shows has changed since: the words that `check` prints, the sources of the report. Both
are kept in docs/pictures/shown.json. Needs `pip install -e '.[test]'` and Chromium.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "pictures"
SHOWN = FOLDER / "shown.json"
REPORT = ROOT / "runner" / "report" / "html"

CHECK = "check layer=lora"
SWEEP = [
    "-m",
    "layer=linear,mlp",
    "seed=range(0,5)",
    "features=4,8,16",
    "input_shape=[32,4]",
    "train=short",
    "train.steps=60",
    "timing=careful",
    "timing.min_sample_s=0.001",
    "tracking=disabled",
    "sweep=widths",
]

NUM_COLUMNS = 96
SCHEMES = ("light", "dark")
MAX_BYTES = 150_000
BROWSER = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")

# What a picture of the report shows: the size of the window, and the part that a click in its list of parts leads to.
VIEWS: dict[str, tuple[tuple[int, int], str | None]] = {
    "report": ((1400, 900), None),
    "report-loss": ((1400, 900), "Loss"),
    "report-times": ((1400, 900), "Times"),
    "report-phone": ((420, 900), None),
}


def main() -> int:
    """Takes pictures, or names those that are stale."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="take none: name those that are stale")
    parser.add_argument("--all", action="store_true", help="take those that are current too")
    typed = parser.parse_args()
    printed = check_output()
    now = {"check": shown_by_check(printed), "report": report_digest()}
    kept = json.loads(SHOWN.read_text()) if SHOWN.exists() else {}
    stale = [name for name, shown in now.items() if typed.all or kept.get(name) != shown]
    if typed.check:
        for name in stale:
            print(f"docs/pictures: {name} is stale: python tests/benchmarks/pictures.py")
        return int(bool(stale))
    FOLDER.mkdir(exist_ok=True)
    if "check" in stale:
        for scheme in SCHEMES:
            (FOLDER / f"check-{scheme}.svg").write_text(terminal_svg(CHECK, printed, scheme))
    if "report" in stale:
        take_report()
    SHOWN.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n")
    for path in sorted(FOLDER.glob("*.*g")):
        assert path.stat().st_size <= MAX_BYTES, f"{path} is larger than {MAX_BYTES} bytes"
    return 0


def check_output() -> str:
    """What `check` prints in a terminal, with its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 100, NUM_COLUMNS, 0, 0))
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"COLUMNS": str(NUM_COLUMNS), "TERM": "xterm-256color"}
        words = [sys.executable, "-m", "runner", *CHECK.split()]
        with subprocess.Popen(words, cwd=folder, env=environment, stdout=theirs, stdin=subprocess.DEVNULL) as running:
            os.close(theirs)
            printed = _until_closed(ours)
        assert running.returncode == 1, printed
    return printed.replace("\r\n", "\n")


def _until_closed(terminal: int) -> str:
    content = b""
    with open(terminal, "rb", buffering=0) as file:
        while True:
            try:
                read = file.read(4096)
            except OSError:  # what Linux gives where the other end is closed
                read = b""
            if not read:
                return content.decode()
            content += read


def shown_by_check(printed: str) -> str:
    """Its words, without what differs from run to run."""
    text = " ".join(printed.split())
    return re.sub(r"steady .*?\)", "steady …", text)


def report_digest() -> str:
    """SHA-256 of what makes a report."""
    files = sorted(path for path in REPORT.rglob("*") if path.suffix in (".py", ".js", ".css", ".html"))
    content = b"".join(path.name.encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()


def terminal_svg(command: str, printed: str, scheme: str) -> str:
    """A terminal in which the command was typed, as SVG that loads nothing."""
    from rich import terminal_theme
    from rich.console import Console
    from rich.text import Text

    theme = {"light": terminal_theme.DEFAULT_TERMINAL_THEME, "dark": terminal_theme.SVG_EXPORT_THEME}[scheme]
    console = Console(record=True, width=NUM_COLUMNS, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    console.print(Text(f"$ bridge-runner {command}", style="bold"))
    console.print(Text.from_ansi(printed.rstrip()))
    svg = console.export_svg(title="", theme=theme, unique_id="check", font_aspect_ratio=0.61)
    svg = re.sub(r"\s*(@font-face \{.*?\}|<!--.*?-->)", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code,", "ui-monospace,").replace('stroke="rgba(255,255,255,0.35)"', 'stroke="#8888"')


def take_report() -> None:
    """Runs the sweep and photographs its report."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        subprocess.run([sys.executable, "-m", "runner", *SWEEP], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        page = Path(folder, "outputs", "widths", "report.html").as_uri()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(BROWSER))
        for name, (size, part) in VIEWS.items():
            for scheme in SCHEMES:
                tab = browser.new_page(color_scheme=scheme, viewport={"width": size[0], "height": size[1]})
                tab.goto(page)
                _photograph(tab, part, FOLDER / f"{name}-{scheme}.png")
                tab.close()
        browser.close()


def _photograph(tab: Any, part: str | None, path: Path) -> None:
    from PIL import Image

    tab.wait_for_selector("html[data-ready]")
    if part is not None:
        tab.locator("#parts").get_by_role("link", name=part, exact=True).click()
        tab.mouse.move(0, 0)  # no tooltip
    tab.wait_for_timeout(1500)  # charts are drawn as they come into view
    tab.screenshot(path=path)
    Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
