"""Where the source of a pipeline is: a folder that is given, or an installed package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]

VARIABLE = "BRIDGE_RUNNER_SOURCES"


@dataclass(frozen=True)
class Source:
    """Where a pipeline comes from.

    Attributes:
      package: What is imported, `EasyLM`.
      folder: The subfolder of `$BRIDGE_RUNNER_SOURCES` that has a checkout; empty where the package is installed.
      repository: `owner/name` on GitHub, or the name on PyPI.
      path: What of `folder` is put on the path.
      needs: Other packages, installed, without which nothing can be run; `NAME<5` of a version.
    """

    package: str
    repository: str
    folder: str = ""
    path: tuple[str, ...] = (".",)
    needs: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """Why it can't be run here, or None."""
        absent = [text for text in self.needs if not _is_installed(Requirement(text))]
        if self.folder and not self._root().is_dir():
            return f"no source: want {VARIABLE}=FOLDER with {self.folder}/, a checkout of {self.repository}"
        if not self.folder and importlib.util.find_spec(self.package) is None:
            absent = [self.repository, *absent]
        return f"not installed: pip install {shlex.join(absent)}" if absent else None

    def enter(self) -> None:
        """Puts the checkout on this process's path."""
        if self.folder:
            sys.path[:0] = [str(self._root() / part) for part in self.path]

    def version(self) -> str:
        """Of a checkout its commit (of git, or of a file COMMIT), of a package its version."""
        if not self.folder:
            return f"{self.repository} {importlib.metadata.version(self.repository)}"
        return f"{self.repository} {commit(self._root())}"

    def _root(self) -> Path:
        return Path(os.environ.get(VARIABLE) or "/nowhere") / self.folder


def _is_installed(wanted: Requirement) -> bool:
    if importlib.util.find_spec(wanted.name) is None:
        return False
    return not wanted.specifier or wanted.specifier.contains(importlib.metadata.version(wanted.name))


def commit(folder: Path) -> str:
    """The first ten digits of the commit that is checked out in `folder`."""
    if (folder / "COMMIT").exists():
        return (folder / "COMMIT").read_text().strip()[:10]
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip()[:10] if done.returncode == 0 and (folder / ".git").exists() else "(commit unknown)"
