"""Rules from files, functions and Python: what is read, in order, and what is refused."""

from __future__ import annotations

import json

import pytest
import ruled_layers
from jax.sharding import PartitionSpec as P

from runner.bridge.rules import patterns, sources
from runner.config.settings import rules as rules_settings
from runner.errors import ConfigError

HERE = "ruled_layers"
WANTED = [("wq/kernel", P("fsdp", "mp")), ("(?:a|b)/w", P(("x", "y"), None)), (".*", P())]
FILES = {
    "rules.yaml": "wq/kernel: [fsdp, mp]\n(?:a|b)/w: P(('x', 'y'), None)\n.*: null\n",
    "list.yaml": "- wq/kernel: P(fsdp, mp)\n- ['(?:a|b)/w', [[x, y], null]]\n- .*\n",
    "rules.json": json.dumps([["wq/kernel", ["fsdp", "mp"]], ["(?:a|b)/w", [["x", "y"], None]], [".*", None]]),
    "rules.txt": "# EasyLM's\nwq/kernel: PS('fsdp', 'mp')\n(?:a|b)/w: PartitionSpec(('x','y'), None)\n.*: P()\n",
}


def pairs(rules):
    return [(rule.pattern, rule.value) for rule in rules.rules]


@pytest.mark.parametrize("name", FILES)
def test_a_file_holds_ordered_rules(name, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    assert pairs(sources.given_rules(str(tmp_path / name)).partition) == WANTED


def test_a_regex_may_be_there_twice(tmp_path):
    (tmp_path / "twice.yaml").write_text("kernel: [a]\nbias: [b]\nkernel: [c]\n")
    found = pairs(sources.given_rules(str(tmp_path / "twice.yaml")).partition)
    assert [pattern for pattern, _ in found] == ["kernel", "bias", "kernel"]


@pytest.mark.parametrize(
    "source",
    [
        f"{HERE}:partition_rules()",
        f"{HERE}:partition_rules(catch_all=True)",
        f"{HERE}.partition_rules",
        f"{HERE}.partition_rules(True)",
        ruled_layers.partition_rules,
        ruled_layers.partition_rules(),
    ],
)
def test_a_function_returns_rules(source):
    assert tuple(pairs(sources.given_rules(source).partition)) == ruled_layers.partition_rules()


def test_a_file_may_hold_every_kind(tmp_path):
    kinds = "partition: {kernel: [a]}\nweight_decay: ['.*/kernel$']\nfreeze: {head: {lr: 1}, .*: null}\n"
    (tmp_path / "all.yaml").write_text(kinds + "match: fullmatch\n")
    found = sources.given_rules(str(tmp_path / "all.yaml"))
    assert found.fullmatch
    assert pairs(found.weight_decay) == [(".*/kernel$", True)]
    assert pairs(found.freeze) == [("head", False), (".*", True)]


@pytest.mark.parametrize("source", [f"{HERE}:kernels", f"{HERE}.kernels", ruled_layers.kernels])
def test_a_function_of_params_is_a_mask(source):
    assert sources.given_rules({"weight_decay": source}).weight_decay is ruled_layers.kernels


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("none.yaml", "it can't be read: No such file or directory"),
        (f"{HERE}:nothing()", "it is neither a file nor a function that can be imported: ruled_layers has no nothing"),
        (f"{HERE}:matrices()", "it raises TypeError: matrices() missing 1 required positional argument: 'params'"),
        (f"{HERE}:partition_rules(x)", "the arguments of a function are literals"),
        (f"{HERE}:WIDTH", "a sequence of (regex, value) is wanted, and not a int"),
        ([("*/kernel", None)], "'*/kernel' is no regex: nothing to repeat at position 0"),
        ([], "there is no rule in it"),
        ([3], "pairs of a regex and a value are wanted, and not 3"),
    ],
)
def test_what_holds_no_rules_is_refused(source, reason):
    with pytest.raises(ConfigError) as caught:
        sources.given_rules(source)
    assert caught.value.reason == reason
    assert str(caught.value.suggestion).startswith("rules.partition=")


def test_reference_like_regexes_need_quotes(tmp_path):
    (tmp_path / "star.yaml").write_text("*/kernel: [a]\n")
    with pytest.raises(ConfigError, match="begins with \\* or \\[ needs quotes"):
        sources.given_rules(str(tmp_path / "star.yaml"))


@pytest.mark.parametrize(
    ("value", "spec"),
    [
        (P("a"), P("a")),
        (["a", None], P("a", None)),
        ("P('a', None)", P("a", None)),
        ("[a, None]", P("a", None)),
        ("fsdp", P("fsdp")),
        ("None", P()),
        (None, P()),
        ('fsdp(axis="data")', 'fsdp(axis="data")'),
    ],
)
def test_partition_values_are_specs_or_tactics(value, spec):
    assert patterns.partition_value(value) == spec


@pytest.mark.parametrize(
    ("word", "override"),
    [
        ("rules=a.yaml", "rules.partition=a.yaml"),
        ("rules=pkg.mod:rules()", "rules.partition='pkg.mod:rules()'"),
        ("rules.weight_decay=pkg.mod:mask(x='y')", "rules.weight_decay='pkg.mod:mask(x=\\'y\\')'"),
        ("rules={match:fullmatch}", "rules={match:fullmatch}"),
        ("rules=null", "rules=null"),
        ("rules.match=fullmatch", "rules.match=fullmatch"),
        ("mesh.rules={embed:model}", "mesh.rules={embed:model}"),
    ],
)
def test_rules_are_typed_without_quotes(word, override):
    assert rules_settings.as_overrides([word]) == [override]


def test_rules_of_a_config_are_read(make_run):
    words = rules_settings.as_overrides([f"rules={HERE}:partition_rules()", "rules.match=fullmatch"])
    found = sources.path_rules(make_run(*words).rules)
    assert found.fullmatch
    assert tuple(pairs(found.partition)) == ruled_layers.partition_rules()


def test_a_config_without_rules_has_none(make_run):
    assert sources.path_rules(make_run().rules) is None


def test_typed_lines_are_rules():
    lines = ["wq/kernel: [fsdp, mp]", "(?:a|b)/w: P(('x', 'y'), None)", ".*"]
    assert pairs(sources.given_rules(lines).partition) == WANTED
