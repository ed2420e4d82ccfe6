"""The ids of a run: every key of its settings, changed alone, changes those that it must and no other."""

from __future__ import annotations

import dataclasses

import pytest

from runner.config import enums
from runner.config.composing.composed import Config
from runner.config.serialize import to_data
from runner.config.settings.run import family
from runner.experiment.identity import identity_of, timing_id
from runner.records.paths import SweepFolder
from runner.sweep.plan import make_plan, runs_data
from runner.sweep.validate import validate

# What a key changes, each with all that follow: the program, the result, the times.
PROGRAM, RESULT, TIMES, NOTHING = "program", "result", "times", "nothing"
CHANGED = {
    PROGRAM: ("program_id", "result_id", "run_id"),
    RESULT: ("result_id", "run_id"),
    TIMES: ("run_id",),
    NOTHING: (),
}

# Further settings under which a key says something.
TRAINED = {"train.steps": 5}
HOSTED = {"host.target": "runner.bridge.hosts.MLPHost", "host.name": "mlp"}
TOKENS = {"input.kind": enums.InputKind.tokens, "input.dtype": "int32", "input.high": 8}
SHAPED = {"input.shapes": {"mask": [2]}}
MESHED = {"mesh.axes": {"data": 1}}

ROWS = [
    ("seed", 1, RESULT, {}),
    ("input_shape", (6,), PROGRAM, {}),
    ("features", 9, NOTHING, {}),  # the layer gets it by its kwargs
    ("layer.target", "flax.nnx.LinearGeneral", PROGRAM, {}),
    ("layer.kwargs", {"in_features": 4, "out_features": 8, "use_bias": False}, PROGRAM, {}),
    ("layer.call", {"deterministic": True}, PROGRAM, {}),
    ("layer.nnx_method", "attend", PROGRAM, {}),
    ("layer.rngs", ("params",), PROGRAM, {}),
    ("layer.mutable", ("batch_stats",), PROGRAM, {}),
    ("layer.init_rngs", ("params",), PROGRAM, {}),
    ("layer.wrapper", "flax.nnx.bridge.ToLinen", PROGRAM, {}),
    ("layer.metadata_fn", "none", PROGRAM, {}),
    ("host.target", "runner.bridge.hosts.ScannedHost", PROGRAM, HOSTED),
    ("host.kwargs", {"features": 3}, PROGRAM, HOSTED),
    ("host.layer_name", None, PROGRAM, HOSTED),
    ("host.call", {"train": True}, PROGRAM, HOSTED),
    ("pipeline.name", "t5x", PROGRAM, {}),
    ("input.kind", enums.InputKind.ones, RESULT, {}),
    ("input.seed", 1, RESULT, {}),
    ("input.dtype", "bfloat16", PROGRAM, {}),
    ("input.high", 9, RESULT, TOKENS),
    ("input.name", "x", PROGRAM, {}),
    ("input.shapes", {"mask": [3]}, PROGRAM, SHAPED),
    ("input.dtypes", {"mask": "int32"}, PROGRAM, SHAPED),
    ("input.seed", 1, PROGRAM, SHAPED),
    ("train.steps", 6, RESULT, TRAINED),
    ("train.optimizer", "sgd", PROGRAM, TRAINED),
    ("train.learning_rate", 0.5, PROGRAM, TRAINED),
    ("train.collections", ("params", "LoRAParam"), PROGRAM, TRAINED),
    ("train.teacher_seed", 2, RESULT, TRAINED),
    ("train.eval_batches", 4, RESULT, TRAINED),
    ("train.eval_batches", 4, NOTHING, {}),
    ("train.optimizer", "sgd", NOTHING, {}),
    ("mesh.axes", {"data": 1, "model": 1}, PROGRAM, MESHED),
    ("mesh.input", ("data",), PROGRAM, MESHED),
    ("mesh.rules", {"embed": "data"}, PROGRAM, MESHED),
    ("timing.mode", enums.TimingMode.careful, TIMES, {}),
    ("timing.warmup", 3, TIMES, {}),
    ("timing.min_warmup_s", 0.5, TIMES, {}),
    ("timing.rounds", 11, TIMES, {}),
    ("timing.min_sample_s", 0.5, TIMES, {}),
    ("timing.pipeline", 11, TIMES, {}),
    ("timing.turns", False, NOTHING, {}),
    ("timing.max_s", 5.0, NOTHING, {}),
    ("layer.name", "mine", NOTHING, {}),
    ("layer.seeded_by", ("layer.kwargs.seed",), NOTHING, {}),
    ("host.name", "mine", NOTHING, HOSTED),
    ("output_root", "other", NOTHING, {}),
    ("sweep", "mine", NOTHING, {}),
    ("train.save_every", 1, NOTHING, TRAINED),
    ("train.keep_steps", 3, NOTHING, TRAINED),
    ("train.together", "8", PROGRAM, TRAINED),
    ("train.together", "off", NOTHING, TRAINED),
    ("train.together", "8", NOTHING, {}),
    ("train.learning_rate", 0.5, RESULT, {**TRAINED, "train.together": "8"}),
]

