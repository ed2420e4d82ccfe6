"""Which of the bridge's silent failures each release of Flax has: the table docs/reference/flax-releases.md.

    python tests/benchmarks/flax_releases.py                       # every release; needs uv and a package index
    python tests/benchmarks/flax_releases.py --only 0.12.8,0.10.0  # these again; the other rows stay

Each release is installed by uv into an environment of its own, with a JAX of its time, and bare Flax is asked
(`plain/bridge_failures.py`): nothing of ours is in it. A minute a release; what was found is kept in
docs/reference/flax-releases.json, row by row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROBES = Path(__file__).resolve().parent / "plain" / "bridge_failures.py"
FOUND = ROOT / "docs" / "reference" / "flax-releases.json"
PAGE = FOUND.with_suffix(".md")

# A JAX of each release's time, and the Python that has both.
RELEASES = {
    "0.10.0": ("0.4.34", "3.11"),
    "0.10.1": ("0.4.35", "3.11"),
    "0.10.2": ("0.4.37", "3.11"),
    "0.10.3": ("0.5.0", "3.11"),
    "0.10.4": ("0.5.2", "3.11"),
    "0.10.5": ("0.5.3", "3.11"),
    "0.10.6": ("0.6.0", "3.11"),
    "0.10.7": ("0.6.2", "3.11"),
    "0.11.0": ("0.7.0", "3.11"),
    "0.11.1": ("0.7.0", "3.11"),
    "0.11.2": ("0.7.1", "3.11"),
    "0.12.0": ("0.7.2", "3.11"),
    "0.12.1": ("0.8.1", "3.11"),
    "0.12.2": ("0.8.2", "3.11"),
    "0.12.3": ("0.9.0", "3.11"),
    "0.12.4": ("0.9.0", "3.11"),
    "0.12.5": ("0.9.1", "3.11"),
    "0.12.6": ("0.9.2", "3.11"),
    "0.12.7": ("0.10.0", "3.11"),
    "0.12.8": ("0.10.2", "3.11"),
    "0.12.9": ("0.11.1", "3.12"),
    "0.12.10": ("0.11.1", "3.12"),
    "0.12.12": ("0.12.0.1", "3.12"),
}

# What each probe does; the heading of its column.
MEANING = {
    "missing_weights": ("no weights", "`apply({}, x)` answers, with weights drawn from key 0"),
    "missing_leaf": ("a leaf missing", "params without `kernel`: drawn from key 0"),
    "wrong_shape": ("wrong shape", "a kernel of (8, 5) in `Linear(8, 8)`"),
    "wrong_collection": ("wrong collection", "the weights in a collection of another name: drawn from key 0"),
    "renamed_siblings": (
        "renamed siblings",
        "put in unnamed, it renames `Dense_2`: the old checkpoint applies otherwise",
    ),
    "missing_dropout_key": ("no dropout key", "dropout without rngs: one mask, from key 0"),
    "misnamed_dropout_key": ("misnamed key", "dropout with a stream of another name: one mask, from key 0"),
    "dropped_update": ("update dropped", "batch norm in training without `mutable`"),
    "called_twice": ("called twice", "one instance called twice in a host: init's output is not apply's"),
    "linen_inside": ("Linen inside", "Linen inside NNX inside Linen: init gives no variables"),
    "untrained_lora": ("LoRA untrained", "LoRA's weights are outside of params"),
}


def probe(release: str, jax: str, python: str) -> Mapping[str, Any]:
    """What the probes found of a release; `error` in their place where it does not install or run."""
    with tempfile.TemporaryDirectory(prefix="flax-") as folder:
        own = os.path.join(folder, "bin", "python")
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_", "PYTHON"))
        }
        for command in (
            ["uv", "venv", "-q", "-p", python, folder],
            ["uv", "pip", "install", "-q", "-p", own, f"flax=={release}", f"jax=={jax}"],
            [own, str(PROBES)],
        ):
            where = environment | {"JAX_PLATFORMS": "cpu"}
            done = subprocess.run(command, env=where, capture_output=True, text=True, check=False, timeout=600)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                words = next((line for line in lines if "No solution" in line or "No interpreter" in line), lines[-1])
                return {"versions": {"flax": release, "jax": jax, "python": python}, "error": words.strip()[:200]}
        found: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def to_page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The page: a row for each release, a column for each failure, and a row of Linen's own layers."""
    rows = [found[release] for release in RELEASES if release in found]
    lines = [*HEAD, _line(["flax", "jax", "Python", *(heading for heading, _ in MEANING.values())])]
    lines.append(_line(["---"] * (len(MEANING) + 3)))
    for row in rows:
        versions = [row["versions"][name] for name in ("flax", "jax", "python")]
        wrapped = row.get("wrapped", {})
        lines.append(_line([*versions, *(_cell(wrapped.get(name)) for name in MEANING)]))
    native = next((row["native"] for row in reversed(rows) if "native" in row), {})
    lines.append(_line(["Linen's own", "", "", *(_cell(native.get(name)) for name in MEANING)]))
    lines += ["", *(f"- **{heading}**: {text}." for heading, text in MEANING.values())]
    failed = [f"- flax {row['versions']['flax']}: `{row['error']}`" for row in rows if "error" in row]
    errors = {(name, row["versions"]["flax"]): word for row in rows for name, word in row.get("wrapped", {}).items()}
    raised = [
        f"- {MEANING[name][0]}, flax {flax}: {word}." for (name, flax), word in errors.items() if "raises" in word
    ]
    lines += ["", "What raises through the bridge:", "", *raised] if raised else []
    lines += ["", "What could not be tried:", "", *failed] if failed else []
    return "\n".join(lines) + "\n"


HEAD = [
    "# Flax releases and the bridge's silent failures",
    "",
    "Wrong inputs of an NNX layer behind `nnx.bridge.to_linen`, in bare Flax with a JAX of its time, on the CPU:",
    "**silent** where they are accepted and the numbers are wrong, raises where Flax refuses them. Up to 0.11.2 the",
    "wrapper keeps its graph among the variables, and raises where the graph or a leaf of it is missing; from 0.12.0",
    "on, none of these raises.",
    "Made by `python tests/benchmarks/flax_releases.py`.",
    "",
]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(word: str | None) -> str:
    return {None: "–", "silent": "**silent**"}.get(word, (word or "").partition(" ")[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="releases, separated by commas; by default all")
    typed = parser.parse_args()
    wanted = typed.only.split(",") if typed.only else list(RELEASES)
    if unknown := [release for release in wanted if release not in RELEASES]:
        print(f"--only {','.join(unknown)}: no such release; there are {', '.join(RELEASES)}", file=sys.stderr)
        return 2
    for release in wanted:
        row = probe(release, *RELEASES[release])
        print(release, row.get("error") or row["wrapped"], flush=True)
        found = (json.loads(FOUND.read_text()) if FOUND.exists() else {}) | {release: row}
        kept = {name: found[name] for name in RELEASES if name in found}
        FOUND.write_text(json.dumps(kept, indent=1) + "\n")
        PAGE.write_text(to_page(kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
