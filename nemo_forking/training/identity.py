"""What a training run is: the settings and data its numbers depend on. A checkpoint is continued by the same run only.

Layout, micro-batches, packing and how often to save change no result, so they may differ on a resume.
"""

import json
from dataclasses import asdict
from pathlib import Path

from nemo_forking.config import Config
from nemo_forking.data.token_file import TokenFile
from nemo_forking.errors import UserError

BLOCKS = ("model", "tags", "matching", "loss", "optim")


def identity(config: Config, file: TokenFile) -> dict:
    """Dotted key -> value of all that decides the losses (json)."""
    values = {f"{block}.{key}": value for block in BLOCKS for key, value in asdict(getattr(config, block)).items()}
    del values["loss.chunk"]
    values |= {
        "run.seed": config.run.seed,
        "batch.questions": config.batch.questions,
        "trainer.max_steps": config.trainer.max_steps,
        "data.sample_down": config.data.sample_down,
        "data": {name: f["sha256"] for name, f in file.manifest["files"].items()},
    }
    return json.loads(json.dumps(values))


def check_same(found: dict, wanted: dict, path: Path) -> None:
    """Raises UserError naming every key in which the run at `path` differs from the one asked for."""
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        lines = "\n".join(f"  {key}: there {found.get(key)!r}, here {wanted[key]!r}" for key in differing)
        raise UserError(
            f"{path} belongs to another run:\n{lines}\n"
            "remedy: restore these values, or choose another run.folder (or delete that one)"
        )


def finished(config: Config, file: TokenFile) -> bool:
    """Whether the run folder holds the exported model of just this run.

    Raises UserError when that model, or the newest checkpoint, is another run's: before anything there is touched.
    """
    folder = Path(config.run.folder)
    provenance = folder / "model" / "provenance.json"
    for record in (provenance, *sorted(folder.glob("checkpoints/step_*/extra.json"))[-1:]):
        if record.exists():
            check_same(json.loads(record.read_text())["identity"], identity(config, file), record.parent)
    return provenance.exists()
