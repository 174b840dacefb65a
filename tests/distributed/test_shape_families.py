"""Every shape of Qwen2.5, small: converted there and back, tagged, read by two ranks; logits as transformers'."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2ForCausalLM

from nemo_forking.config import Config
from nemo_forking.config.compose import CONF
from nemo_forking.config.convert import ConvertConfig
from nemo_forking.config.schema import ModelConfig
from nemo_forking.convert.convert import convert
from nemo_forking.model import weights
from nemo_forking.model.base import base_weights
from nemo_forking.model.gpt import LabelRowsGPT
from nemo_forking.model.hf_folder import EMBEDDING, HEAD
from nemo_forking.model.qwen2 import megatron_config
from nemo_forking.tags import initial_rows, make_tags
from nemo_forking.training.launch import fork_ranks
from nemo_forking.training.trainer import start_rank
from tests.distributed.runs import Ground, lay_ground, tiny
from tests.run_files import weights as weights_of
from tests.unit.shapes import qwen2_config

FAMILIES = ["0p5b", "1p5b", "3b", "7b", "14b", "32b", "72b"]
ROWS = {151936: 152, 152064: 160}  # the published vocabularies -> those tried here


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Ground:
    return lay_ground(tmp_path_factory.mktemp("ground"), questions=2)


def family(name: str, head: int = 4) -> dict:
    """The published heads, groups, ties and ratio of the widths, on two layers with heads of 4."""
    shape = OmegaConf.load(CONF / "model" / f"qwen25_{name}.yaml")
    assert shape.head_dim is None and shape.hidden_size % shape.num_attention_heads == 0
    hidden = head * shape.num_attention_heads
    return {
        "num_layers": 2,
        "hidden_size": hidden,
        "ffn_hidden_size": 2 * round(hidden * shape.ffn_hidden_size / shape.hidden_size / 2),
        "num_attention_heads": shape.num_attention_heads,
        "num_query_groups": shape.num_query_groups,
        "vocab_size": ROWS[shape.vocab_size],
        "rope_theta": shape.rope_theta,
        "norm_eps": shape.norm_eps,
        "tie_embeddings": shape.tie_embeddings,
    }


def made(ground: Ground, folder: Path, shape: dict, tokenizer: Path | None = None) -> Config:
    """A configuration of this shape whose base, random bfloat16 numbers, transformers has written in several files."""
    base = folder / "base"
    changes = {f"model.{key}": value for key, value in shape.items()} | {"model.base": str(base)}
    if tokenizer:
        changes["data.tokenizer"] = str(tokenizer)
    config = tiny(ground, folder / "run", changes)
    write(config.model, base)
    return config


def write(model: ModelConfig, folder: Path) -> None:
    torch.manual_seed(0)
    shape = qwen2_config(model, rope_theta=model.rope_theta, rms_norm_eps=model.norm_eps, initializer_range=0.1)
    network = Qwen2ForCausalLM(shape).to(torch.bfloat16)
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data.normal_(0.5, 0.5)
    network.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 1


def converted(config: Config, source: Path, folder: Path, **changes) -> list[str]:
    values = {"to": "huggingface", "tags": False, "shard_gb": 4e-5, "verify": True} | changes
    lines: list[str] = []
    convert(replace(config, convert=ConvertConfig(source=str(source), folder=str(folder), **values)), lines.append)
    return lines


def with_tag_rows(config: Config, tensors: dict) -> dict:
    """The base's tensors with the tags' rows put in."""
    tokenizer = AutoTokenizer.from_pretrained(config.data.tokenizer)
    tags = make_tags(tokenizer, "special", config.tags.count, vocabulary_rows=config.model.vocab_size)
    for name in {EMBEDDING, HEAD} & tensors.keys():
        rows = initial_rows(tags, tensors[name], None, config.tags.noise, config.tags.seed)
        tensors[name][list(tags.fork_ids)] = rows
    return tensors


def check_there_and_back(config: Config, folder: Path, **changes) -> None:
    lines = converted(config, Path(config.model.base), folder / "megatron", to="megatron", tags=True, **changes)
    assert not changes or "logits of 128 tokens differ from transformers' by at most" in lines[-1]
    converted(config, folder / "megatron", folder / "back")
    expected, got = with_tag_rows(config, weights_of(Path(config.model.base))), weights_of(folder / "back")
    assert len(list((folder / "back").glob("*.safetensors"))) > 1
    assert got.keys() == expected.keys() and (HEAD in got) == (not config.model.tie_embeddings)
    for name, tensor in expected.items():
        assert got[name].dtype == torch.bfloat16 and torch.equal(got[name], tensor), name


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back_with_tags_and_read_by_two_ranks(name, ground, tmp_path):
    config = made(ground, tmp_path, family(name))
    check_there_and_back(config, tmp_path, verify_logits=True)
    assert fork_ranks(differing, 2, config, tmp_path / "megatron") == [[], []]


def differing(config: Config, folder: Path) -> list[str]:
    """Parameters of this tensor-parallel rank that are not what Megatron itself reads for it from the checkpoint."""
    start_rank()
    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=dist.get_world_size())
    ours, theirs = (build(config, dist.get_world_size()) for _ in range(2))
    weights.load(ours, base_weights(folder, config.model))
    state = dist_checkpointing.load(theirs.sharded_state_dict(), str(folder))
    theirs.load_state_dict(state, strict=True)
    pairs = zip(ours.named_parameters(), theirs.parameters(), strict=True)
    return [name for (name, mine), other in pairs if not torch.equal(mine, other) or not mine.isfinite().all()]


def build(config: Config, ranks: int) -> LabelRowsGPT:
    shape = megatron_config(config)
    shape.tensor_model_parallel_size = ranks
    model = shape.configure_model()
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    return model


def test_heads_of_their_own_width(ground, tmp_path):
    config = made(ground, tmp_path, family("7b") | {"head_dim": 6})
    assert config.model.hidden_size == 28 * 4
    check_there_and_back(config, tmp_path, verify_logits=True)


def test_the_published_number_of_rows(ground, tmp_path):
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(151665)}, unk_token="w7"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", unk_token="w7").save_pretrained(tmp_path / "words")
    shape = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "num_attention_heads": 2, "num_query_groups": 1}
    config = made(ground, tmp_path, shape | {"vocab_size": 152064}, tokenizer=tmp_path / "words")
    check_there_and_back(config, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "back")
    assert tokenizer.convert_tokens_to_ids(["<think1>", "<think4>"]) == [151665, 151668]
