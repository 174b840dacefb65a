"""Reinforcement learning of the fork (GFPO) or of all tokens (GRPO), from a model that has tags."""

from collections.abc import Callable
from pathlib import Path

from nemo_forking.config import Config
from nemo_forking.data.prompt import PromptFormat
from nemo_forking.model import sources
from nemo_forking.model.policy import PolicyLoss
from nemo_forking.model.qwen2 import ForkingQwen2Model, megatron_config
from nemo_forking.rl.collect import Collector
from nemo_forking.rl.prompts import load_prompts
from nemo_forking.training.identity import policy_identity
from nemo_forking.training.policy_loop import PolicyLoop
from nemo_forking.training.policy_step import PolicyStep
from nemo_forking.training.stop import StopRequest
from nemo_forking.training.trainer import export, fit, materials, optimizer, start_rank


def train_policy(config: Config, after_step: Callable[[dict], None] | None = None) -> dict:
    """Train to `trainer.max_steps` in this rank, continuing from the newest checkpoint, then export to Hugging Face.

    Call it on every rank, as trainer.train. Returns the last step's metrics.
    """
    start_rank()
    prompts, prompts_hash = load_prompts(config.prompts.folder)
    tokenizer, tags, checkpoints, latest = materials(config)
    identity = policy_identity(config, prompts_hash)
    form = PromptFormat(tokenizer, config.data.prompt, config.data.target, config.data.system)
    base, loss = sources.from_folder(config.model.base), PolicyLoss()

    def make_step(model, stop: StopRequest) -> PolicyStep:
        def export_to(folder: Path) -> None:
            export(config, model, folder, tokenizer, tags, identity, keep=False)

        return PolicyStep(config, prompts, form, tags, Collector(config, tags, identity), export_to, stop)

    loop = PolicyLoop(config, identity, checkpoints, latest, after_step, loss=loss, make_step=make_step, base=base)
    model = ForkingQwen2Model(megatron_config(config), optimizer(config), loss, weights=None if latest else base)
    return fit(config, model, loop, tokenizer, tags)
