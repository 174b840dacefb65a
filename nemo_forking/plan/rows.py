"""The rows a step is planned on: of mean length for its cost, of the greatest length for its memory."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nemo_forking.config import Config
from nemo_forking.data.packing import Layout, Row, pass_layout, round_up
from nemo_forking.data.token_file import read_manifest
from nemo_forking.plan.activations import Sheet
from nemo_forking.plan.flops import crossover

TAG = {"special": 1, "text": 5}  # ids of a tag; in letters, in Qwen's tokenizer


@dataclass(frozen=True)
class Rows:
    """Rows of one step.

    Attributes:
        scored: of the pass without a gradient: matching, or the tags' probabilities at the fork.
        trained: of the update.
    """

    scored: list[Row]
    trained: list[Row]


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a prompt and of a trace, and where they come from."""

    prompt: int
    trace: int
    source: str


def lengths(config: Config) -> Lengths:
    """Those of the prepared data where there are any, else the assumed ones."""
    plan = config.plan
    manifest = read_manifest(Path(config.data.folder)) if plan.recipe == "ssft" else None
    if manifest is None:
        prompt = min(plan.prompt_tokens, config.data.max_length // 2)  # a laptop's sequences are short
        trace = min(plan.trace_tokens, config.data.max_length - prompt - TAG[config.tags.spelling])
        return Lengths(prompt, trace, "assumed, plan.prompt_tokens and plan.trace_tokens")
    prompt, target = (round(manifest["lengths"][name]["mean"]) for name in ("prompt", "target"))
    return Lengths(prompt, target, f"means of {config.data.folder}")


def step_rows(config: Config, mean: Lengths) -> Rows:
    """Rows of a step whose prompts and traces all have the mean length; a policy's questions all have a gradient."""
    tag, questions = TAG[config.tags.spelling], config.batch.questions
    if config.plan.recipe == "gfpo":
        fork = row(mean.prompt + tag - 1, config.tags.count)
        if config.policy.scope == "tag":
            return Rows([fork] * questions, [fork] * questions)
        completion = min(config.plan.completion_tokens, config.rollout.max_tokens)
        rollout = row(mean.prompt + tag + completion - 1, completion + 1)
        return Rows([fork] * questions, [rollout] * (questions * config.rollout.group))
    pairs, scored = questions * config.data.traces, []
    if config.matching.rule == "optimal":
        of_a_question = config.data.traces * config.tags.count
        scored = [matching_row(config, mean.prompt, mean.trace, q) for q in range(questions)
                  for _ in range(of_a_question)]  # fmt: skip
    return Rows(scored, [training_row(config, mean.prompt, mean.trace)] * pairs)


def matching_row(config: Config, prompt: int, trace: int, question: int) -> Row:
    """The row that scores a trace of so many tokens under one tag."""
    tag, prefix = tag_tokens(config), min(config.matching.tokens, trace)
    counted = prefix + (tag if config.matching.include_tag else 0)
    return replace(row(prompt + tag + prefix - 1, counted), prompt=prompt, group=question)


def training_row(config: Config, prompt: int, trace: int) -> Row:
    """The row that trains on a whole trace under its tag."""
    tag = tag_tokens(config)
    return row(prompt + tag + trace - 1, trace + (tag if config.loss.include_tag else 0))


def tag_tokens(config: Config) -> int:
    """Ids of a tag; the rule `none` trains without."""
    return 0 if config.plan.recipe == "ssft" and config.matching.rule == "none" else TAG[config.tags.spelling]


def row(length: int, counted: int) -> Row:
    """A row of `length` tokens read and `counted` predicted; its ids take no memory."""
    return Row(np.broadcast_to(np.int64(0), length + 1), first=length + 1 - counted)


def pass_of(config: Config, *, without_gradient: bool) -> Layout:
    """The layout of a pass, as training has it."""
    return pass_layout(config.batch, config.layout, crossover(config.model), without_gradient=without_gradient)


def fullest(config: Config, *, without_gradient: bool) -> tuple[Sheet, int]:
    """The fullest micro-batch the settings allow, and the most micro-batches of a data-parallel rank.

    A packed micro-batch is full; a padded one has the longest rows. Only the labels of matching rows are bounded
    (`matching.tokens` of each and perhaps its tag; as many fit as have prompts of the mean length, or share them).
    """
    batch, mean = config.batch, lengths(config)
    layout = pass_of(config, without_gradient=without_gradient)
    longest, count = _longest(config, mean, without_gradient), _rows_of_a_step(config, without_gradient)
    tokens = layout.tokens if batch.packing else layout.micro_batch_size * longest
    tokens = labels = layout.time(tokens)
    if without_gradient and config.plan.recipe == "ssft":
        one = matching_row(config, 0 if layout.share else mean.prompt, config.matching.tokens, 0)
        labels = min(tokens, max(1, tokens // one.length) * one.counted)
    micro_batches = -(-count // (layout.data_ranks * max(1, layout.tokens // longest if batch.packing else 1)))
    padded = tokens if batch.packing and config.layout.accelerator == "cpu" else 0
    side = 1 if batch.packing else layout.micro_batch_size
    ranks = config.layout.context  # of 2n chunks, rank r has chunks r and 2n-1-r, which read r + 1 and 2n - r chunks
    keys = tokens * (2 * ranks + 1) // 2 if ranks > 1 else 0
    return Sheet(tokens, labels, side, padded, keys=keys), round_up(micro_batches, layout.group)


def _longest(config: Config, mean: Lengths, without_gradient: bool) -> int:
    tag = TAG[config.tags.spelling]
    if config.plan.recipe == "gfpo":
        longest = (
            mean.prompt + tag + (0 if without_gradient or config.policy.scope == "tag" else config.rollout.max_tokens)
        )
    else:
        longest = mean.prompt + tag + config.matching.tokens if without_gradient else config.data.max_length
    return min(longest, config.model.max_length)


def _rows_of_a_step(config: Config, without_gradient: bool) -> int:
    questions = config.batch.questions
    if config.plan.recipe == "gfpo":
        return questions * (config.rollout.group if config.policy.scope == "all" and not without_gradient else 1)
    return questions * config.data.traces * (config.tags.count if without_gradient else 1)
