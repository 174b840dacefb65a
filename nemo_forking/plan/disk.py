"""Disk: checkpoints hold weights and optimizer, exports the weights alone."""

from nemo_forking.config import Config
from nemo_forking.plan.parameters import model_parameters
from nemo_forking.plan.state import MASTER, MOMENTS, number_bytes, optimizer_bytes


def checkpoint_bytes(config: Config) -> int:
    """One distributed checkpoint. The distributed optimizer's part has weights in float32 whatever the model's type."""
    optimizer = optimizer_bytes(config.model)
    if config.layout.distributed_optimizer:
        optimizer = max(optimizer, MOMENTS + MASTER)
    return model_parameters(config.model) * (number_bytes(config.model) + optimizer)


def export_bytes(config: Config) -> int:
    """The model in Hugging Face format."""
    return model_parameters(config.model) * number_bytes(config.model)


def run_bytes(config: Config) -> int:
    """What a run folder grows to: the checkpoints kept, one being written, the model; a policy's weights for refit."""
    exports = 2 if config.plan.recipe == "gfpo" else 1
    return (config.trainer.keep_last + 1) * checkpoint_bytes(config) + exports * export_bytes(config)
