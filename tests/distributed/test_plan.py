"""The plan against what is allocated: bytes of every rank's tensors, and of those saved for the backward pass."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer

from nemo_forking.config import Config, load
from nemo_forking.data.batches import MicroBatch
from nemo_forking.data.encoding import load_tokenizer
from nemo_forking.data.packing import Document, Row, pass_layout
from nemo_forking.data.sharing import deal_rows
from nemo_forking.data.token_file import TokenFile
from nemo_forking.data.traces import global_batch
from nemo_forking.model.gpt import MicroBatchSteps
from nemo_forking.model.segments import cut
from nemo_forking.plan.activations import Sheet, micro_batch_bytes
from nemo_forking.plan.disk import checkpoint_bytes, export_bytes
from nemo_forking.plan.flops import crossover, step_flops
from nemo_forking.plan.plan import make_plan
from nemo_forking.plan.prepared import planned_steps
from nemo_forking.plan.rows import lengths
from nemo_forking.plan.state import rank_state
from nemo_forking.tags import make_tags
from nemo_forking.training.launch import fork_ranks
from nemo_forking.training.step import matching_rows, training_rows
from nemo_forking.training.trainer import train
from tests.distributed.runs import DATA, PIPELINE, TENSOR, metrics, run, tiny

WIDE = {  # so that Megatron's rounding of every tensor to 64 numbers is small
    "model.base": None,
    "model.hidden_size": 256,
    "model.ffn_hidden_size": 704,
    "model.num_attention_heads": 8,
    "model.num_query_groups": 2,
    "batch.questions": 2,
}
PADDED = {"batch.packing": False}
SEQUENCE = TENSOR | {"layout.sequence_parallel": True}
LAYOUTS = {
    "one, packed": {},
    "one, packed, selective": {"layout.recompute": "selective"},
    "one, tied": PADDED | {"model.tie_embeddings": True},
    "tensor, full": PADDED | TENSOR | {"layout.recompute": "full"},
    "sequence": PADDED | SEQUENCE,
    "sequence, selective": PADDED | SEQUENCE | {"layout.recompute": "selective"},
    "pipeline": PADDED | PIPELINE,
    "pipeline, tied, full": PADDED | PIPELINE | {"model.tie_embeddings": True, "layout.recompute": "full"},
    "context": PADDED | {"layout.devices": 2, "layout.context": 2},
    "data": PADDED | DATA,
    "data, whole optimizer": PADDED | DATA | {"layout.distributed_optimizer": False},
}
HALF = {"data": DATA, "whole optimizer": {}}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rank_allocates_what_is_planned(ground, tmp_path, layout):
    config = tiny(ground, tmp_path, WIDE | LAYOUTS[layout])
    compare(config)
    assert files(tmp_path / "model", "*.safetensors") == pytest.approx(export_bytes(config), rel=0.01)
    assert files(tmp_path / "checkpoints", "**/*.distcp") == pytest.approx(checkpoint_bytes(config), rel=0.05)


@pytest.mark.parametrize("layout", HALF)
def test_in_bf16_weights_are_halved_and_the_optimizer_keeps_them_in_float32(ground, tmp_path, layout):
    config = tiny(ground, tmp_path, WIDE | PADDED | HALF[layout])
    if "whole" in layout:
        config = replace(config, layout=replace(config.layout, distributed_optimizer=False))
    compare(replace(config, model=replace(config.model, precision="bf16")), activations=False)  # GPUs have other norms


def test_prepared_data_gives_the_lengths(ground, tmp_path):
    config = tiny(ground, tmp_path)
    planned = replace(config, plan=load(["experiment=tiny"]).plan)
    file, mean = TokenFile(ground.data), lengths(planned)
    questions = [file.question(i) for i in range(len(file))]
    targets = [len(trace.ids) for question in questions for trace in question.traces]
    assert mean.prompt == round(sum(len(question.prompt) for question in questions) / len(questions))
    assert mean.trace == round(sum(targets) / len(targets))
    assert mean.source == f"means of {ground.data}"


@pytest.mark.parametrize("changes", [{"matching.include_tag": True}, {"matching.rule": "none"}])
def test_the_steps_that_are_planned_are_the_ones_that_training_takes(ground, tmp_path, changes):
    config = tiny(ground, tmp_path, changes | {"trainer.max_steps": 3})
    config = replace(config, plan=load(["experiment=tiny"]).plan)
    for step, planned in enumerate(planned_steps(config)[0]):
        scored, trained = rows_of(config, step)
        assert [(r.length, r.counted) for r in planned.trained] == [(r.length, r.counted) for r in trained]
        assert [(r.length, r.counted, r.prompt, r.group) for r in planned.scored] == [
            (r.length, r.counted, r.prompt, r.group) for r in scored
        ]
    flops = [step_flops(config.model, *rows_of(config, step)) for step in range(3)]
    assert make_plan(config).flops == pytest.approx(sum(flops))


@pytest.mark.parametrize("changes", [{}, {"batch.share_prompts": True}], ids=["apart", "shared"])
def test_the_imbalance_that_is_logged_is_that_of_rows_dealt_by_the_models_costs(changes, ground, tmp_path):
    config = tiny(ground, tmp_path, DATA | changes | {"trainer.max_steps": 2})
    run(config)
    for step, line in enumerate(metrics(config)):
        found = []
        for without_gradient, rows in zip((True, False), rows_of(config, step), strict=True):
            costs = pass_layout(config.batch, config.layout, crossover(config.model), without_gradient=without_gradient)
            found.append(deal_rows(rows, costs).imbalance)
        assert [line["imbalance_scoring"], line["imbalance"]] == pytest.approx(found, rel=1e-12)
        assert line["imbalance"] > 0


def rows_of(config: Config, step: int) -> tuple[list[Row], list[Row]]:
    """What SetStep scores and trains on; under whatever assignment, since all tags are as long."""
    file, rule = TokenFile(config.data.folder), config.matching.rule
    tags = make_tags(
        load_tokenizer(config.data.tokenizer),
        config.tags.spelling,
        config.tags.count,
        vocabulary_rows=config.model.vocab_size,
    )
    questions = global_batch(
        file,
        seed=config.run.seed,
        step=step,
        questions=config.batch.questions,
        tags=4,
        sample_down=False,
    )
    sigma_QM = np.full((len(questions), 4), -1 if rule == "none" else 0)
    scored = matching_rows(questions, tags, config.matching.tokens, config.matching.include_tag)
    trained = training_rows(questions, sigma_QM, tags, config.loss.normalise, config.loss.include_tag)
    return (scored if rule == "optimal" else []), trained


def compare(config: Config, *, activations: bool = True) -> None:
    model, layout = config.model, config.layout
    for rank, (state, sheet, saved) in enumerate(fork_ranks(_measure, layout.processes, config)):
        stage = rank // (layout.processes // layout.pipeline)  # pipeline ranks lie farthest apart
        planned = rank_state(model, layout, stage)
        assert state["weights"] == pytest.approx(planned.weights, rel=0.01)
        assert state["gradients"] == pytest.approx(planned.gradients, rel=0.01)
        assert state["optimizer"] == pytest.approx(planned.optimizer, rel=0.01)
        assert not activations or saved == pytest.approx(micro_batch_bytes(model, layout, sheet, stage), rel=0.02)


def files(folder: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in folder.glob(pattern))


# ------------------------------------------------------------ in the ranks


def _measure(config: Config) -> tuple[dict[str, int], Sheet, int]:
    """One step in this rank: bytes of its state, its first training micro-batch, and bytes that one saves."""
    made, saved = _remember(DistributedDataParallel, MegatronOptimizer), []
    _count_saved(saved, config)
    train(config)
    models = [one for one in made if isinstance(one, DistributedDataParallel)]
    optimizers = [one for one in made if isinstance(one, MegatronOptimizer) and one not in models]
    state = {
        "weights": sum(_bytes(param) for one in models for param in one.parameters()),
        "gradients": sum(_bytes(buffer.grad_data) for one in models for buffer in one.buffers),
        "optimizer": sum(_optimizer_bytes(one) for one in optimizers),
    }
    return state, *saved[0]


def _remember(*classes: type) -> list:
    """Every instance of these classes made from now on, in a list."""
    made = []
    for one in classes:

        def init(self, *args, _original=one.__init__, **kwargs):
            made.append(self)
            _original(self, *args, **kwargs)

        one.__init__ = init
    return made


def _optimizer_bytes(optimizer: MegatronOptimizer) -> int:
    """Moments, and the float32 copies where the model's own weights are of another type."""
    inner = getattr(optimizer, "optimizer", None)
    if inner is None:  # a chain of others
        return 0
    tensors = [t for state in inner.state.values() for t in state.values() if torch.is_tensor(t) and t.dim()]
    masters = [m for m in _flat(getattr(optimizer, "shard_fp32_from_float16_groups", []))]
    masters += [m for m in _flat(getattr(optimizer, "fp32_from_float16_groups", []))]
    return sum(map(_bytes, tensors + masters))


