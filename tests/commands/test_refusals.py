"""Whatever is typed or lies there, nothing hangs and nothing is a traceback: a sentence, and exit 2."""

from __future__ import annotations

import gc
import os
import pathlib
import shlex
import subprocess
import sys
import time

import pytest

from runner.commands import main
from runner.errors import ConfigError, StorageError
from runner.experiment import saved_run
from runner.launch import process
from runner.records.journal import read_journal

LEAN = ("tracking=disabled", "timing=off", "checks=off")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    os.makedirs("cd/layer")
    with open("cd/layer/latin.yaml", "wb") as file:
        file.write(b"target: caf\xe9\n")
    with open("cd/layer/listed.yaml", "w") as file:
        file.write("- a\n- b\n")
    return tmp_path


@pytest.mark.filterwarnings("ignore:Experimental rerun CLI option")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra/launcher=1e400", *LEAN], "Config group override must be a string or a list. Got float"),
        (["pipeline=[[4],[8]]", *LEAN], 'can only concatenate str (not "list") to str'),
        (["hydra/sweeper=[4,-4]", "-m", *LEAN], "argument of type 'int' is not iterable"),
        (["plan", "host=range(3)"], "Config group override must be a string or a list. Got int"),
        (["~layer=1e3", *LEAN], "Config group override deletion value must be a string"),
        (["+=[4]"], "Hydra can't read what was typed"),
        (["check", "my_pkg:make"], "KEY=VALUE is wanted.\n  Try: layer.target=my_pkg:make\n"),
        (["check", "my_pkg.MyLayer"], "KEY=VALUE is wanted.\n  Try: layer.target=my_pkg.MyLayer\n"),
        (["check", "notes.md"], "a word by itself, where KEY=VALUE is wanted.\n  Try: bridge-runner --cfg job\n"),
        (
            ["check", "--markdown", "out.md", "layer=linear", "input_shape=[2,4]"],
            "out.md: --markdown takes no file: it prints.\n"
            "  Try: bridge-runner check --markdown layer=linear 'input_shape=[2,4]' > out.md\n",
        ),
        (["check", "--json", "a/b.json"], "a/b.json: --json takes no file: it prints"),
        (["check", "sed"], "sed: a word by itself, where KEY=VALUE is wanted.\n  Try: seed=0\n"),
        (["check", "liner"], "liner: a word by itself, where KEY=VALUE is wanted.\n  Try: layer=linear\n"),
        (["--experimental-rerun", "nope", *LEAN], "File nope does not exist!"),
        (["--config-dir=cd", "layer=latin", *LEAN], "a file of the config is not UTF-8"),
        (["--config-dir=cd", "layer=listed", *LEAN], "error: "),
        (["failure=${oc.decode:x}", *LEAN], "it is a group of keys, and no value"),
        (["host.call.a=range(0,1e9)", "-m", *LEAN], "this sweep has more than 100,000 configs"),
        (["seed=range(0,1000)", "features=range(1,1000)", "-m"], "this sweep has more than 100,000 configs"),
        (["diff", "a", "b", "--input", "${x}"], "--input takes a shape"),
        (["diff", "a", "b", "--input", "[" * 9000], "--input takes a shape"),
        (["input=file", "input.path=fifo", *LEAN], "it is a FIFO, and no file"),
        (["input=file", "input.path=/dev/zero", *LEAN], "it is a device, and no file"),
        (["rules=./fifo", *LEAN], "it is a FIFO, and no file"),
        (["variables=fifo", *LEAN], "FIFO"),
        (["diff", "fifo", "/dev/zero"], "FIFO"),
    ],
)
def test_odd_words_are_refused_in_a_sentence(words, said, capsys):
    assert main.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err


def test_unreadable_folders_are_refused_in_a_sentence(monkeypatch, capsys):
    whole = pathlib.Path.stat

    def denied(path, **kwargs):
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, **kwargs)

    monkeypatch.setattr("pathlib.Path.stat", denied)
    for verb in ("ls", "results", "rerun"):
        code = main.main([verb, "locked"])
        err = capsys.readouterr().err
        assert (code, err.startswith("error: "), "locked" in err) == (2, True, True), verb


def test_a_lost_interrupt_comes_again(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", process._say_unraisable)

    def interrupt(phase, info):
        gc.callbacks.remove(interrupt)
        raise KeyboardInterrupt

    def collect_and_wait():
        gc.collect()
        time.sleep(20)

    gc.callbacks.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        collect_and_wait()


@pytest.mark.slow
def test_other_terminals_get_every_line(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    env = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "runner"]
    planned = subprocess.run([*command, "plan", "seed=0,1"], cwd=tmp_path, env=env, capture_output=True, timeout=200)
    assert (planned.returncode, planned.stderr) == (0, b"")
    assert b"2 runs \\xb7 1 program" in planned.stdout
    done = subprocess.run([*command, "sweep=s", *LEAN], cwd=folder, env=env, capture_output=True, timeout=200)
    assert (done.returncode, b"the name is not UTF-8, and Orbax takes no other" in done.stderr) == (2, True)


@pytest.mark.parametrize("line", ["[1]", "3", '"x"', "{}", '{"event":[]}'])
def test_a_line_of_another_form_is_damage(line, tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text(f'{line}\n{{"event":"end"}}\n')
    with pytest.raises(StorageError, match=r"journal\.jsonl line 1 is damaged"):
        read_journal(path)


@pytest.mark.parametrize("dtype", ["int4", "int32", "bool", "complex64"])
def test_reloads_cast_to_floats_only(dtype):
    with pytest.raises(ConfigError, match=f"dtype={dtype}: floating-point leaves stay such; wanted a float dtype"):
        saved_run._placed({}, None, dtype)


@pytest.mark.parametrize(
    "word",
    [
        "input.dtype=int64",
        "rules=shardin.txt",
        "rules=no_module:rules()",
        "rules.weight_decay=no.txt",
        "rules.freeze=no.json",
    ],
)
def test_what_is_suggested_is_accepted(word, capsys):
    pathlib.Path("sharding.txt").write_text(".*: null\n")
    assert main.main(["plan", word]) == 2
    suggested = capsys.readouterr().err.partition("\n  Try: ")[2]
    assert suggested
    assert main.main(["plan", *shlex.split(suggested)]) == 0


def test_too_many_tokens_get_a_fitting_number(capsys):
    words = ["plan", "layer=embed", "input=tokens", "input.dtype=int32"]
    assert main.main([*words, "input.high=5000000000"]) == 2
    assert "Try: input.dtype=int32 input.high=2147483648\n" in capsys.readouterr().err
    assert main.main([*words, "input.high=2147483648"]) == 0


def test_too_many_paths_are_typed_as_words(capsys):
    assert main.main(["diff", "a", "b", "c", "d"]) == 2
    said = "error: diff: 4 paths were typed and 2 wanted.\n  Try: bridge-runner diff a b\n"
    assert capsys.readouterr().err == said
