"""A Slurm of one node with accounting, on loopback alone: Debian's daemons, in a folder of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
PACKAGES = "apt-get install --no-install-recommends slurm-wlm munge slurmdbd mariadb-server"
PATH = f"/usr/sbin:{os.environ['PATH']}"

SLURM_CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SrunPortRange={ports[3]}-{last}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[2]}
AccountingStoragePass={folder}/munge.socket
MinJobAge=600
KillWait=10
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={num_cores} RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={ports[2]}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounting
"""


def missing() -> list[str]:
    """Daemons that are not installed."""
    return [name for name in DAEMONS if shutil.which(name, path=PATH) is None]


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """A running cluster; gives the environment in which its commands find it.

    Args:
      folder: Empty; keys, data and logs go there.
    """
    ports = free_ports(4)
    known = {"folder": folder, "host": socket.gethostname(), "ports": ports, "num_cores": os.cpu_count()}
    for name in ("state", "spool", "data"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**known, last=ports[3] + 200))
    (folder / "slurmdbd.conf").write_text(SLURMDBD_CONF.format(**known))
    for name in ("munge.key", "slurmdbd.conf"):
        (folder / name).chmod(0o600)
    socket_path = str(folder / "mariadb.socket")
    environment = os.environ | {
        "PATH": PATH,
        "SLURM_CONF": str(folder / "slurm.conf"),
        "MYSQL_UNIX_PORT": socket_path,
    }
    with contextlib.ExitStack() as stack:

        def start(*command: str) -> None:
            stack.enter_context(daemon(folder, environment, command))

        munge = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in ("key-file", "pid-file", "log-file")]
        munge += [f"--socket={folder}/munge.socket", f"--seed-file={folder}/seed"]
        start("munged", "--foreground", "--force", *munge)
        data = ["--no-defaults", f"--datadir={folder}/data", "--user=root"]
        install = ["mariadb-install-db", *data, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install, env=environment, check=True, capture_output=True, timeout=120)
        start("mariadbd", *data, f"--socket={socket_path}", "--skip-networking", f"--pid-file={folder}/mariadb.pid")
        wait_for(["mariadb-admin", "--no-defaults", f"--socket={socket_path}", "ping"], environment)
        start("slurmdbd", "-D")
        wait_for(["sacctmgr", "-i", "show", "cluster"], environment)
        register = ["sacctmgr", "-i", "add", "cluster", "loopback"]
        subprocess.run(register, env=environment, check=False, capture_output=True)
        start("slurmctld", "-D")
        start("slurmd", "-D")
        wait_for(["bash", "-c", "sinfo --noheader --format=%T | grep -q idle"], environment)
        yield environment


@contextlib.contextmanager
def daemon(folder: Path, environment: dict[str, str], command: Sequence[str]) -> Iterator[None]:
    """A daemon in the foreground; its output goes to a file, since a pipe that nobody reads would stop it."""
    with open(folder / f"{command[0]}.out", "wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(command: Sequence[str], environment: dict[str, str]) -> None:
    """Waits until a command says that all is well.

    Raises:
      TimeoutError: It did not for a minute.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if subprocess.run(command, env=environment, check=False, capture_output=True, timeout=60).returncode == 0:
            return
        time.sleep(0.2)
    raise TimeoutError(f"not up after a minute: {' '.join(command)}")


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody has."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
