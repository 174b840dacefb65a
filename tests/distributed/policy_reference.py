"""The policy step written down plainly: one process, transformers' Qwen2 in float64, no batching, autograd.

What chance and the engine made of a batch (tags, completions, rewards) is read from a run's folder; all that follows
is worked out here, by the formulas of docs/gfpo.md. Every question, or rollout, is one forward pass with full logits.

Shape letters: Q questions, N tags, G rollouts of a question, K tokens from the fork on, T all tokens.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, Qwen2ForCausalLM

from nemo_forking.config import Config
from nemo_forking.tags import make_tags
from tests.distributed.reference import Optimizer, in_float64

EPS = 1e-6  # added to the standard deviation of rewards


@dataclass(frozen=True)
class Rolled:
    """A batch of rollouts."""

    questions: list[str]
    tag_QG: np.ndarray
    reward_QG: np.ndarray
    counted_QG: np.ndarray
    drawn_at_Q: list[int]  # the batch, from 0
    ids: list[list[list[int]]]  # [Q][G]; of what was drawn for this batch

    @classmethod
    def load(cls, folder: Path) -> "Rolled":
        """What a run has left in the folder of a batch."""
        tables = json.loads((folder / "rollouts.json").read_text())
        tag_QG, reward_QG, counted_QG = (np.array(tables[name]) for name in ("tag_QG", "reward_QG", "counted_QG"))
        ids: dict[str, list] = {question: [] for question in tables["questions"]}
        if (samples := folder / "samples.jsonl").exists():  # not where all are used again
            for line in map(json.loads, samples.read_text().splitlines()):
                ids[line["question"]].append(line["ids"])
        drawn_at_Q = tables["drawn_at_Q"]
        return cls(tables["questions"], tag_QG, reward_QG, counted_QG.astype(bool), drawn_at_Q, list(ids.values()))


@dataclass(frozen=True)
class PolicyStep:
    """One optimizer step of the reference."""

    loss: float
    grad_norm: float
    skipped: int  # questions without an advantage
    logprob_QN: np.ndarray  # over the whole vocabulary, before the step
    clipped: float  # share of the tags or tokens that count of which the clip took the gradient


def follow(config: Config) -> tuple[list[PolicyStep], dict[str, np.ndarray]]:
    """All steps of a run that is over, and the weights after them."""
    reference, steps, forks = PolicyReference(config), [], {}
    for batch, folder in enumerate(batch_folders(config)):
        rolled = Rolled.load(folder)
        old = reference.logprobs(rolled, reference.model)
        forks |= {(batch, question): fork_N for question, fork_N in zip(rolled.questions, old.fork_QN, strict=True)}
        if config.rollout.tags == "drawn":  # by the policy of the batch they were drawn in
            drawn = zip(rolled.drawn_at_Q, rolled.questions, strict=True)
            old = replace(old, fork_QN=torch.stack([forks[key] for key in drawn]))
        for update in range(config.policy.updates):
            steps.append(reference.step(batch * config.policy.updates + update, rolled, old))
    return steps, {name: param.detach().numpy() for name, param in reference.model.named_parameters()}


def batch_folders(config: Config) -> list[Path]:
    """Folders of a run's batches, in order."""
    return sorted((Path(config.run.folder) / "rollouts").glob("batch_*"))


@dataclass(frozen=True)
class Logprobs:
    """What a model says of a batch: gradients flow where it was asked with them."""

    fork_QN: Tensor  # over the whole vocabulary
    token_QGK: list[list[Tensor]]  # from the fork to the completion's end; scope all only


