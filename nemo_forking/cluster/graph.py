"""The stages of a study in the order in which one machine runs them: data, base, rules, policies, evaluations, table.

One graph for both kinds of study. The laptop's (`study.questions`, `study.base`) generates its questions, trains its
own base model, and asks all models together, which takes a minute. The paper's starts from model.base and from data
that is given, and every model is evaluated by a job of its own as soon as it is there.

    data ----> rules (optimal, random, ...) --> policies --> evaluation --> table
    base ---/                                /
    prompts --------------------------------/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nemo_forking.cluster.stages import Stage, make_stage
from nemo_forking.config.policy import PolicyStageConfig
from nemo_forking.config.schema import Resolved
from nemo_forking.config.written import key_of
from nemo_forking.errors import UserError

BASE_PROMPT = "{question}\n\n"  # of the generated base: one token more before the trace, where the tag will stand


def graph(config: Resolved) -> list[Stage]:
    """Every stage of the study, each after those it needs.

    Args:
        config: as `load` gives it, with its overrides.

    Raises:
        UserError: there is no study, or its generated questions are not what is asked.
    """
    if config.study is None:
        raise UserError("study is null: take an experiment with a study, experiment=tiny, math_32b or code_32b")
    if config.study.questions and set(config.benchmarks) != {"many_ways"}:
        raise UserError(f"a study of generated questions has benchmarks=[many_ways], not {list(config.benchmarks)}")
    return list(_Study(config).stages())


class _Study:
    """Makes the stages of one study; `home` is where a seed's models lie."""

    def __init__(self, config: Resolved) -> None:
        self.config, self.study, self.folder = config, config.study, Path(config.run.folder)
        ours = ("study.action", "launcher")  # of the command line, mean nothing to a stage
        self.given = [text for text in config.overrides if not key_of(text).startswith(ours)]
        self.rows = {row.model: row for row in self.study.rows}
        self.generated = self.study.questions is not None
        if self.generated:
            self.data: dict[str, Any] = {
                "data.tokenizer": str(self.folder / "tokenizer"),
                "data.source": [str(self.folder / "source" / "train.jsonl")],
                "data.folder": str(self.folder / "data" / "train"),
            }
            self.base_data = self.data | {
                "data.source": [str(self.folder / "source" / "base.jsonl")],
                "data.folder": str(self.folder / "data" / "base"),
                "data.prompt": BASE_PROMPT,
                "data.choose": "random",
            }
        else:
            self.data = {"data.tokenizer": config.data.tokenizer}

    def stages(self) -> Iterator[Stage]:
        study = self.study
        made = ["questions"] if self.generated else []
        if made:
            yield self._stage("questions", "make_questions", {})
        yield self._stage("data", "prepare_data", self.data, made)
        if study.base:
            yield self._stage("base-data", "prepare_data", self.base_data, made)
        if study.policies:
            yield self._stage("prompts", "prepare_prompts", {}, made)
        if study.convert:
            yield self._stage("base", "convert", self._conversion())
        for seed in study.seeds:
            if study.base:
                yield self._base(seed)
            for rule in study.rules:
                yield self._rule(rule, seed)
            for policy in study.policies:
                yield self._policy(policy, seed)
        evaluations = list(self._evaluations(made))
        yield from evaluations
        yield self._stage("table", "table", {}, [stage.name for stage in evaluations])

    def _stage(self, name: str, recipe: str, changes: dict[str, Any], needs: list[str] | tuple[str, ...] = ()) -> Stage:
        return make_stage(name, recipe, self.given, changes, needs)

    def _home(self, model: str, seed: int) -> Path:
        return self.folder / f"seed{seed}" / model

    # ------------------------------------------------------------ models

    def _conversion(self) -> dict[str, Any]:
        return {
            "convert.source": self.config.model.base,
            "convert.to": "megatron",
            "convert.folder": str(self.folder / "base"),
            "convert.tags": False,
            "convert.verify": True,
        }

    def _base(self, seed: int) -> Stage:
        """A model from random weights that knows every teacher's way and no tags; data parallel, for it is small."""
        base = self.study.base
        changes = {
            **self.base_data,
            "run.name": f"base-seed{seed}",
            "run.folder": str(self._home("base", seed)),
            "run.seed": seed,
            "matching": "none",
            "matching.rule": "none",
            "matching.every": 1,
            "batch.questions": base.questions,
            "optim.lr": base.lr,
            "trainer.max_steps": base.max_steps,
            "layout.tensor": 1,
            "layout.sequence_parallel": False,
        }
        return self._stage(f"base-seed{seed}", "ssft", changes, ["base-data"])

    def _rule(self, rule: str, seed: int) -> Stage:
        """SSFT (`optimal`) or a baseline, from the base model of the same seed."""
        changes = {
            **self.data,
            "run.name": f"{rule}-seed{seed}",
            "run.folder": str(self._home(rule, seed)),
            "run.seed": seed,
            "matching": rule,
            "matching.rule": rule,  # or one on the command line would be every rule's
            "matching.every": self.config.matching.every if rule == "optimal" else 1,
            "tags.seed": seed,
        }
        needs = ["data"]
        if self.study.base:
            changes["model.base"] = str(self._home("base", seed) / "model")
            needs.append(f"base-seed{seed}")
        elif self.study.convert:
            changes["model.base"] = str(self.folder / "base")
            needs.append("base")
        return self._stage(f"{rule}-seed{seed}", "ssft", changes, needs)

    def _policy(self, policy: PolicyStageConfig, seed: int) -> Stage:
        """GFPO (scope tag) or GRPO (all) from a rule's model."""
        settings, start = self.study.policy, str(self._home(policy.rule, seed) / "model")
        changes = {
            "data.tokenizer": self.data["data.tokenizer"] if self.generated else start,
            "run.name": f"{policy.name}-seed{seed}",
            "run.folder": str(self._home(policy.name, seed)),
            "run.seed": seed,
            "model.base": start,
            "prompts.folder": self.config.prompts.folder,
            "policy.scope": policy.scope,
            "rollout.tags": policy.tags,
            "rollout.reuse": policy.reuse,
            "batch.questions": settings.questions,
            "optim.lr": policy.lr,
            "optim.body_lr": policy.body_lr,
            "trainer.max_steps": settings.max_steps,
        }
        if settings.experiment:
            given = [text for text in self.given if not key_of(text).startswith("study")]
            changes = {"experiment": settings.experiment} | changes
        else:
            given, changes = self.given, changes | {"optim.min_lr": 0.0}
        needs = ["prompts", f"{policy.rule}-seed{seed}"]
        return make_stage(f"{policy.name}-seed{seed}", "gfpo", given, changes, needs)

    # ------------------------------------------------------------ evaluation

    def _evaluations(self, made: list[str]) -> Iterator[Stage]:
        if not self.generated:
            for seed in self.study.seeds:
                for model, system in self._systems(seed):
                    changes = {
                        "run.name": f"{model}-seed{seed}",
                        "evaluation.folder": str(self._home(model, seed) / "evaluation"),
                        "evaluation.systems": [system],
                    }
                    needs = [] if model == "base" else [f"{model}-seed{seed}"]
                    yield self._stage(f"evaluation-{model}-seed{seed}", "evaluate", changes, needs)
            return
        pairs = [(seed, *pair) for seed in self.study.seeds for pair in self._systems(seed)]
        needs = [*made, *dict.fromkeys(f"{model}-seed{seed}" for seed, model, _ in pairs)]
        yield self._stage("evaluation", "evaluate", {"evaluation.systems": [system for *_, system in pairs]}, needs)

    def _systems(self, seed: int) -> Iterator[tuple[str, dict]]:
        """Every model of a seed with the item of evaluation.systems that asks it.

        The generated study asks policies, and the models they start from, in two ways: drawing their own tag, and under
        every tag (docs/gfpo.md).
        """
        if self.study.base:
            yield "base", self._system("base", seed, tags="none", prompt=BASE_PROMPT)
        for rule in self.study.rules:
            ways = {"none": {"tags": "none"}, "mixed": {"tags": "one", "one_tag": self.config.matching.mixed_tag}}
            yield rule, self._system(rule, seed, **ways.get(rule, {"tags": "every"}))
        if self.generated:
            for rule in dict.fromkeys(policy.rule for policy in self.study.policies):
                yield rule, self._system(rule, seed, name=f"{rule}_own", tags="own")
        for policy in self.study.policies:
            yield policy.name, self._system(policy.name, seed, tags="own")
            if self.generated:
                yield policy.name, self._system(policy.name, seed, name=f"{policy.name}_every", tags="every")
        if not self.study.base:
            yield "base", self._system("base", seed, model=self.config.model.base, run=None, tags="none")

    def _system(self, whose: str, seed: int, **asked: Any) -> dict:
        home = self._home(whose, seed)
        row = asdict(self.rows[whose]) if whose in self.rows else {"name": whose}
        found = {"name": row["name"], "model": f"{home}/model", "run": str(home), "seed": seed, **asked}
        if row.get("published"):
            found["published"] = row["published"]
        return {name: value for name, value in found.items() if value is not None}
