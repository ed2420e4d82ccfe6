"""Commands of ours and of wandb against a server of the tests' own, and what arrived there."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wandb_server import Received, WandbServer

API_KEY = "0123456789abcdef0123456789abcdef01234567"
NETRC_KEY = "89abcdef0123456789abcdef0123456789abcdef"
# A caller's own, e.g. WANDB_MODE or a netrc that holds a key, would change what is tested.
FOREIGN = ("WANDB_", "XDG_", "NETRC")


@dataclasses.dataclass
class Sent:
    """What was sent from `folder`, the user's home too: what the server got, and what the last command said."""

    folder: Path
    server: WandbServer
    done: subprocess.CompletedProcess[str]

    @property
    def runs(self) -> dict[str, Received]:
        """Those of single records, by the record's run id."""
        found = self.server.runs.values()
        return {run.summary["run_id"]: run for run in found if run.fields["jobType"] != "sweep"}

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        found = [json.loads(path.read_text()) for path in self.folder.glob("outputs/*/runs/*/record.json")]
        return {record["run_id"]: record for record in found}


def environment(home: Path, url: str, key: str | None = API_KEY) -> dict[str, str]:
    """What a user has who is logged in to the server at `url`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    kept |= {"HOME": str(home), "NO_PROXY": "127.0.0.1", "WANDB_ERROR_REPORTING": "false", "WANDB_BASE_URL": url}
    return kept | ({"WANDB_API_KEY": key} if key else {})


def write_netrc(home: Path, port: int) -> None:
    """Gives a user a .netrc that holds a key for the server at `port`."""
    home.mkdir(exist_ok=True)
    (home / ".netrc").write_text(f"machine 127.0.0.1:{port}\nlogin user\npassword {NETRC_KEY}\n")
    (home / ".netrc").chmod(0o600)


def files_with_a_key(folder: Path) -> list[Path]:
    """Every file below `folder` that holds a key of the user, but the user's own .netrc."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".netrc"]
    assert len(files) > 10
    contents = {path: path.read_bytes() for path in files}
    return [path for path, content in contents.items() if any(key.encode() in content for key in (API_KEY, NETRC_KEY))]


def execute(
    folder: Path, *words: str, environment: Mapping[str, str], timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """`python -m WORDS` in `folder`."""
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s
    )