class PolicyReference:
    """A model, the base it came from, its optimizer, and the prompts."""

    def __init__(self, config: Config):
        self.config = config
        tokenizer = AutoTokenizer.from_pretrained(config.data.tokenizer)
        tags = config.tags
        self.tags = make_tags(tokenizer, tags.spelling, tags.count, vocabulary_rows=config.model.vocab_size)
        self.model, self.base = (
            in_float64(Qwen2ForCausalLM.from_pretrained(config.model.base, dtype=torch.float32)) for _ in range(2)
        )
        self.optimizer = Optimizer(self.model, config)
        lines = (Path(config.prompts.folder) / "prompts.jsonl").read_text().splitlines()
        prompts = {line["id"]: line["prompt"] for line in map(json.loads, lines)}
        self.prompts = {id: tokenizer.encode(config.data.prompt.format(question=text)) for id, text in prompts.items()}

    def step(self, number: int, rolled: Rolled, old: Logprobs) -> PolicyStep:
        """One update; `number` from 0."""
        now, advantage = self.logprobs(rolled, self.model, gradient=True), self.advantage(rolled, old)
        loss, clipped = self.loss(rolled, advantage, now, old)
        self.model.zero_grad()
        loss.backward()
        norm = self.optimizer.step(number + 1)
        skipped = int((advantage == 0).all(axis=1).sum())
        return PolicyStep(loss.item(), norm, skipped, now.fork_QN.detach().numpy(), clipped)

    # ------------------------------------------------------------ what the model says

    def logprobs(self, rolled: Rolled, model: Qwen2ForCausalLM, gradient: bool = False) -> Logprobs:
        """Of every tag of every question, and where all tokens are learnt, of every token of every rollout."""
        with torch.set_grad_enabled(gradient):
            fork_QN = torch.stack([self._tags(model, question) for question in rolled.questions])
            if self.config.policy.scope == "tag":
                return Logprobs(fork_QN, [])
            rows = zip(rolled.questions, rolled.tag_QG, rolled.ids, strict=True)
            token_QGK = [
                [self._tokens(model, question, tag, ids) for tag, ids in zip(tag_G, ids_G, strict=True)]
                for question, tag_G, ids_G in rows
            ]
            return Logprobs(fork_QN, token_QGK)

    def _tags(self, model: Qwen2ForCausalLM, question: str) -> Tensor:
        """logprob_N over the whole vocabulary."""
        ids_T = [*self.prompts[question], *self.tags.ids_NK[0][: self.tags.fork_offset]]
        return model(torch.tensor([ids_T])).logits[0, -1].log_softmax(-1)[list(self.tags.fork_ids)]

    def _tokens(self, model: Qwen2ForCausalLM, question: str, tag: int, ids: list[int]) -> Tensor:
        """logprob_K of what follows the prompt, from the fork on."""
        prompt = self.prompts[question]
        ids_T = torch.tensor([*prompt, *self.tags.ids_NK[tag], *ids])
        logprob_TV = model(ids_T[None]).logits[0].log_softmax(-1)
        fork = len(prompt) + self.tags.fork_offset
        return logprob_TV[fork - 1 : -1].gather(1, ids_T[fork:, None])[:, 0]

    # ------------------------------------------------------------ the loss

    def advantage(self, rolled: Rolled, old: Logprobs) -> np.ndarray:
        """advantage_QG of rollouts, or advantage_QN of tags where the loss is an expectation over them."""
        if self._expects():
            return expected_advantages(rolled, old.fork_QN.softmax(-1).numpy(), self.config.policy.advantage)
        return advantages(rolled, self.config.policy.advantage)

    def loss(self, rolled: Rolled, advantage: np.ndarray, now: Logprobs, old: Logprobs) -> tuple[Tensor, float]:
        """The loss, and the share of it that the clip has flattened."""
        reference = self.logprobs(rolled, self.base)
        if self.config.policy.scope == "all":
            return self._tokens_loss(rolled, advantage, now, old, reference)
        support = (lambda x: x.log_softmax(-1)) if self.config.policy.support == "tags" else (lambda x: x)
        forks = support(now.fork_QN), support(old.fork_QN), support(reference.fork_QN)
        loss, clipped = (
            self._expected_loss(advantage, *forks) if self._expects() else self._drawn_loss(rolled, advantage, *forks)
        )
        return loss + self._narrow(now.fork_QN), clipped

    def _expects(self) -> bool:
        return self.config.policy.scope == "tag" and self.config.rollout.tags == "every"

    def _drawn_loss(self, rolled: Rolled, advantage_QG, now_QN, old_QN, reference_QN) -> tuple[Tensor, float]:
        """GFPO's: a mean over the rollouts."""
        terms, flats = [], []
        for q, g in np.argwhere(rolled.counted_QG):
            tag = rolled.tag_QG[q, g]
            gain, flat = self._gain(now_QN[q, tag] - old_QN[q, tag], advantage_QG[q, g])
            terms.append(self._k3(reference_QN[q, tag] - now_QN[q, tag]) - gain)
            flats.append(float(flat))
        return torch.stack(terms).mean(), np.mean(flats)

    def _expected_loss(self, advantage_QN, now_QN, old_QN, reference_QN) -> tuple[Tensor, float]:
        """GFPO's where every tag was tried: a mean over questions of expectations."""
        total, clipped = torch.zeros((), dtype=torch.float64), 0.0
        for q, n in np.ndindex(*now_QN.shape):
            gain, flat = self._gain(now_QN[q, n] - old_QN[q, n], advantage_QN[q, n])
            p, p_old, p_reference = now_QN[q, n].exp(), old_QN[q, n].exp(), reference_QN[q, n].exp()
            kl = p * (now_QN[q, n] - reference_QN[q, n]) - p + p_reference
            total = total + self.config.policy.kl_weight * kl - p_old * gain
            clipped += float(p_old * flat)
        return total / len(now_QN), clipped / len(now_QN)

    def _tokens_loss(
        self, rolled: Rolled, advantage_QG, now: Logprobs, old: Logprobs, reference: Logprobs
    ) -> tuple[Tensor, float]:
        """GRPO's: terms of every token, added up as conf says."""
        rows, flats = [], []
        for q, g in np.argwhere(rolled.counted_QG):
            now_K, old_K, reference_K = (of.token_QGK[q][g] for of in (now, old, reference))
            gain_K, flat_K = self._gain(now_K - old_K, advantage_QG[q, g])
            rows.append(self._k3(reference_K - now_K) - gain_K)
            flats.extend(flat_K.tolist())
        add_up = {
            "token": lambda: torch.cat(rows).mean(),
            "sequence": lambda: torch.stack([row_K.mean() for row_K in rows]).mean(),
            "none": lambda: torch.stack([row_K.sum() for row_K in rows]).mean(),
        }
        return add_up[self.config.policy.normalise](), np.mean(flats)

    def _gain(self, log_ratio: Tensor, advantage: float) -> tuple[Tensor, Tensor]:
        """min(rho A, clip(rho) A), and whether it is the clipped one."""
        policy, ratio = self.config.policy, log_ratio.exp()
        free, held = ratio * advantage, ratio.clamp(1 - policy.clip_low, 1 + policy.clip_high) * advantage
        return torch.minimum(free, held), held < free

    def _k3(self, log_ratio: Tensor) -> Tensor:
        return self.config.policy.kl_weight * (log_ratio.exp() - 1 - log_ratio)

    def _narrow(self, fork_QN: Tensor) -> Tensor:
        """The penalty on tag distributions of little entropy."""
        policy, p_QN = self.config.policy, fork_QN.softmax(-1)
        entropy_Q = -(p_QN * p_QN.log()).sum(-1)
        return policy.entropy_weight * (policy.entropy_floor - entropy_Q).clamp(min=0).mean()


