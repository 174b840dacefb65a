"""One node, looked at before a job uses it: GPUs, memory, disk, port. No torch."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nemo_forking.config import Config

QUERY = {  # our name -> nvidia-smi's
    "used_mib": "memory.used",
    "total_mib": "memory.total",
    "clock_mhz": "clocks.max.sm",
    "errors": "ecc.errors.uncorrected.volatile.total",
    "slowdown": "clocks_throttle_reasons.hw_slowdown",
    "model": "name",
}
IDLE_MIB = 2048  # in use on a GPU before anything of ours runs: driver and display take some hundred
HOST_SHARE = 0.25  # of a node's memory must be free
LIMITED = 20  # seconds nvidia-smi may take; it hangs when a GPU has fallen off the bus


@dataclass
class Found:
    """What a node says of itself.

    Attributes:
        node: its name in Slurm.
        problems: what makes it unfit, in words.
        gpus: one dictionary for each, with the keys of QUERY; a value that nvidia-smi does not tell is None.
        memory_gib: of the host, available now.
        memory_total_gib: of the host.
        disk_gib: free where the run folder lies.
    """

    node: str
    problems: list[str] = field(default_factory=list)
    gpus: list[dict] = field(default_factory=list)
    memory_gib: float = 0.0
    memory_total_gib: float = 0.0
    disk_gib: float = 0.0

    def line(self) -> str:
        """All of it in one line."""
        kinds = Counter(gpu["model"] for gpu in self.gpus)
        gpus = ", ".join(f"{count} x {model}" for model, count in kinds.items()) or "no GPUs"
        memory = f"{self.memory_gib:.0f} of {self.memory_total_gib:.0f} GiB memory free"
        return f"{self.node}: {gpus}, {memory}, {self.disk_gib:.0f} GiB disk free in the run folder"


def look(config: Config, node: str, port: int | None) -> Found:
    """Looks at the node this process is on; with a port, also whether that is free."""
    found = Found(node)
    if config.layout.accelerator == "gpu":
        _gpus(found, config.layout.devices)
    _memory(found)
    _disk(found, Path(config.run.folder), config.launcher.free_gib)
    if port is not None and not port_is_free(port):
        found.problems.append(f"port {port}, at which the ranks of this job meet, is taken by another process")
    return found


def compare(found: Sequence[Found]) -> dict[str, list[str]]:
    """Node -> problems seen only beside the others: another kind of GPU, or clocks that were lowered."""
    problems: dict[str, list[str]] = {}
    for key, words in (("model", "is a {}"), ("clock_mhz", "has a highest clock of {} MHz")):
        counts = Counter(gpu[key] for one in found for gpu in one.gpus if gpu[key] is not None)
        if not counts:
            continue
        usual = counts.most_common(1)[0][0]
        for one in found:
            for number, gpu in enumerate(one.gpus):
                if gpu[key] is not None and gpu[key] != usual:
                    problem = f"GPU {number} {words.format(gpu[key])}, most of this job's: {usual}"
                    problems.setdefault(one.node, []).append(problem)
    return problems


def _gpus(found: Found, wanted: int) -> None:
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY.values())}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMITED, check=False)
    except FileNotFoundError:
        found.problems.append(f"no GPU: nvidia-smi is not there, and the layout wants {wanted}")
        return
    except subprocess.TimeoutExpired:
        found.problems.append(f"nvidia-smi does not answer within {LIMITED} s: a GPU may have fallen off the bus")
        return
    if done.returncode:
        found.problems.append(f"nvidia-smi: {(done.stdout + done.stderr).strip().splitlines()[0]}")
        return
    found.gpus = parse(done.stdout)
    found.problems += gpu_problems(found.gpus, wanted)


def parse(text: str) -> list[dict]:
    """The lines of nvidia-smi's CSV; what it does not tell ("[N/A]", "[Not Supported]") is None."""
    gpus = []
    for line in filter(str.strip, text.splitlines()):
        values = [value.strip() for value in line.split(",")]
        told = [None if value.startswith("[") else int(value) if value.isdigit() else value for value in values]
        gpus.append(dict(zip(QUERY, told, strict=True)))
    return gpus


def gpu_problems(gpus: Sequence[dict], wanted: int) -> list[str]:
    """What is wrong with a node's GPUs, in words."""
    problems = []
    if len(gpus) < wanted:
        problems.append(f"{len(gpus)} GPUs, and the layout wants {wanted}")
    for number, gpu in enumerate(gpus):
        if gpu["used_mib"] is not None and gpu["used_mib"] > IDLE_MIB:
            problems.append(
                f"GPU {number} has {gpu['used_mib']} MiB in use before the job: `nvidia-smi` there says by what"
            )
        if gpu["errors"]:
            problems.append(f"GPU {number} has {gpu['errors']} uncorrected memory errors")
        if gpu["slowdown"] == "Active":
            problems.append(f"GPU {number} is slowed down by its hardware (heat or power)")
    return problems


def _memory(found: Found) -> None:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines}
    found.memory_gib, found.memory_total_gib = kib["MemAvailable"] / 2**20, kib["MemTotal"] / 2**20
    if found.memory_gib < HOST_SHARE * found.memory_total_gib:
        found.problems.append(
            f"only {found.memory_gib:.0f} of {found.memory_total_gib:.0f} GiB of memory are free: what else runs?"
        )


def _disk(found: Found, folder: Path, wanted: float) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{found.node}-{os.getpid()}"
        probe.write_bytes(b"probe")
        probe.unlink()
        found.disk_gib = shutil.disk_usage(folder).free / 2**30
    except OSError as error:
        found.problems.append(f"{folder.absolute()} cannot be written: {error.strerror}")
        return
    if found.disk_gib < wanted:
        found.problems.append(
            f"{folder.absolute()} has {found.disk_gib:.0f} GiB free, and launcher.free_gib asks for {wanted:.0f}"
        )


def port_is_free(port: int) -> bool:
    """Whether a server could listen there."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError:
            return False
        return True
