"""Are the nodes fit? Run by srun as every rank: `python -m nemo_forking.cluster.node_check [key=value ...]`.

The first rank of each node looks at it (nemo_forking/cluster/node.py) and writes what it found into the run folder,
which all nodes must see. Then all ranks send numbers round a ring, first within their node, then over all, within a
time limit: NCCL on GPUs, gloo on CPUs. Rank 0 names the bad nodes, what is wrong with each, and exits with 1.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from nemo_forking.cluster.node import Found, compare, look
from nemo_forking.cluster.slurm import job_config
from nemo_forking.config import Config
from nemo_forking.errors import UserError

PATIENCE = float(os.environ.get("NEMO_FORKING_CHECK_SECONDS", 120))  # for every one of the steps below
WORDS_SENT = 1 << 22  # float32 of an all-reduce: 16 MiB, enough for NCCL to take the road it takes in training


def main(argv: Sequence[str]) -> int:
    """The command of this file's head: 0 where all is well, 1 where a node is bad, 2 for a wrong command line."""
    try:
        config = job_config(argv)
        rank, node = int(os.environ["RANK"]), os.environ.get("SLURMD_NODENAME", socket.gethostname())
        nodes = hosts()
        if int(os.environ["LOCAL_RANK"]) == 0:
            write(config, node)
        bad: dict[str, list[str]] = {}
        if rank == 0:
            found, bad = gather(config, nodes)
            for name, problems in compare(found).items():
                bad.setdefault(name, []).extend(problems)
            tell(nodes, found)
        if not bad or rank:
            bad |= ring(config, nodes, rank)
        if rank == 0:
            shutil.rmtree(place(config), ignore_errors=True)
        return report(bad) if rank == 0 else int(bool(bad))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def hosts() -> list[str]:
    """The job's nodes in the order of their ranks."""
    return os.environ["NEMO_FORKING_HOSTS"].split(",")


# ---------------------------------------------------------------- one node


def place(config: Config) -> Path:
    """Folder, in the run folder, of what the nodes of this attempt found."""
    return Path(config.run.folder) / f".node_check-{os.environ['TORCHELASTIC_RUN_ID']}"


