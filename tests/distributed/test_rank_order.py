"""Which ranks share a tensor, context, data or pipeline group, as docs/layouts.md says: by a formula, in Megatron."""

from dataclasses import replace

import pytest
import torch.distributed as dist
import yaml
from megatron.core import parallel_state
from megatron.core.parallel_state import RankGenerator
from nemo.lightning._strategy_lib import init_model_parallel, init_parallel_ranks

from nemo_forking.config import load
from nemo_forking.config.compose import CONF
from nemo_forking.config.schema import LayoutConfig
from nemo_forking.training.trainer import strategy
from tests.distributed.ranks import run

LAYOUTS = sorted(file.stem for file in (CONF / "layout").glob("*.yaml"))
SIZES = {"tp": "tensor", "cp": "context", "dp": "data", "pp": "pipeline"}  # Megatron's names, fastest first


def layout(name: str) -> LayoutConfig:
    return LayoutConfig(**yaml.safe_load((CONF / "layout" / f"{name}.yaml").read_text()))


def documented(layout: LayoutConfig, *along: str) -> list[list[int]]:
    """Groups that vary along these dimensions, by rank = t + T (c + C (d + D p))."""
    groups: dict[tuple, list[int]] = {}
    for rank in range(layout.processes):
        place, rest = {}, rank
        for name, key in SIZES.items():
            rest, place[name] = divmod(rest, getattr(layout, key))
        groups.setdefault(tuple(place[name] for name in SIZES if name not in along), []).append(rank)
    return sorted(groups.values())


@pytest.mark.parametrize("name", LAYOUTS)
def test_groups_of_every_layout_are_the_documented_ones(name):
    one = layout(name)
    generator = RankGenerator(
        one.tensor, 1, one.data, one.pipeline, one.context, order="tp-cp-ep-dp-pp"
    )  # what NeMo asks for, below
    for along in (["tp"], ["cp"], ["dp"], ["pp"], ["cp", "dp"], ["tp", "cp"]):
        assert sorted(generator.get_ranks("-".join(along))) == documented(one, *along)


@pytest.mark.parametrize("name", LAYOUTS)
def test_tensor_parallel_ranks_share_a_node(name):
    one = layout(name)
    assert all(len({rank // one.devices for rank in group}) == 1 for group in documented(one, "tp"))


def test_a_layout_of_32_gpus_by_hand():
    one = layout("32xh100")  # tensor 8, context 2, pipeline 2: a node is one tensor-parallel group
    assert documented(one, "tp") == [list(range(8 * node, 8 * node + 8)) for node in range(4)]
    assert documented(one, "cp")[0] == [0, 8]  # nodes 0 and 1 share sequences,
    assert documented(one, "pp")[0] == [0, 16]  # and are the first stage; 2 and 3 are the second
    assert documented(one, "dp")[0] == [0]


@pytest.mark.parametrize("sizes", [{"pipeline": 2}, {"context": 2}], ids=str)
def test_process_groups_that_nemo_makes(sizes):
    one = replace(layout("cpu_tp2"), devices=8, **sizes)  # tensor 2, data 2
    config = replace(load(["experiment=tiny"]), layout=one)

    def groups(rank: int) -> dict[str, list[int]]:
        init_parallel_ranks(one.processes, rank, rank, strategy(config).parallelism)
        init_model_parallel()
        made = {
            "tp": parallel_state.get_tensor_model_parallel_group(),
            "cp": parallel_state.get_context_parallel_group(),
            "dp": parallel_state.get_data_parallel_group(),
            "pp": parallel_state.get_pipeline_model_parallel_group(),
            "cp-dp": parallel_state.get_data_parallel_group(with_context_parallel=True),
        }
        return {name: dist.get_process_group_ranks(group) for name, group in made.items()}

    for rank, made in enumerate(run(groups, one.processes)):
        for name, members in made.items():
            assert members == next(group for group in documented(one, *name.split("-")) if rank in group)
