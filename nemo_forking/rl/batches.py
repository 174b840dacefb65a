"""A batch of rollouts: which questions it has, and what is known of them once they were drawn and graded.

Shape letters: Q questions, N tags, G rollouts of a question.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from nemo_forking.checksums import checked, with_crc
from nemo_forking.data.traces import epoch_order
from nemo_forking.errors import UserError
from nemo_forking.files import write_aside

FILE = "rollouts.json"


def questions_of_batch(count: int, seed: int, batch: int, questions: int) -> list[int]:
    """Places of a batch's prompts among all `count`: a pure function, so that every rank knows them.

    Every epoch is a permutation drawn from (seed, epoch) and holds whole batches only, so no batch has a question
    twice; what is left of an epoch sits it out.

    Raises:
        UserError: there are fewer prompts than a batch takes.
    """
    if count < questions:
        raise UserError(f"batch.questions={questions}, but there are {count} prompts: prepare more, or take fewer")
    epoch, place = divmod(batch, count // questions)
    return epoch_order(count, seed, epoch)[place * questions : (place + 1) * questions].tolist()


def tag_probabilities(logprob_QN: np.ndarray) -> np.ndarray:
    """Probabilities among the tags, from log-probabilities over the whole vocabulary."""
    share_QN = np.exp(logprob_QN - logprob_QN.max(1, keepdims=True))
    return share_QN / share_QN.sum(1, keepdims=True)


@dataclass(frozen=True)
class Batch:
    """The tables of a batch of rollouts, the same on every rank.

    Attributes:
        questions: ids, [Q].
        kinds: of question, [Q].
        logprob_QN: the tags' log-probabilities over the whole vocabulary, nats, under the policy of this batch.
        behaviour_QN: those under the policy that drew the tags; other than `logprob_QN` where rollouts were reused.
        tag_QG: tag of every rollout.
        reward_QG: 1 for a correct answer, else 0.
        counted_QG: False where a rollout is left out.
        tokens_QG: lengths of the completions.
        cut_QG: True where one ran into the longest length.
        drawn_at_Q: the batch the rollouts were drawn in.
    """

    questions: list[str]
    kinds: list[str]
    logprob_QN: np.ndarray
    behaviour_QN: np.ndarray
    tag_QG: np.ndarray
    reward_QG: np.ndarray
    counted_QG: np.ndarray
    tokens_QG: np.ndarray
    cut_QG: np.ndarray
    drawn_at_Q: np.ndarray

    def save(self, folder: Path) -> None:
        """Write `folder`/rollouts.json; floats keep all their digits."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
        write_aside(folder / FILE, with_crc(plain) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Batch | None:
        """What `save` wrote; None where nothing was.

        Raises:
            UserError: the file is damaged.
        """
        file = folder / FILE
        if not file.exists():
            return None
        try:
            plain = checked(file.read_text(encoding="utf-8"))
            lists = {name: plain.pop(name) for name in ("questions", "kinds")}
            return cls(**lists, **{name: np.asarray(value) for name, value in plain.items()})
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{file}: damaged; remove it, and it is made again from the samples beside it") from None
