"""layout.compile: the same numbers as without, in a Megatron block, forward and backward.

The tests' processes do not compile (conftest.py), so one that does is started, with what follows as its program.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_block import TransformerBlock

from benchmarks.models import one_process
from nemo_forking.data.packing import Document
from nemo_forking.model import fused
from nemo_forking.model.attention import describe_documents
from nemo_forking.model.layers import HAVE_TE, layer_spec
from tests.conftest import CHECKOUT


@pytest.mark.skipif(HAVE_TE, reason="another block than with Transformer Engine")
@pytest.mark.skipif(
    not (torch.cuda.is_available() or shutil.which("g++") or shutil.which("clang++")), reason="no compiler"
)
def test_a_compiled_block_gives_the_numbers_of_one_that_is_not():
    program = "from tests.distributed import test_fused; test_fused.check()"
    environment = os.environ | {"TORCHDYNAMO_DISABLE": "0", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_rotary_is_multiplication_by_a_complex_number():
    x, angles = torch.randn(7, 3, 8), torch.randn(7, 1, 4) * 100
    turned = torch.complex(*x.double().chunk(2, -1)) * torch.polar(torch.ones(()).double(), angles.double())
    got = fused.rotary(x, torch.cat((angles, angles), -1))
    torch.testing.assert_close(got, torch.cat((turned.real, turned.imag), -1).float())


@dataclass
class Config(TransformerConfig):
    compile: bool = False


def block(compiled: bool) -> TransformerBlock:
    config = Config(
        num_layers=2,
        hidden_size=32,
        ffn_hidden_size=48,
        num_attention_heads=4,
        num_query_groups=2,
        normalization="RMSNorm",
        activation_func=F.silu,
        gated_linear_unit=True,
        add_bias_linear=False,
        add_qkv_bias=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=True,
        compile=compiled,
    )
    torch.manual_seed(0)
    return TransformerBlock(config, layer_spec(config))


def check() -> None:
    """Compare the blocks on a pack; count what was compiled."""
    documents = (Document(5, (3, 6)), Document(7))
    places = torch.cat([torch.arange(5), torch.arange(5, 8), torch.arange(5, 11), torch.arange(7)])
    angles = torch.outer(places, 100.0 ** -torch.arange(0, 1, 0.25)).repeat(1, 2)[:, None]
    results = []
    with one_process() as device:
        hidden = torch.randn(21, 1, 32, device=device)
        for compiled in (False, True):
            model = block(compiled).to(device)
            assert model.config.bias_activation_fusion is model.config.apply_rope_fusion is compiled
            x = hidden.clone().requires_grad_()
            packed = describe_documents(documents, places.to(device))
            out = model(x, None, rotary_pos_emb=angles.to(device), packed_seq_params=packed)
            (out * hidden.roll(1, -1)).sum().backward()
            results.append([out.detach(), x.grad, *(p.grad for p in model.parameters())])
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4  # queries, keys, SwiGLU there and back
