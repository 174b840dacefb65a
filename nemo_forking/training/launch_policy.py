"""Starts reinforcement learning, once everything that can be known beforehand is known to fit."""

from pathlib import Path

import numpy as np

from nemo_forking.config import Config
from nemo_forking.config.evaluation import SystemConfig
from nemo_forking.data.encoding import load_tokenizer
from nemo_forking.data.packing import pass_layout, round_up
from nemo_forking.data.prompt import PromptFormat
from nemo_forking.data.settings import TAG_ROOM
from nemo_forking.errors import UserError
from nemo_forking.evaluation.measure import System
from nemo_forking.processes import is_first_rank
from nemo_forking.rewards.several import open_graders
from nemo_forking.rl.batches import questions_of_batch
from nemo_forking.rl.prompts import Prompt, load_prompts
from nemo_forking.tags import make_tags, tag_text
from nemo_forking.training.identity import finished, policy_identity
from nemo_forking.training.launch import run_ranks


def start_policy(config: Config) -> None:
    """Train as configured, from the newest checkpoint on; nothing when the exported model is there already.

    Under torchrun or srun every rank calls it. Raises UserError before any rank starts for prompts, model, grader,
    settings or a run folder that do not fit.
    """
    if to_be_trained(config):
        run_ranks("nemo_forking.training.policy", "train_policy", config)


def to_be_trained(config: Config) -> bool:
    """Whether the run is not finished, once all that it needs is known to fit; the prompts read here are let go."""
    if not config.model.base:
        raise UserError("model.base is not set; give the folder of a model with tags: runs/<an SSFT run>/model")
    prompts, prompts_hash = load_prompts(config.prompts.folder)
    questions_of_batch(len(prompts), config.run.seed, 0, config.batch.questions)
    longest = check_prompts_fit(config, prompts)
    if config.policy.kl_weight and config.layout.overlap_param_gather:
        raise UserError(
            "policy.kl_weight swaps the reference's weights in, which layout.overlap_param_gather=true cannot take: "
            "set it to false"
        )
    if finished(config, policy_identity(config, prompts_hash)):
        return False
    if is_first_rank():
        check_engine_and_grader(config, prompts, longest)
    return True


def check_engine_and_grader(config: Config, prompts: list[Prompt], longest: int) -> None:
    """Refuse a model without weights or tags, servers that do not answer, and graders that cannot work here.

    `longest` is the most tokens of prompt and completion: servers must take them, or they would cut completions off.
    """
    base, spare = config.model.base, config.model.vocab_size
    with System(config, SystemConfig(model=base)) as system:
        if config.tags.spelling == "special" and tag_text(0) not in system.tokenizer.get_added_vocab():
            raise UserError(f"model.base={base}: its tokenizer has no {tag_text(0)}; take a model trained with tags")
        trained = make_tags(
            load_tokenizer(config.data.tokenizer), config.tags.spelling, config.tags.count, vocabulary_rows=spare
        )
        if trained.ids_NK != system.choice.tags.ids_NK:
            raise UserError(
                f"data.tokenizer={config.data.tokenizer} gives the tags other ids than model.base={base}: take the "
                f"model's own, data.tokenizer={base}"
            )
        if config.engine.name == "server":  # the others would load the model
            context = system.engine().context
            if context is not None and context < longest:
                raise UserError(
                    f"engine.server.urls: a replica takes {context} tokens, and prompt and completion may have "
                    f"{longest}: start it with --max-model-len {longest}, or lower rollout.max_tokens"
                )
    open_graders({prompt.id: prompt.answer for prompt in prompts}, config.evaluation.grading).close()


def check_prompts_fit(config: Config, prompts: list[Prompt]) -> int:
    """Refuse prompts and completions that model, engine or micro-batch cannot hold; the most tokens of both together.

    Raises:
        UserError: naming the longest prompt and the key to change.
    """
    if not Path(config.data.tokenizer).exists():
        raise UserError(
            f"data.tokenizer={config.data.tokenizer} is not there; take the model's own: {config.model.base}"
        )
    form = PromptFormat(
        load_tokenizer(config.data.tokenizer), config.data.prompt, config.data.target, config.data.system
    )
    lengths = [len(ids) for ids in form.prompts([prompt.prompt for prompt in prompts])]
    longest = int(np.max(lengths)) + TAG_ROOM
    which = f"the prompt {prompts[int(np.argmax(lengths))].id!r} of {config.prompts.folder}"
    whole = longest + config.rollout.max_tokens
    for name, room in (("model", config.model.max_length), ("engine", config.engine.max_length)):
        if room is not None and whole > room:
            raise UserError(
                f"{which} takes {longest} tokens with its tag, and rollout.max_tokens={config.rollout.max_tokens} come "
                f"to it: more than {name}.max_length={room}; lower rollout.max_tokens"
            )
    if not config.batch.packing:
        return whole
    unit = pass_layout(config.batch, config.layout).row_multiple
    for name, needed in (("match_tokens", longest), ("tokens", whole if config.policy.scope == "all" else longest)):
        needed = round_up(needed, unit)
        if needed > getattr(config.batch, name):
            raise UserError(
                f"{which} makes a row of up to {needed} tokens, but a packed micro-batch holds batch.{name}="
                f"{getattr(config.batch, name)}: raise it to {needed}"
            )
    return whole
