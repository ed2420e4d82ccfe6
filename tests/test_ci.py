"""CI, the hooks before a commit and the metadata agree: the same commands, the same versions of Python."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
SCRIPTS = sorted((ROOT / ".ci").iterdir())


def commands(script: str) -> list[str]:
    """The lines of a script that run something, but for its preamble."""
    lines = (ROOT / ".ci" / script).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "set ", "cd ", "export ", "echo "))]


def steps(job: str) -> list[str]:
    return [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]


def requirement(text: str) -> str:
    """The name of a requirement as pip normalises it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", text)[0]).lower()


def test_the_hooks_before_a_commit_are_the_commands_of_lint():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == commands("lint")
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert {(hook["language"], hook["pass_filenames"]) for hook in hooks} == {("system", False)}


def test_lint_comes_before_everything_that_takes_minutes():
    called = [line.rpartition(" ")[2] for line in commands("run")]
    assert called.index(".ci/lint") < next(i for i, line in enumerate(commands("run")) if "bridge-runner" in line)
    assert called.index(".ci/lint") < next(i for i, line in enumerate(commands("run")) if "pytest" in line)


def test_the_matrix_has_the_python_versions_of_the_classifiers():
    versions = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)]
    matrix = WORKFLOW["jobs"]["matrix"]["strategy"]["matrix"]
    assert matrix == {"python": versions, "extras": ["off", "on"]}
    assert PROJECT["requires-python"] == f">={versions[0]}"


def test_the_workflow_runs_the_scripts_of_ci():
    assert steps("everything") == [".ci/run"]
    assert steps("matrix") == [".ci/python ${{ matrix.python }} ${{ matrix.extras }}"]


def test_only_versions_without_pins_may_fail():
    assert WORKFLOW["jobs"]["matrix"]["continue-on-error"] == "${{ matrix.python != '3.11' }}"
    assert all("continue-on-error" not in job for name, job in WORKFLOW["jobs"].items() if name != "matrix")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_run_and_is_bash(path):
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env bash\n# ")
    subprocess.run(["bash", "-n", path], check=True, timeout=10)


def test_every_dependency_is_pinned_once_at_a_version_for_all():
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pinned)
    names = [requirement(line) for line in pinned]
    assert len(names) == len(set(names))
    wanted = [
        *PROJECT["dependencies"],
        *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
    ]
    assert {requirement(text) for text in wanted} <= set(names)


def test_what_is_needed_to_run_has_a_lower_bound():
    assert [text for text in PROJECT["dependencies"] if ">=" not in text] == []
