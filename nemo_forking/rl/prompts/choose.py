"""A seeded subset of RL prompts, such as the paper's 1,000 of DAPO-Math-17k (which ones they were is unpublished)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from nemo_forking.errors import UserError
from nemo_forking.evaluation.benchmarks.problem import Problem

AnyProblem = TypeVar("AnyProblem", bound=Problem)


def choose(problems: Sequence[AnyProblem], count: int | None, seed: int) -> list[AnyProblem]:
    """Draw `count` of the problems, in the order drawn.

    Problems are sorted by a hash of seed and id: the same ones are drawn in the same order whatever the order of the
    files, a larger draw begins with the smaller one, and a problem that goes or comes changes one place only.

    Args:
        problems: with ids all different.
        count: how many; None for all of them.
        seed: another one draws others.

    Raises:
        UserError: there are fewer problems than are asked for.
    """
    if count is not None and not 0 < count <= len(problems):
        raise UserError(
            f"prompts.count: {count} prompts asked for, {len(problems)} are there; ask for 1 to {len(problems)}, "
            "or null for all"
        )
    return sorted(problems, key=lambda problem: (_draw(seed, problem.id), problem.id))[:count]


def _draw(seed: int, id: str) -> bytes:
    return hashlib.blake2b(f"{seed} {id}".encode(), digest_size=16).digest()
