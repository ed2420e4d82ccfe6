"""The packages of the design: who may import whom, and what a package and a file may hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "runner"

# From the top. A package imports only from those below its own.
PACKAGES = (
    "__init__",
    "__main__",
    "testing",
    "commands",
    "launch",
    "sweep",
    "report",
    "experiment",
    "checks",
    "bridge",
    "tracking",
    "arrays",
    "timing",
    "records",
    "config",
    "errors",
)

# Outside packages that are a room's own business.
OWNERS = {
    "wandb": {"tracking"},
    "wandb_workspaces": {"tracking"},
    "tensorboardX": {"tracking"},
    "mlflow": {"tracking"},
    "aim": {"tracking"},
    "aimrocks": {"tracking"},
    "orbax": {"arrays"},
    "safetensors": {"arrays"},
    "tensorstore": {"arrays"},
    "scipy": {"timing"},
    "flax.linen": {"bridge"},
    "flax.nnx.bridge": {"bridge"},
    "hydra": {"config", "launch", "commands"},
    "omegaconf": {"config", "launch", "commands"},
    "optax": {"experiment"},
    "optuna": {"launch"},
    "sqlalchemy": {"launch"},
    "rich": {"report", "commands"},
    "jinja2": {"report"},
    "pyarrow": {"records"},
    "ray": {"launch"},
    "pandas": {"report"},
    "matplotlib": {"report"},
    "pytest": {"testing"},
}


def imports(source: str) -> Iterator[str]:
    """Dotted names that `source` imports, wherever in the file; not those for the type checker alone."""
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package(path: Path) -> str:
    """The first folder or file below `runner`."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def wrong_imports(name: str, source: str) -> list[str]:
    wrong = []
    for dotted in imports(source):
        if dotted.startswith("runner."):
            imported = dotted.split(".")[1]
            below = PACKAGES.index(imported) > PACKAGES.index(name) if imported in PACKAGES else False
            if imported != name and not below:
                wrong.append(f"{name} imports {imported}, which is not below it")
        for outside, owners in OWNERS.items():
            if (dotted + ".").startswith(outside + ".") and name not in owners:
                wrong.append(f"{name} imports {outside}, which belongs to {', '.join(sorted(owners))}")
    return wrong


FILES = sorted(path for path in ROOT.rglob("*.py") if "plugins" not in path.parts)


@pytest.mark.sampled
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).with_suffix("").as_posix())
def test_files_import_only_from_packages_below(path):
    assert wrong_imports(package(path), path.read_text()) == []


def test_every_package_is_in_the_table():
    assert {package(path) for path in FILES} == set(PACKAGES)


def test_contributing_has_the_same_table():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT.parent / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert rows == [name for name in PACKAGES if (ROOT / name).is_dir()]


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("timing", "from runner.sweep import plan", "timing imports sweep, which is not below it"),
        ("records", "from runner.arrays.trees import flatten", "records imports arrays, which is not below it"),
        ("checks", "def f():\n    import wandb", "checks imports wandb, which belongs to tracking"),
        ("timing", "from flax import linen", "timing imports flax.linen, which belongs to bridge"),
    ],
)
def test_an_import_upwards_is_found(name, source, reason):
    assert wrong_imports(name, source) == [reason]


# The two that give a name without importing what it needs until it is asked for.
LAZY = {"__init__.py", "bridge/__init__.py"}

# What looks at saved runs, or starts before JAX's environment is set, comes up without JAX.
WITHOUT_JAX = ("config", "records", "tracking", "report")
WITHOUT_JAX_TOO = ("runner.launch.worker", "runner.launch.process")
MAY_IMPORT_JAX = {"runner.report.compare.rounds"}

# Folders of tests that are no package's: what subprocesses import, what is run by hand, and what runs in others' code.
NO_PACKAGE = {"support", "benchmarks", "pipelines"}

MAX_LINES = 350


