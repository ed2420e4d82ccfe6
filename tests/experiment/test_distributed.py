"""Two real processes make one run together: one record, one checkpoint, no port beyond this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from started_processes import Started

from runner.arrays import checkpoint
from runner.commands import main
from runner.experiment import distributed
from runner.records import store
from runner.records.paths import RunFolder
from tests.arrays.test_mesh import HERE, digests, python, recorded

WORDS = ("layer=custom", "layer.target=meshed_layers.Block", "layer.kwargs.features=16", "input_shape=[4,8]")
# The first axis goes over the processes: neither of them has a whole kernel, or bias.
WORDS += (
    "mesh.axes={model:4,data:2}",
    "tracking=disabled",
    "timing=off",
    "train=short",
    "train.steps=3",
    "sweep=together",
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start(process_id: int, port: int, folder: Path, *words: str) -> Started:
    command = [sys.executable, "-m", "runner", *WORDS, "process.num_cpu_devices=4", "distributed=jax", *words]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE}:{HERE.parent.parent}",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(process_id),
    }
    pipe = subprocess.PIPE
    return Started(command, env=environment, cwd=folder, stdout=pipe, stderr=pipe, text=True)


def addresses(process: Started) -> set[str]:
    """Of every socket of `process`, on this side and on the other."""
    try:
        found = psutil.Process(process.pid).net_connections()
    except psutil.Error:
        return set()
    return {end.ip for one in found for end in (one.laddr, one.raddr) if end}


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> tuple[Path, list[tuple[int, str, str]], set[str]]:
    """The folder of one run of two processes, how each of them ended, and all addresses that they had."""
    folder = tmp_path_factory.mktemp("together")
    port, seen = free_port(), set()
    pair = [start(num, port, folder) for num in (0, 1)]
    while any(process.poll() is None for process in pair):
        for process in pair:
            seen |= addresses(process)
        time.sleep(0.05)
    ends = [(process.returncode, *process.communicate()) for process in pair]
    return folder / "outputs" / "together", ends, seen


def the_run(sweep: Path) -> RunFolder:
    (path,) = (sweep / "runs").iterdir()
    return RunFolder(path)


@pytest.mark.slow
def test_two_processes_write_one_run(together):
    sweep, ((first, out, _), (second, other, _)), _ = together
    assert (first, second) == (0, 0)
    assert "1 of 1 runs done" in out
    assert other == "process 1 of 2: done; process 0 writes the record\n"
    record = store.read_record(the_run(sweep))
    assert record.mesh is not None
    assert (record.mesh.axes, record.mesh.num_processes) == ({"data": 2, "model": 4}, 2)


@pytest.mark.slow
def test_one_process_restores_a_shared_checkpoint(together):
    folder = the_run(together[0])
    assert digests(checkpoint.restore(folder.checkpoint)) == recorded(folder)
    state = store.read_record(folder).train.state
    assert int(checkpoint.restore(folder.path / state.path)["step"]) == 3


@pytest.mark.slow
def test_one_process_verifies_within_a_tolerance(together):
    out = python("-m", "runner", "verify", str(the_run(together[0]).path), "--trust")
    assert "applied on 1 process instead of 2, the output is within " in out
    assert out.endswith("1 of 1 runs verified\n")


@pytest.mark.slow
def test_no_socket_leads_beyond_this_machine(together):
    seen = {ipaddress.ip_address(text) for text in together[2]}
    assert seen  # they did talk
    assert all((one.ipv4_mapped or one if one.version == 6 else one).is_loopback for one in seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            (["seed=0"], ["seed=1"]),
            "process 1 has another config than process 0.\n"
            "  Try: the same command in every process, but for distributed.process_id",
        ),
        (
            (["mesh.axes={data:1}"], ["mesh.axes={data:1}"]),  # put into the one above
            "mesh.axes={model:4,data:1}: it takes 4 devices, and the 2 processes have 8 together.\n  Try: "
            "'mesh.axes={model:8}'",
        ),
        (
            (["output_root=file"], []),
            "output folder file/together: file is a file, not a folder.\n  Try: output_root=~/outputs",
        ),
    ],
)
def test_disagreeing_processes_all_refuse(words, said, tmp_path):
    (tmp_path / "file").touch()
    port = free_port()
    pair = [start(num, port, tmp_path, *words[num]) for num in (0, 1)]
    errors = [process.communicate(timeout=120)[1].partition("error: ")[2] for process in pair]
    assert [process.returncode for process in pair] == [2, 2]
    assert errors[0] == f"{said}\n"
    assert said.partition(":")[0].partition(".\n")[0] in errors[1]
    assert list(tmp_path.glob("outputs/*")) == []


WRONG = """
import sys
from runner.experiment import distributed
from runner.config.composing import compose
from runner.errors import UserError
for words in sys.argv[1:]:
    try:
        run = compose.compose(["mesh.axes={data:2}", "distributed=jax", *words.split()])
        distributed.start(run.distributed, print)
    except UserError as error:
        print(error)
