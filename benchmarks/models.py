"""One random Qwen2 twice: transformers' own, and on Megatron from the Hugging Face folder the first was saved to."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import ModelOutput

from benchmarks.settings import ModelSettings
from nemo_forking.config.schema import ModelConfig
from nemo_forking.model import cpu, sources, weights
from nemo_forking.model.gpt import LabelRowsGPT
from nemo_forking.model.layers import layer_spec

ROTARY_BASE, NORM_EPS = 1e6, 1e-6  # Qwen2.5's
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Size:
    """The shape of the model."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    groups: int  # of queries that share a key
    vocabulary: int
    max_length: int
    dtype: torch.dtype

    @classmethod
    def of(cls, s: ModelSettings, max_length: int) -> "Size":
        """The shape that settings ask for."""
        return cls(s.layers, s.hidden, s.ffn, s.heads, s.groups, s.vocabulary, max_length, DTYPES[s.precision])

    def model_config(self) -> ModelConfig:
        """The same as the project's configuration has it, which counts operations."""
        return ModelConfig(
            base=None,
            num_layers=self.layers,
            hidden_size=self.hidden,
            ffn_hidden_size=self.ffn,
            num_attention_heads=self.heads,
            num_query_groups=self.groups,
            head_dim=None,
            vocab_size=self.vocabulary,
            rope_theta=ROTARY_BASE,
            norm_eps=NORM_EPS,
            tie_embeddings=False,
            max_length=self.max_length,
            init_std=0.0,
            precision="bf16" if self.dtype == torch.bfloat16 else "fp32",
        )


@dataclass
class LabelRowsConfig(TransformerConfig):
    """Megatron's configuration with what LabelRowsGPT and the weight loader read besides."""

    vocab_size: int = 0
    share_embeddings_and_output_weights: bool = False
    loss_chunk: int = 1024
    compile: bool = False


@contextlib.contextmanager
def one_process() -> Iterator[torch.device]:
    """Megatron's process groups over this process alone, torn down at the end; yields the device."""
    cpu.install()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    began = not dist.is_initialized()
    if began:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(0)
    try:
        yield device
    finally:
        parallel_state.destroy_model_parallel()
        if began:
            dist.destroy_process_group()


def write_transformers(size: Size, folder: Path, device: torch.device, seed: int) -> Qwen2ForCausalLM:
    """The model of transformers with random weights, also saved to `folder`.

    Every matrix keeps its input's scale and norms and biases are random too, so that costs of different rows differ
    and two ways of computing them that disagree are told apart.
    """
    config = Qwen2Config(
        hidden_size=size.hidden,
        intermediate_size=size.ffn,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.groups,
        vocab_size=size.vocabulary,
        max_position_embeddings=size.max_length,
        rope_theta=ROTARY_BASE,
        rms_norm_eps=NORM_EPS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.device(device):
        model = Qwen2ForCausalLM(config).to(size.dtype).eval()
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if param.dim() == 1:
                param.normal_(1.0 if "norm" in name else 0.0, 0.1, generator=generator)
            else:
                spread = 1.0 if "embed" in name else param.size(1) ** -0.5
                param.normal_(0.0, spread, generator=generator)
    model.save_pretrained(folder)
    return model


def read(model: nn.Module, ids_BT: Tensor, **more) -> ModelOutput:
    """What transformers' model, or its body, makes of ids [B, T] that are padded on the right, if at all.

    The mask of ones hides nothing, nor need it: the model is causal. Without one transformers makes a mask [T, T], for
    which torch has slower attention.
    """
    return model(ids_BT, attention_mask=torch.ones_like(ids_BT), use_cache=False, **more)


def read_megatron(size: Size, folder: Path, device: torch.device, chunk: int, *, compile: bool = False) -> LabelRowsGPT:
    """The same weights in the model that the set step trains; needs Megatron's process groups.

    Args:
        size: of the model that was written.
        folder: where it was written.
        device: where the model is to be.
        chunk: label rows whose logits are held at a time.
        compile: layout.compile.
    """
    config = LabelRowsConfig(
        num_layers=size.layers,
        hidden_size=size.hidden,
        ffn_hidden_size=size.ffn,
        num_attention_heads=size.heads,
        num_query_groups=size.groups,
        normalization="RMSNorm",
        layernorm_epsilon=NORM_EPS,
        activation_func=F.silu,
        gated_linear_unit=True,
        add_bias_linear=False,
        add_qkv_bias=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        params_dtype=size.dtype,
        bf16=size.dtype == torch.bfloat16,
        perform_initialization=False,
        use_cpu_initialization=device.type == "cpu",
        calculate_per_token_loss=True,  # a loss holds its own denominator, the schedule adds none
        vocab_size=size.vocabulary,
        loss_chunk=chunk,
        compile=compile,
    )
    model = LabelRowsGPT(
        config,
        layer_spec(config),
        vocab_size=size.vocabulary,
        max_sequence_length=size.max_length,
        share_embeddings_and_output_weights=False,
        position_embedding_type="rope",
        rotary_base=ROTARY_BASE,
    )
    weights.load(model, sources.from_folder(folder))
    return model.to(device).eval()
