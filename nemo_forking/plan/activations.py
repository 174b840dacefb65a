"""What a forward pass keeps for the backward pass, tensor by tensor, as Megatron's layers and ours save it.

Two sets of kernels are counted. `fused`, on GPUs: Transformer Engine's norms, attention and SwiGLU, or their like.
`torch`, on CPUs: every step of a norm and of SwiGLU keeps its result, and packed documents are padded for attention.
"""

from dataclasses import dataclass

from nemo_forking.config.schema import LayoutConfig, ModelConfig
from nemo_forking.plan.parameters import head_widths
from nemo_forking.plan.state import number_bytes


@dataclass(frozen=True)
class Sheet:
    """One micro-batch as the layers see it, over all context ranks.

    Attributes:
        tokens: places, padding included.
        batch: sequences side by side, which share their rotary angles; 1 when packed.
        labels: places the head is applied at.
        padded: places of the padded copies of a packed micro-batch that torch's attention makes; 0 for none.
        groups: such copies; a single one holds the whole pack.
        keys: keys that all ranks' queries read, gathered from the others; 0 for as many as tokens.
    """

    tokens: int
    labels: int
    batch: int = 1
    padded: int = 0
    groups: int = 1
    keys: int = 0


def layer_bytes(model: ModelConfig, layout: LayoutConfig, sheet: Sheet, recompute: str | None = None) -> float:
    """Bytes one layer keeps of one micro-batch on one rank, under `recompute` (the layout's own by default)."""
    recompute, size = recompute or layout.recompute, number_bytes(model)
    tokens = sheet.tokens / layout.context
    whole, split = tokens, tokens / layout.tensor  # places whose full width, or whose share of it, lies here
    residual = split if layout.sequence_parallel else whole
    if recompute == "full":
        return residual * model.hidden_size * size  # the layer's input alone
    (queries, keys), torch = head_widths(model), layout.accelerator == "cpu"
    norms = 2 * (residual * model.hidden_size * (3 if torch else 2) + residual)  # input, output; torch: normalised too
    rotary = 4 * whole / sheet.batch * (queries // model.num_attention_heads)  # cosine and sine, of queries and of keys
    feed_forward = split * model.ffn_hidden_size * (5 if torch else 3)  # two inputs, product; torch: two on the way
    numbers = norms + rotary + _attention(split, queries, keys, model, layout, sheet, recompute) + feed_forward
    return numbers * size + _fp8_change(split, residual, queries, model, layout)


def _fp8_change(split: float, residual: float, queries: int, model: ModelConfig, layout: LayoutConfig) -> float:
    """Bytes more, or fewer, where linears keep their inputs in a byte a number, not the bf16 tensor itself.

    Two norms' outputs and SwiGLU's product lose a byte. Attention's output is kept in bf16 for its own backward pass;
    under delayed scaling, the linear after it keeps a copy besides.
    """
    if layout.fp8 is None:
        return 0.0
    inputs = 2 * residual * model.hidden_size + split * model.ffn_hidden_size
    scales = {"blockwise": 4 / 128, "mxfp8": 1 / 32}.get(layout.fp8, 0.0)  # bytes of a scale over numbers of its block
    return inputs * (scales - 1) + (split * queries if layout.fp8 == "delayed" else 0.0)


def _attention(split, queries, keys, model, layout, sheet: Sheet, recompute: str) -> float:
    """Numbers kept by core attention: queries and keys after rotation, the values' whole QKV, output, log-sums.

    Where it copies what it reads (keys gathered from context ranks, or padded in groups), the copies instead; on a GPU
    the larger of both, since Transformer Engine gathers none.
    """
    mixed, sums = queries + 2 * keys, model.num_attention_heads * (2 if model.precision == "bf16" else 1)  # float32
    plain = split * (queries + keys + mixed + queries)
    if recompute == "selective":
        return plain
    copies = split * 2 * queries + (sheet.keys or sheet.tokens) / layout.context / layout.tensor * 2 * keys
    copied = copies if layout.context > 1 or sheet.groups > 1 else plain
    if not sheet.padded:
        return max(plain, copied) + split * sums
    return sheet.padded / layout.context / layout.tensor * (2 * queries + 2 * keys + sums) + copied


def end_bytes(model: ModelConfig, layout: LayoutConfig, sheet: Sheet, stage: int) -> float:
    """Bytes kept outside the layers: rotary angles, token ids, and on the last stage final norm and head."""
    size, tokens = number_bytes(model), sheet.tokens / layout.context
    turned = head_widths(model)[0] // model.num_attention_heads
    angles = 4 * tokens / sheet.batch * turned if layout.recompute == "full" else 0  # else each layer's own are counted
    ids = 8 * tokens if stage == 0 else 0
    if stage < layout.pipeline - 1:
        return angles + ids
    residual = tokens / layout.tensor if layout.sequence_parallel else tokens
    labels = sheet.labels / layout.context
    norm = residual * (model.hidden_size * (2 if layout.accelerator == "cpu" else 1) + 1)
    return angles + ids + (norm + labels * model.hidden_size) * size + labels * (4 + 16)  # log-sums; place and id


def micro_batch_bytes(model: ModelConfig, layout: LayoutConfig, sheet: Sheet, stage: int) -> float:
    """Bytes a rank of a pipeline stage keeps of one micro-batch, over all its model chunks."""
    layers = model.num_layers // layout.pipeline
    return layers * layer_bytes(model, layout, sheet) + end_bytes(model, layout, sheet, stage)


def held_micro_batches(layout: LayoutConfig, stage: int, micro_batches: int) -> float:
    """Micro-batches whose activations a stage holds at most, in Megatron's 1F1B schedule.

    Interleaved, a stage warms up with more, each of 1 / virtual_pipeline of its layers: the answer is in whole ones.
    """
    ahead = layout.pipeline - stage - 1
    chunks = layout.virtual_pipeline or 1
    if chunks == 1:
        return min(ahead + 1, micro_batches)
    return min(2 * ahead + (chunks - 1) * layout.pipeline + 1, micro_batches * chunks) / chunks


def working_bytes(model: ModelConfig, layout: LayoutConfig, sheet: Sheet, *, backward: bool) -> float:
    """Bytes that come and go inside one layer: its widest step, and backward a recomputed layer besides."""
    tokens, (queries, keys) = sheet.tokens / layout.context, head_widths(model)
    widest = max(2 * queries + 2 * keys, 3 * model.ffn_hidden_size) / layout.tensor
    passing = tokens * (2 * model.hidden_size + widest) * number_bytes(model)  # the residual, and gathered for a linear
    again = layer_bytes(model, layout, sheet, "none") if backward and layout.recompute == "full" else 0
    return passing + again
