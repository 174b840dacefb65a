"""NeMo's trainer, strategy and callbacks, built from the configuration, and the one function that runs them."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import torch
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig
from nemo import lightning as nl
from nemo.lightning.megatron_parallel import MegatronParallel, MegatronStep
from nemo.lightning.pytorch.plugins.data_sampler import DataSampler
from transformers import PreTrainedTokenizerFast

from nemo_forking import pulse
from nemo_forking.config import Config
from nemo_forking.data.encoding import load_tokenizer
from nemo_forking.data.token_file import TokenFile
from nemo_forking.model import cpu, sources, weights
from nemo_forking.model.base import base_weights
from nemo_forking.model.hf_folder import hf_config, tensor_shape
from nemo_forking.model.qwen2 import ForkingQwen2Model, WeightedLoss, WeightedOptimizer, megatron_config
from nemo_forking.tags import Tags, add_to_tokenizer, make_tags
from nemo_forking.training import quiet
from nemo_forking.training.checkpoint import Checkpoints, unwrapped
from nemo_forking.training.fp8 import precision_settings
from nemo_forking.training.integrity import seal
from nemo_forking.training.loop import Loop
from nemo_forking.training.set_loop import SetLoop
from nemo_forking.training.step import SetStep
from nemo_forking.training.watchdog import watched


def train(config: Config, after_step: Callable[[dict], None] | None = None) -> dict:
    """Train to `trainer.max_steps` in this rank, continuing from the newest checkpoint, then export to Hugging Face.

    Call it on every rank (torchrun, srun, or training.launch.fork_ranks). `after_step` sees each step's metrics on
    every rank, after a due checkpoint was written. Returns the last step's metrics (complete on global rank 0).
    """
    start_rank()
    file = TokenFile(config.data.folder, verify=False)  # start_training has compared its hash
    tokenizer, tags, checkpoints, latest = materials(config)
    loop = SetLoop(config, SetStep(config, file, tags), checkpoints, latest, after_step)
    model = ForkingQwen2Model(
        megatron_config(config),
        optimizer(config),
        WeightedLoss(),
        weights=None if latest else initial_weights(config, tags),
    )
    return fit(config, model, loop, tokenizer, tags)


def start_rank() -> None:
    """What every rank does first."""
    quiet.logs()
    cpu.install()


def materials(config: Config) -> tuple[PreTrainedTokenizerFast, Tags, Checkpoints, Path | None]:
    """Tokenizer, tags, the run's checkpoints and the newest of them."""
    tokenizer = load_tokenizer(config.data.tokenizer)
    tags = make_tags(tokenizer, config.tags.spelling, config.tags.count, vocabulary_rows=config.model.vocab_size)
    checkpoints = Checkpoints(Path(config.run.folder) / "checkpoints", config.trainer.keep_last)
    return tokenizer, tags, checkpoints, checkpoints.latest()


