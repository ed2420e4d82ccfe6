"""The rows of the design: who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "runner"

# From the top. A file imports from rows below its own, and from files of its own row listed before it.
ROWS = (
    ("__init__",),
    ("__main__",),
    ("cli",),
    (
        "replay",
        "verification",
        "migration",
        "reapplying",
        "exporting",
        "comparing",
        "duet",
        "searching",
        "aims",
        "engine",
        "engines",
        "ray_jobs",
        "launching",
        "worker",
        "application",
        "judgement",
        "syncing",
    ),
    ("listing", "reporting"),
    ("sweeping", "space", "grammar"),
    (
        *("pieces", "sweep", "writing", "following", "growing", "planning", "experiment", "counterparts", "failures"),
        *("summary", "reloading", "retention", "loading"),
    ),
    (
        *("terminal", "report_page", "report", "report_head", "matrix"),
        *("verdict", "compare", "times", "pairing", "aggregates", "table", "metrics", "results"),
    ),
    ("claims", "subject", "checks"),
    (
        *("tracking_pool", "tracking_online", "sending", "tracking_wandb", "tracking_tensorboard", "tracking"),
        "wandb_files",
        "replica",
        "steps",
        "checkpoint",
        "clone",
        "tensors",
        "submissions",
        "study",
        "storage",
        "layout",
        "journal",
        "locks",
        "leases",
        "environment",
    ),
    (
        *(
            "program",
            "placement",
            "training",
            "hosts",
            "twins",
            "lifts",
            "native",
            "bridge",
            "targets",
            "layers",
            "recurrent",
            "transformed",
            "stateful",
            "inputs",
            "devices",
            "processes",
            "timing",
            "stats",
        ),
        *("hlo", "differences", "tree_differences", "trees", "shards", "draws", "seeds"),
    ),
    ("redaction", "records"),
    ("schema", "settings"),
    ("errors",),
)

# Outside packages that are a room's own business.
OWNERS = {
    "wandb": {"tracking_wandb", "sending", "wandb_files"},
    "tensorboardX": {"tracking_tensorboard"},
    "orbax": {"checkpoint"},
    "safetensors": {"tensors"},
    "scipy": {"stats"},
    "flax.linen": {"bridge", "hosts", "lifts", "twins"},
    "flax.nnx.bridge": {"bridge", "hosts"},
    "hydra": {"schema", "sweeping", "space", "application", "engine", "engines", "ray_jobs", "worker", "cli"},
    "omegaconf": {"schema", "sweeping", "application", "engine", "engines", "ray_jobs", "worker", "cli"},
    "optax": {"training"},
    "optuna": {"study"},
    "sqlalchemy": {"study"},
    "rich": {"table", "terminal", "listing"},
    "jinja2": {"report_page"},
    "pyarrow": {"results"},
    "ray": {"ray_jobs"},
    "pandas": {"loading"},
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


def rank(name: str) -> int:
    order = [file for row in ROWS for file in row]
    return order.index(name)


def wrong_imports(name: str, source: str) -> list[str]:
    wrong = []
    for dotted in imports(source):
        if dotted.startswith("runner."):
            imported = dotted.split(".")[1]
            if rank(imported) <= rank(name) and imported != name:
                wrong.append(f"{name} imports {imported}, which is not below it")
        for package, owners in OWNERS.items():
            if (dotted + ".").startswith(package + ".") and name not in owners:
                wrong.append(f"{name} imports {package}, which belongs to {', '.join(sorted(owners))}")
    return wrong


def room(path: Path) -> str:
    """The file's name; a folder of files is one room, named by the folder."""
    return path.stem if path.parent == PACKAGE else path.parent.name


FILES = sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("claims/*.py")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).with_suffix("").as_posix())
def test_a_file_imports_only_from_rows_below_its_own(path):
    assert wrong_imports(room(path), path.read_text()) == []


def test_every_file_has_a_row():
    assert {room(path) for path in FILES} == {file for row in ROWS for file in row}


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("timing", "from runner import sweep", "timing imports sweep, which is not below it"),
        ("records", "from runner.storage import write_record", "records imports storage, which is not below it"),
        (
            "checks",
            "def f():\n    import wandb",
            "checks imports wandb, which belongs to sending, tracking_wandb, wandb_files",
        ),
        ("timing", "from flax import linen", "timing imports flax.linen, which belongs to bridge, hosts, lifts, twins"),
    ],
)
def test_an_import_upwards_is_found(name, source, reason):
    assert wrong_imports(name, source) == [reason]
