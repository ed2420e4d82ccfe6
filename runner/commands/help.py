"""`bridge-runner help`: lists the commands, or prints the help page of one verb."""

from __future__ import annotations

import argparse

from runner.commands.typed.verb import VERBS, Verb, load
from runner.config import conf_folder
from runner.errors import visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `help`."""
    parser.add_argument("verb", nargs="?", metavar="VERB", help="; ".join(VERBS).replace("; ", ", "))


def run(typed: argparse.Namespace) -> int:
    """Prints the help page of a verb, or the overview.

    Raises:
      UserError: The verb does not exist.
    """
    print(visible(overview() if typed.verb is None else load(typed.verb).help()), end="")
    return 0


def overview() -> str:
    """The overview, read from the files in conf/ without composing them: Hydra takes half a second."""
    conf = conf_folder.config_dir()
    groups = {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in sorted(conf.iterdir())}
    lines = [f"  {name:<11} {', '.join(choices)}" for name, choices in groups.items() if choices]
    keys = (conf / "config.yaml").read_text().partition("# The four axes")[2].partition("\nhydra:")[0]
    return HELP.format(groups="\n".join(lines), keys=f"# The four axes{keys}".strip())


HELP = """\
Runs an NNX layer inside Linen, over seeds, shapes, features and devices.

  bridge-runner layer=mlp seed=1 features=16                                  one run
  bridge-runner -m seed=0,1,2 'input_shape=[4],[16]' features=8,32            a sweep: every combination
  bridge-runner -m seed=0,1 features=8,16 'grid.zip=[[seed,features]]'        values that go together
  bridge-runner layer=custom layer.target=my_pkg.MyLayer layer.kwargs.hidden=64   your layer
  bridge-runner process.num_cpu_devices=8 'mesh.axes={{data:2,model:4}}' 'input_shape=[4,8]'  over several devices
  bridge-runner -m +experiment=width                                          a named experiment
  bridge-runner -m seed=0,1,2 hydra/launcher=ray       on an engine: joblib, submitit_local, submitit_slurm, ray
  bridge-runner -m hydra/sweeper=optuna search.objective=output_norm 'seed=range(0,99)'  a search for the best run

  bridge-runner check KEY=…       is this layer safe inside Linen? every check, and what fixes one that fails (--json)
  bridge-runner plan KEY=…        what a sweep would do; runs nothing
  bridge-runner resume SWEEP      what is missing or failed
  bridge-runner ls [SWEEP]        sweeps, or the runs of one (--json); --watch follows it, --by KEY puts seeds together
  bridge-runner show RUN          one run (--json)
  bridge-runner rerun RUN         a saved run again: the same bits?
  bridge-runner verify RUN|SWEEP  from the folder alone: files, leaves, output still what they were? (--device gpu)
  bridge-runner reload RUN        load it (--as nnx, --dtype, --only), apply it, say how exactly it agrees
  bridge-runner diff OLD NEW      two trees of variables: what moved, which name= fixes it, and the proof
  bridge-runner compare A B       two sweeps or runs: same results? slower? one verdict (--rerun 30 settles it)
  bridge-runner export RUN --to … its variables as nnx, linen or safetensors keep them
  bridge-runner import PATH       … and back to variables (--like RUN where another program saved them)
  bridge-runner sync SWEEP        its W&B runs to the server, each once; --watch as they come
  bridge-runner results SWEEP     results.parquet, results.csv and checks.md from the records
  bridge-runner report SWEEP      report.html: the sweep as one page, without a network; --watch serves it as it grows

  bridge-runner help VERB         what a verb takes, with examples (VERB --help says the same)
  bridge-runner completion bash   shell completion: eval "$(bridge-runner completion bash)"; or zsh, fish

Groups, each a folder of choices (group=choice; experiment and debug with a plus):
{groups}

Keys, each with its value when nothing is typed (--cfg job shows a group's keys too):

{keys}

Hydra's own flags (--cfg, --config-dir, --shell-completion, …): bridge-runner --hydra-help
"""

VERB = Verb(
    name="help",
    summary="What can be typed, or the page of one verb.",
    usage="help [VERB]",
    examples={"help": "all verbs, groups and keys", "help compare": "the same as compare --help"},
    add_arguments=add_arguments,
    run=run,
)
