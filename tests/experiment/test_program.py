"""A compiled program: what is noted of its compilation."""

from __future__ import annotations

import pytest

from runner.experiment.draft import make_draft
from runner.experiment.identity import identity_of
from runner.experiment.program import compile_program


@pytest.mark.parametrize("contended", [True, False])
def test_every_compilation_notes_other_work(make_run, contended):
    run = make_run("train.steps=1", "checks=off")
    made = compile_program(make_draft(run, identity_of(run)), contended=contended)
    phases = [made.init_phases, made.apply_phases, made.training.phases]
    assert [one.contended for one in phases] == [contended] * 3
