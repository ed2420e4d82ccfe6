"""The packages of the design: who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "runner"

# From the top. A package imports only from those below its own.
PACKAGES = (
    "__init__",
    "__main__",
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

# Imports upwards that are still to be moved.
UPWARDS = {
    ("sweep", "launch"),
    ("experiment", "launch"),
    ("experiment", "sweep"),
    ("config", "records"),
    ("config", "sweep"),
}

# Outside packages that are a room's own business.
OWNERS = {
    "wandb": {"tracking"},
    "tensorboardX": {"tracking"},
    "orbax": {"arrays"},
    "safetensors": {"arrays"},
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
            if imported != name and not below and (name, imported) not in UPWARDS:
                wrong.append(f"{name} imports {imported}, which is not below it")
        for outside, owners in OWNERS.items():
            if (dotted + ".").startswith(outside + ".") and name not in owners:
                wrong.append(f"{name} imports {outside}, which belongs to {', '.join(sorted(owners))}")
    return wrong


FILES = sorted(path for path in ROOT.rglob("*.py") if "plugins" not in path.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).with_suffix("").as_posix())
def test_a_file_imports_only_from_packages_below_its_own(path):
    assert wrong_imports(package(path), path.read_text()) == []


def test_every_package_is_in_the_table():
    assert {package(path) for path in FILES} == set(PACKAGES)


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
