"""The gfpo recipe as a user meets it: what cannot work is refused by key and remedy before any rank starts."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

from nemo_forking.config import load
from nemo_forking.rl.prompts import load_prompts, prepare_prompts
from nemo_forking.tags import add_to_tokenizer, make_tags
from nemo_forking.tasks import many_ways
from nemo_forking.training.identity import policy_identity

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "gfpo.py"
PROMPTS, TAGS = 12, 6


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """A random model with tags in its tokenizer, and prepared prompts of the laptop task."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("ground")
    many_ways.write(folder / "source", base=0, train=1, rl=PROMPTS, heldout=1, seed=1)
    tokenizer = many_ways.make_tokenizer(folder / "model")
    add_to_tokenizer(tokenizer, make_tags(tokenizer, "special", TAGS, vocabulary_rows=128))
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(1)
    shape = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    places = {"num_key_value_heads": 4, "max_position_embeddings": 128, "rope_theta": 100.0}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=128, **shape, **places)).save_pretrained(folder / "model")
    prepare_prompts(load(command(folder, folder)))
    return folder


def command(ground: Path, run: Path, *more: str) -> list[str]:
    return [
        *("experiment=tiny", "layout=cpu1", "batch.questions=4", f"run.folder={run}"),
        *(f"model.base={ground / 'model'}", f"data.tokenizer={ground / 'model'}"),
        *(f"prompts.source=[{ground / 'source' / 'rl.jsonl'}]", f"prompts.folder={ground / 'prompts'}"),
        *(f"benchmarks.many_ways.source={ground / 'source' / 'heldout.jsonl'}", *more),
    ]


@pytest.fixture
def gfpo(capsys):
    """Run the recipe in this process; its status, output and errors, a blank for every space."""
    recipe = runpy.run_path(str(RECIPE))["run"]

    def run(*words: str) -> tuple[int, str, str]:
        status = recipe(list(words))
        return status, *(" ".join(text.split()) for text in capsys.readouterr())

    return run


@pytest.fixture
def refused(gfpo, ground, tmp_path):
    """The error that a command line of these words ends with, having written nothing."""

    def answer(*more: str) -> str:
        status, _, error = gfpo(*command(ground, tmp_path / "run", *more))
        assert status == 2 and not (tmp_path / "run").exists()
        return error

    return answer


def test_help_tells_what_a_step_is_and_the_keys_of_prompts_rollouts_and_objective(gfpo):
    status, text, _ = gfpo("--help")
    assert status == 0 and "usage: python recipes/gfpo.py" in text and "prompt + tag" in text
    for key in ("prompts.folder=", "rollout.group=", "rollout.reuse=0", "policy.scope=tag", "policy.clip_high="):
        assert f" {key}" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("model.base=null", "model.base is not set; give the folder of a model with tags"),
        ("model.base=nowhere", "nowhere: no config.json there; give a model folder in Hugging Face format"),
        ("prompts.folder=nowhere", "nowhere: no prepared prompts (there is no report.json); run recipes/prepare_promp"),
        ("data.tokenizer=nowhere", "data.tokenizer=nowhere is not there; take the model's own: "),
        ("batch.questions=13", "batch.questions=13, but there are 12 prompts: prepare more, or take fewer"),
        ("rollout.max_tokens=120", "more than model.max_length=128; lower rollout.max_tokens"),
        ("rollout.tags=every rollout.group=8", "rollout.group=8 is no multiple of tags.count=6"),
        ("rollout.tags=drawn rollout.group=1", "rollout.group=1: one rollout of a question is compared with no other"),
        ("rollout.reuse=2 policy.scope=all", "rollout.reuse=2 keeps rewards of tags; with policy.scope=all it must be"),
        ("policy.updates=3 trainer.max_steps=10", "trainer.max_steps=10 is no multiple of policy.updates=3"),
        ("policy.entropy_weight=1 policy.entropy_floor=2", "policy.entropy_floor=2.0 nats must lie above 0 and below"),
        (
            "policy.kl_weight=0.1 layout.overlap_grad_reduce=true layout.overlap_param_gather=true",
            "layout.overlap_param_gather=true cannot take: set it to false",
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_by_key_and_remedy(refused, words, expected):
    assert expected in refused(*words.split())


def test_a_row_that_no_micro_batch_holds_is_refused_with_the_length_it_needs(refused, ground):
    longest = max(len(prompt.prompt) + len("\n") for prompt in load_prompts(ground / "prompts")[0])
    row, small = longest + 1 + 32, ("batch.tokens=40", "data.max_length=40", "rollout.max_tokens=32")
    error = refused(*small, "policy.scope=all")
    needed = int(error.rpartition("raise it to ")[2])
    assert row <= needed <= row + 8 and f"a row of up to {needed} tokens" in error and "batch.tokens=40" in error
    error = refused("batch.match_tokens=10", "matching.tokens=5")  # what GFPO's prompts are packed into
    assert "batch.match_tokens=10: raise it to" in error and "makes a row" in error


def test_a_model_without_weights_and_servers_that_do_not_answer_are_refused(refused, ground, tmp_path):
    shutil.copytree(ground / "model", tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    error = refused(f"model.base={tmp_path / 'model'}")
    assert f"{tmp_path / 'model'}: no *.safetensors there; export the weights in Hugging Face format" in error
    server = ("engine=server", "engine.server.urls=[http://127.0.0.1:9]", "engine.server.retries=0")
    error = refused(*server)
    assert "no vLLM server is left" in error and "http://127.0.0.1:9: no connection" in error


def test_a_model_without_tags_and_a_tokenizer_with_other_ones_are_refused(refused, ground, tmp_path):
    untagged, shifted = (shutil.copytree(ground / "model", tmp_path / name) for name in ("untagged", "shifted"))
    many_ways.make_tokenizer(untagged)
    assert "its tokenizer has no <think1>" in refused(f"model.base={untagged}")
    tokenizer = many_ways.make_tokenizer(shifted)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|other|>"]})
    add_to_tokenizer(tokenizer, make_tags(tokenizer, "special", TAGS, vocabulary_rows=128))
    tokenizer.save_pretrained(shifted)
    error = refused(f"data.tokenizer={shifted}")
    assert f"take the model's own, data.tokenizer={ground / 'model'}" in error


def test_another_runs_folder_is_refused_by_its_settings_and_the_same_runs_is_left_as_it_is(gfpo, ground, tmp_path):
    words = command(ground, tmp_path)
    identity = policy_identity(load(words), load_prompts(ground / "prompts")[1])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "provenance.json").write_text(json.dumps({"identity": identity}))
    status, text, _ = gfpo(*words)
    assert status == 0 and f"The model is in {tmp_path}/model" in text
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    status, _, error = gfpo(*words, "rollout.group=12", "run.seed=7")
    assert status == 2 and f"{tmp_path / 'model'} belongs to another run" in error
    assert "rollout.group: there 6, here 12" in error and "run.seed: there 1, here 7" in error
    assert "choose another run.folder" in error
