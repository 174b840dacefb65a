"""The policy step (design section 5; paper sections 7, 8): tags drawn by the policy, rollouts, rewards, one update.

Shape letters: Q questions, N tags, G rollouts of a question.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import nn

from nemo_forking import pulse
from nemo_forking.config import Config
from nemo_forking.data.prompt import PromptFormat
from nemo_forking.errors import Stopped, UserError
from nemo_forking.plan.flops import step_flops
from nemo_forking.rl.batches import Batch, questions_of_batch
from nemo_forking.rl.collect import Asked, Collector
from nemo_forking.rl.objective import Objective
from nemo_forking.rl.prompts import Prompt
from nemo_forking.rl.rows import fork_rows
from nemo_forking.rl.update import Update, tag_update, token_update
from nemo_forking.tags import Tags
from nemo_forking.training.fork import tag_logprobs
from nemo_forking.training.passes import Pass, label_logprobs, make_pass, pass_layout
from nemo_forking.training.reference import Reference
from nemo_forking.training.stop import StopRequest

A_ROLLOUT = timedelta(days=30)  # longest wait for rank 0, which alone has engine and grader


@dataclass
class Learnt:
    """What one update rests on, for logs and tests."""

    number: int  # of the batch, from 0
    batch: Batch
    update: Update
    drawn: bool  # whether the batch was collected for this update, and not for one before it
    flops: float
    seconds: dict[str, float]


class PolicyStep:
    """Turns a step number into the micro-batches to train on and their objective.

    Args:
        config: the run's.
        prompts: all questions, as prepared.
        form: how a prompt is written for the model.
        tags: the tags.
        collector: engine, grader and files; used on global rank 0 only.
        export: writes the present weights to a folder; called on every rank.
        stop: signals that rank 0 hears while it collects, and the others wait.
    """

    def __init__(
        self,
        config: Config,
        prompts: list[Prompt],
        form: PromptFormat,
        tags: Tags,
        collector: Collector,
        export: Callable[[Path], None],
        stop: StopRequest,
    ):
        self.config, self.tags, self.collector, self.export, self.stop = config, tags, collector, export, stop
        encoded = form.prompts([prompt.prompt for prompt in prompts])
        self.asked = [Asked(prompt, np.asarray(ids)) for prompt, ids in zip(prompts, encoded, strict=True)]
        self.reference: Reference | None = None  # of the KL, set before training
        self.waiting = dist.new_group(backend="gloo", timeout=A_ROLLOUT)
        self.seconds: dict[str, float] = {}

    def __call__(self, chunks: list[nn.Module], step: int) -> tuple[Pass, Objective, Learnt]:
        """Rollouts where the step begins a new batch of them, and its update.

        Collectives: Megatron's forward-only schedule, the export's, and broadcasts from global rank 0 over the world.
        Raises UserError on every rank alike where engine or grader cannot go on, and Stopped where a signal came
        meanwhile; what was completed is kept.
        """
        number, update = divmod(step, self.config.policy.updates)
        self.seconds = {}
        if update == 0:
            self.asked_now = self._questions(number)
            self.batch = self._collect(chunks, number)
            with self._clock("fork"):
                self.update = self._plan(chunks, number)
            self.share = make_pass(self.update.rows, pass_layout(self.config))
            self.objective = self._with_old(chunks, self.update.objective)
        elif self.config.policy.scope == "tag":
            self.objective = self.objective.after_an_update()
        scored = fork_rows([one.ids for one in self.asked_now], self.tags) if update == 0 else []
        flops = step_flops(self.config.model, scored, self.update.rows)
        learnt = Learnt(number, self.batch, self.update, update == 0, flops, self.seconds)
        return self.share, self.objective, learnt

    def _questions(self, number: int) -> list[Asked]:
        batch, seed = self.config.batch, self.config.run.seed
        return [self.asked[i] for i in questions_of_batch(len(self.asked), seed, number, batch.questions)]

    def _collect(self, chunks: list[nn.Module], number: int) -> Batch:
        """Fork, tags, refit, rollouts and rewards; what the batch's folder holds already is not done again."""
        asked, collector = self.asked_now, self.collector
        batch = self._from_rank_0(lambda: collector.finished(number))
        if batch is not None:
            return batch
        with self._clock("fork"):
            logprob_QN = self._from_rank_0(lambda: collector.fork_logprobs(number))
            if logprob_QN is None:
                logprob_QN = self._tag_logprobs(chunks)
            self._from_rank_0(lambda: collector.choose(number, asked, logprob_QN))
        with self._clock("refit"):
            if self._from_rank_0(lambda: collector.needs_engine(number)):
                self.export(collector.policy_folder(number))
                self._from_rank_0(lambda: collector.refresh(number))
        with self._clock("rollout"):
            return self._from_rank_0(lambda: collector.roll_out(number, asked))

    def _plan(self, chunks: list[nn.Module], number: int) -> Update:
        """Advantages, and the rows that have one."""
        policy, prompts = self.config.policy, [one.ids for one in self.asked_now]
        if policy.scope == "all":
            group = self.config.rollout.group
            completions = self._from_rank_0(lambda: self.collector.completions(number, group))
            return token_update(policy, self.batch, prompts, completions, self.tags)
        reference_QN = None
        if self.reference:
            with self.reference.in_place(chunks):
                reference_QN = self._tag_logprobs(chunks)
        every = self.config.rollout.tags == "every"
        return tag_update(policy, self.batch, prompts, self.tags, number=number, every=every, reference_QN=reference_QN)

    def _with_old(self, chunks: list[nn.Module], objective: Objective) -> Objective:
        """GRPO's log-probabilities before the first of several updates, and the reference's."""
        if self.config.policy.scope == "tag":
            return objective
        if self.config.policy.updates > 1:
            with self._clock("fork"):
                objective = replace(objective, old=label_logprobs(chunks, self.share))
        if self.reference:
            with self._clock("fork"), self.reference.in_place(chunks):
                objective = replace(objective, reference=label_logprobs(chunks, self.share))
        return objective

    def _tag_logprobs(self, chunks: list[nn.Module]) -> np.ndarray:
        layout = pass_layout(self.config, without_gradient=True)
        return tag_logprobs(chunks, [one.ids for one in self.asked_now], self.tags, layout)

    def _from_rank_0(self, call: Callable[[], Any]) -> Any:
        """What `call` gives on global rank 0, on every rank, or what it raises for users; the others wait for it."""
        result, error = None, None
        if dist.get_rank() == 0:
            try:
                with self.stop.at_once():
                    result = call()
            except (UserError, Stopped) as reason:  # all end with it, none by a broken connection
                error = reason
        box = [result, error]
        dist.broadcast_object_list(box, src=0, group=self.waiting)
        result, error = box
        if error:
            raise error
        return result

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            with pulse.phase(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
