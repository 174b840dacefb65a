"""The policy loss of one micro-batch: GFPO's at the fork, GRPO's at every token (paper sections 7, 8; docs/gfpo.md).

An objective is made for one batch of rollouts and called with every micro-batch of an update. It knows nothing of how
the batch was cut: losses and statistics are sums over what the micro-batch holds, over denominators of the whole batch.

Shape letters: Q questions of the batch, N tags, G rollouts of a question, R rows of the pass, L labels and F forks of a
micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nemo_forking.config.policy import PolicyConfig
from nemo_forking.data.batches import MicroBatch
from nemo_forking.losses.fork import entropy_floor_loss
from nemo_forking.losses.policy import Clip, expected_loss, sampled_loss

STATISTICS = (
    "count",
    "clipped_low",
    "clipped_high",
    "ratio",
    "kl_old",
    "kl_reference",
)
"""Names of all sums that an objective may report, in the order in which ranks exchange them."""

Scored = Mapping[tuple[int, ...], Tensor]  # names of a micro-batch's rows -> log-probability_L of its labels


@dataclass(frozen=True)
class TagObjective:
    """GFPO: rows are `rows.fork_rows`, a row's name its question's place in the batch.

    Attributes:
        policy: the objective's settings.
        logprob_QN: of the tags over the whole vocabulary when the rollouts were drawn.
        advantage: [Q, G] of drawn tags, or [Q, N] where every tag was tried.
        denominator: counted rollouts of the batch, or its questions where every tag was tried.
        fresh_Q: True where the policy is still the one of `logprob_QN`: there the ratio is 1 by construction, and no
            rounding of another pass can clip it.
        tag_QG: the drawn tags; None where every tag was tried: then the loss is the expectation over the tags.
        counted_QG: rollouts that count; None for all.
        reference_QN: the reference's log-probabilities over the whole vocabulary; None without KL.
    """

    policy: PolicyConfig
    logprob_QN: np.ndarray
    advantage: np.ndarray
    denominator: float
    fresh_Q: np.ndarray
    tag_QG: np.ndarray | None = None
    counted_QG: np.ndarray | None = None
    reference_QN: np.ndarray | None = None

    def __call__(self, batch: MicroBatch, nll_L: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, sums by the names of STATISTICS); N labels of one place follow each other, in the tags' order."""
        n_tags, device = self.logprob_QN.shape[1], nll_L.device
        name_L = torch.tensor(batch.rows, dtype=torch.int64, device=device)[batch.row]
        question_F = (name_L.view(-1, n_tags)[:, 0] // n_tags).cpu().numpy()

        def of(table: np.ndarray) -> Tensor:
            return torch.from_numpy(np.asarray(table)[question_F]).to(device)

        logprob_FN = self._supported(-nll_L.view(-1, n_tags))
        fresh_F1 = of(self.fresh_Q)[:, None]
        old_FN = torch.where(fresh_F1, logprob_FN.detach(), self._supported(of(self.logprob_QN)))
        reference_FN = None if self.reference_QN is None else self._supported(of(self.reference_QN))
        shared = {
            "clip": Clip(self.policy.clip_low, self.policy.clip_high),
            "denominator": self.denominator,
            "kl_weight": self.policy.kl_weight,
        }
        ones_F = torch.ones(len(question_F), device=device)
        if self.tag_QG is None:
            loss, statistics = expected_loss(
                logprob_FN, old_FN, of(self.advantage), ones_F, reference_logprob_QN=reference_FN, **shared
            )
        else:
            tag_FG = of(self.tag_QG)
            counted_FG = torch.ones_like(tag_FG) if self.counted_QG is None else of(self.counted_QG)
            loss, statistics = sampled_loss(
                logprob_FN.gather(1, tag_FG),
                old_FN.gather(1, tag_FG),
                of(self.advantage),
                counted_FG.float(),
                reference_logprob=None if reference_FN is None else reference_FN.gather(1, tag_FG),
                **shared,
            )
        if self.policy.entropy_weight:
            loss = loss + entropy_floor_loss(
                logprob_FN,
                ones_F,
                floor=self.policy.entropy_floor,
                strength=self.policy.entropy_weight,
                denominator=len(self.logprob_QN),
            )
        return loss, statistics

    def after_an_update(self) -> TagObjective:
        """The same on a policy that has moved."""
        return replace(self, fresh_Q=np.zeros_like(self.fresh_Q))

    def _supported(self, logprob_FN: Tensor) -> Tensor:
        """Among the tags, where that is the support."""
        return logprob_FN.log_softmax(-1) if self.policy.support == "tags" else logprob_FN


@dataclass(frozen=True)
class TokenObjective:
    """GRPO: rows are prompt, tag and completion, a row's name its place in `advantage_R`.

    The rows' weights are those of `losses.normalise.completion_weight`.

    Attributes:
        policy: the objective's settings.
        advantage_R: of every row.
        denominator: of the whole batch, from `completion_weight`.
        old: log-probabilities the tokens were drawn with; None where this is the first update on them, so that the
            policy is still the one that drew them.
        reference: the reference's; None without KL.
    """

    policy: PolicyConfig
    advantage_R: np.ndarray
    denominator: float
    old: Scored | None = None
    reference: Scored | None = None

    def __call__(self, batch: MicroBatch, nll_L: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, sums by the names of STATISTICS)."""
        name_L = np.array(batch.rows, dtype=np.int64)[batch.row.cpu().numpy()]
        logprob_L = -nll_L
        return sampled_loss(
            logprob_L,
            logprob_L.detach() if self.old is None else self.old[batch.rows],
            torch.from_numpy(self.advantage_R[name_L]).to(nll_L.device),
            batch.weights,
            clip=Clip(self.policy.clip_low, self.policy.clip_high),
            denominator=self.denominator,
            reference_logprob=None if self.reference is None else self.reference[batch.rows],
            kl_weight=self.policy.kl_weight,
        )


Objective = TagObjective | TokenObjective
