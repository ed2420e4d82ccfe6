"""What a user types wrong, and what the command says: exit 2, one to six lines, nothing written."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import run

from runner.commands.typed import verb
from runner.config import schema

LAYERS = ", ".join(schema.layer_names())

MISTAKES = [
    ("sed=1", "sed=1: no such key.\n  Try: seed=1"),
    ("lyer=mlp", "lyer=mlp: no such key.\n  Try: layer=mlp"),
    ("+layr=mlp", "layr=mlp: no such key.\n  Try: layer=mlp"),
    ("layer.kwarg.x=1", "layer.kwarg.x=1: no such key.\n  Try: layer.kwargs.x=1"),
    ("hst.kwargs.depth.a=1", "hst.kwargs.depth.a=1: no such key.\n  Try: host.kwargs.depth.a=1"),
    ("+qqqqqq=1", "qqqqqq=1: no such key.\n  Try: bridge-runner --cfg job"),
    ("+timing.qqqqqq=1", "timing.qqqqqq=1: no such key.\n  Try: bridge-runner --cfg job"),
    ("kernel=3", "kernel=3: no such key.\n  Try: bridge-runner --cfg job"),
    ("qqqqqq=1", "qqqqqq=1: no such key.\n  Try: bridge-runner --cfg job"),
    ("+timing.round=3", "timing.round=3: no such key.\n  Try: timing.rounds=3"),
    ("layer=liner", f"layer=liner: no such layer; there are {LAYERS}.\n  Try: layer=linear"),
    ("layer=qqqq", f"layer=qqqq: no such layer; there are {LAYERS}.\n  Try: layer=custom layer.target=my_pkg.MyLayer"),
    ("checkpoint=fast", "checkpoint=fast: no such choice; there are none, orbax."),
    ("timing=carful", "timing=carful: no such choice; there are careful, off, quick.\n  Try: timing=careful"),
    (
        "layer=custom layer.target=nope.Mod",
        "layer.target=nope.Mod: there is no module nope.\n"
        "  Try: run from the folder that holds the module, or install its package",
    ),
    (
        "layer=custom layer.target=collections.OrderedDict",
        "layer.target=collections.OrderedDict: the class OrderedDict is no flax.nnx.Module.\n"
        "  Try: layer.target=flax.nnx.Linear",
    ),
    (
        "layer=custom layer.target=flax.nnx.Embed",
        "layer.target=flax.nnx.Embed: its constructor also needs num_embeddings.\n"
        "  Try: layer.kwargs.num_embeddings=32",
    ),
    ("layer=custom", "layer.target=null: no layer is named.\n  Try: layer.target=my_pkg.MyLayer"),
    (
        "layer.kwargs.rngs=1",
        "layer.kwargs.rngs=1: the bridge makes rngs from the seed.\n  Try: seed=0",
    ),
    ("input_shape=[4,0]", "input_shape=[4,0]: every axis needs at least one element.\n  Try: 'input_shape=[4]'"),
    ("input_shape=[-4]", "input_shape=[-4]: every axis needs at least one element.\n  Try: 'input_shape=[4]'"),
    ("input_shape=[]", "input_shape=[]: x needs at least one axis.\n  Try: 'input_shape=[4]'"),
    (
        "input_shape=[4.5]",
        "input_shape=[4.5]: Value '4.5' of type 'float' could not be converted to Integer.\n  Try: input_shape=[4]",
    ),
    ("seed=1.5", "seed=1.5: Value '1.5' of type 'float' could not be converted to Integer.\n  Try: seed=0"),
    (
        "train.steps=1e3",
        "train.steps=1e3: Value '1000.0' of type 'float' could not be converted to Integer.\n  Try: train.steps=1000",
    ),
    ("seed=-1", "seed=-1: a seed is a whole number from 0 to 4294967295.\n  Try: seed=0"),
    ("seed=4294967296", "seed=4294967296: a seed is a whole number from 0 to 4294967295.\n  Try: seed=0"),
    ("features=0", "features=0: a layer gives at least one feature.\n  Try: features=8"),
    ("features=null", "features=null: layer linear takes it as out_features.\n  Try: features=8"),
    ("device=cuda", "device=cuda: a device is cpu, gpu, tpu or auto, or with an index cpu:1.\n  Try: device=cpu"),
    ("device=tpu", "device=tpu: not here; here are cpu:0.\n  Try: device=cpu"),
    ("device=cpu:3", "device=cpu:3: not here; here are cpu:0.\n  Try: process.num_cpu_devices=4 device=cpu:3"),
    ("zip=[[seed,features]]", "zip=[[seed,features]]: no such key.\n  Try: 'grid.zip=[[seed,features]]'"),
    ("exclude=['seed>3']", "exclude=['seed>3']: no such key.\n  Try: \"grid.exclude=['seed>3']\""),
    ("on_failure=stop", "on_failure=stop: no such key.\n  Try: failure.action=stop"),
    ("max_failures=2", "max_failures=2: no such key.\n  Try: failure.max=2"),
    ("retry=all", "retry=all: no such key.\n  Try: failure.retry=all"),
    ("mesh={data:2}", "mesh={data:2}: mesh is a group of keys.\n  Try: 'mesh.axes={data:2}'"),
    ("mesh=null", "mesh=null: field 'mesh' is not Optional.\n  Try: mesh.axes=null"),
    ("mesh_input=[data]", "mesh_input=[data]: no such key.\n  Try: 'mesh.input=[data]'"),
    ("mesh_rules={a:b}", "mesh_rules={a:b}: no such key.\n  Try: 'mesh.rules={a:b}'"),
    ("num_cpu_devices=2", "num_cpu_devices=2: no such key.\n  Try: process.num_cpu_devices=2"),
    ("compilation_cache=on", "compilation_cache=on: no such key.\n  Try: process.compilation_cache=on"),
    ("workers=3", "workers=3: no such key.\n  Try: process.workers=3"),
    ("objective=wall_s", "objective=wall_s: no such key.\n  Try: search.objective=wall_s"),
    ("direction=maximize", "direction=maximize: no such key.\n  Try: search.direction=maximize"),
    ("n_trials=3", "n_trials=3: no such key.\n  Try: search.n_trials=3"),
    ("n_jobs=3", "n_jobs=3: no such key.\n  Try: search.n_jobs=3"),
    ("process.workers=0", "process.workers=0: at least one job is needed.\n  Try: process.workers=1"),
    (
        "process.num_cpu_devices=0",
        "process.num_cpu_devices=0: at least one is needed.\n  Try: process.num_cpu_devices=1",
    ),
    ("timing.rounds=1", "timing.rounds=1: one sample has no spread.\n  Try: timing.rounds=10"),
    ("timing.warmup=0", "timing.warmup=0: at least 1 is needed.\n  Try: timing.warmup=10"),
    ("timing.min_sample_s=-1", "timing.min_sample_s=-1.0: seconds can't be negative.\n  Try: timing.min_sample_s=0.1"),
    (
        "tracking.mode=foo",
        "tracking.mode=foo: Invalid value 'foo', expected one of [auto, offline, online, tensorboard, disabled].\n"
        "  Try: tracking.mode=offline",
    ),
    (
        "tracking.patience_s=-1",
        "tracking.patience_s=-1.0: seconds can't be negative.\n  Try: tracking.patience_s=2.5",
    ),
    ("failure.max=0", "failure.max=0: at least one failure makes a sweep stop.\n  Try: failure.max=1"),
    ("sweep=../x", "sweep=../x: a folder's name is up to 100 letters, digits, '.', '_' or '-'.\n  Try: sweep=my_sweep"),
    ("input.seed=-1", "input.seed=-1: a seed is a whole number from 0.\n  Try: input.seed=0"),
    ("input=tokens", "input.high=null: tokens need the size of the vocabulary, at least 1.\n  Try: input.high=32"),
    ("input=file", "input.path=null: input=file needs the path of an .npy file.\n  Try: input.path=x.npy"),
    ("input=file input.path=no.npy", "input.path=no.npy: there is no such file.\n  Try: input.path=x.npy"),
    ("input.dtype=int32", "input.dtype=int32: normal values need a floating type.\n  Try: input.dtype=float32"),
    ("input.dtype=flot", "input.dtype=flot: no such dtype.\n  Try: input.dtype=float32"),
    (
        "input.dtype=float64",
        "input.dtype=float64: JAX would narrow it to 32 bits; set the environment variable JAX_ENABLE_X64=1.\n"
        "  Try: input.dtype=float32",
    ),
    (
        "layer=conv input_shape=[4]",
        "layer conv can't take x of shape [4] float32: ValueError: conv_general_dilated lhs and rhs must have the same "
        "number of dimensions, but got (1, 4) and (3, 4, 8).\n  Try: 'input_shape=[2,4]'",
    ),
    (
        "layer.kwargs.in_features=5",
        "layer linear can't take x of shape [4] float32: TypeError: dot_general requires contracting dimensions to "
        "have the same shape, got (4,) and (5,).\n  Try: 'input_shape=[5]'",
    ),
    (
        "seed=1,2",
        "Ambiguous value for argument 'seed=1,2'\n1. To use it as a list, use key=[value1,value2]\n"
        "2. To use it as string, quote the value: key=\\'value1,value2\\'\n"
        "3. To sweep over it, add --multirun to your command line.",
    ),
    (
        "pln seed=1",
        "pln: no such command; there are VERBS, or KEY=VALUE for a run.\n  Try: bridge-runner plan",
    ),
    (
        "linear",
        "linear: no such command; there are VERBS, or KEY=VALUE for a run.\n  Try: bridge-runner layer=linear",
    ),
    (
        "grid.exclude=[seed==1]",
        "grid.exclude=[seed==1]: no viable alternative at input '[seed='.\n"
        "  Try: \"KEY='VALUE'\" around a value with blanks, brackets or signs",
    ),
    ("-m seed=1,2 sweep=a,b", "sweep=a,b: one value holds for a whole sweep.\n  Try: sweep=a"),
    ("-m seed=range(0,0)", "seed=range(0,0): the sweep over it has no values.\n  Try: seed=range(0,3)"),
    ("-m seed=interval(0,1)", "seed=interval(0,1): an interval has no list of values.\n  Try: seed=range(0,10)"),
    (
        "+experiment=widt",
        "experiment=widt: no such choice; there are layers, matrix, seeds, width.\n  Try: experiment=width",
    ),
]


@pytest.mark.sampled
@pytest.mark.parametrize(("typed", "said"), MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_mistakes_exit_with_2_writing_nothing(typed, said, here, capsys):
    code, out, err = run(capsys, *typed.split())
    assert (code, out, err) == (2, "", f"error: {said.replace('VERBS', ', '.join(verb.VERBS))}\n")
    assert err.count("\n") <= 6
    assert list(here.iterdir()) == []


def test_all_sweep_mistakes_are_reported_together(here, capsys):
    code, _, err = run(capsys, "-m", "seed=1,2", "features=0,8", "device=cpu,tpu", "timing=quick,off")
    assert code == 2
    assert err == (
        "error: 12 of 16 configs of this sweep are invalid; nothing was run.\n"
        "features=0: a layer gives at least one feature.\n  Try: features=8\n"
        "  In: seed=1 features=0 device=cpu timing=quick and 7 more\n"
        "device=tpu: not here; here are cpu:0.\n  Try: device=cpu\n"
        "  In: seed=1 features=8 device=tpu timing=quick and 3 more\n"
    )
    assert list(here.iterdir()) == []


def test_files_without_an_array_are_refused(here, capsys):
    (here / "x.npy").write_text("no array")
    code, _, err = run(capsys, "input=file", "input.path=x.npy")
    assert code == 2
    assert err.startswith("error: input.path=x.npy: not an .npy array (")
    assert err.endswith("  Try: numpy.save('x.npy', x), then input.path=x.npy\n")


def test_input_files_must_match_the_shape(here, capsys):
    np.save(here / "x.npy", np.ones((2, 3), np.float32))
    code, _, err = run(capsys, "input=file", "input.path=x.npy")
    assert code == 2
    assert err == "error: input_shape=[4]: x.npy holds an array of shape [2,3].\n  Try: 'input_shape=[2,3]'\n"


def test_output_root_must_be_a_folder(here, capsys):
    (here / "file").touch()
    code, _, err = run(capsys, "output_root=file/deeper")
    assert code == 2
    assert "file is a file, not a folder.\n  Try: output_root=~/outputs\n" in err


def test_uncreatable_output_folders_are_refused(here, capsys):
    # Even root, who passes every access check, can make no folder there.
    code, _, err = run(capsys, "output_root=/proc/outputs", "sweep=x")
    assert code == 2
    assert err == ("error: output folder /proc/outputs/x: No such file or directory.\n  Try: output_root=~/outputs\n")


@pytest.mark.slow
def test_another_plan_is_refused(here, capsys):
    quiet = ["tracking=disabled", "timing=off", "checks=off", "checkpoint=none"]
    assert run(capsys, "-m", "seed=0,1", "sweep=mine", *quiet)[0] == 0
    code, _, err = run(capsys, "-m", "seed=1,2", "sweep=mine", *quiet)
    assert code == 2
    assert err == (
        "error: outputs/mine holds another plan: 2 runs, 1 of them among these 2.\n  Try: -m with sweep=another_name\n"
    )


def test_the_version_is_told(capsys):
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("bridge-runner 0.")