# What else is no part of the result: how it is checked, kept, tracked, spread and repeated.
NOT_PART = ("rules", "checks", "checkpoint", "tracking", "distributed", "grid", "failure", "process")

# By the bytes that they name, and by what this machine has: see below.
OTHERWISE = ("variables", "input.path", "device")

# What a pipeline asks and does is said by its name.
PIPELINE = ("keeps", "boxes", "axes", "text_keys", "eager_sharding", "same_call", "does")


def changed(run, values):
    groups = {}
    for key, value in values.items():
        group, _, name = key.partition(".")
        groups[group] = {**groups.get(group, {}), name: value} if name else value
    for group, new in groups.items():
        found = dataclasses.replace(getattr(run, group), **new) if isinstance(new, dict) else new
        run = dataclasses.replace(run, **{group: found})
    return run


@pytest.fixture(scope="module")
def run(make_run):
    return make_run("features=8")


@pytest.mark.parametrize(("key", "value", "what", "under"), ROWS)
def test_keys_change_the_right_ids(run, key, value, what, under):
    before, after = identity_of(changed(run, under)), identity_of(changed(run, under | {key: value}))
    differing = [name for name in CHANGED[PROGRAM] if getattr(before, name) != getattr(after, name)]
    assert differing == list(CHANGED[what])


def test_every_settings_key_has_a_row(run):
    data = to_data(run)
    keys = [
        f"{group}.{name}" if isinstance(value, dict) else group
        for group, value in data.items()
        for name in (value if isinstance(value, dict) else [""])
    ]
    rows = {key for key, *_ in ROWS} | {f"pipeline.{name}" for name in PIPELINE}
    assert [key for key in keys if key not in (*rows, *OTHERWISE) and key.partition(".")[0] not in NOT_PART] == []


def test_groups_outside_the_result(make_run, run):
    other = make_run(
        "features=8", "checks=off", "checkpoint=none", "tracking=disabled", "failure.max=3", "process.num_cpu_devices=2"
    )
    assert identity_of(other) == identity_of(run)


def test_files_and_devices_count_by_content(run):
    plain = identity_of(run)
    assert identity_of(run, "digest").program_id != identity_of(run, "other").program_id != plain.program_id
    auto = dataclasses.replace(run, device="auto")
    gpu, cpu = (identity_of(auto, remote_platform=platform) for platform in ("gpu", "cpu"))
    assert len({gpu.program_id, cpu.program_id}) == len({gpu.result_id, cpu.result_id}) == 2
    second = identity_of(dataclasses.replace(run, device="gpu:1"), remote_platform="gpu")
    assert (second.result_id, second.run_id != gpu.run_id) == (gpu.result_id, True)


def test_the_order_of_words_changes_nothing(run):
    kwargs = run.layer.kwargs
    turned = dataclasses.replace(run.layer, kwargs=dict(reversed(kwargs.items())))
    assert list(turned.kwargs) != list(kwargs)
    assert identity_of(dataclasses.replace(run, layer=turned)) == identity_of(run)


def test_a_sweeps_name_ignores_the_order(run, tmp_path):
    configs = [Config(run=dataclasses.replace(run, seed=seed)) for seed in range(3)]
    names = [
        make_plan(some, lambda name: SweepFolder(tmp_path / name)).folder.name for some in (configs, configs[::-1])
    ]
    assert names[0] == names[1] != make_plan(configs[:2], lambda name: SweepFolder(tmp_path / name)).folder.name


def test_times_compare_on_one_machine_alone():
    first = timing_id("run", "machine", "software")
    assert first == timing_id("run", "machine", "software")
    others = (("r", "machine", "software"), ("run", "m", "software"), ("run", "machine", "s"))
    assert len({first, *(timing_id(*one) for one in others)}) == 4


def test_families_name_each_seed_as_alone(run):
    apart = dataclasses.replace(run, input=dataclasses.replace(run.input, seed=3))
    configs = [Config(run=dataclasses.replace(one, seed=seed)) for one in (run, apart) for seed in (0, 1, 2**32 - 1)]
    identities, _ = validate(configs)
    assert identities == [identity_of(one.run) for one in configs]
    assert len({family(one.run) for one in configs}) == 2
    assert family(run) != family(dataclasses.replace(run, features=9))


def test_planned_settings_are_each_runs_own(run, tmp_path):
    apart = dataclasses.replace(run, input_shape=[2, 4])
    configs = [Config(run=dataclasses.replace(one, seed=seed)) for one in (run, apart) for seed in (0, 7)]
    tasks = make_plan(configs, lambda _: SweepFolder(tmp_path / "sweep")).tasks
    assert len(tasks) == 4
    assert [one["settings"] for one in runs_data(tasks)] == [to_data(task.job.run) for task in tasks]
