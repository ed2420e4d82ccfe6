"""The GitHub Action and the pre-commit hooks, run as a runner and as pre-commit run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
SETUP, INSTALL, CHECK = ACTION["runs"]["steps"]

LAYERS = """
import jax
from flax import nnx


class Good(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.linear(x)


class Bad(Good):
    def __call__(self, x):
        return self.linear(x) + jax.random.normal(jax.random.key(3), x.shape)
"""


class Job:
    """A job on a runner of GitHub: its folders, and the files that a step writes for it.

    Args:
      folder: Where they are made.
      python: The Python that is on PATH.
    """

    def __init__(self, folder: Path, python: Path) -> None:
        self.workspace, self.temp = folder / "work", folder / "temp"
        self.output, self.summary = folder / "temp" / "output", folder / "temp" / "summary.md"
        for path in (self.workspace / "my_pkg", self.temp, folder / "home"):
            path.mkdir(parents=True)
        (self.workspace / "my_pkg" / "layers.py").write_text(LAYERS)
        self.environment = {
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(self.output),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_WORKSPACE": str(self.workspace),
            "HOME": str(folder / "home"),
            "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
            "RUNNER_TEMP": str(self.temp),
        }
        for name in ("JAX_COMPILATION_CACHE_DIR", "BRIDGE_RUNNER_LOCKS"):
            if name in os.environ:
                self.environment[name] = os.environ[name]

    def run(self, step: dict, **inputs: str) -> subprocess.CompletedProcess[str]:
        """Runs a step as a runner does: inputs put in, files emptied, the script given to bash."""
        known = {name: str(given.get("default", "")) for name, given in ACTION["inputs"].items()} | inputs

        def put(text: str) -> str:
            return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: known[match[1]], text)

        assert step["shell"] == "bash"
        for path in (self.output, self.summary):
            path.write_text("")
        script = self.temp / "step.sh"
        script.write_text(put(step["run"]))
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
            cwd=self.workspace / put(step.get("working-directory", ".")),
            env=self.environment | {name: put(value) for name, value in step.get("env", {}).items()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def outputs(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.output.read_text().splitlines())


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path, Path(sys.executable))


def test_the_action_fails_on_a_fail(job):
    done = job.run(CHECK, target="my_pkg.layers.Bad", options="'input_shape=[2,4]' --traced")
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("::error")]
    assert line.startswith("::error title=Bad%3A nothing_invented,file=my_pkg/layers.py,line=16::")
    assert "## bridge-runner check: fail\n" in job.summary.read_text()
    outputs = job.outputs()
    assert outputs == {"exit-code": "1", "junit": str(job.temp / "bridge-runner-checks.xml")}
    assert ElementTree.parse(outputs["junit"]).getroot().get("failures") == "1"


@pytest.mark.slow
def test_the_action_passes_a_healthy_layer(job):
    done = job.run(
        CHECK, target="layers.Good", options="input_shape=[2,4]\n--traced", **{"working-directory": "my_pkg"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "::notice title=bridge-runner check::every check passes: Good"
    assert job.outputs()["exit-code"] == "0"
    assert list(job.workspace.rglob("outputs")) == []


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("inputs", "code", "error"),
    [
        (
            {},
            2,
            "::error title=bridge-runner check::with: one of target and layer is wanted, or options that name a layer",
        ),
        ({"layer": "mlp", "target": "a.B"}, 2, "::error title=bridge-runner check::with: one of target and layer"),
        ({"layer": "mpl"}, 2, "::error title=bridge-runner check::"),
        ({"options": "layer=linear $(touch here) `touch here` ; touch here"}, 2, "::error title=bridge-runner check::"),
        ({"layer": "linear; touch here #"}, 2, "::error title=bridge-runner check::"),
        ({"options": "'layer=linear"}, 1, ""),
    ],
)
def test_wrong_inputs_are_refused_and_run_nothing(inputs, code, error, job):
    done = job.run(CHECK, **inputs)
    assert done.returncode == code
    assert done.stdout.startswith(error)
    assert not (job.workspace / "here").exists()
    assert job.summary.read_text() == ""


def test_inputs_are_never_part_of_a_script():
    assert [step["run"] for step in (INSTALL, CHECK) if "${{" in step["run"]] == []
    assert SETUP["if"] == "inputs.python-version != 'off'"
    assert ACTION["inputs"]["python-version"]["default"] == "off"


@pytest.mark.slow
def test_the_action_installs_itself(tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(f"{Path(pytest.__file__).resolve().parent.parent}\n")
    job = Job(tmp_path / "job", tmp_path / "venv" / "bin" / "python")
    # Its dependencies are here already; nothing is downloaded.
    job.environment |= {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    done = job.run(INSTALL)
    assert done.returncode == 0, done.stderr
    assert (site / "runner" / "conf" / "config.yaml").exists()
    done = job.run(CHECK, layer="linear", options="--traced")
    assert (done.returncode, job.outputs()["exit-code"]) == (0, "0"), done.stderr


# pre-commit.


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "code"), [("Good", 0), ("Bad", 1)])
def test_the_hook_runs_before_a_commit(layer, code, tmp_path):
    hooks, project = tmp_path / "hooks", tmp_path / "project"
    for folder in (hooks, project):
        folder.mkdir()
        git(folder, "init", "-q")
    (hooks / ".pre-commit-hooks.yaml").write_text((ROOT / ".pre-commit-hooks.yaml").read_text())
    git(hooks, "add", "-A")
    git(hooks, "commit", "-qm", "Hooks")
    (project / "layers.py").write_text(LAYERS)
    args = ["layer=custom", f"layer.target=layers.{layer}", "input_shape=[2,4]", "--traced"]
    hook = {"id": "bridge-runner-check", "args": args}
    config = {"repos": [{"repo": str(hooks), "rev": "HEAD", "hooks": [hook]}]}
    (project / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    git(project, "add", "-A")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PRE_COMMIT_HOME": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "run"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert ("nothing_invented: fail" in done.stdout) is bool(code)
    assert ("bridge-runner check" in done.stdout) and "Skipped" not in done.stdout
