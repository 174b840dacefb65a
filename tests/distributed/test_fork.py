"""The tags' probabilities at the fork are those of a dense float64 model, however the pass is laid out."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2ForCausalLM

from nemo_forking.config import Config
from nemo_forking.data.token_file import TokenFile
from nemo_forking.tags import Tags, make_tags
from nemo_forking.training import trainer
from nemo_forking.training.fork import tag_logprobs
from nemo_forking.training.launch import fork_ranks
from nemo_forking.training.passes import pass_layout
from nemo_forking.training.step import SetStep
from tests.distributed.runs import in_fork, tiny
from tests.distributed.test_invariance import INTERLEAVED, SEQUENCE, UNPACKED, layout

TEXT = {"tags.spelling": "text"}
CASES = {
    "one process": {},
    "one process unpacked": UNPACKED,
    "text tags": TEXT,
    "text tags, tensor 2": TEXT | layout(2, tensor=2),
    "sequence": SEQUENCE,
    "pipeline 2 unpacked": layout(2, pipeline=2) | UNPACKED,
    "interleaved pipeline": INTERLEAVED,
    "context 2": layout(2, context=2),
    "data 2": layout(2),
    "tensor 2 x data 2": layout(4, tensor=2),
}


def prompts_of(config: Config) -> list[np.ndarray]:
    file = TokenFile(config.data.folder)
    return [file.question(i).prompt for i in range(len(file))]


def tags_of(config: Config) -> Tags:
    tokenizer = AutoTokenizer.from_pretrained(config.data.tokenizer)
    tags = config.tags
    return make_tags(tokenizer, tags.spelling, tags.count, vocabulary_rows=config.model.vocab_size)


def measured(config: Config) -> np.ndarray:
    """What a rank is told at the start of a run's only step, before anything is learnt."""
    seen = []

    class Asking(SetStep):
        def __call__(self, chunks, step):
            seen.append(tag_logprobs(chunks, prompts_of(config), self.tags, pass_layout(config, without_gradient=True)))
            return super().__call__(chunks, step)

    trainer.SetStep = Asking  # in this forked rank only
    trainer.train(config)
    return seen[0]


def dense(config: Config, exported) -> np.ndarray:
    """One forward pass a prompt in float64, on the weights a run of learning rate zero exports: tag rows included."""
    model, tags = Qwen2ForCausalLM.from_pretrained(exported, dtype=torch.float64), tags_of(config)
    rows = []
    for prompt in prompts_of(config):
        ids = [*prompt.tolist(), *tags.ids_NK[0][: tags.fork_offset]]
        with torch.no_grad():
            logprob_V = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        rows.append(logprob_V[list(tags.fork_ids)].numpy())
    return np.stack(rows)


@pytest.mark.parametrize("case", CASES)
def test_every_rank_is_told_the_dense_models_probabilities(ground, tmp_path, case):
    still = {"optim.lr": 1e-30, "optim.min_lr": 0.0}
    config = tiny(ground, tmp_path / "run", CASES[case] | still)
    everyone = fork_ranks(measured, config.layout.processes, config)
    expected = in_fork(dense, config, tmp_path / "run" / "model")
    assert expected.std() > 0.1
    for found_QN in everyone:
        np.testing.assert_allclose(found_QN, expected, rtol=1e-5, atol=1e-5)
        assert (found_QN == everyone[0]).all()
