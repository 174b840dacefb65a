"""The policy step in the loop: rollouts before an update, their statistics after it.

Shape letters: Q questions, N tags, G rollouts of a question.
"""

import lightning.pytorch as pl
import numpy as np
import torch.distributed as dist
from nemo.lightning.megatron_parallel import MegatronParallel

from nemo_forking.model import weights
from nemo_forking.model.policy import PolicyLoss
from nemo_forking.rl.advantage import tag_means
from nemo_forking.rl.batches import Batch, tag_probabilities
from nemo_forking.training.checkpoint import unwrapped
from nemo_forking.training.loop import Loop
from nemo_forking.training.passes import Pass
from nemo_forking.training.policy_step import Learnt, PolicyStep
from nemo_forking.training.reference import Reference


class PolicyLoop(Loop):
    """GFPO or GRPO.

    Args:
        loss: the model's, told before every update what its objective is.
        make_step: gives the policy step once the process groups are there, from the Megatron model.
        base: weights of the reference; used only with a KL.
    """

    bar = False  # rollouts have bars of their own

    def __init__(self, config, identity, checkpoints, latest, after_step, *, loss: PolicyLoss, make_step, base):
        super().__init__(config, identity, checkpoints, latest, after_step)
        self.loss, self.make_step, self.base = loss, make_step, base
        self.step: PolicyStep | None = None
        self.learnt: Learnt | None = None

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Keep the reference, then continue from the newest checkpoint."""
        megatron = trainer.strategy.megatron_parallel
        self.step = self.make_step(megatron, self.stop)
        if self.config.policy.kl_weight:
            for chunk in megatron:  # with a checkpoint the model has not been given the base's weights
                weights.load(unwrapped(chunk), self.base)
            self.step.reference = Reference(list(megatron))
        super().on_train_start(trainer, model)

    def prepare(self, model: MegatronParallel, step: int) -> Pass:
        """Roll out where a batch begins, and lay out what it teaches."""
        share, objective, self.learnt = self.step(list(model), step)
        self.loss.set_objective(objective)
        return share

    def question_of(self, row: int) -> str:
        """Rows are named by question and tag, or by rollout."""
        rows_each = self.config.tags.count if self.config.policy.scope == "tag" else self.config.rollout.group
        return self.step.asked_now[row // rows_each].prompt.id

    def may_save(self, step: int) -> bool:
        """Between batches of rollouts."""
        return step % self.config.policy.updates == 0

    def decided(self) -> tuple[dict, dict[str, float], dict]:
        """Rewards, the choice of tags, and how the objective bounded the update."""
        learnt, sums = self.learnt, self.loss.statistics()
        record = {
            "batch": learnt.number + 1,
            **batch_record(learnt.batch, learnt.number, learnt.drawn, every=self.config.rollout.tags == "every"),
            "questions_skipped": learnt.update.skipped,
            **objective_record(sums, bool(self.config.policy.kl_weight)),
            "tokens": sum(row.length for row in learnt.update.rows),
            "imbalance": self.step.share.imbalance,
            "flops": learnt.flops,
        }
        return record, learnt.seconds, {"learnt": learnt}

    def line(self, record: dict) -> list[str]:
        """How much is right, and how sure the choice is."""
        reward = "none counted" if record["reward"] is None else f"{record['reward']:.3f}"
        parts = [f"reward {reward}", f"H(tag) {record['tag_entropy']:.3f} nat"]
        parts.append(f"skipped {record['questions_skipped']}")
        return parts + [f"clipped {record['clipped_low'] + record['clipped_high']:.0%}"]

    def on_train_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Close records and engine."""
        super().on_train_end(trainer, model)
        if dist.get_rank() == 0:
            self.step.collector.close()


def batch_record(batch: Batch, number: int, drawn: bool, *, every: bool) -> dict:
    """What a batch of rollouts tells: rewards and lengths of those that count, and the policy's choice of tags.

    Args:
        batch: the rollouts.
        number: of the batch, from 0.
        drawn: whether the batch was collected for this update; later ones on it count no rollouts.
        every: all tags were tried alike, so that the policy's reward is the mean by its own probabilities.
    """
    probability_QN = tag_probabilities(batch.logprob_QN)
    n_tags, counted_QG, fresh_Q = probability_QN.shape[1], batch.counted_QG, batch.drawn_at_Q == number
    kinds = np.array(batch.kinds)
    reward_QN, tried_QN = tag_means(batch.reward_QG, batch.tag_QG, n_tags, counted_QG)
    entropy_Q = -(probability_QN * np.log(np.maximum(probability_QN, 1e-300))).sum(1)
    return {
        "reward": _expected(reward_QN, probability_QN * tried_QN) if every else _mean(batch.reward_QG[counted_QG]),
        "reward_tags": [_mean(reward_QN[tried_QN[:, n], n]) for n in range(n_tags)],
        "tag_probability": probability_QN.mean(0).tolist(),
        "tag_probability_kinds": {str(k): probability_QN[kinds == k].mean(0).tolist() for k in sorted(set(kinds))},
        "tag_entropy": float(entropy_Q.mean()),
        "tag_mass": float(np.exp(batch.logprob_QN).sum(1).mean()),
        "overlong": _mean(batch.cut_QG.ravel()),
        "completion_tokens": _mean(batch.tokens_QG.ravel()),
        "rollouts": int(fresh_Q.sum()) * batch.tag_QG.shape[1] if drawn else 0,
        "rollouts_reused": int((~fresh_Q).sum()) * batch.tag_QG.shape[1] if drawn else 0,
        "tokens_generated": int(batch.tokens_QG[fresh_Q].sum()) if drawn else 0,
    }


def objective_record(sums: dict[str, float], with_reference: bool) -> dict:
    """What the objective's sums mean, per entry: a drawn tag, a question, or a token."""
    count = max(sums["count"], 1.0)
    shares = {name: sums[name] / count for name in ("clipped_low", "clipped_high", "ratio", "kl_old")}
    return shares | {"kl_reference": sums["kl_reference"] / count if with_reference else None}


def _expected(reward_QN: np.ndarray, weight_QN: np.ndarray) -> float | None:
    """Mean over questions of the mean reward by weight; questions without any are left out."""
    total_Q = weight_QN.sum(1)
    return _mean((reward_QN * weight_QN).sum(1)[total_Q > 0] / total_Q[total_Q > 0])


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if values.size else None
