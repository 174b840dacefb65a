"""The set step written down plainly: one process, transformers' Qwen2 in float64, no batching, autograd.

Every (tag, trace) is one forward pass with full logits, the assignment the best of all injections, the loss a sum over
tokens. Shape letters: Q questions, N tags, M traces, T tokens, V vocabulary.
"""

from dataclasses import dataclass
from functools import partial
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from nemo_forking.config import Config
from nemo_forking.data.token_file import Question, TokenFile
from nemo_forking.data.traces import global_batch
from nemo_forking.tags import initial_rows, make_tags
from nemo_forking.training.schedule import learning_rate


@dataclass(frozen=True)
class DenseStep:
    """One optimizer step of the reference."""

    loss: float
    grad_norm: float
    cost_QNM: np.ndarray  # +inf where a trace is absent
    sigma_QM: np.ndarray  # -1 where absent
    gradients: dict[str, np.ndarray]  # before clipping


def train(config: Config, sigmas: list[np.ndarray] | None = None) -> tuple[list[DenseStep], dict[str, np.ndarray]]:
    """All steps of a run, and the weights after them; `sigmas` are the assignments of a rule that needs no cost."""
    reference = Reference(config)
    steps = [reference.step(i, sigmas[i] if sigmas else None) for i in range(config.trainer.max_steps)]
    return steps, {name: param.detach().numpy() for name, param in reference.model.named_parameters()}


class Reference:
    """A model, its optimizer, and the data."""

    def __init__(self, config: Config):
        self.config, self.file = config, TokenFile(config.data.folder)
        tokenizer = AutoTokenizer.from_pretrained(config.data.tokenizer)
        tags = config.tags
        self.tags = make_tags(tokenizer, tags.spelling, tags.count, vocabulary_rows=config.model.vocab_size)
        self.model = Qwen2ForCausalLM.from_pretrained(config.model.base, dtype=torch.float32)
        if tags.spelling == "special":
            self._initialise_tags()
        in_float64(self.model)
        self.optimizer = Optimizer(self.model, config)

    @torch.no_grad()
    def _initialise_tags(self) -> None:
        rows = [ids[0] for ids in self.tags.ids_NK]
        heads = {
            id(m): m for m in (self.model.get_input_embeddings().weight, self.model.get_output_embeddings().weight)
        }
        for matrix in heads.values():
            matrix[rows] = initial_rows(self.tags, matrix, None, self.config.tags.noise, self.config.tags.seed)

    def step(self, number: int, sigma_QM: np.ndarray | None) -> DenseStep:
        """Score, match, train; `number` from 0."""
        questions = self.batch(number)
        cost_QNM = self.costs(questions)
        if sigma_QM is None:
            sigma_QM = np.array([best_injection(cost_NM) for cost_NM in cost_QNM])
        loss = self.loss(questions, sigma_QM)
        self.model.zero_grad()
        loss.backward()
        gradients = {name: p.grad.numpy().copy() for name, p in self.model.named_parameters()}
        norm = self.optimizer.step(number + 1)
        return DenseStep(loss.item(), norm, cost_QNM, sigma_QM, gradients)

    def batch(self, number: int) -> list[Question]:
        """The questions of a step."""
        return global_batch(
            self.file,
            seed=self.config.run.seed,
            step=number,
            questions=self.config.batch.questions,
            tags=self.tags.count,
            sample_down=False,
        )

    @torch.no_grad()
    def costs(self, questions: list[Question]) -> np.ndarray:
        """cost_QNM: mean NLL of the first matching.tokens trace tokens, and of the tag where conf says so."""
        matching = self.config.matching
        cost_QNM = np.full((len(questions), self.tags.count, max(len(q.traces) for q in questions)), np.inf)
        for q, question in enumerate(questions):
            for n, tag in enumerate(self.tags.ids_NK):
                for m, trace in enumerate(question.traces):
                    nll_T = self._nll(question.prompt, tag, trace.ids[: matching.tokens], matching.include_tag)
                    cost_QNM[q, n, m] = nll_T.mean()
        return cost_QNM

    def loss(self, questions: list[Question], sigma_QM: np.ndarray) -> Tensor:
        """The loss of the matched pairs, normalised as conf says."""
        nlls = []
        for question, sigma_M in zip(questions, sigma_QM, strict=True):
            for m, trace in enumerate(question.traces):
                tag = self.tags.ids_NK[sigma_M[m]] if sigma_M[m] >= 0 else ()
                nlls.append(self._nll(question.prompt, tag, trace.ids, self.config.loss.include_tag))
        if self.config.loss.normalise == "token":
            return torch.cat(nlls).mean()
        if self.config.loss.normalise == "trace":
            return torch.stack([nll_T.mean() for nll_T in nlls]).mean()
        return torch.cat(nlls).sum() / len(questions)

    def _nll(self, prompt: np.ndarray, tag: tuple[int, ...], trace: np.ndarray, include_tag: bool) -> Tensor:
        """NLL of the trace's tokens (and the tag's) given all before them."""
        ids = torch.tensor([*prompt.tolist(), *tag, *trace.tolist()])
        logits_TV = self.model(ids[None]).logits[0]
        first = len(prompt) + (0 if include_tag else len(tag))
        return F.cross_entropy(logits_TV[first - 1 : -1], ids[first:], reduction="none")


def in_float64(model: Qwen2ForCausalLM) -> Qwen2ForCausalLM:
    """The model with everything in float64: transformers' norms would round to float32 inside."""
    for module in model.double().modules():
        if isinstance(module, Qwen2RMSNorm):
            module.forward = partial(_norm, module)
    return model


def _norm(norm: Qwen2RMSNorm, x: Tensor) -> Tensor:
    return norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)


class Optimizer:
    """Clipping, the learning rate's schedule and AdamW."""

    def __init__(self, model: torch.nn.Module, config: Config):
        self.model, self.config, o = model, config, config.optim
        output = model.get_output_embeddings().weight  # the embedding too, where they are tied
        groups = [  # norms and biases: no weight decay
            {
                "params": [p for p in model.parameters() if (p is output) == learns_fully and (p.dim() > 1) == decays],
                "weight_decay": o.weight_decay * decays,
                "share": 1.0 if learns_fully else o.body_lr,
            }
            for learns_fully in (True, False)
            for decays in (True, False)
        ]
        self.adam = torch.optim.AdamW(groups, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps)

    def step(self, number: int) -> float:
        """Move the weights by their gradients; `number` from 1. Returns the gradient's norm before clipping."""
        o, steps = self.config.optim, self.config.trainer.max_steps
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), o.clip_grad or float("inf"))
        rate = learning_rate(number, peak=o.lr, floor=o.min_lr, steps=steps, warmup_fraction=o.warmup_fraction)
        for group in self.adam.param_groups:
            group["lr"] = rate * group["share"]
        self.adam.step()
        return norm.item()


def best_injection(cost_NM: np.ndarray) -> np.ndarray:
    """The cheapest of all ways to give the present traces different tags; -1 for absent traces."""
    (present,) = np.nonzero(np.isfinite(cost_NM[0]))
    ways = permutations(range(len(cost_NM)), len(present))
    best = min(ways, key=lambda tags: sum(cost_NM[n, m] for n, m in zip(tags, present, strict=True)))
    sigma_M = np.full(cost_NM.shape[1], -1)
    sigma_M[present] = best
    return sigma_M
