"""`diff OLD NEW rules=…`: names that the pipeline's rules and masks knew, and no longer know."""

from __future__ import annotations

import json

import pytest

from runner.commands import main

OLD, INPUT = "ruled_layers:Net()", ("--input", "[2,4]")


@pytest.fixture
def run(capsys):
    """`diff` from the old net to another, with settings: the exit code and what it says of rules."""

    def command(new, *settings, old=OLD):
        code = main.main(["diff", old, new, *settings, *INPUT])
        out = capsys.readouterr().out
        lines = out.partition("\nrules: ")[2].partition("\n\n")[0].splitlines()
        return code, [line.strip() for line in lines]

    return command


def test_new_catch_all_names_warn(run):
    code, lines = run('ruled_layers:Net("Renamed")', "rules=ruled_layers:partition_rules()")
    assert code == 1  # the trees differ
    assert lines == [
        "warn: params/ff/w_in meets only the catch-all '.*': P(None), where params/ff/up/kernel in its place meets "
        "'ff/up/kernel': P('fsdp', 'mp')",
        "params/ff/w_out meets only the catch-all '.*': P(None), where params/ff/down/kernel in its place meets "
        "'ff/down/kernel': P('mp', 'fsdp')",
        "'ff/up/kernel', 'ff/down/kernel' match nothing any more",
        "fix  ('(.*/)?ff/w_in$', PartitionSpec('fsdp', 'mp')),  # before that rule",
        "('(.*/)?ff/w_out$', PartitionSpec('mp', 'fsdp')),  # before that rule",
    ]


def test_the_same_names_meet_the_same_rules(run):
    assert run(OLD, "rules=ruled_layers:partition_rules()") == (0, ["each of 6 leaves meets a partition rule"])


def test_no_rule_for_a_new_name_fails(run):
    code, lines = run('ruled_layers:Net("Renamed")', "rules=ruled_layers:partition_rules(catch_all=False)")
    assert code == 1
    assert lines[0] == "fail: params/ff/w_in, params/ff/w_out meet no rule, for which EasyLM raises an error"


def test_unmet_old_rules_are_doubted(run):
    code, lines = run(OLD, "rules.partition=[[other,[a]]]")
    assert (code, lines[0][:5]) == (1, "fail:")
    assert "in the old tree too params/ff/down/bias, params/ff/down/kernel" in lines[1]


def test_matrices_that_lose_weight_decay_are_counted(run):
    _, lines = run('ruled_layers:Net("Renamed")', "rules.weight_decay=[.*/kernel$]", "rules.match=fullmatch")
    assert lines[0] == "warn: 2 of 2 matrices of the new layer get no weight decay: params/ff/w_in, params/ff/w_out"


def test_newly_decayed_vectors_warn(run):
    mask = "rules.weight_decay={scale:0.0,bias:0.0,.*:1.0}"
    _, lines = run('ruled_layers:Net("Normed")', mask, old="ruled_layers:Net(norm=True)")
    assert lines[0] == "warn: params/ff/gamma gets weight decay, and what was there got none"


def test_unfrozen_renamed_leaves_fail(run):
    code, lines = run('ruled_layers:Net("Renamed")', "rules.freeze={ff/up:true,ff/down:true}")
    assert code == 1
    assert lines[0] == "fail: params/ff/w_in, params/ff/w_out are trained, and what was there is frozen"


def test_a_leaf_that_stays_frozen_passes(run):
    _, lines = run('ruled_layers:Net("Renamed")', "rules.freeze={ff/.*:true}")
    assert lines == ["2 of 4 leaves are frozen"]


def test_json_has_the_rules(capsys):
    words = ["diff", OLD, 'ruled_layers:Net("Listed")', "rules=ruled_layers:partition_rules()", *INPUT, "--json"]
    assert main.main(words) == 1
    rules = json.loads(capsys.readouterr().out)["rules"]
    assert (rules["name"], rules["verdict"]) == ("rules", "fail")
    assert rules["evidence"]["partition"]["params/ff/parts/0/bias"] == "'bias': P(None)"