def fit(config: Config, model: ForkingQwen2Model, loop: Loop, tokenizer: PreTrainedTokenizerFast, tags: Tags) -> dict:
    """Run the loop to its end and export the model; the last step's metrics."""
    trainer = nl.Trainer(
        accelerator=config.layout.accelerator,
        devices=config.layout.devices,
        num_nodes=config.layout.nodes,
        max_steps=config.trainer.max_steps,
        strategy=strategy(config),
        plugins=mixed_precision(config),
        callbacks=[loop],
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    folder = Path(config.run.folder) / "model"
    with watched(config):
        trainer.fit(model, NoData(StepSampler(loop)))
        export(config, trainer.strategy.megatron_parallel, folder, tokenizer, tags, loop.identity)
    return loop.last


def export(
    config: Config, model: MegatronParallel, folder: Path, tokenizer, tags: Tags, identity: dict, *, keep: bool = True
) -> None:
    """Write the model as a Hugging Face folder, with checksums where it is to be kept; every rank calls it."""
    if config.layout.overlap_param_gather:  # else the others' share of the last step arrives with the next forward
        model.force_param_sync()
    with pulse.phase("export", growing=folder.with_name(f".{folder.name}.partial")):
        weights.export(
            [unwrapped(chunk) for chunk in model],
            folder,
            hf_config=hf_config(config, tokenizer),
            tokenizer=add_to_tokenizer(tokenizer, tags),
            provenance={"run": config.run.name, "identity": identity, "tags": asdict(tags)},
            seal=seal if keep else None,
        )


class NoData(pl.LightningDataModule):
    """What Lightning's loader yields: nothing of use. A step's data is a pure function of its number."""

    def __init__(self, sampler: DataSampler):
        super().__init__()
        self.data_sampler = sampler

    def train_dataloader(self):
        """Zeros without end; the trainer stops at max_steps."""
        return torch.utils.data.DataLoader(_Forever(), batch_size=None)


class _Forever(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield 0


class StepSampler(DataSampler):
    """Replaces NeMo's step by the loop's: NeMo lets a data sampler rewrite the step before the pipeline runs."""

    dataloader_type = "single"  # NeMo asks; the micro-batches come one by one

    def __init__(self, loop: Loop):
        self.loop = loop

    def setup(self, global_rank: int) -> None:
        """Nothing: the step deals its own micro-batches."""

    def transform_dataloader(self, dataloader, consumed_samples: int = 0):
        """The loader as it is."""
        return dataloader

    def on_megatron_step_start(self, step: MegatronStep) -> MegatronStep:
        """Hand Megatron the loop's own micro-batches."""
        return self.loop.begin(step)


def optimizer(config: Config) -> WeightedOptimizer:
    """Adam on Megatron; the learning rate is set by the loop before every step."""
    o, bf16 = config.optim, config.model.precision == "bf16"
    tied = ("embedding.word_embeddings.weight",) if config.model.tie_embeddings else ()
    output_layer = ("output_layer.weight", *tied)
    return WeightedOptimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=o.lr,
            min_lr=o.min_lr,
            weight_decay=o.weight_decay,
            adam_beta1=o.beta1,
            adam_beta2=o.beta2,
            adam_eps=o.eps,
            clip_grad=o.clip_grad,
            bf16=bf16,
            params_dtype=torch.bfloat16 if bf16 else torch.float32,
            use_distributed_optimizer=config.layout.distributed_optimizer,
            overlap_param_gather=config.layout.overlap_param_gather,
        ),
        scale_lr_cond=lambda name, param: not name.endswith(output_layer),
        lr_mult=o.body_lr,
    )


def mixed_precision(config: Config) -> nl.MegatronMixedPrecision:
    """NeMo's plugin for the model's arithmetic, of linears in 8 bits under layout.fp8."""
    precision = "32" if config.model.precision == "fp32" else "bf16-mixed"
    return nl.MegatronMixedPrecision(precision, **precision_settings(config.layout.fp8))


def strategy(config: Config) -> nl.MegatronStrategy:
    """NeMo's Megatron strategy for the layout."""
    layout = config.layout
    return nl.MegatronStrategy(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline,
        context_parallel_size=layout.context,
        sequence_parallel=layout.sequence_parallel,
        pipeline_dtype=torch.float32 if config.model.precision == "fp32" else torch.bfloat16,
        ckpt_async_save=False,
        ckpt_optim_fully_reshardable=True,
        replace_progress_bar=False,
        ddp=DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=layout.distributed_optimizer,
            overlap_grad_reduce=layout.overlap_grad_reduce,
            overlap_param_gather=layout.overlap_param_gather,
            check_for_nan_in_grad=False,  # it would end one rank and leave the others waiting: see training/finite.py
        ),
    )


def initial_weights(config: Config, tags: Tags) -> sources.Source:
    """The base model's weights (or seeded random ones), tag rows initialised."""
    if config.model.base:
        source = base_weights(config.model.base, config.model)
    else:
        source = sources.from_seed(partial(tensor_shape, config.model), config.run.seed, config.model.init_std)
    return sources.with_tags(source, tags, config.tags.noise, config.tags.seed)
