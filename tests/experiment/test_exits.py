"""User code that exits: one sentence and exit 2, or a failed run, never exit 0 or a sweep that stops silently."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runner.commands import main
from runner.errors import LayerError, end_if_meant, no_exit
from runner.experiment.failures import describe_failure

LEAN = ("layer=custom", "tracking=disabled", "timing=off", "checkpoint=none")
TRY = "\n  Try: raise an error there, and put what is for the command line under if __name__ == '__main__'"
AT = "exits, and only the command line may:"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def errors(capsys, *words: str) -> tuple[int, str]:
    code = main.main([*LEAN, *words])
    return code, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ExitsInConstructor"], f"{AT} SystemExit: 0.{TRY}"),
        (["ExitsInConstructor", "+layer.kwargs.code=no_data"], f"{AT} SystemExit: no_data.{TRY}"),
        (["ParsesInCall"], f"{AT} SystemExit: 2.{TRY}"),
        (["EndsProcessInCall"], f"{AT} SystemExit: 0.{TRY}"),
        (["InterruptsInCall"], f"{AT} KeyboardInterrupt.{TRY}"),
    ],
)
def test_a_layer_that_exits_is_refused(words, said, capsys):
    code, err = errors(capsys, f"layer.target=exiting_layers.{words[0]}", *words[1:])
    assert (code, "exiting_layers.py:" in err) == (2, True)
    assert err.endswith(f"{said}\n")
    assert not Path("outputs").exists()


def test_argparse_at_import_is_refused(capsys):
    code, err = errors(capsys, "layer.target=parses_at_import.Layer")
    what = "layer.target=parses_at_import.Layer: importing parses_at_import failed: SystemExit: 2."
    assert (code, err.partition("error: layer")[2]) == (2, f"{what.removeprefix('layer')}{TRY}\n")


NO_TEXT = "raises WordlessError, whose text can't be read: its __str__ raises RuntimeError."
NO_EXCEPTION = "is no Exception, so that no caller expects it.\n  Try: raise a ValueError there, or another subclass of"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("WordlessInConstructor", NO_TEXT),
        ("WordlessInCall", NO_TEXT),
        ("ClosesInCall", f"raises GeneratorExit, which {NO_EXCEPTION} Exception"),
        ("StopsInConstructor", f"raises Stop, which {NO_EXCEPTION} Exception"),
    ],
)
def test_what_is_no_error_is_refused(name, said, capsys):
    code, err = errors(capsys, f"layer.target=exiting_layers.{name}")
    assert (code, "exiting_layers.py:" in err) == (2, True)
    assert err.endswith(f"{said}\n")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("wordless_at_import", "WordlessError: its text can't be read, as its __str__ raises RuntimeError."),
        ("stops_at_import", f"Stop.{TRY}"),
    ],
)
def test_what_import_raises_is_refused(module, said, capsys):
    code, err = errors(capsys, f"layer.target={module}.Layer")
    assert (code, "Traceback" in err) == (2, False)
    assert err.endswith(f"importing {module} failed: {said}\n")


def test_a_closed_generator_is_no_exit():
    def parts():
        with no_exit():
            yield 1

    generator = parts()
    next(generator)
    generator.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ExitsWhenExecuted", "EndsProcessWhenExecuted"])
def test_exits_in_callbacks_fail_the_run(name):
    targets = f"layer.target=exiting_layers.{name},exiting_layers.Scale"
    assert main.main(["-m", *LEAN, targets, "seed=0,1", "checks=off", "sweep=two"]) == 1
    records = [json.loads(path.read_text()) for path in sorted(Path("outputs/two/runs").glob("*/record.json"))]
    assert [record["status"] for record in records] == ["failed", "failed", "done", "done"]
    assert [record["error"]["message"] for record in records[:2]] == ["SystemExit: 0", "SystemExit: 0"]


def test_a_config_that_exits_is_named(capsys):
    words = ("layer.target=exiting_layers.ExitsForWideInput", "input_shape=[4],[8]", "sweep=two")
    code, err = errors(capsys, "-m", *words)
    assert code == 2
    assert f"{AT} SystemExit: 3.{TRY}\n  In: input_shape=[8]" in err


@pytest.mark.slow
def test_json_is_alone_on_stdout():
    command = [sys.executable, "-m", "runner", "check", "--json", *LEAN, "layer.target=exiting_layers.Prints"]
    support = str(Path(__file__).parents[1] / "support")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([support, str(Path(__file__).parents[2])])}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert (done.returncode, json.loads(done.stdout)[0]["layer"]) == (0, "Prints")
    assert {"made", "called", "made in a shell"} <= set(done.stderr.splitlines())


def test_a_forked_process_still_ends():
    forks = """
import os
from runner.errors import no_exit
with no_exit():
    child = os.fork()
    if child == 0:
        os._exit(5)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-c", forks]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    assert (done.returncode, done.stdout) == (0, "5\n")


def exit_handler(number: int, frame: object) -> None:
    sys.exit(7)


@pytest.fixture
def handled():
    before = signal.signal(signal.SIGUSR1, exit_handler)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_handler_may_exit(handled):
    with pytest.raises(SystemExit, match="7"), no_exit():
        signal.raise_signal(signal.SIGUSR1)


def test_ctrl_c_interrupts_user_code():
    with pytest.raises(KeyboardInterrupt), no_exit():
        signal.raise_signal(signal.SIGINT)


def test_no_exit_says_where():
    with pytest.raises(LayerError, match=rf"test_exits.py:\d+ {AT} SystemExit: 3"), no_exit():
        sys.exit(3)


def callback_error(file: str, function: str) -> RuntimeError:
    frames = f'  File "{file}", line 3, in {function}\n    sys.exit(7)\n'
    return RuntimeError(f"INTERNAL: callback failed: Traceback (most recent call last):\n{frames}SystemExit: 7")


def test_handler_exits_in_callbacks_end_processes(handled):
    with pytest.raises(SystemExit, match="7"):
        end_if_meant(callback_error(__file__, "exit_handler"))


def test_user_exits_in_callbacks_are_failures(handled):
    error = callback_error("layers.py", "stop")
    end_if_meant(error)
    assert describe_failure(error).message == "SystemExit: 7"
