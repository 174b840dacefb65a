"""Every configuration key: its name, type, range and one line of help. The values are in conf/."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nemo_forking.config.convert import ConvertConfig
from nemo_forking.config.evaluation import BenchmarkConfig, EngineConfig, EvaluationConfig
from nemo_forking.config.fields import key
from nemo_forking.config.launcher import LauncherConfig
from nemo_forking.config.plan import PlanConfig
from nemo_forking.config.policy import (
    PolicyConfig,
    PolicyStageConfig,
    PolicyStudyConfig,
    PromptsConfig,
    RolloutConfig,
)
from nemo_forking.data.settings import DataConfig

Rule = Literal["optimal", "random", "fixed", "mixed", "none"]
INJECTIVE = ("optimal", "random", "fixed")  # rules that give every trace of a question a tag of its own


@dataclass(frozen=True)
class RunConfig:
    """The run: its name, where it writes, its seed."""

    name: str = key("name of the run, and of its folder")
    folder: str = key("where checkpoints, metrics, samples and results are written")
    seed: int = key("seed of data order, random matching and initial weights", at_least=0)


@dataclass(frozen=True)
class ModelConfig:
    """A Qwen2.5-architecture model: the shape must be that of `base` where there is one."""

    base: str | None = key("Hugging Face folder or Megatron checkpoint to start from; null for random weights")
    num_layers: int = key("transformer layers", at_least=1)
    hidden_size: int = key("width of the residual stream", at_least=1)
    ffn_hidden_size: int = key("width of the feed-forward layer", at_least=1)
    num_attention_heads: int = key("query heads", at_least=1)
    num_query_groups: int = key("key and value heads", at_least=1)
    head_dim: int | None = key("width of one head; null for hidden_size / num_attention_heads", at_least=1)
    vocab_size: int = key("rows of the embedding, spare ones included", at_least=1)
    rope_theta: float = key("base of the rotary position embedding", above=0)
    norm_eps: float = key("epsilon of RMSNorm", above=0)
    tie_embeddings: bool = key("output layer shares the embedding's weights")
    max_length: int = key("longest sequence the model is made for, tokens", at_least=1)
    init_std: float = key("standard deviation of random initial weights", above=0)
    precision: Literal["fp32", "bf16"] = key("arithmetic of the model; gradients and optimizer are float32")


def head_size(model) -> int:
    """Width of one attention head, of a ModelConfig or what has its numbers."""
    return model.head_dim or model.hidden_size // model.num_attention_heads


@dataclass(frozen=True)
class LayoutConfig:
    """How the model is spread over processes; data parallel is what the others leave of nodes x devices."""

    accelerator: Literal["cpu", "gpu"] = key("cpu (gloo) or gpu (NCCL)")
    nodes: int = key("machines", at_least=1)
    devices: int = key("processes, or GPUs, on each machine", at_least=1)
    tensor: int = key("tensor-parallel size", at_least=1)
    pipeline: int = key("pipeline-parallel size", at_least=1)
    virtual_pipeline: int | None = key(
        "model chunks on a pipeline stage (interleaved schedule); null for 1", at_least=2
    )
    context: int = key("context-parallel size: processes that share one sequence", at_least=1)
    sequence_parallel: bool = key("norms and residuals split over the tensor-parallel group")
    recompute: Literal["none", "selective", "full"] = key("activations computed again in the backward pass")
    distributed_optimizer: bool = key("optimizer state split over data parallel")
    overlap_grad_reduce: bool = key("gradient reduction during the backward pass")
    overlap_param_gather: bool = key("parameter gather during the forward pass")
    fp8: Literal["delayed", "tensorwise", "blockwise", "mxfp8"] | None = key(
        "scaling of 8-bit matrix products by Transformer Engine; null for none", default=None
    )
    compile: bool = key("element-wise steps between matrix products fused by torch.compile", default=False)
    memory_gib: float | None = key("memory of a GPU, GiB; null where a plan need not fit", default=None, above=0)
    peak_tflops: float | None = key(
        "peak of a GPU, TFLOP/s, dense; null for a plan without hours", default=None, above=0
    )

    @property
    def processes(self) -> int:
        """All processes of the job."""
        return self.nodes * self.devices

    @property
    def data(self) -> int:
        """Data-parallel size."""
        return self.processes // (self.tensor * self.pipeline * self.context)


@dataclass(frozen=True)
class TagsConfig:
    """The forking tokens."""

    spelling: Literal["special", "text"] = key("special: one spare row each; text: as the released checkpoints")
    count: int = key("N, the number of tags", at_least=1)
    noise: float = key("noise on a tag's initial row, in standard deviations of the embedding", at_least=0)
    seed: int = key("seed of that noise", at_least=0)


@dataclass(frozen=True)
class BatchConfig:
    """What one step takes, and how it is cut into micro-batches (which changes no result)."""

    questions: int = key("Q, questions of a step, each with all its traces", at_least=1)
    packing: bool = key("several sequences end to end in one micro-batch; false pads them")
    tokens: int = key("capacity of a packed training micro-batch, tokens", at_least=2)
    micro_batch_size: int = key("sequences of an unpacked training micro-batch", at_least=1)
    match_tokens: int = key("capacity of a packed micro-batch of the matching pass, tokens", at_least=2)
    match_micro_batch_size: int = key("sequences of an unpacked micro-batch of the matching pass", at_least=1)
    share_prompts: bool = key("matching pass: a question's prompt is computed once for all its rows", default=False)


@dataclass(frozen=True)
class MatchingConfig:
    """Which tag each trace is trained under."""

    rule: Rule = key("optimal: Hungarian on the model's own losses (SSFT); the others are baselines")
    tokens: int = key("T_r: trace tokens scored for the matching", at_least=1)
    include_tag: bool = key("the tag itself counts in the matching cost")
    fixed_by: Literal["order", "teacher"] = key("rule fixed: tag by the trace's place, or by its teacher")
    mixed_tag: int = key("rule mixed: the one tag for every trace, from 0", at_least=0)
    every: int = key(
        "visits of a question from one matching to the next; it keeps its tags between", default=1, at_least=1
    )


@dataclass(frozen=True)
class LossConfig:
    """The training loss."""

    normalise: Literal["token", "trace", "sum"] = key("mean over tokens, mean over traces of token means, or sum")
    include_tag: bool = key("the tag is learnt too, so that the model can choose one by itself")
    chunk: int = key("label positions whose logits are held at once", at_least=1)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay."""

    lr: float = key("peak learning rate", above=0)
    min_lr: float = key("learning rate at the last step", at_least=0)
    body_lr: float = key("learning rate of all but the output layer, as a multiple of lr", at_least=0)
    warmup_fraction: float = key("share of the steps that warm up", at_least=0, below=1)
    weight_decay: float = key("decoupled weight decay", at_least=0)
    beta1: float = key("decay of the first moment", at_least=0, below=1)
    beta2: float = key("decay of the second moment", at_least=0, below=1)
    eps: float = key("Adam's epsilon", above=0)
    clip_grad: float = key("largest global gradient norm; 0 for no clipping", at_least=0)


