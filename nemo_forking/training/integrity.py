"""Checksums of a checkpoint's files: taken when it is written, compared before anything of it is loaded.

Every rank hashes a share of the files, so that a large checkpoint takes seconds. Collectives run over the world.
"""

import json
import re
from pathlib import Path

import torch.distributed as dist

from nemo_forking.checksums import SUMS, difference, file_facts, read_sums, untold
from nemo_forking.files import write_aside


def seal(folder: Path) -> None:
    """Write the size and SHA-256 of every file in the folder to `checksums.json` there.

    Every rank calls it and hashes what it wrote itself, or its share of a model's files; global rank 0 hashes what
    belongs to no rank. One gather.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    owner = {path: _owner(path, world) for path in folder.rglob("*") if path.is_file() and path.name != SUMS}
    mine = {str(path.relative_to(folder)): file_facts(path) for path, whose in owner.items() if whose == rank}
    everyone = [None] * world if rank == 0 else None
    dist.gather_object(mine, everyone, dst=0)
    if rank == 0:
        files = {name: facts for share in everyone for name, facts in share.items()}
        write_aside(folder / SUMS, json.dumps(dict(sorted(files.items())), indent=1))
    dist.barrier()


def damage(folder: Path) -> list[str]:
    """What is not as it was written, a line for each file, the same on every rank; empty for a whole folder.

    Every rank calls it. One broadcast, one all-gather.
    """
    told = [read_sums(folder) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(told, src=0)
    files = told[0]
    if isinstance(files, str):
        return [files]
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = [line for name in sorted(files)[rank::world] if (line := difference(folder / name, files[name]))]
    everyone = [None] * world
    dist.all_gather_object(everyone, mine)
    return [line for share in everyone for line in share] + untold(folder, files)


def _owner(path: Path, world: int) -> int:
    """The rank that hashes a file: shards __<rank>_<number>.distcp their writer, a model's weights all in turn."""
    if shard := re.fullmatch(r"__(\d+)_\d+\.distcp", path.name):
        return int(shard[1]) if int(shard[1]) < world else 0
    weights = re.fullmatch(r"model-(\d+)-of-\d+\.safetensors", path.name)
    return int(weights[1]) % world if weights else 0
