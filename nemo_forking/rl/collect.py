"""Rank 0's side of a policy step: choose tags, have them completed and graded, keep everything in the batch's folder.

    rollouts/batch_0000003/    batches count from 1 here, as steps do in logs, and from 0 in code
        fork.json        tags chosen, and the log-probabilities they were chosen by
        samples.jsonl, verdicts.jsonl, settings.json, grading.json    as in an evaluation (evaluation.folder)
        rollouts.json    the batch's tables (batches.Batch)

Each is written once, and read where it is there: a kill costs what is in flight, and no tag is drawn, no completion
made and no reward given twice.

Shape letters: Q questions, N tags, G rollouts of a question.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemo_forking.checksums import checked, with_crc
from nemo_forking.config import Config
from nemo_forking.config.evaluation import SystemConfig
from nemo_forking.engines import request_seed
from nemo_forking.errors import UserError
from nemo_forking.evaluation.folder import SAMPLES, load_lines
from nemo_forking.evaluation.measure import System
from nemo_forking.evaluation.sampling import SamplingSettings
from nemo_forking.files import write_aside
from nemo_forking.rewards.several import open_graders
from nemo_forking.rl.batches import Batch
from nemo_forking.rl.prompts import Prompt
from nemo_forking.rl.reuse import find_earlier
from nemo_forking.rl.rollout import draw_tags, every_tag, roll_out
from nemo_forking.tags import Tags

FORK = "fork.json"


@dataclass(frozen=True)
class Asked:
    """A question of a batch: the prompt as prepared, and its ids."""

    prompt: Prompt
    ids: np.ndarray


class Collector:
    """Engine, grader and files of a run's rollouts.

    Args:
        config: the run's.
        tags: the tags.
        identity: of the run (`training.identity`); rollouts of another are refused.
    """

    def __init__(self, config: Config, tags: Tags, identity: dict) -> None:
        self.config, self.tags, self.identity = config, tags, identity
        self.home = Path(config.run.folder)
        self.system: System | None = None

    def folder(self, number: int) -> Path:
        """Of a batch's rollouts."""
        return self.home / "rollouts" / f"batch_{number + 1:07d}"

    def policy_folder(self, number: int) -> Path:
        """Of the weights that draw a batch's completions: one of its own, so that a replica cannot mistake them."""
        return self.home / "policy" / f"batch_{number + 1:07d}"

    def finished(self, number: int) -> Batch | None:
        """The batch, where it was collected before; UserError where another run did."""
        return None if self._fork(number) is None else Batch.load(self.folder(number))

    def fork_logprobs(self, number: int) -> np.ndarray | None:
        """logprob_QN that the batch's tags were chosen by, where they were."""
        fork = self._fork(number)
        return None if fork is None else np.asarray(fork["logprob_QN"])

    def choose(self, number: int, asked: Sequence[Asked], logprob_QN: np.ndarray) -> None:
        """Decide the tag of every rollout, and which questions need none because earlier ones are used again."""
        settings, folder = self.config.rollout, self.folder(number)
        if (folder / FORK).exists():
            return
        names = [one.prompt.id for one in asked]
        earlier = find_earlier(self.finished, number, settings.reuse, set(names))
        if settings.tags == "every":
            tag_QG = every_tag(len(names), self.tags.count, settings.group)
        else:
            tag_QG = draw_tags(logprob_QN, settings.group, names, seed=self.config.run.seed, step=number)
        fork = {
            "identity": self.identity,
            "questions": names,
            "logprob_QN": logprob_QN.tolist(),
            "tag_QG": tag_QG.tolist(),
            "reused": {name: int(found.batch.drawn_at_Q[found.row]) for name, found in earlier.items()},
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_aside(folder / FORK, with_crc(fork) + "\n")

    def needs_engine(self, number: int) -> bool:
        """Whether completions of the batch are missing, so that the policy's present weights must be exported."""
        fork = self._fork(number)
        return len(fork["reused"]) < len(fork["questions"]) and not (self.folder(number) / SAMPLES).exists()

    def refresh(self, number: int) -> None:
        """Has the engine load the batch's weights from `policy_folder`, and deletes older ones."""
        folder = self.policy_folder(number)
        self._system().engine().refresh(folder)
        for old in folder.parent.iterdir():
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def roll_out(self, number: int, asked: Sequence[Asked]) -> Batch:
        """Completes and grades what is missing; the whole batch.

        Raises:
            UserError: the engine or the grader cannot work; what was completed is kept.
        """
        settings, fork, folder = self.config.rollout, self._fork(number), self.folder(number)
        fresh = [row for row, one in enumerate(asked) if one.prompt.id not in fork["reused"]]
        tag_QG, logprob_QN = np.asarray(fork["tag_QG"]), np.asarray(fork["logprob_QN"])
        batch = _empty(asked, logprob_QN, tag_QG, number)
        if fresh:
            prompts = [asked[row].prompt for row in fresh]
            rollouts = roll_out(
                self._system().engine,
                lambda: open_graders({one.id: one.answer for one in prompts}, self.config.evaluation.grading),
                {one.id: asked[row].ids.tolist() for row, one in zip(fresh, prompts, strict=True)},
                {one.id: one.gold for one in prompts},
                self.tags,
                tag_QG[fresh],
                SamplingSettings(
                    rounds=1,
                    max_tokens=settings.max_tokens,
                    stop=self._system().stop,
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    seed=request_seed("batch", 0, number, self.config.run.seed),
                ),
                self._system().tokenizer.decode,
                folder,
                overlong=settings.overlong,
                identity={"batch": number},
                progress=f"Rollouts {number + 1}",
            )
            for name in ("reward_QG", "counted_QG", "tokens_QG", "cut_QG"):
                getattr(batch, name)[fresh] = getattr(rollouts, name)
        source = {drawn_at: self._source(drawn_at, folder) for drawn_at in set(fork["reused"].values())}
        for name, drawn_at in fork["reused"].items():
            earlier = source[drawn_at]
            _copy(earlier, earlier.questions.index(name), batch, fork["questions"].index(name))
        batch.save(folder)
        return batch

    def completions(self, number: int, group: int) -> list[list[np.ndarray]]:
        """Ids behind the tag of every rollout of a batch without reused ones, [Q][G]."""
        ids = [np.asarray(line["ids"], dtype=np.int32) for line in load_lines(self.folder(number) / SAMPLES)]
        return [ids[start : start + group] for start in range(0, len(ids), group)]

    def close(self) -> None:
        """End the engine, and drop the weights that only it needed."""
        if self.system is not None:
            self.system.__exit__()
        shutil.rmtree(self.home / "policy", ignore_errors=True)

    # ------------------------------------------------------------

    def _system(self) -> System:
        """The model as evaluation would ask it: its tokenizer, stop tokens and banned ids."""
        if self.system is None:
            self.system = System(self.config, SystemConfig(model=self.config.model.base))
        return self.system

    def _source(self, number: int, folder: Path) -> Batch:
        """The batch whose rollouts the one in `folder` uses again."""
        if (batch := self.finished(number)) is None:
            raise UserError(
                f"{self.folder(number)}: not there any more, and {folder} uses its rollouts again; put it back, or "
                f"remove {folder} to draw that batch anew"
            )
        return batch

    def _fork(self, number: int) -> dict | None:
        file = self.folder(number) / FORK
        if not file.exists():
            return None
        try:
            fork = checked(file.read_text(encoding="utf-8"))
            same = fork["identity"] == self.identity
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{file}: damaged; remove {file.parent} to draw this batch anew") from None
        if not same:
            raise UserError(f"{file.parent}: rollouts of another run; choose another run.folder, or delete that one")
        return fork


def _empty(asked: Sequence[Asked], logprob_QN: np.ndarray, tag_QG: np.ndarray, number: int) -> Batch:
    return Batch(
        questions=[one.prompt.id for one in asked],
        kinds=[one.prompt.kind for one in asked],
        logprob_QN=logprob_QN,
        behaviour_QN=logprob_QN.copy(),
        tag_QG=tag_QG,
        reward_QG=np.zeros(tag_QG.shape),
        counted_QG=np.zeros(tag_QG.shape, dtype=bool),
        tokens_QG=np.zeros(tag_QG.shape, dtype=np.int64),
        cut_QG=np.zeros(tag_QG.shape, dtype=bool),
        drawn_at_Q=np.full(len(asked), number),
    )


def _copy(source: Batch, from_row: int, batch: Batch, to_row: int) -> None:
    """A question's earlier rollouts; `logprob_QN` stays the present policy's."""
    for name in ("behaviour_QN", "tag_QG", "reward_QG", "counted_QG", "tokens_QG", "cut_QG", "drawn_at_Q"):
        getattr(batch, name)[to_row] = getattr(source, name)[from_row]
