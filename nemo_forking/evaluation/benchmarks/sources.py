"""Where rows lie: a local file or folder, else a dataset of the Hugging Face hub."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from nemo_forking.errors import UserError
from nemo_forking.evaluation.benchmarks import hub
from nemo_forking.evaluation.benchmarks.files import SUFFIXES, suffix_of

if TYPE_CHECKING:
    from nemo_forking.config.schema import BenchmarkConfig

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
SHARD = re.compile(r"^(.*)-\d{5}-of-(\d{5})")
NO_ROWS = ("dataset_info.json", "dataset_infos.json", "state.json")  # what `datasets` writes next to the rows


@dataclass(frozen=True)
class Declared:
    """What says where rows are, of data that are no benchmark; a benchmark's declaration has all of it too."""

    source: str
    answer: str
    revision: str | None = None
    subset: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Source:
    """The files of a benchmark, or of other data.

    Attributes:
        files: paths in the order they are read.
        names: how messages and provenance name them.
        commit: of the hub dataset; None for local files.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    commit: str | None = None


def locate(block: str, declared: BenchmarkConfig | Declared) -> Source:
    """Find the files of a benchmark, or of other data, and download what is on the hub and not in its cache.

    A local file or folder wins where it exists; whatever looks like a path must exist.

    Args:
        block: the block of the configuration, as benchmarks.aime24, whose key `source` messages name.
        declared: what it says.

    Raises:
        UserError: nothing is there, it cannot be had, or subset and split choose no file.
    """
    key, source = f"{block}.source", declared.source
    path = Path(source).expanduser()
    if source.strip() and path.is_dir():
        chosen = _choose(_files_below(path), block, declared, f"the folder {source}", strict=False)
        return Source(tuple(path / file for file in chosen), tuple(f"{source.rstrip('/')}/{file}" for file in chosen))
    if source.strip() and path.exists():
        if not suffix_of(path.name):
            raise UserError(f"{key}: {source} is not a file that is read; its name must end in {', '.join(SUFFIXES)}")
        return Source((path,), (source,))
    if source.startswith((".", "/", "~")) or suffix_of(source):
        many_ways = declared.answer == "many_ways"
        remedy = "recipes/reproduce.py writes it" if many_ways else "give one, or the name of a Hugging Face dataset"
        raise UserError(f"{key}: there is no file or folder {source}; {remedy}")
    if not HUB_NAME.fullmatch(source):
        raise UserError(f"{key}: {source!r} is neither a file or folder nor the name of a Hugging Face dataset")
    folder, chosen = hub.fetch(
        block, declared, lambda files: _choose(files, block, declared, f"the dataset {source}", strict=True)
    )
    return Source(
        tuple(folder / file for file in chosen), tuple(f"{source}/{file}" for file in chosen), commit=folder.name
    )


def _files_below(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def _choose(
    files: Sequence[str], block: str, declared: BenchmarkConfig | Declared, where: str, strict: bool
) -> list[str]:
    """The data files that subset and split mean: by a folder's name, or by how the file's own name begins.

    Unless strict, they narrow only while more than one file is left: a single file is named in many ways. A cache of
    the hub may lack files of the dataset, so that the one file left may be another.
    """
    chosen = sorted(file for file in files if _holds_rows(file))
    if not chosen:
        raise UserError(f"{block}.source: {where} has no file of a format that is read: {', '.join(SUFFIXES)}")
    for key in ("subset", "split"):
        wanted = getattr(declared, key)
        if wanted is not None and (strict or len(chosen) > 1):
            narrowed = [file for file in chosen if _named(file, wanted)]
            if not narrowed:
                raise UserError(
                    f"{block}.{key}: no file of {where} is named after {wanted!r}; it has {_some(chosen)}. "
                    f"Name one of these with {block}.{key}, or set it to null to read them all"
                )
            chosen = narrowed
    _refuse_missing_shards(chosen, block, where)
    return chosen


def _refuse_missing_shards(files: Sequence[str], block: str, where: str) -> None:
    """Shards say how many they are; some of them are not the benchmark."""
    shards = Counter((found[1], int(found[2])) for file in files if (found := SHARD.search(file)))
    for (stem, count), found in shards.items():
        if found != count:
            raise UserError(f"{block}.source: {where} has {found} of the {count} files {stem}-*; get the others too")


def _holds_rows(file: str) -> bool:
    path = PurePosixPath(file)
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.name not in NO_ROWS and suffix_of(path.name) is not None


def _named(file: str, wanted: str) -> bool:
    """Whether a folder of the file, or the file up to a shard number (`train-00000-of-00001`), has a name."""
    path = PurePosixPath(file)
    stem = path.name.removesuffix(suffix_of(path.name))
    return wanted in path.parts[:-1] or stem == wanted or re.match(re.escape(wanted) + r"-\d", stem) is not None


def _some(files: Sequence[str], most: int = 8) -> str:
    rest = f" and {len(files) - most} more" if len(files) > most else ""
    return ", ".join(files[:most]) + rest
