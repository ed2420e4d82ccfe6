"""One side of a comparison in a process of its own, with its own source: two versions of a module can't share one."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from runner.errors import UserError, text_of
from runner.records.paths import RunFolder
from runner.records.timing import Samples

# How long a process gets to end once its work is done, in seconds.
END_S = 10.0

_CANT = "can't be run as it was saved"


class SideError(Exception):
    """A side that can't be run as it was saved."""


class SideProcess:
    """Calls the program of one side on request.

    Args:
      name: Of the side, for messages.
      folders: The runs that it calls.
      texts: The kept sources that it runs, by module name; None runs what is here.
      num_cpu_devices: How many devices the CPU is split into.
    """

    def __init__(
        self, name: str, folders: Sequence[RunFolder], texts: Mapping[str, str] | None, *, num_cpu_devices: int
    ) -> None:
        self._name = name
        # `-P`: not from the working directory, where anything may be called json.py; the path is sent.
        words = [sys.executable, "-P", "-m", "runner.report.compare.side_process"]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        request = {"folders": [str(folder.path.absolute()) for folder in folders], "texts": texts, "path": sys.path}
        self._send(request | {"num_cpu_devices": num_cpu_devices})

    def __enter__(self) -> SideProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @functools.cached_property
    def num_calls(self) -> int:
        """How many calls a round takes; waits until the program is ready.

        Raises:
          SideError: The program can't be built, or it is another one than the one that was saved.
        """
        return int(self._answer()["num_calls"])

    def sample(self, num_calls: int) -> list[float]:
        """The durations of that many blocking calls, in seconds.

        Raises:
          SideError: A call failed.
        """
        self._send({"num_calls": num_calls})
        durations: list[float] = self._answer()["durations_s"]
        return durations

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it said before it ended is still to be read
            _send(self._process.stdin, request)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {"error": "its process ended"}
        if "error" in answer:
            raise SideError(f"{self._name} {_CANT}: {answer['error']}")
        return answer


def alternate(sides: Sequence[SideProcess], num_rounds: int) -> list[Samples]:
    """Times both sides in turns: in each round equally many calls of each, another side first than in the one before.

    Raises:
      SideError: A call failed.
    """
    num_calls = max(side.num_calls for side in sides)
    durations: list[list[float]] = [[] for _ in sides]
    for number in range(num_rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for place in order:
            durations[place] += sides[place].sample(num_calls)
    return [Samples(durations_s=one, num_calls=1) for one in durations]


def serve() -> None:
    """Answers the requests of a `SideProcess` until it closes the pipe."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Whatever the layer prints or reads is not part of the conversation.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        call = None
        for line in requests:
            request = json.loads(line)
            if call is None:
                call, num_calls = _prepared(request)
                _send(answers, {"num_calls": num_calls})
            else:
                from runner.timing import clock

                samples = clock.measure(call, warmup=1, rounds=request["num_calls"])
                _send(answers, {"durations_s": list(samples.durations_s)})
    except KeyboardInterrupt:
        pass  # the other process says so
    except UserError as error:
        _send(answers, {"error": error.what})
    except Exception as error:  # noqa: BLE001 - the layer's own code may raise anything
        _send(answers, {"error": f"{type(error).__name__}: {text_of(error)}".removesuffix(": ")})


def _prepared(request: Mapping[str, Any]) -> tuple[Callable[[], Any], int]:
    """A call of the program, and how many of them a round takes.

    Raises:
      UserError: It can't be built, or it is not the one that was saved.
    """
    from runner.report.compare import kept_modules, rounds

    sys.path += [folder for folder in request["path"] if folder not in sys.path]
    folders = [RunFolder(Path(path)) for path in request["folders"]]
    if request["texts"] is not None:
        kept_modules.install(request["texts"], f"{folders[0].path}.sources")
    return rounds.served(folders, request["num_cpu_devices"])


def _send(pipe: IO[bytes], message: Mapping[str, Any]) -> None:
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()


if __name__ == "__main__":
    serve()
