"""CI, the hooks before a commit and the metadata agree: the same commands, the same versions of Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from other_python import other_python

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
WORKFLOW = WORKFLOWS["ci"]
VERSIONS = (ROOT / "docs" / "reference" / "versions.md").read_text()
PINS = ("constraints.txt", "constraints-3.12.txt")
SCRIPTS = sorted((ROOT / ".ci").iterdir())


def commands(script: str) -> list[str]:
    """The lines of a script that run something, but for its preamble."""
    lines = (ROOT / ".ci" / script).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "set ", "cd ", "export ", "echo "))]


def steps(job: str) -> list[str]:
    return [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]


def pinned(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]


def requirement(text: str) -> str:
    """The name of a requirement as pip normalises it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", text)[0]).lower()


def test_hooks_equal_the_lint_commands():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == commands("lint")
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert {(hook["language"], hook["pass_filenames"]) for hook in hooks} == {("system", False)}


def test_lint_runs_before_slow_steps():
    called = [line.rpartition(" ")[2] for line in commands("run")]
    assert called.index(".ci/lint") < next(i for i, line in enumerate(commands("run")) if "bridge-runner" in line)
    assert called.index(".ci/lint") < next(i for i, line in enumerate(commands("run")) if "pytest" in line)


def test_matrix_covers_the_declared_pythons():
    versions = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)]
    matrix = WORKFLOW["jobs"]["matrix"]["strategy"]["matrix"]
    assert matrix == {"python": versions, "extras": ["off", "on"]}
    assert PROJECT["requires-python"] == f">={versions[0]}"


def test_workflow_runs_the_ci_scripts():
    assert steps("everything") == [".ci/run"]
    assert steps("lowest") == [".ci/lowest"]
    assert steps("matrix") == [".ci/python ${{ matrix.python }} ${{ matrix.extras }}"]


def test_the_newest_versions_stop_no_pull_request():
    newest = WORKFLOWS["newest"]
    assert newest[True].keys() == {"schedule", "workflow_dispatch"}  # YAML reads `on` as true
    job = newest["jobs"]["newest"]
    assert job["strategy"]["matrix"]["python"] == WORKFLOW["jobs"]["matrix"]["strategy"]["matrix"]["python"]
    assert job["steps"][-1] == {"run": ".ci/newest ${{ matrix.python }}"}
    assert " -c " not in (ROOT / ".ci" / "newest").read_text()


def test_the_workflow_uses_the_action_as_users_do():
    (step,) = (step for step in WORKFLOW["jobs"]["action"]["steps"] if step["uses"] == "./")
    inputs = yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]
    assert step["with"].keys() <= inputs.keys()


def test_the_docs_name_the_tested_versions():
    rows = re.findall(r"^\| (3\.1\d) \| `(\S+)` \| (\S+) \| (\S+) \|", VERSIONS, flags=re.MULTILINE)
    pins = {name: dict(line.split("==") for line in pinned(name)) for name in PINS}
    pythons = WORKFLOW["jobs"]["matrix"]["strategy"]["matrix"]["python"]
    wanted = [(python, PINS[python != "3.11"]) for python in pythons]
    assert rows == [(python, name, pins[name]["jax"], pins[name]["flax"]) for python, name in wanted]


@pytest.mark.parametrize(
    ("version", "words", "code"),
    [("3.10", ["-m", "runner", "--help"], 1), ("3.10", ["-c", "import runner; runner.check"], 1), ("3.11", [], 0)],
)
def test_an_older_python_is_one_sentence(version, words, code):
    python = Path(sys.executable) if version == "3.11" else other_python(version)
    if python is None:
        pytest.skip(f"Python {version} is not on this machine")
    words = words or ["-m", "runner", "--version"]
    done = subprocess.run([python, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code
    sentence = f"bridge-runner needs Python 3.11 or later, and this is {version}."
    assert (sentence in done.stderr) is bool(code)
    assert ("Traceback" in done.stderr) is ("-c" in words)


def test_no_cell_may_fail():
    assert "continue-on-error" not in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_every_version_has_its_pins():
    text = (ROOT / ".ci" / "python").read_text()
    assert text.count('pip install -q -c "$pins"') == text.count("pip install") == 2
    assert all((ROOT / name).exists() for name in re.findall(r"pins=(\S+)", text))
    assert "pip install -q -c constraints-3.12.txt " in (ROOT / ".ci" / "newer").read_text()
    assert any(line.startswith(".ci/newer > ") for line in commands("run"))


@pytest.mark.parametrize("code", [0, 3])
def test_newer_versions_count_though_they_run_meanwhile(tmp_path, code):
    """The last lines of `.ci/run`, with other commands in the places of `.ci/newer` and the tests of the engines."""
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    last = lines[next(num for num, line in enumerate(lines) if line.startswith(".ci/newer > ")) :]
    newer, engines = tmp_path / ".ci" / "newer", tmp_path / ".venv" / "bin" / "python"
    for path, line in ((newer, f"echo what newer says; exit {code}"), (engines, "exit 0")):
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
    script = "\n".join(["set -euo pipefail", "tools=$PWD", *last])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("what newer says\n")


def test_newer_versions_are_left_out_loudly(tmp_path):
    for name in ("bash", "env", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    where = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([ROOT / ".ci" / "newer"], env=where, capture_output=True, text=True, check=True, timeout=10)
    assert done.stdout == "NO PYTHON 3.12 OR 3.13 TO BE HAD: the newer versions of JAX and Flax are left out\n"


def test_pins_differ_for_jax_and_flax():
    old, new = (dict(line.split("==") for line in pinned(name)) for name in PINS)
    assert {name for name in ("jax", "jaxlib", "flax") if old[name] == new[name]} == set()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_bash(path):
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env bash\n# ")
    subprocess.run(["bash", "-n", path], check=True, timeout=10)


@pytest.mark.parametrize("name", PINS)
def test_every_dependency_is_pinned_once(name):
    lines = pinned(name)
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    names = [requirement(line) for line in lines]
    assert len(names) == len(set(names))
    wanted = [
        *PROJECT["dependencies"],
        *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
    ]
    assert {requirement(text) for text in wanted} <= set(names)


def test_runtime_dependencies_have_lower_bounds():
    assert [text for text in PROJECT["dependencies"] if ">=" not in text] == []
