"""A stranger's run: no code of his runs unless he is trusted, no path leads out; and no name of ours is a pattern."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import run

import runner
from runner import errors
from runner.bridge import targets
from runner.commands import main
from runner.commands.saved import replayed
from runner.config import conf_folder, serialize
from runner.config.settings.layer import HostSettings, LayerSettings
from runner.config.settings.run import Run
from runner.errors import StorageError, UserError
from runner.records import codec, store
from runner.records.disk import files
from runner.records.paths import RunFolder, SweepFolder

PACKAGE = Path(runner.__file__).parent
LEAN = ("tracking=disabled", "timing=off", "checks=off")

STRANGER = """
import pathlib
from flax import nnx

pathlib.Path("ran").touch()


class Layer(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(rngs.params.normal((4,)))

    def __call__(self, x):
        return x * self.kernel
"""

# Its own code is what a stranger's record would have us run.
REFUSED = "rebuilding this run imports strangers_layer.Layer, which runs its code.\n  Try: the same with --trust"


def only_run(sweep: str) -> Path:
    (path,) = Path("outputs", sweep, "runs").iterdir()
    return path


def edit(folder: Path, **changes: object) -> None:
    """Changes a record as somebody would who knows how it is sealed; keys are dotted by two underscores."""
    data = json.loads((folder / "record.json").read_text())
    del data["digest"]
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        node = data
        for key in parents:
            node = node[key]
        node[last] = value
    (folder / "record.json").write_bytes(codec.seal(json.dumps(data, indent=1).encode()))


# No pickle.


LOADS = ("np.load", "np.save", "np.lib.format")
# These read a header alone: a shape and a dtype.
READ_HEADERS = ("np.lib.format.read_magic",)


def calls_that_may_unpickle(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        # `marshal.dumps` alone reads nothing.
        if isinstance(node, ast.ImportFrom) and ast.unparse(node) != "from marshal import dumps":
            names.append(str(node.module))
        packages = ("pickle", "shelve", "marshal", "dill", "cloudpickle")
        yield from (f"imports {name}" for name in names if name.partition(".")[0] in packages)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec", "joblib.load", "joblib.dump"):
            yield ast.unparse(node)
        reads_values = ast.unparse(node.func).startswith(LOADS) if isinstance(node, ast.Call) else False
        if isinstance(node, ast.Call) and reads_values and ast.unparse(node.func) not in READ_HEADERS:
            given = {item.arg: ast.unparse(item.value) for item in node.keywords}
            if given.get("allow_pickle") != "False":
                yield ast.unparse(node)


@pytest.mark.sampled
@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_file_of_ours_can_unpickle(path):
    assert list(calls_that_may_unpickle(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import load",
        "import marshal",
        "from marshal import loads",
        "joblib.load(file)",
        "np.load(file)",
        "eval('1')",
    ],
)
def test_unpickling_calls_are_found(source):
    assert len(list(calls_that_may_unpickle(source))) == 1


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def pickled(what: object) -> bytes:
    return pickle.dumps(what)


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    """A folder with a run of ours."""
    folder = tmp_path_factory.mktemp("ours")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main.main(["sweep=ours", *LEAN]) == 0
    return folder


@pytest.fixture
def saved(ours, tmp_path, monkeypatch) -> Path:
    """A copy of the run, in a folder where nothing else is."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ours / "outputs", "outputs")
    return only_run("ours")


def test_pickled_outputs_are_never_opened(saved, capsys):
    np.save(saved / "output.npy", np.array([Bomb()], object), allow_pickle=True)
    edit(saved, files=files.file_digests(RunFolder(saved)))
    code, out, err = run(capsys, "verify", saved, "--no-code")
    assert (code, "Object arrays cannot be loaded when allow_pickle=False" in out, err) == (4, True, "")
    assert not Path("exploded").exists()


# No code.


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Path:
    """A folder with a stranger's module, and his sweep, named `s`."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "strangers_layer.py").write_text(STRANGER)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        assert main.main(["layer=custom", "layer.target=strangers_layer.Layer", "sweep=s", *LEAN]) == 0
        yield folder


@pytest.fixture
def untouched(stranger, monkeypatch) -> Path:
    """The stranger's run, his module not yet imported."""
    monkeypatch.chdir(stranger)
    monkeypatch.delitem(sys.modules, "strangers_layer", raising=False)
    Path("ran").unlink(missing_ok=True)
    return only_run("s")


@pytest.mark.parametrize(
    "words", ["ls", "ls outputs/s", "show RUN", "results outputs/s", "verify RUN --no-code", "diff RUN RUN/checkpoint"]
)
def test_inspecting_untrusted_runs_executes_no_code(words, untouched, capsys):
    code, out, err = run(capsys, *words.replace("RUN", str(untouched)).split())
    assert (code, err) == (1 if words.startswith("diff") else 0, "")  # nothing is proved without his code
    assert out
    assert not Path("ran").exists()


def test_untrusted_diffs_compare_trees_only(untouched, capsys):
    code, out, _ = run(capsys, "diff", untouched, untouched)
    assert (code, "same  params/kernel" in out) == (1, True)
    assert "proof: none, since building it imports strangers_layer.Layer: the same with --trust\n" in out
    assert not Path("ran").exists()


@pytest.mark.parametrize("words", ["verify RUN", "rerun RUN", "export RUN --to nnx"])
def test_building_untrusted_layers_needs_trust(words, untouched, capsys):
    typed = words.replace("RUN", str(untouched)).split()
    assert run(capsys, *typed) == (2, "", f"error: {REFUSED}\n")
    assert not Path("ran").exists()
    assert run(capsys, *typed, "--trust")[0] == 0
    assert Path("ran").exists()


@pytest.fixture
def own_sweep(tmp_path, monkeypatch, capsys) -> list[Path]:
    """The two runs of a stranger's sweep, his module not yet imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strangers_layer.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["-m", "layer=custom", "layer.target=strangers_layer.Layer", "seed=0,1", "sweep=s", *LEAN]
    assert main.main(words) == 0
    monkeypatch.delitem(sys.modules, "strangers_layer", raising=False)
    Path("ran").unlink(missing_ok=True)
    capsys.readouterr()
    return sorted(Path("outputs/s/runs").iterdir())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_flipped_files_of_own_layers_are_found(own_sweep, capsys):
    first, _ = own_sweep
    flip(first / "output.npy")
    code, out, err = run(capsys, "verify", "outputs/s")
    assert (code, err) == (4, "")
    assert f"{first.name}: output.npy is not what was written\n" in out
    assert "\n0 of 2 runs verified\n1 have the files that were written and were not applied: " in out
    assert "imports strangers_layer.Layer, which runs its code\n" in out
    assert not Path("ran").exists()
    code, out, err = run(capsys, "verify", "outputs/s", "--trust")
    assert (code, "\n1 of 2 runs verified\n" in out, err) == (4, True, "")


def test_whole_sweeps_of_own_layers_need_trust(own_sweep, capsys):
    code, out, err = run(capsys, "verify", "outputs/s")
    assert (code, out.splitlines()[0], err) == (2, "0 of 2 runs verified", f"error: {REFUSED}\n")
    assert run(capsys, "verify", "outputs/s", "--trust")[:2] == (0, "2 of 2 runs verified\n")


def replay(sweep: str, *words: str, cwd: str | None = None) -> None:
    """Makes the plan of a sweep replay these words, as a stranger would who knows how it is sealed."""
    folder = SweepFolder(Path("outputs", sweep))
    plan = store.read_plan(folder)
    del plan["plan_version"]
    store.write_plan(folder, plan | {"origin": {"command": list(words), "cwd": cwd or str(Path.cwd())}})


def test_resuming_own_layers_needs_trust(own_sweep, capsys):
    shutil.rmtree(own_sweep[0])
    said = "resuming this sweep imports strangers_layer.Layer, which runs its code.\n  Try: the same with --trust\n"
    assert run(capsys, "resume", "outputs/s") == (2, "", f"error: {said}")
    assert not Path("ran").exists()
    assert run(capsys, "resume", "outputs/s", "--trust")[0] == 0
    assert Path("ran").exists()


@pytest.mark.sampled
@pytest.mark.parametrize(
    "word",
    [
        "layer.target=strangers_layer.Layer",
        "+hydra.callbacks.e._target_=strangers_layer.Layer",
        "rules=strangers_rules.yaml",
        "layer.kwargs.kernel_init=strangers_layer.Layer",
        "rules.partition=strangers_layer:Layer",
        "process.compilation_cache=strangers_cache",
        "hydra.launcher._target_=strangers_layer.Layer",
        "hydra/launcher=joblib",
        "+layer@hydra.callbacks.e=mlp",
        "hydra.searchpath=[file://strangers_conf]",
        "+experiment=../../strangers",
        "host.target=strangers_layer.Layer",
        "layer.kwargs={_target_: strangers_layer.Layer}",
    ],
)
def test_replayed_words_run_no_code(word, two_runs, capsys, monkeypatch):
    Path("strangers_layer.py").write_text(STRANGER)
    Path("strangers_rules.yaml").write_text("partition: {a: null}\nfreeze: strangers_layer:Layer\n")
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "strangers_layer", raising=False)
    replay("two", "-m", "seed=0,1", *LEAN, word)
    shutil.rmtree(two_runs[0])
    code, out, err = run(capsys, "resume", "outputs/two")
    assert (code, out) == (2, "")
    assert err.startswith("error: resuming this sweep ")
    assert err.endswith("\n  Try: the same with --trust\n")
    assert not Path("ran").exists() and not Path("strangers_cache").exists()


@pytest.mark.parametrize("trust", [(), ("--trust",)])
@pytest.mark.parametrize("flags", [["--experimental-rerun", "x.pickle"], ["--experimental-rerun=x.pickle"], ["--cfg"]])
def test_flags_of_hydra_are_never_replayed(flags, trust, two_runs, capsys):
    Path("x.pickle").write_bytes(pickled(Bomb()))
    replay("two", *flags, "-m", "seed=0,1", *LEAN)
    code, out, err = run(capsys, "resume", "outputs/two", *trust)
    said = f"the plan of this sweep has {flags[0]}, which is not replayed.\n  Try: the sweep's command line again\n"
    assert (code, out, err) == (2, "", f"error: {said}")
    assert not Path("exploded").exists()


@pytest.mark.slow
def test_foreign_working_directories_need_trust(two_runs, capsys, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(sys, "path", list(sys.path))
    cwd = str(tmp_path_factory.mktemp("strangers"))
    replay("two", "-m", "seed=0,1", *LEAN, cwd=cwd)
    assert (run(capsys, "resume", "outputs/two")[0], cwd in sys.path) == (0, False)
    assert (run(capsys, "resume", "outputs/two", "--trust")[0], cwd in sys.path) == (0, True)


@pytest.mark.parametrize("words", ["verify RUN", "rerun RUN", "export RUN --to safetensors", "resume outputs/ours"])
def test_untrusted_folders_join_no_path(words, saved, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(Path.cwd()))])
    typed = words.replace("RUN", str(saved)).split()
    assert (run(capsys, *typed)[0], str(Path.cwd()) in sys.path) == (0, False)


@pytest.mark.parametrize("words", [None, "seed=0", [1], {}])
def test_plans_without_a_command_are_refused(words, two_runs, capsys):
    replay("two")
    folder = SweepFolder(Path("outputs/two"))
    plan = store.read_plan(folder)
    del plan["plan_version"]
    store.write_plan(folder, plan | {"origin": {"command": words}})
    said = "error: the plan of this sweep keeps no command line.\n  Try: the sweep's command line again\n"
    assert run(capsys, "resume", "outputs/two") == (2, "", said)


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "seed=0,1", "layer=mlp", "+experiment=width", "~host", "layer.kwargs.hidden=3", "grid.zip=[[seed]]"],
        ["--multirun", "hydra/sweeper=optuna", "hydra/sweeper/sampler=tpe", "search.n_trials=3", "hydra.sweep.dir=x"],
        ["input.path=../x.npy", "variables=../a/b", "'layer.call={a: 1}'".strip("'"), "+tracking.tags=[a]"],
    ],
)
def test_own_keys_are_replayed_without_trust(words):
    kept = [word for word in words if not word.startswith("hydra.sweep.dir")]
    assert replayed.command({"command": words}, trust=False) == kept


@pytest.mark.parametrize("key", ["partition", "weight_decay", "freeze"])
def test_functions_of_rules_need_trust(key, saved, capsys):
    edit(saved, **{f"settings__rules__{key}": "strangers_layer:Layer"})
    for verb in ("verify", "rerun"):
        assert run(capsys, verb, saved)[::2] == (2, f"error: {REFUSED.replace('.Layer', ':Layer')}\n")


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main.main(["-m", "seed=0,1", "sweep=two", *LEAN]) == 0
    return folder


@pytest.fixture
def two_runs(two, tmp_path, monkeypatch) -> list[Path]:
    """The runs of a copied sweep of ours, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(two / "outputs", "outputs")
    return sorted(Path("outputs/two/runs").iterdir())


@pytest.mark.sampled
@pytest.mark.parametrize(
    "changes",
    [
        {"settings": []},
        {"settings__input_shape": "x"},
        {"settings__layer__target": "no.such.Layer"},
        {"settings__layer": None},
        {"settings__process__num_cpu_devices": "x"},
        {"variables": []},
    ],
)
def test_one_foreign_record_never_ends_verify(changes, two_runs, capsys):
    first, second = two_runs
    edit(first, **changes)
    code, out, err = run(capsys, "verify", "outputs/two", "--trust")
    assert (code, "\n1 of 2 runs verified\n" in out, err) == (4, True, "")
    assert out.startswith(f"{first.name}: ") and f"\n{second.name}: " not in out


def test_python_reload_needs_trust_too(untouched):
    with pytest.raises(UserError) as caught:
        runner.reload(untouched)
    assert str(caught.value) == REFUSED
    assert not Path("ran").exists()


def config(target: str = "flax.nnx.Linear", **kwargs: object) -> Run:
    return Run(layer=LayerSettings(target=target, kwargs=kwargs))


@pytest.mark.parametrize(
    ("run", "foreign"),
    [
        (config(), []),
        (config("runner.bridge.layers.containers.sequential"), []),
        (config("runner.bridge.layers.recurrent.rnn", cell="lstm"), []),
        (config("runner.bridge.layers.variables.Noisy"), []),
        (config(bias_init="jax.nn.initializers.ones", kernel_init="normal(stddev=0.02)"), []),
        (config(kernel_init="jax.random.normal", activation="jax.numpy.tanh", gate_fn="flax.nnx.relu"), []),
        (config("my_pkg.Layer"), ["my_pkg.Layer"]),
        (config("my_pkg:Layer"), ["my_pkg:Layer"]),
        # Ours and jax's by name, and with arguments of his choice they run what he likes.
        (config("runner.bridge.targets.import_path", path="x"), ["runner.bridge.targets.import_path"]),
        (config("jax.numpy.load", file="x", allow_pickle=True), ["jax.numpy.load"]),
        (config(config={"_target_": "my_pkg.Config", "width": 3}), ["my_pkg.Config"]),
        (config(acts=["relu", {"_function_": "my_pkg.act"}]), ["my_pkg.act"]),
        (config(inner={"_target_": "builtins.eval", "_args_": ["1"]}), ["builtins.eval"]),
        (config(inner={"_target_": "runner.bridge.targets.import_path"}), ["runner.bridge.targets.import_path"]),
        (config(inner={"_target_": "flax.nnx.Linear"}), []),
        (config(kernel_init="jax._src.config.os.system"), ["jax._src.config.os.system"]),
        (config(activation="jax.numpy.load"), ["jax.numpy.load"]),
        (config(kernel_init="my_pkg.init(scale=1)"), ["my_pkg.init(scale=1)"]),
        (config(inner={"gate_fn": "my_pkg.gate"}), ["my_pkg.gate"]),
        (Run(host=HostSettings(target="my_pkg.Host", kwargs={"activation": "other.f"})), ["my_pkg.Host", "other.f"]),
        (Run(host=HostSettings(target="runner.bridge.hosts.MLPHost", kwargs={"activation": "jax.nn.gelu"})), []),
    ],
)
def test_only_known_targets_are_trusted(run, foreign):
    assert targets.foreign_paths(run) == foreign


def test_bundled_layers_and_hosts_are_trusted():
    for group, kind in (("layer", LayerSettings), ("host", HostSettings)):
        for path in sorted((conf_folder.config_dir() / group).glob("*.yaml")):
            chosen = yaml.safe_load(path.read_text()) or {}
            if chosen.get("target"):
                named = {group: kind(target=chosen["target"], kwargs=chosen.get("kwargs", {}))}
                assert targets.foreign_paths(Run(**named)) == [], path


def test_rerun_ignores_a_recorded_compilation_cache(saved, capsys):
    edit(saved, settings__process__compilation_cache=str(Path("strangers_cache").absolute()))
    assert run(capsys, "rerun", saved)[0] == 0
    assert not Path("strangers_cache").exists()


# No way out.


@pytest.mark.parametrize("path", ["../ours/checkpoint", "/tmp", "checkpoint/../../..", "linked"])
@pytest.mark.parametrize(
    "words", ["verify RUN", "rerun RUN", "export RUN --to safetensors", "import SAVED/checkpoint --like RUN --out y"]
)
def test_recorded_paths_stay_in_the_folder(words, path, saved, tmp_path, capsys):
    copy = shutil.copytree(saved, "copy")
    os.symlink(tmp_path, Path(copy) / "linked")
    edit(Path(copy), checkpoint__path=path)
    code, out, err = run(capsys, *words.replace("RUN", "copy").replace("SAVED", str(saved)).split())
    if words.startswith("verify"):
        assert (code, out) == (4, "copy: linked is a link, and a run leaves none\n0 of 1 runs verified\n")
    else:
        said = f"error: copy/record.json: the path {path} leads out of the run's folder.\n"
        assert (code, out, err) == (2, "", said)


@pytest.mark.parametrize("name", ["output.npy", "record.json", "checkpoint", ".hydra/config.yaml"])
def test_links_to_outside_files_are_reported(name, saved, capsys):
    os.rename(saved / name, "elsewhere")
    os.symlink(Path("elsewhere").absolute(), saved / name)
    code, out, _ = run(capsys, "verify", saved)
    assert (code, out.splitlines()[0]) == (4, f"{saved.name}: {name} is a link, and a run leaves none")


def test_an_output_elsewhere_is_not_read(saved):
    os.rename(saved / "output.npy", "elsewhere.npy")
    os.symlink(Path("elsewhere.npy").absolute(), saved / "output.npy")
    folder = RunFolder(saved)
    with pytest.raises(StorageError, match=r"the path output\.npy leads out of the run's folder"):
        store.read_output(folder, store.read_record(folder))


# No pattern.


def wildcard(path: str, sign: str) -> str:
    reason = f"Orbax reads {sign!r} in a path as a wildcard, or not at all"
    return f"error: {path if path.isprintable() else repr(path)}: {reason}.\n  Try: output_root=~/outputs\n"


@pytest.mark.slow
@pytest.mark.parametrize(("root", "sign"), [("out[4]", "["), ("a*", "*"), ("what?", "?"), ("{a}", "{"), ("a\nb", "\n")])
def test_wildcards_in_output_root_are_refused(root, sign, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed = f"output_root={errors.quoted(root)}"
    assert run(capsys, typed, "sweep=s", *LEAN) == (2, "", wildcard(str(tmp_path / root / "s"), sign))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a[b]", "..", "a/b", "%2e", "a\nb", "x" * 101, "", ".hidden", "a b"])
def test_a_sweep_has_a_plain_name(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, f"sweep={errors.quoted(name)}", *LEAN)
    said = (
        f"error: sweep={name}: a folder's name is up to 100 letters, digits, '.', '_' or '-'.\n  Try: sweep=my_sweep\n"
    )
    assert (code, err) == (2, said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("root", ["x" * 300, "/".join(["long"] * 1000)])
def test_overlong_names_are_refused(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, f"output_root={root}", *LEAN)
    assert (code, out) == (2, "")
    assert "a name has 200 at most and a path 3000.\n  Try: output_root=~/outputs\n" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("root", ["%2e", "ü 'b", "~x", ".."])
def test_unusual_but_valid_names_work(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(capsys, f"output_root={errors.quoted(root)}", "sweep=s", *LEAN)[0] == 0
    assert run(capsys, "verify", f"{root}/s/0")[:2] == (0, run_line(root))


def run_line(root: str) -> str:
    (path,) = Path(root, "s", "runs").iterdir()
    num_files = sum(file.is_file() for file in path.rglob("*"))
    compared = f"{num_files} files and 2 leaves as they were written; applied again, the output is the same bit for bit"
    return f"{path.name}: {compared}\n1 of 1 runs verified\n"


@pytest.mark.parametrize(
    "words", ["show NAME", "ls NAME", "verify NAME", "rerun NAME", "results NAME", "diff NAME NAME"]
)
@pytest.mark.parametrize("name", ["x" * 300, "a[", "**x", "a\nb"])
def test_unusable_names_give_short_errors(words, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *(name if word == "NAME" else word for word in words.split()))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("checkpoint=fast", "checkpoint=orbax"),
        ("checkpoint.writer=none,fast", "checkpoint.writer=none,orbax"),
        ("checkpoint.metric=fast", "checkpoint.metric=fast"),
        ("sweep=fast", "sweep=fast"),
    ],
)
def test_former_writer_is_replayed_as_orbax(word, expected):
    assert replayed.command({"command": ["-m", word]}, trust=False) == ["-m", expected]


def test_settings_of_former_writer_are_read():
    settings = serialize.to_data(Run())
    settings["checkpoint"]["writer"] = "fast"
    assert serialize.from_data(settings) == Run()
    settings["checkpoint"]["writer"] = ["fast"]
    with pytest.raises(UserError, match="checkpoint.writer"):
        serialize.from_data(settings)


@pytest.mark.slow
def test_sweep_of_former_writer_is_resumed(two_runs, capsys):
    replay("two", "-m", "seed=0,1", *LEAN, "checkpoint=fast")
    shutil.rmtree(two_runs[0])
    assert run(capsys, "resume", "outputs/two")[0] == 0
    assert two_runs[0].is_dir()
