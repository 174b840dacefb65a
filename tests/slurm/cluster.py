"""A real Slurm on this machine: one controller and several slurmd, each a node of its own to Slurm.

Everything lies in one folder and listens on free ports, so that a Slurm of the machine, or a second one of ours, is not
disturbed. Two partitions: `batch`, whose jobs are requeued when one of `high` wants their nodes. Needs root.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
CONFIGURATION = """\
ClusterName=simulated
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={state}/controller
SlurmdSpoolDir={state}/spool.%n
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.%n.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=50000,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
EnforcePartLimits=ALL
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=20
MessageTimeout=30
MinJobAge=3600
KillWait=10
SlurmdParameters=config_overrides
"""


class Cluster:
    """A running Slurm; leaving the context ends it and all its jobs.

    Args:
        folder: an empty folder.
        nodes: how many, named n1, n2, ...
        cpus: of each, whatever the machine has.
    """

    def __init__(self, folder: Path, nodes: int = 3, cpus: int = 4):
        self.state, self.names = folder, [f"n{number}" for number in range(1, nodes + 1)]
        self.configuration = folder / "slurm.conf"
        self.environment = os.environ | {"SLURM_CONF": str(self.configuration)}
        self._write(cpus)

    def __enter__(self) -> Cluster:
        (self.state / "controller").mkdir()
        self._munge()
        self.run("slurmctld", "-f", str(self.configuration))
        for name in self.names:
            self.start_node(name)
        self.wait_until(lambda: all(self.node_state(name) == "IDLE" for name in self.names), 60, "nodes are not idle")
        return self

    def __exit__(self, *raised) -> None:
        subprocess.run(["scancel", "--user=root"], env=self.environment, capture_output=True)
        subprocess.run(["scancel", "--signal=KILL", "--full", "--user=root"], env=self.environment, capture_output=True)
        time.sleep(1)
        for name in ("slurmctld", *(f"slurmd.{name}" for name in self.names), "munged"):
            self._end(self.state / f"{name}.pid")

    # ------------------------------------------------------------ nodes

    def start_node(self, name: str, before: tuple[str, ...] = ()) -> None:
        """Starts a node's slurmd; `before` is a command that runs it, such as unshare."""
        (self.state / f"spool.{name}").mkdir(exist_ok=True)
        self.run(*before, "slurmd", "-f", str(self.configuration), "-N", name)

    def stop_node(self, name: str) -> None:
        """Ends a node's slurmd in order."""
        self._end(self.state / f"slurmd.{name}.pid")

    def kill_node(self, name: str) -> None:
        """SIGKILL to the node's slurmd and to all that it runs: the machine is gone; Slurm is told so at once."""
        pid = int((self.state / f"slurmd.{name}.pid").read_text())
        for process in [*self._steps(name), pid]:
            _kill(process)
        self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=killed")

    def revive_node(self, name: str) -> None:
        """The machine is back: Slurm takes a node that reports itself into service (ReturnToService=2)."""
        self.start_node(name)
        self.wait_until(lambda: "DOWN" not in self.node_state(name), 60, f"{name} has not come back")

    def node_state(self, name: str) -> str:
        """IDLE, ALLOCATED, MIXED, DOWN ..."""
        said = self.run("scontrol", "show", "node", name, "--oneliner")
        return said.split("State=", 1)[1].split()[0]

    # ------------------------------------------------------------ jobs

    def job(self, number: int) -> dict[str, str]:
        """What scontrol shows of a job: JobState, Restarts, NodeList, ..."""
        said = self.run("scontrol", "show", "job", str(number), "--oneliner")
        return dict(word.split("=", 1) for word in said.split() if "=" in word)

    def wait(self, number: int, seconds: float = 900) -> dict[str, str]:
        """Until the job has ended; what became of it."""
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE")
        self.wait_until(lambda: self.job(number)["JobState"] in ends, seconds, f"job {number} has not ended")
        return self.job(number)

    def wait_until(self, condition, seconds: float, otherwise: str) -> None:
        """Asks twice a second; raises TimeoutError."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{otherwise} after {seconds:.0f} s\n{self.run('squeue', '--all')}")
            time.sleep(0.5)

    def run(self, *words: str) -> str:
        """A Slurm command; what it printed."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr or done.stdout}")
        return done.stdout

    # ------------------------------------------------------------ parts

    def _write(self, cpus: int) -> None:
        ports = _free_ports(1 + len(self.names))
        host = socket.gethostname().split(".")[0]
        lines = [CONFIGURATION.format(host=host, port=ports[0], state=self.state)]
        shape = f"CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=2000"
        for name, port in zip(self.names, ports[1:], strict=True):
            lines.append(f"NodeName={name} NodeAddr=127.0.0.1 NodeHostname={host} Port={port} {shape} State=UNKNOWN\n")
        everywhere = f"Nodes={','.join(self.names)} MaxTime=INFINITE State=UP"
        lines.append(f"PartitionName=batch {everywhere} Default=YES PriorityTier=10 PreemptMode=REQUEUE GraceTime=60\n")
        lines.append(f"PartitionName=high {everywhere} PriorityTier=100 PreemptMode=OFF\n")
        self.configuration.write_text("".join(lines))

    def _munge(self) -> None:
        """An authentication daemon of our own; it insists on the owners and rights of its files."""
        key = self.state / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log"}
        options = [f"--{name}={self.state / file}" for name, file in files.items()]
        self.run("munged", "--force", *options, f"--seed-file={self.state}/munge.seed")

    def _steps(self, name: str) -> list[int]:
        """Processes of a node's jobs: its slurmstepd and all they started."""
        found, parents = [], {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                    environment = (entry / "environ").read_bytes()
                except (OSError, IndexError):
                    continue
                ours = str(self.configuration).encode() in environment or str(self.state) in words
                if ours and f"SLURMD_NODENAME={name}".encode() in environment.split(b"\0"):
                    found.append(int(entry.name))
        above = {parents[pid] for pid in found if pid in parents}
        stepd = [pid for pid in above if b"slurmstepd" in _cmdline(pid)]
        return stepd + found

    def _end(self, pid_file: Path) -> None:
        if not pid_file.exists():
            return
        pid = int(pid_file.read_text())
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            for _ in range(50):
                if not Path(f"/proc/{pid}").exists():
                    return
                time.sleep(0.1)


def install() -> str | None:
    """Slurm from Debian's packages, where this is root and it is missing; why not, or None."""
    if all(shutil.which(name) for name in PROGRAMS):
        return None if os.geteuid() == 0 else "a Slurm of one's own needs root"
    if os.geteuid() or not shutil.which("apt-get"):
        return "Slurm is not installed (apt-get install slurm-wlm munge), and this is no root on Debian"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]):
        done = subprocess.run(["apt-get", *words], env=environment, capture_output=True, text=True)
        if done.returncode:
            return f"apt-get {' '.join(words)} failed: {done.stderr[-500:]}"
    return None


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
