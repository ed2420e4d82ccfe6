"""Where conf/ is; apart from the settings, which `--help` and TAB don't wait for."""

from __future__ import annotations

from pathlib import Path


def config_dir() -> Path:
    """The conf/ folder: inside the package in an installed wheel, next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"
