"""What of a saved tree is the variables of a model."""

from __future__ import annotations

import numpy as np
import pytest

from runner.arrays.readings import COLLECTIONS, STATE_KEYS, as_variables

A, B = np.zeros(2), np.ones(3)


@pytest.mark.parametrize("name", ["batch_stats", "cache", "LoRAParam", "intermediates"])
def test_known_collections_alone_are_variables(name):
    assert name in COLLECTIONS
    assert as_variables({name: {"a": A}, "own": {"b": B}}) == {name: {"a": A}, "own": {"b": B}}


@pytest.mark.parametrize("name", ["opt_state", "step", "tx", "opt", "optimizer", "optimizer_state"])
def test_a_train_states_other_fields_are_none(name):
    assert name in STATE_KEYS
    assert as_variables({"params": {"a": A}, name: {"b": B}}) == {"params": {"a": A}}


def test_trees_without_collections_are_params():
    assert as_variables({"dense": {"a": A}}) == {"params": {"dense": {"a": A}}}
    assert as_variables({"params": {"params": {"a": A}}, "step": B}) == {"params": {"a": A}}
    assert as_variables({"params": {"a": {"value": A}}, "cache": {"b": B}}) == {"params": {"a": A}, "cache": {"b": B}}


def test_what_is_expected_decides_between_readings():
    tree = {"params": {"params": {"value": A}}}
    assert as_variables(tree, {"params": {"params": {"value": A}}}) == tree
    assert as_variables(tree, {"params": {"value": A}}) == {"params": {"value": A}}