def _flat(groups: list) -> list[torch.Tensor]:
    return [tensor for group in groups for tensor in group if tensor is not None]


def _count_saved(counts: list, config: Config) -> None:
    """From now on, (sheet, bytes saved for backward) of every micro-batch with a gradient."""
    original = MicroBatchSteps.forward_step

    def forward_step(self, batch: MicroBatch):
        if not torch.is_grad_enabled():
            return original(self, batch)
        own = {param.untyped_storage().data_ptr() for param in self.parameters()}
        kept = {}  # storages, which stay alive here: an address is not used twice

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = original(self, batch)
        counts.append((_sheet(batch, config), sum(storage.nbytes() for storage in kept.values())))
        return out

    MicroBatchSteps.forward_step = forward_step


def _sheet(batch: MicroBatch, config: Config) -> Sheet:
    ranks, (side, time) = config.layout.context, batch.tokens.shape
    documents = batch.documents or (Document(time * ranks),) * (side if ranks > 1 else 0)  # padded: side by side
    groups: dict[int, list[int]] = {}
    for segment in cut(documents, ranks, parallel_state.get_context_parallel_rank()):
        groups.setdefault(segment.keys.bit_length(), []).append(segment.keys)
    padded = ranks * sum(len(keys) * max(keys) for keys in groups.values())
    keys = ranks * sum(map(sum, groups.values()))
    return Sheet(side * time * ranks, len(batch.labels) * ranks, side, padded, len(groups) or 1, keys)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