def write(config: Config, node: str) -> None:
    """Looks at this node and leaves what it finds for rank 0; a folder that cannot be written is told on stderr."""
    found = look(config, node, int(os.environ["MASTER_PORT"]) if os.environ["RANK"] == "0" else None)
    folder = place(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".{node}"
        aside.write_text(json.dumps(asdict(found)))
        aside.rename(folder / f"{node}.json")
    except OSError as error:
        print(f"{node}: {folder.parent} cannot be written: {error.strerror}", flush=True)


def gather(config: Config, nodes: Sequence[str]) -> tuple[list[Found], dict[str, list[str]]]:
    """What all nodes found, and node -> problems; a node whose file does not appear is one."""
    end, found = time.monotonic() + PATIENCE, {}
    while len(found) < len(nodes) and time.monotonic() < end:
        for node in set(nodes) - found.keys():
            try:
                found[node] = Found(**json.loads((place(config) / f"{node}.json").read_text()))
            except (OSError, ValueError):
                pass
        time.sleep(0.2)
    bad = {node: one.problems for node, one in found.items() if one.problems}
    folder = Path(config.run.folder).absolute()
    for node in nodes:
        if node not in found:
            bad[node] = [
                f"{folder}: what this node writes there is not seen on {nodes[0]} within {PATIENCE:.0f} s: is the "
                "folder on a file system that all nodes share, and writable?"
            ]
    return list(found.values()), bad


# ---------------------------------------------------------------- all of them


def ring(config: Config, nodes: Sequence[str], rank: int) -> dict[str, list[str]]:
    """All-reduces within the node and over all; node -> problems, told from which ranks did not come through.

    Collectives: joins the world; all ranks call it.
    """
    import torch
    import torch.distributed as dist

    gpu, local = config.layout.accelerator == "gpu", int(os.environ["LOCAL_RANK"])
    world, each = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world,
        is_master=rank == 0,
        timeout=timedelta(seconds=3 * PATIENCE),  # rank 0 may still be waiting for what a node writes
        wait_for_workers=False,
    )
    device = torch.device("cuda", local) if gpu else torch.device("cpu")

    def join() -> None:
        if gpu:
            torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl" if gpu else "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=PATIENCE)
        )

    def within() -> None:
        groups = [dist.new_group(list(range(first, first + each))) for first in range(0, world, each)]
        reduce(groups[rank // each], each)

    def over_all() -> None:
        began = time.monotonic()
        reduce(None, world)
        if rank == 0:
            print(f"ring over {len(nodes)} nodes, {world} ranks: {time.monotonic() - began:.2f} s", flush=True)

    def reduce(group, size: int) -> None:
        ones = torch.ones(WORDS_SENT, device=device)
        dist.all_reduce(ones, group=group)
        if not bool((ones == size).all()):
            raise RuntimeError(f"an all-reduce of ones over {size} ranks gave other sums")

    steps = {"joining the ranks": join, "the ring within its node": within, "the ring over all nodes": over_all}
    for name, step in steps.items():
        trouble = _within_time(step)
        store.set(f"{name}/{rank}", trouble or "well")
        told = _all_told(store, name, world)
        lame = {who: said for who, said in told.items() if said != "well"}
        if lame:
            return _by_node(lame, nodes, each, name)
    dist.destroy_process_group()
    store.set(f"over/{rank}", "well")
    if rank == 0:
        _all_told(store, "over", world)  # its process holds the store, which others may still read
    return {}


def _within_time(step: Callable[[], None]) -> str:
    """Runs a step in a thread, for a collective may never return; what went wrong."""
    trouble = [f"no end within {PATIENCE:.0f} s"]

    def run() -> None:
        try:
            step()
            trouble[0] = ""
        except Exception as error:  # noqa: BLE001 - whatever a broken fabric raises is what we look for
            trouble[0] = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return trouble[0]


def _all_told(store, name: str, world: int) -> dict[int, str]:
    """Rank -> what it said of a step; a rank that says nothing is not there."""
    end, told = time.monotonic() + PATIENCE, {}
    while len(told) < world and time.monotonic() < end:
        for rank in range(world):
            if rank not in told and store.check([f"{name}/{rank}"]):
                told[rank] = store.get(f"{name}/{rank}").decode()
        time.sleep(0.05)
    return {rank: told.get(rank, "no answer: its process did not start or cannot be reached") for rank in range(world)}


def _by_node(lame: dict[int, str], nodes: Sequence[str], each: int, step: str) -> dict[str, list[str]]:
    """Node -> problems. Where some ranks are silent, the others only waited for them: only the silent are named."""
    silent = {rank: said for rank, said in lame.items() if said.startswith("no answer")}
    bad: dict[str, list[str]] = {}
    for rank, said in (silent or lame).items():
        bad.setdefault(nodes[rank // each], []).append(f"{step}: rank {rank}: {said}")
    return bad


# ---------------------------------------------------------------- words


def tell(nodes: Sequence[str], found: Sequence[Found]) -> None:
    """A line for every node."""
    by_name = {one.node: one for one in found}
    for node in nodes:
        if node in by_name:
            print(by_name[node].line(), flush=True)


def report(bad: dict[str, list[str]]) -> int:
    """Names the bad nodes; the exit status."""
    if not bad:
        print("node check: all nodes are fit")
        return 0
    print(f"error: node check: {len(bad)} of {len(hosts())} nodes not fit")
    for node, problems in sorted(bad.items()):
        print("\n".join(f"  {node}: {problem}" for problem in problems))
    print(f"  remedy: mend them, or submit again with --exclude={','.join(sorted(bad))} (launcher.extra)", flush=True)
    return 1


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # a collective that hangs in its thread is not waited for
