"""Settings that are fine one by one and cannot work together: all of them found before anything is loaded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

from nemo_forking.config.schema import INJECTIVE, Config, head_size

RESULTS_KEYS = (
    "experiment rules base comparisons benchmark seconds provenance policies policy_names".split()
)  # a study's

SAME_IN_BASE = {  # key of ours -> key of a Hugging Face config.json
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_key_value_heads",
    "vocab_size": "vocab_size",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}


def problems(config: Config) -> list[str]:
    """One line for each conflict, naming the keys and a remedy."""
    return [
        line for check in (_run, _model, _layout, _tags, _lengths, _optim, _policy, _study) for line in check(config)
    ]


def _run(config: Config) -> Iterator[str]:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.run.name):
        yield f"run.name={config.run.name!r} names a folder: letters, digits, '.', '_' and '-' only"
    if not config.run.folder:
        yield "run.folder is empty; set it, or leave it at runs/${run.name}"


def _model(config: Config) -> Iterator[str]:
    m = config.model
    if m.head_dim is None and m.hidden_size % m.num_attention_heads:
        yield (
            f"model.hidden_size={m.hidden_size} is not divisible by model.num_attention_heads={m.num_attention_heads}; "
            "change one, or set model.head_dim"
        )
    if m.num_attention_heads % m.num_query_groups:
        yield (
            f"model.num_attention_heads={m.num_attention_heads} is not divisible by "
            f"model.num_query_groups={m.num_query_groups}"
        )
    width = head_size(m)
    if width % 2:
        yield f"a head is {width} wide, and rotary embeddings need an even width; change model.head_dim"
    if m.base:
        yield from _same_as_base(config)


def _same_as_base(config: Config) -> Iterator[str]:
    file = Path(config.model.base) / "config.json"
    if not file.is_file():  # the model may lie on the cluster only; training checks again
        return
    try:
        base = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        yield f"model.base: {file} cannot be read ({error}); copy it from the model anew"
        return
    for ours, theirs in SAME_IN_BASE.items():
        value = getattr(config.model, ours)
        if theirs in base and base[theirs] != value:
            yield f"model.{ours}={value}, but {file} has {theirs}={base[theirs]}; choose that checkpoint's model group"


def _layout(config: Config) -> Iterator[str]:
    m, layout = config.model, config.layout
    size = layout.tensor * layout.pipeline * layout.context
    if layout.processes % size:
        yield (
            f"layout.tensor x pipeline x context = {layout.tensor} x {layout.pipeline} x {layout.context} = {size} "
            f"does not divide layout.nodes x devices = {layout.nodes} x {layout.devices} = {layout.processes}"
        )
    for name in ("num_attention_heads", "num_query_groups", "ffn_hidden_size", "vocab_size"):
        if getattr(m, name) % layout.tensor:
            yield f"model.{name}={getattr(m, name)} is not divisible by layout.tensor={layout.tensor}"
    chunks = layout.pipeline * (layout.virtual_pipeline or 1)
    if m.num_layers % chunks:
        yield (
            f"model.num_layers={m.num_layers} is not divisible by layout.pipeline x virtual_pipeline = "
            f"{layout.pipeline} x {layout.virtual_pipeline or 1} = {chunks}"
        )
    if layout.virtual_pipeline and layout.pipeline == 1:
        yield f"layout.virtual_pipeline={layout.virtual_pipeline} needs layout.pipeline >= 2; set it to null"
    if layout.sequence_parallel and layout.tensor == 1:
        yield "layout.sequence_parallel=true needs layout.tensor >= 2; set it to false"
    if layout.overlap_param_gather and not (layout.distributed_optimizer and layout.overlap_grad_reduce):
        yield (
            "layout.overlap_param_gather=true needs layout.distributed_optimizer=true and "
            "layout.overlap_grad_reduce=true"
        )
    if layout.fp8 and (layout.accelerator == "cpu" or m.precision != "bf16"):
        yield f"layout.fp8={layout.fp8} needs layout.accelerator=gpu and model.precision=bf16; set it to null"
    if layout.accelerator == "cpu" and m.precision != "fp32":
        yield f"model.precision={m.precision} needs layout.accelerator=gpu; on the CPU set model.precision=fp32"


def _tags(config: Config) -> Iterator[str]:
    tags, matching, traces = config.tags, config.matching, config.data.traces
    if tags.spelling == "text" and tags.count > 9:
        yield f"tags.count={tags.count}: the text spelling has one digit, so at most 9 tags; use tags.spelling=special"
    if matching.rule in INJECTIVE and traces > tags.count and not config.data.sample_down:
        yield (
            f"data.traces={traces} is more than tags.count={tags.count}, and matching.rule={matching.rule} gives each "
            "trace of a question its own tag; raise tags.count, lower data.traces, or set data.sample_down=true"
        )
    if matching.every > 1 and matching.rule != "optimal":
        yield f"matching.every={matching.every} needs matching.rule=optimal; with {matching.rule} set it to 1"
    if matching.rule == "mixed" and matching.mixed_tag >= tags.count:
        yield f"matching.mixed_tag={matching.mixed_tag} must be below tags.count={tags.count} (tags are counted from 0)"


def _lengths(config: Config) -> Iterator[str]:
    batch, longest = config.batch, config.data.max_length
    if longest > config.model.max_length:
        yield f"data.max_length={longest} exceeds model.max_length={config.model.max_length}"
    if batch.packing and batch.tokens < longest:
        yield (
            f"batch.tokens={batch.tokens} cannot hold a sequence of data.max_length={longest} tokens; raise it, lower "
            "data.max_length, or set batch.packing=false"
        )
    shortest_row = min(longest, config.matching.tokens + 1)
    if batch.packing and config.matching.rule == "optimal" and batch.match_tokens < shortest_row:
        yield (
            f"batch.match_tokens={batch.match_tokens} cannot hold a row of matching.tokens={config.matching.tokens} "
            "trace tokens with its prompt"
        )
    if batch.share_prompts and not batch.packing:
        yield "batch.share_prompts=true needs batch.packing=true: rows share a prompt inside a pack"


def _optim(config: Config) -> Iterator[str]:
    if config.optim.min_lr > config.optim.lr:
        yield f"optim.min_lr={config.optim.min_lr:g} exceeds optim.lr={config.optim.lr:g}"


def _policy(config: Config) -> Iterator[str]:
    policy, rollout, tags = config.policy, config.rollout, config.tags.count
    if rollout.tags == "every" and rollout.group % tags:
        yield f"rollout.tags=every tries all alike: rollout.group={rollout.group} is no multiple of tags.count={tags}"
    if rollout.tags == "drawn" and rollout.group == 1:
        yield "rollout.group=1: one rollout of a question is compared with no other; take 2 or more"
    if rollout.tags == "every" and policy.scope == "all":
        yield "rollout.tags=every tries tags the policy did not choose, so with policy.scope=all set it to drawn"
    if rollout.reuse and policy.scope == "all":
        yield f"rollout.reuse={rollout.reuse} keeps rewards of tags; with policy.scope=all it must be 0"
    if policy.entropy_weight and not 0 < policy.entropy_floor < math.log(tags):
        yield (
            f"policy.entropy_floor={policy.entropy_floor} nats must lie above 0 and below log(tags.count) = "
            f"{math.log(tags):.3f}; or set policy.entropy_weight=0"
        )
    for name in ("max_steps", "checkpoint_every"):
        if (steps := getattr(config.trainer, name)) % policy.updates:
            yield f"trainer.{name}={steps} is no multiple of policy.updates={policy.updates}"


def _study(config: Config) -> Iterator[str]:
    if config.study is None:
        return
    study, policies = config.study, [stage.name for stage in config.study.policies]
    for name, values in {"seeds": study.seeds, "rules": study.rules, "policies": policies}.items():
        if not values and name != "policies":
            yield f"study.{name} is empty; give at least one"
        if len(set(values)) < len(values):
            yield f"study.{name}={list(values)} names one twice"
    if study.base is None and not config.model.base:
        yield "study.base=null starts from model.base, which is not set; give a Hugging Face folder"
    if study.convert and study.base is not None:
        yield "study.convert=true converts model.base, and the study trains its own (study.base); set it to false"
    for place, stage in enumerate(study.policies):
        if stage.rule not in INJECTIVE:
            yield f"study.policies.{place}.rule={stage.rule} has no tags to choose from; take {', '.join(INJECTIVE)}"
        if stage.rule not in study.rules:
            yield f"study.policies.{place}.rule={stage.rule} is not among study.rules={list(study.rules)}"
        if not re.fullmatch(r"[a-z][a-z0-9_]*", stage.name) or stage.name in (*RESULTS_KEYS, *study.rules):
            yield f"study.policies.{place}.name={stage.name!r}: small letters, digits and '_', and no other key's name"
