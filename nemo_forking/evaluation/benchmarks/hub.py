"""Datasets of the Hugging Face hub, read as the files they are: no loading script is run, and bytes can be hashed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_forking.errors import UserError

if TYPE_CHECKING:
    from nemo_forking.config.schema import BenchmarkConfig
    from nemo_forking.evaluation.benchmarks.sources import Declared


def fetch(
    block: str, declared: BenchmarkConfig | Declared, choose: Callable[[Sequence[str]], list[str]]
) -> tuple[Path, list[str]]:
    """Download the files of a dataset that are not in the hub's local cache yet.

    Without a network the cache alone must do.

    Args:
        block: of the configuration, for messages.
        declared: source and revision are used.
        choose: from all the dataset's file names, those wanted.

    Returns:
        The snapshot's folder, named after the commit, and the chosen files in it.

    Raises:
        UserError: no such dataset or revision, no access, or no network and nothing in the cache.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    dataset = {"repo_id": declared.source, "repo_type": "dataset", "revision": declared.revision}
    try:
        files = choose(HfApi().list_repo_files(**dataset))
        return Path(snapshot_download(**dataset, allow_patterns=files)), files
    except GatedRepoError:
        problem = f"{block}.source: the hub does not give this account {declared.source}, whose terms must be accepted"
    except RevisionNotFoundError:
        raise UserError(f"{block}.revision: {declared.source} has no revision {declared.revision}") from None
    except RepositoryNotFoundError:
        problem = f"{block}.source: the hub shows this account no dataset {declared.source}"
    except HFValidationError:
        problem = f"{block}.source: no dataset of the hub can be named {declared.source}"
    except UserError:  # from choose
        raise
    except Exception as error:  # no network, a time-out, offline mode: the client's releases share no class for these
        cached = _cached(dataset)
        if cached is not None:
            return cached, choose([str(path.relative_to(cached)) for path in cached.rglob("*") if path.is_file()])
        why = type(error).__name__
        problem = f"{block}.source: {declared.source} is not in the local cache and the hub cannot be reached ({why})"
    raise UserError(f"{problem}. {_remedy(block, declared)}")


def _cached(dataset: dict) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(**dataset, local_files_only=True))
    except OSError:
        return None


def _remedy(block: str, declared: BenchmarkConfig | Declared) -> str:
    page = f"https://huggingface.co/datasets/{declared.source}"
    return (
        f"Where its terms must be accepted, do so at {page} and log in with `huggingface-cli login`; "
        f"or download its files by any means and name the file or folder in {block}.source"
    )