"""

EXAMPLE = f"  Try: {distributed.EXAMPLE}"


@pytest.mark.slow
def test_failed_rendezvous_is_explained(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "x")
    free = free_port()
    nobody = f"distributed.coordinator=127.0.0.1:{free} distributed.process_id=1 distributed.timeout_s=1"
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        at = f"distributed.coordinator=127.0.0.1:{taken}"
        zero = "distributed.process_id=0"
        words = (at, f"{at} {zero}", f"{at} distributed.process_id=2", nobody, "distributed.coordinator=here", zero)
        out = python("-c", WRONG, *words)
    assert out.splitlines() == [
        "distributed.process_id=x: JAX_PROCESS_ID is no whole number.",
        EXAMPLE,
        f"process 0 meets the others at 127.0.0.1:{taken}",
        f"distributed.coordinator=127.0.0.1:{taken}: the first process can't listen there: Address already in use"
        f" (while attempting to bind on address ('127.0.0.1', {taken})).",
        EXAMPLE,
        "distributed.process_id=2: processes are counted from 0 to 1.",
        EXAMPLE,
        f"process 1 meets the others at 127.0.0.1:{free}",
        f"distributed.coordinator=127.0.0.1:{free}: after 1 s the first process does not listen there: "
        "Connection refused.",
        "  Try: the same command with distributed.process_id=0, next to this one",
        "distributed.coordinator=here: it is HOST:PORT.",
        "  Try: distributed.coordinator=127.0.0.1:12345",
        "distributed.mode=jax: the processes can't meet (coordinator_address should be defined).",
        EXAMPLE,
    ]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["plan"],
            "distributed=jax: plan asks one process.\n  Try: the same without distributed, and all devices in one",
        ),
        (
            ["-m", "seed=0,1"],
            "distributed=jax: the processes make one run together, and these are 2.\n  Try: one command",
        ),
        (
            ["train=short", "train.save_every=5"],
            "train.save_every=5: steps are kept by one process.\n  Try: train.save_every=0",
        ),
        (
            ["mesh.axes=null"],
            "mesh.axes=null: several processes make one run over a mesh of all their devices.\n  Try: 'mesh.axes={data",
        ),
        (
            ["timing=careful"],
            "timing.min_warmup_s=0.1: processes that count calls by their own clocks would not make the",
        ),
        (
            ["distributed.num_processes=0"],
            "distributed.num_processes=0: at least one.\n  Try: distributed.num_processes=2",
        ),
        (
            ["distributed.timeout_s=0"],
            "distributed.timeout_s=0: at least one second.\n  Try: distributed.timeout_s=300",
        ),
    ],
)
def test_unsupported_distributed_settings_are_refused(words, said, capsys):
    assert main.main([*words, *([] if "mesh.axes=null" in words else ["mesh.axes={data:2}"]), "distributed=jax"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_one_process_hears_itself():
    assert distributed.exchange("alone") == ["alone"]
    assert (distributed.count(), distributed.index()) == (1, 0)