def more_than_a_docstring(source: str) -> list[str]:
    """The statements of a module besides its docstring, each by its first line."""
    tree = ast.parse(source)
    rest = tree.body[1:] if ast.get_docstring(tree) else tree.body
    return [ast.unparse(node).splitlines()[0] for node in rest]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("__init__.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_packages_hold_only_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert path.relative_to(ROOT).as_posix() in LAZY or more_than_a_docstring(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('"""Runs."""', []),
        ('"""Runs."""\nfrom runner.sweep.plan import make_plan', ["from runner.sweep.plan import make_plan"]),
        ("LIMIT = 3", ["LIMIT = 3"]),
    ],
)
def test_code_in_init_files_is_found(source, found):
    assert more_than_a_docstring(source) == found


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def first_with_jax(names: list[str]) -> str:
    """The first of the modules `names` with which JAX or Flax is loaded, in a process that imports them in order."""
    code = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
    if not {{"jax", "flax"}}.isdisjoint(sys.modules):
        sys.exit(print(name))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT.parent, check=True, timeout=120, capture_output=True, text=True)
    return done.stdout.strip()


def test_saved_run_packages_avoid_jax():
    files = [path for name in WITHOUT_JAX for path in sorted((ROOT / name).rglob("*.py"))]
    names = [*map(dotted, files), *WITHOUT_JAX_TOO]
    assert first_with_jax([name for name in names if name not in MAY_IMPORT_JAX]) == ""


@pytest.mark.slow
@pytest.mark.parametrize("exception", sorted(MAY_IMPORT_JAX))
def test_modules_importing_jax_are_found(exception):
    assert first_with_jax(["runner.errors", exception, "runner.config.settings"]) == exception


def folders_without_package(folders: Iterable[str]) -> list[str]:
    """Of folders below tests/, those that mirror no package."""
    known = [name for name in folders if name.split("/")[0] not in NO_PACKAGE]
    return [name for name in known if not (ROOT / name / "__init__.py").exists()]


def test_test_folders_mirror_packages():
    tests = Path(__file__).resolve().parent
    folders = {path.parent.relative_to(tests).as_posix() for path in tests.glob("*/**/*.py")}
    assert "launch" in folders
    assert folders_without_package(folders) == []


def test_test_folders_without_package_are_found():
    assert folders_without_package(["support", "benchmarks/plain", "sweep", "report/html", "program_checks"]) == [
        "program_checks"
    ]


def too_long(lines: Mapping[str, int]) -> list[str]:
    return [name for name, num in lines.items() if num > MAX_LINES]


def test_files_have_at_most_350_lines():
    assert too_long({str(path): len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}) == []


def test_overlong_files_are_found():
    assert too_long({"arrays/tree.py": 350, "arrays/mesh.py": 351}) == ["arrays/mesh.py"]


def test_variables_of_tests_have_unique_names():
    # flax.nnx knows a Variable by its class's name, for the whole process.
    text = "\n".join(path.read_text() for path in sorted((ROOT.parent / "tests").rglob("*.py")))
    pairs = re.findall(r"^ *class (\w+)\((?:nnx\.)?(\w+)", text, flags=re.MULTILINE)
    variables = {"Variable", "Param", "BatchStat"}
    while more := {name for name, base in pairs if base in variables} - variables:
        variables |= more
    named = [name for name, base in pairs if base in variables]
    assert sorted(named) == sorted(set(named))
    assert "Average" in named


def starts_unended(text: str) -> list[str]:
    """Calls that start a process which may outlive its test; `subprocess.run` ends its own."""
    return re.findall(r"subprocess\.Popen\(", text)


def test_processes_of_tests_have_an_end():
    tests = ROOT.parent / "tests"
    paths = [path for path in tests.rglob("*.py") if "benchmarks" not in path.parts and path.name != "slurm_cluster.py"]
    assert [path.name for path in sorted(paths) if starts_unended(path.read_text())] == []


def test_a_process_without_end_is_found():
    assert starts_unended("with subprocess." + "Popen(command):") == ["subprocess." + "Popen("]
    assert starts_unended("with Started(command):") == []
