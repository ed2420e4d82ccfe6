"""The reference pages of docs/ that are made from the code: keys, columns, checks, layers, verbs.

python tests/benchmarks/reference.py            writes them to docs/reference
python tests/benchmarks/reference.py --check    exits 1 and names those that are stale
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import functools
import inspect
import itertools
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner.checks import registry
from runner.checks.results import verdicts
from runner.commands.typed import verb
from runner.config import conf_folder, schema
from runner.config.settings.run import Run
from runner.config.settings.sweep import SearchSettings
from runner.errors import literal
from runner.experiment import cross_checks
from runner.records import columns

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"
MADE = "Made from the code by `python tests/benchmarks/reference.py`."

# Checks of a run's own numbers, in the order of a record.
OF_A_RUN: tuple[Callable[..., Any], ...] = (
    cross_checks.finite,
    verdicts.as_traced,
    verdicts.repeatable,
    verdicts.eager,
    cross_checks.one_device,
    cross_checks.twin_curve,
)


def main() -> int:
    """Writes the pages, or compares them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing: name the pages that are stale")
    only_check = parser.parse_args().check
    stale = [name for name, page in pages().items() if not _is(FOLDER / name, page)]
    for name in stale:
        if only_check:
            print(f"docs/reference/{name} is stale: python tests/benchmarks/reference.py")
        else:
            (FOLDER / name).write_text(pages()[name])
    return int(only_check and bool(stale))


@functools.cache
def pages() -> Mapping[str, str]:
    """Every page by its file name."""
    return {
        "checks.md": checks_page(),
        "columns.md": columns_page(),
        "commands.md": commands_page(),
        "keys.md": keys_page(),
        "layers.md": layers_page(),
    }


def _is(path: Path, page: str) -> bool:
    return path.exists() and path.read_text() == page


def keys_page() -> str:
    """Every key of the config: its type, its value when nothing is typed, and its meaning."""
    run = _default_run()
    parts = [KEYS_HEAD, *_rows(run, "", of=Run)]
    groups = {field.name: getattr(run, field.name) for field in dataclasses.fields(Run)}
    for name, value in (groups | {"search": SearchSettings()}).items():
        if dataclasses.is_dataclass(value):
            parts += ["", f"## {name}", "", _first(type(value)), *_choices(name), "", *_rows(value, f"{name}.")]
    return "\n".join(parts) + "\n"


def _rows(value: Any, prefix: str, of: type | None = None) -> list[str]:
    """The table of one settings class, without the fields that are groups."""
    meanings = _attributes(of or type(value))
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(value):
        default = getattr(value, field.name)
        if not dataclasses.is_dataclass(default):
            kind = str(field.type).replace("|", "or").replace("None", "null")
            meaning = meanings[field.name].replace("|", "\\|")
            lines.append(f"| `{prefix}{field.name}` | {kind} | `{_typed(default)}` | {meaning} |")
    return lines


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    return literal(value.value if isinstance(value, enum.Enum) else value)


def _attributes(of: type) -> Mapping[str, str]:
    """The meanings under "Attributes:" of a docstring."""
    section = inspect.getdoc(of).partition("Attributes:\n")[2]
    found = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", section, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in found}


def _choices(group: str) -> list[str]:
    """The files of a group, each with its first sentence."""
    files = sorted((conf_folder.config_dir() / group).glob("*.yaml")) if group != "layer" else []
    if group == "layer":
        return ["", "The choices are in [layers](layers.md)."]
    return ["", *(f"- `{group}={path.stem}`: {_comment(path)}" for path in files)] if files else []


def _comment(path: Path) -> str:
    """The first sentence of the comment that opens a file."""
    text = " ".join(line.removeprefix("#").strip() for line in _opening(path)).strip()
    return re.split(r"(?<=[^.])[.:] (?=[A-Z])|\s{2,}", text)[0].rstrip(".:") if text else path.stem


