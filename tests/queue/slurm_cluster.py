"""A real Slurm on the loopback interface: munged, slurmctld and slurmd in a temporary folder, one node with four generic GPUs.

The partition `high` preempts `low`, whose jobs are then requeued. Nothing outside of the folder is read or written, and no rights are
needed beyond those of the user who runs the tests.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from elmanctl.queue.states import Slurm

LOW = Slurm(partition="low")  # what a job asks for that others may preempt
DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
UP_SECONDS = 20.0
CONFIG = """
ClusterName=elmanctl
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
KillWait=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000 Gres=gpu:4 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=60 PriorityTier=1
PartitionName=high Nodes={host} MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""


def absent() -> str:
    """Return what is missing for a cluster, an empty text where nothing is."""
    missing = [name for name in DAEMONS if shutil.which(name, path=PATH) is None]
    return f"{', '.join(missing)} not installed; apt-get install slurmctld slurmd slurm-client munge" if missing else ""


class LoopbackCluster:
    """A cluster that is up. `environment` has what its commands need."""

    def __init__(self):
        self.place = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: the name of a socket has 107 letters
        self.environment = {"SLURM_CONF": str(self.place / "slurm.conf")}
        self._pids = [self.place / f"{name}.pid" for name in ("slurmd", "slurmctld", "munged")]
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        host, place = socket.gethostname().split(".")[0], self.place
        (place / "key").write_bytes(os.urandom(1024))
        (place / "key").chmod(0o600)
        for name in ("state", "spool"):
            (place / name).mkdir()
        for number in range(4):
            (place / f"gpu{number}").symlink_to("/dev/null")
        text = CONFIG.format(host=host, ports=free_ports(2), place=place, user=getpass.getuser())
        (place / "slurm.conf").write_text(text)
        (place / "gres.conf").write_text(f"NodeName={host} Name=gpu File={place}/gpu[0-3]\n")
        files = {"key": "key", "socket": "munge.socket", "pid": "munged.pid", "log": "munged.log", "seed": "seed"}
        names = {"key": "key-file", "socket": "socket", "pid": "pid-file", "log": "log-file", "seed": "seed-file"}
        self.call("munged", "--force", *(f"--{names[kind]}={place / file}" for kind, file in files.items()))
        self.call("slurmctld")
        self.call("slurmd")
        deadline = time.monotonic() + UP_SECONDS
        while self.call("sinfo", "-h", "-p", "low", "-o", "%T", check=False).strip() != "idle":
            if time.monotonic() > deadline:
                logs = [path.read_text()[-2000:] for path in place.glob("*.log")]
                raise RuntimeError("Slurm does not come up:\n" + "\n".join(logs))
            time.sleep(0.1)

    def call(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands and return what it prints."""
        env = os.environ | self.environment | {"PATH": PATH}
        ran = subprocess.run(
            command,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        assert not check or ran.returncode == 0, (command, ran.stdout)
        return ran.stdout

    def stop(self) -> None:
        """End the daemons, by their pids, and remove the folder."""
        if self._pids[1].exists():
            self.call("scancel", "--user", getpass.getuser(), "--quiet", check=False)
        pids = [int(text) for file in self._pids if file.exists() and (text := file.read_text().strip())]
        for pid in pids:
            alive(pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while any(alive(pid, 0) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in pids:
            alive(pid, signal.SIGKILL)
        shutil.rmtree(self.place, ignore_errors=True)


def alive(pid: int, number: int) -> bool:
    """Send a signal and return whether there was a process to get it."""
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses now."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
