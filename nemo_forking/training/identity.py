"""What a training run is: the settings and data its numbers depend on. A checkpoint is continued by the same run only.

Layout, micro-batches, packing and how often to save change no result, so they may differ on a resume; 8-bit
products are not the same and may not.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from nemo_forking.checksums import SUMS, folder_problems, record_problem
from nemo_forking.config import Config
from nemo_forking.data.encoding import FILES
from nemo_forking.data.token_file import TokenFile
from nemo_forking.errors import UserError, warn
from nemo_forking.files import file_hash
from nemo_forking.processes import first_rank_tells, is_first_rank

SMALL = 64 * 2**20  # bytes; more is weights


def set_identity(config: Config, file: TokenFile) -> dict:
    """Of a set step's run: dotted key -> value of all that decides the losses (json)."""
    values = _blocks(config, "model", "tags", "matching", "loss", "optim")
    values["data.sample_down"] = config.data.sample_down
    values["data"] = {name: f["sha256"] for name, f in file.manifest["files"].items()}
    return json.loads(json.dumps(values))


def policy_identity(config: Config, prompts: str) -> dict:
    """Of a policy step's run; `prompts` is a hash of the prepared prompts."""
    values = _blocks(config, "model", "tags", "optim", "rollout", "policy")
    values |= {f"data.{key}": getattr(config.data, key) for key in ("prompt", "system")}
    values["prompts"] = prompts
    return json.loads(json.dumps(values))


def _blocks(config: Config, *blocks: str) -> dict:
    values = {f"{block}.{key}": value for block in blocks for key, value in asdict(getattr(config, block)).items()}
    values.pop("loss.chunk", None)
    return values | {
        "model.base": fingerprint(Path(config.model.base)) if config.model.base else None,
        "run.seed": config.run.seed,
        "batch.questions": config.batch.questions,
        "layout.fp8": config.layout.fp8,
        "data.tokenizer": _tokenizer(Path(config.data.tokenizer)),
        "trainer.max_steps": config.trainer.max_steps,
    }


def _tokenizer(folder: Path) -> dict[str, str]:
    """Hashes of what decides a tokenizer's ids, prompts and tags with them."""
    return {name: file_hash(folder / name) for name in FILES if (folder / name).is_file()}


def fingerprint(folder: Path, sampled: int = 2**20) -> str:
    """Hash of a model folder's files (Hugging Face or Megatron): name, size, first and last `sampled` bytes of each.

    Enough to know weights that were trained anew, quick enough for 65 GB; a copy elsewhere has the same.
    """
    digest = hashlib.sha256()
    for file in [folder / "config.json", *sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.distcp"))]:
        if not file.exists():
            continue  # loading says what is missing
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(sampled))
            stream.seek(max(0, size - sampled))
            digest.update(stream.read(sampled))
    return digest.hexdigest()


def check_same(found: dict, wanted: dict, path: Path) -> None:
    """Raises UserError naming every key in which the run at `path` differs from the one asked for."""
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        lines = "\n".join(f"  {key}: there {found.get(key)!r}, here {wanted[key]!r}" for key in differing)
        raise UserError(
            f"{path} belongs to another run:\n{lines}\n"
            "remedy: restore these values, or choose another run.folder (or delete that one)"
        )


def _identity_of(record: Path) -> dict | None:
    """What a record says; None where it is missing or damaged, which those who load what it describes will tell."""
    try:
        if record_problem(record):
            return None
        return json.loads(record.read_text())["identity"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError, KeyError):
        return None


def finished(config: Config, identity: dict, *, quick: bool = False) -> bool:
    """Whether the run folder holds the exported model of just this run, as it was written; `quick` reads no weights.

    Without it every rank calls this, and the first one reads the weights for all. A damaged model is exported again
    from the newest checkpoint, with a warning. Raises UserError when that model, or the newest checkpoint, is another
    run's, or when there is no checkpoint to export a damaged model from: before anything there is touched.
    """
    folder = Path(config.run.folder)
    model, checkpoints = folder / "model", sorted(folder.glob("checkpoints/step_*"))
    for record in (model / "provenance.json", *(path / "extra.json" for path in checkpoints[-1:])):
        if found := _identity_of(record):
            check_same(found, identity, record.parent)
    if not model.exists():
        return False
    problems = _problems(model, SMALL) if quick else first_rank_tells(lambda: _problems(model))
    if not problems:
        return True
    if not checkpoints:
        raise UserError(
            f"{model} is damaged ({'; '.join(problems)}), and {folder} has no checkpoint to export it from again. "
            f"remedy: bring back a good copy, or delete {model} to train anew"
        )
    if is_first_rank():
        warn(f"{model} is damaged, and is to be exported again: {'; '.join(problems)}")
    return False


def _problems(model: Path, largest: int | None = None) -> list[str]:
    """What of an exported model is not as it was written; of files of more than `largest` bytes only the size."""
    found = folder_problems(model, largest)
    if not found and _identity_of(model / "provenance.json") is None:
        return ["provenance.json is missing or damaged"]
    return found


def check_base_whole(config: Config) -> None:
    """Refuse a base model with checksums whose files are not what was written, before a run reads its weights.

    Raises UserError naming the files.
    """
    base = Path(config.model.base)
    if list(Path(config.run.folder).glob("checkpoints/step_*")) and not config.policy.kl_weight:
        return  # it goes on without the base, unless that is the reference of a KL
    if problems := folder_problems(base):
        raise UserError(
            f"model.base={base} is damaged: {'; '.join(problems)}. remedy: bring back a good copy, or start the run "
            f"that made it again, which exports it anew (remove {base / SUMS} only if you changed the files yourself)"
        )