def _opening(path: Path) -> list[str]:
    """The first paragraph of the comment, behind Hydra's own line."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    lines = list(itertools.dropwhile(lambda line: line.strip() in ("", "#"), lines))
    return list(itertools.takewhile(lambda line: line.startswith("# "), lines))


def _default_run() -> Run:
    import hydra

    schema.register()
    with hydra.initialize_config_dir(str(conf_folder.config_dir().resolve()), version_base="1.3"):
        return schema.from_config(hydra.compose("config"))


def layers_page() -> str:
    """The layers of conf/layer."""
    names = [name for name in schema.layer_names() if name != "custom"]
    lines = [f"| `{name}` | {_comment(conf_folder.config_dir() / 'layer' / f'{name}.yaml')} |" for name in names]
    return LAYERS_HEAD.format(num=len(names)) + "\n".join(["| layer | what it is |", "|---|---|", *lines]) + "\n"


def columns_page() -> str:
    """The columns of results.parquet."""
    rows = [
        f"| `{name}` | {columns.unit(name)} | {column.type} | {column.meaning} |"
        for name, column in columns.COLUMNS.items()
    ]
    return "\n".join([COLUMNS_HEAD, "| column | unit | type | meaning |", "|---|---|---|---|", *rows]) + "\n"


def checks_page() -> str:
    """What each check asks, from the docstring of its module or function."""
    parts = [CHECKS_HEAD]
    for title, found in (("Checks that trace", registry.TRACED), ("Checks that compile and run", registry.FULL)):
        parts.append(f"## {title}\n")
        for name, check in found.items():
            parts.append(f"### {name}\n\n{_of_module(sys.modules[check.__module__])}{_fails_a_run(name)}\n")
    parts.append("## Checks of a run's numbers\n")
    for check in OF_A_RUN:
        head = inspect.getdoc(check).partition("\nArgs:")[0].strip()
        parts.append(f"### {check.__name__}\n\n{head}{_fails_a_run(check.__name__)}\n")
    return "\n".join(parts)


def _of_module(module: Any) -> str:
    text = inspect.getdoc(module).partition(": ")[2]
    return text[0].upper() + text[1:]


def _fails_a_run(name: str) -> str:
    return "\n\nWith `checks=strict` its failure fails the run." if name in verdicts.STRICT else ""


def commands_page() -> str:
    """The help page of every verb."""
    parts = [COMMANDS_HEAD]
    for name in verb.VERBS:
        parts.append(f"## {name}\n\n```console\n{verb.load(name).help().rstrip()}\n```\n")
    return "\n".join(parts)


def _first(of: type) -> str:
    return inspect.getdoc(of).partition("\n")[0]


KEYS_HEAD = f"""\
# Keys of the config

{MADE} A key is typed as `key=value`, a choice of a group as
`group=choice`; the default is what holds when nothing is typed. `bridge-runner --cfg job` prints the whole config.
"""

LAYERS_HEAD = f"""\
# Layers

{MADE} `layer=NAME` chooses one of these {{num}};
`layer=custom layer.target=my_pkg.MyLayer` takes [one of your own](../tutorial/own-layer.md).
[The matrix](matrix.md) has each of them against every check.

"""

COLUMNS_HEAD = f"""\
# Columns of results.parquet and results.csv

One row a run that is done or has failed, in the order of the sweep. A column keeps its name, type and meaning; new ones
come at the end. What a run does not have (it failed, it was not timed) is null, in CSV nothing.

A time is to be read with its flags (`apply_latency_flags`), and a single seed's time says little. The median over the
seeds, its 99 % interval and the number of runs: `bridge-runner ls SWEEP --by features`, and in Python
`runner.load(SWEEP).by("features")`. {MADE}
"""

CHECKS_HEAD = f"""\
# Checks

{MADE}

A *fail* means that a number, a weight or an update is silently wrong or lost, or that the layer can't do what it is
for; a *warn* is loud when it happens, or right under a condition that is named. A check that could not be made is never
a pass.

A sweep makes those that trace, once a program; `bridge-runner check`, `runner.check` and `checks=full` make all.
With `checks=warn` a failure is only reported, with `checks=off` nothing is checked.
"""

COMMANDS_HEAD = f"""\
# Verbs of the command line

{MADE} The first word after `bridge-runner` is a verb; with none it is a Hydra command line, which runs what was typed.
"""

if __name__ == "__main__":
    sys.exit(main())