def advantages(rolled: Rolled, scale: str) -> np.ndarray:
    """advantage_QG: reward minus the question's mean, in units of a standard deviation; 0 for what is not counted."""
    centred_QG, kept = np.zeros(rolled.reward_QG.shape), []
    for centred_G, reward_G, counted_G in zip(centred_QG, rolled.reward_QG, rolled.counted_QG, strict=True):
        if len(set(reward_G[counted_G])) > 1:
            deviation = reward_G[counted_G] - reward_G[counted_G].mean()
            centred_G[counted_G] = deviation / (deviation.std() + EPS if scale == "group" else 1)
            kept.extend(deviation)
    return centred_QG / (np.std(kept) + EPS) if scale == "batch" and kept else centred_QG


def expected_advantages(rolled: Rolled, p_QN: np.ndarray, scale: str) -> np.ndarray:
    """advantage_QN: a tag's mean reward minus the policy's expected one, in units of a standard deviation."""
    advantage_QN, variances = np.zeros(p_QN.shape), []
    for q, n_tags in enumerate([p_QN.shape[1]] * len(p_QN)):
        there_G = rolled.counted_QG[q]
        of_tag = {n: rolled.reward_QG[q][there_G & (rolled.tag_QG[q] == n)] for n in range(n_tags)}
        mean = {n: rewards.mean() for n, rewards in of_tag.items() if len(rewards)}
        if len(set(mean.values())) > 1:
            mass = sum(p_QN[q, n] for n in mean)
            expected = sum(p_QN[q, n] / mass * mean[n] for n in mean)
            variances.append(sum(p_QN[q, n] / mass * (mean[n] - expected) ** 2 for n in mean))
            for n in mean:
                advantage_QN[q, n] = (mean[n] - expected) / (variances[-1] ** 0.5 + EPS if scale == "group" else 1)
    return advantage_QN / (np.mean(variances) ** 0.5 + EPS) if scale == "batch" and variances else advantage_QN
