"""Other versions of Python on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def other_python(version: str) -> Path | None:
    """A Python of this version, from PATH or pyenv; None if there is none."""
    found = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for path in [*([Path(found)] if found else []), *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]:
        # A shim of pyenv is there, and fails, where its version is not chosen.
        if subprocess.run([path, "-c", ""], check=False, timeout=30, capture_output=True).returncode == 0:
            return path
    return None