@dataclass(frozen=True)
class TrainerConfig:
    """How long, and how often to save and speak."""

    max_steps: int = key("optimizer steps", at_least=1)
    checkpoint_every: int = key("steps between checkpoints; the last step is always saved", at_least=1)
    keep_last: int = key("checkpoints kept", at_least=1)
    log_every: int = key("steps between lines on the console", at_least=1)
    hang_minutes: float = key(
        "a run without a finished step for so long is ended, with the stacks of its ranks; 0 for never",
        default=0.0,
        at_least=0,
    )
    wandb: str | None = key("Weights & Biases project that gets the metrics too; null for none", default=None)
    mlflow: str | None = key("MLflow tracking address that gets the metrics too; null for none", default=None)


@dataclass(frozen=True)
class BaseConfig:
    """The untagged base model of a study: plain SFT on every teacher's traces."""

    max_steps: int = key("optimizer steps", at_least=1)
    questions: int = key("questions of a step", at_least=1)
    lr: float = key("peak learning rate", above=0)


@dataclass(frozen=True)
class QuestionsConfig:
    """How many questions a study generates."""

    base: int = key("questions the base model is trained on", at_least=1)
    train: int = key("questions of SSFT", at_least=1)
    rl: int = key("questions of reinforcement learning", at_least=1)
    heldout: int = key("questions the tags are evaluated on", at_least=1)


@dataclass(frozen=True)
class SystemRowConfig:
    """How a model of a study stands in the tables; one that is not named here keeps its own name."""

    model: str = key("base, a rule, or a policy's name")
    name: str = key("row of the tables")
    published: str | None = key("row of the paper's tables it is compared with; null for none", default=None)


@dataclass(frozen=True)
class StudyConfig:
    """`recipes/reproduce.py`: a base model, every rule from that base, policies from those, evaluated and compared."""

    seeds: tuple[int, ...] = key("one repetition each", at_least=0)
    rules: tuple[Rule, ...] = key("matching rules compared")
    base: BaseConfig | None = key("training of the base model; null to start from model.base")
    policy: PolicyStudyConfig = key("reinforcement learning")
    policies: tuple[PolicyStageConfig, ...] = key("the reinforced models, each {name: gfpo, rule: optimal, ...}")
    questions: QuestionsConfig | None = key("sizes of the generated data; null where data and prompts have sources")
    convert: bool = key("model.base is converted once to a Megatron checkpoint, which every rule loads", default=False)
    rows: tuple[SystemRowConfig, ...] = key("rows of the tables, each {model: optimal, name: SSFT, ...}", default=())
    action: Literal["run", "plan", "status"] = key(
        "run what is missing, or only print the plan, or what became of every stage", default="run"
    )


@dataclass(frozen=True)
class Config:
    """One experiment."""

    run: RunConfig = key("the run")
    model: ModelConfig = key("the model")
    layout: LayoutConfig = key("the machine")
    tags: TagsConfig = key("the forking tokens")
    data: DataConfig = key("the data")
    batch: BatchConfig = key("the batch")
    matching: MatchingConfig = key("the matching")
    loss: LossConfig = key("the loss")
    optim: OptimConfig = key("the optimizer")
    trainer: TrainerConfig = key("the training run")
    engine: EngineConfig = key("the generation engine")
    prompts: PromptsConfig = key("the questions of reinforcement learning")
    rollout: RolloutConfig = key("the rollouts")
    policy: PolicyConfig = key("the policy objective")
    benchmarks: dict[str, BenchmarkConfig] = key("the benchmarks, by name")
    evaluation: EvaluationConfig = key("the evaluation")
    study: StudyConfig | None = key("the comparison of rules; null outside recipes/reproduce.py")
    plan: PlanConfig | None = key("the plan; null in run folders from before there were plans", default=None)
    convert: ConvertConfig | None = key("a conversion; null in run folders from before there were any", default=None)
    launcher: LauncherConfig | None = key("how jobs are started; null in run folders from before", default=None)


@dataclass(frozen=True)
class Resolved(Config):
    """A loaded experiment, which also knows where each value came from.

    Attributes:
        marks: dotted key -> "paper", "ours", "unpublished: ...", "command line".
        overrides: the command line it was composed from; later changes (`with_overrides`) are not among them.
    """

    marks: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    overrides: tuple[str, ...] = field(default=(), repr=False, compare=False)
