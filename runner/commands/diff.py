"""`bridge-runner diff OLD NEW`: what a new layer changed in the tree, the names that fix it, and the proof."""

from __future__ import annotations

import argparse
import ast

from runner.commands.typed.hydra_command import make_importable
from runner.commands.typed.verb import Verb
from runner.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the arguments of `diff`."""
    parser.add_argument(
        "sides",
        nargs=2,
        metavar="SIDE",
        help="a run, a checkpoint or a part of it (CHECKPOINT#NAMES), pkg.mod:Host(width=8), that with @CHECKPOINT, "
        "or layer=mlp",
    )
    parser.add_argument("--input", metavar="SHAPE", help="shape of x for hosts, e.g. '[2,8]'")
    parser.add_argument("--input-dtype", default="float32", metavar="DTYPE", help="element type of x; default: float32")
    parser.add_argument("--call", action="append", default=[], metavar="NAME=VALUE", help="an argument of every call")
    parser.add_argument("--apply", action="store_true", help="write the renamed checkpoint")
    parser.add_argument("--json", action="store_true", help="the differences as data")
    parser.add_argument("--trust", action="store_true", help="import modules that are neither ours nor flax's")


def run(typed: argparse.Namespace) -> int:
    """Compares two models or checkpoints; 0 only if the trees are the same and the proof holds.

    Raises:
      UserError: A side can't be compared.
    """
    make_importable()
    from runner.bridge.rules import sources
    from runner.commands.migration import diff_sides, model_diff
    from runner.config.composing import compose

    pairs = [text.partition("=") for text in typed.call]
    try:
        call = {key: ast.literal_eval(value) for key, _, value in pairs}
        shape = None if typed.input is None else tuple(int(axis) for axis in ast.literal_eval(typed.input))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UserError("diff: --input takes a shape and --call NAME=LITERAL", VERB.usage_line) from error
    options = diff_sides.Options(
        input_shape=shape,
        input_dtype=typed.input_dtype,
        call=call,
        apply=typed.apply,
        as_json=typed.json,
        trust=typed.trust,
        rules=sources.path_rules(compose.compose(typed.settings).rules) if typed.settings else None,
    )
    old, new = typed.sides
    return model_diff.diff(old, new, options)


VERB = Verb(
    name="diff",
    summary="Two trees of variables: what moved, which name= fixes it, and the proof.",
    usage="diff OLD NEW [--input '[2,8]'] [--input-dtype int32] [--call a=1] [--apply] [--json] [--trust] [rules=FILE]",
    examples={
        "diff 'nets:CNN()@old' 'nets:CNN(migrated=True)' --input '[1,28,28,1]'": "before and after a migration",
        "diff outputs/a/0 outputs/b/0": "two runs",
        "diff old layer=mlp --apply": "and write the checkpoint with the new names",
        "diff old new 'rules=my_pkg.sharding:rules()'": "and what the pipeline's rules do with the new names",
    },
    add_arguments=add_arguments,
    run=run,
    exit_codes={
        0: "the trees are the same, and the proof holds",
        1: "they differ, there is no proof, or a rule does not fit",
    },
    settings="rules",
    paths={"sides": "run"},
)
