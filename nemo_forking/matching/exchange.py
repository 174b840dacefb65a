"""From row losses on many ranks to one assignment on all of them, in two collectives (design 3.4).

Shape letters: Q questions, N tags, M traces (of the question with most), R rows.

Every rank of the world takes part; most hold no rows (only the last pipeline stage's first tensor rank scores any).
Global rank 0 alone knows the costs and solves; whatever goes wrong there travels in the same broadcast as the result,
so that all ranks raise the same error instead of waiting for one that is gone.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from nemo_forking.matching.assignment import Key, NonFiniteCost, solve
from nemo_forking.matching.cost import RowNotScored, cost_matrix

SOLVED, NOT_FINITE, NOT_SCORED, FAILED = range(4)
HEADER = 4  # outcome, question, tag, trace


def match(
    row_R: Tensor,
    sum_R: Tensor,
    count_R: Tensor,
    *,
    rows_max: int,
    traces_Q: Sequence[int],
    n_tags: int,
    keys: Sequence[Key],
    names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Gather row losses, solve every question on global rank 0, and tell all ranks.

    Collectives: over the world, one gather to global rank 0 and one broadcast from it.

    Args:
        row_R: int64 numbers of the rows this rank scored, counted in the order (question, tag, trace).
        sum_R: their NLL sums in nats.
        count_R: their counted tokens. Equal rows of several ranks (context-parallel parts) add up.
        rows_max: at least the number of rows any rank holds; the same on every rank.
        traces_Q: number of traces of every question.
        n_tags: N.
        keys: (seed, step, question id) of every question, for ties.
        names: question ids, for error messages.

    Returns:
        sigma_QM (int64, -1 where absent) on every rank, and cost_QNM on global rank 0 (elsewhere None).

    Raises:
        NonFiniteCost, RowNotScored: on every rank alike.
    """
    gathered = gather_costs(row_R, sum_R, count_R, rows=n_tags * sum(traces_Q), rows_max=rows_max)
    cost_QNM, outcome = None, None
    if gathered is not None:
        try:
            cost_QNM = cost_matrix(*gathered, traces_Q, n_tags)
            outcome = solve(cost_QNM, keys)
        except Exception as error:  # noqa: BLE001 - the other ranks are waiting for the broadcast
            outcome = error
    shape = (len(traces_Q), max(traces_Q))
    return broadcast_assignment(outcome, shape, sum_R.device, names), cost_QNM


def gather_costs(
    row_R: Tensor, sum_R: Tensor, count_R: Tensor, *, rows: int, rows_max: int, group: ProcessGroup | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Bring all row losses to global rank 0: one gather of a [rows_max, 3] float64 tensor over `group` (the world).

    Args:
        row_R: int64 row numbers below `rows`; exact in float64.
        sum_R: NLL sums.
        count_R: counted tokens.
        rows: number of rows over all ranks.
        rows_max: rows of the fullest rank, or more; the same on every rank.
        group: a group that holds global rank 0.

    Returns:
        (sum, count) float64 [rows] on global rank 0, equal rows added up in rank order, zero for rows that nobody
        sent; None on the other ranks.
    """
    if len(row_R) > rows_max:
        raise ValueError(f"this rank scored {len(row_R)} rows, more than rows_max={rows_max}")
    packed = torch.full((rows_max, 3), -1.0, dtype=torch.float64, device=sum_R.device)
    packed[: len(row_R)] = torch.stack([row_R.double(), sum_R.double(), count_R.double()], dim=1)
    if dist.get_rank() != 0:
        dist.gather(packed, dst=0, group=group)
        return None
    everyone = packed.new_empty(dist.get_world_size(group), rows_max, 3)
    dist.gather(packed, list(everyone.unbind(0)), dst=0, group=group)
    row, part_sum, part_count = everyone.flatten(0, 1).cpu().numpy().T
    sent = row >= 0
    row = row[sent].astype(np.int64)
    total = np.bincount(row, weights=part_sum[sent], minlength=rows)
    count = np.bincount(row, weights=part_count[sent], minlength=rows)
    return total, count


def broadcast_assignment(
    outcome: np.ndarray | Exception | None,
    shape: tuple[int, int],
    device: torch.device | str | int,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """Tell every rank of the world the assignment, or the error: one broadcast of 4 + Q * M int64 from global rank 0.

    Args:
        outcome: on global rank 0, sigma_QM or the exception that solving it raised; ignored elsewhere.
        shape: (Q, M), the same on every rank.
        device: where the collective runs.
        names: question ids, for error messages.

    Returns:
        sigma_QM int64 on every rank.

    Raises:
        NonFiniteCost, RowNotScored: on every rank. Any other exception: on global rank 0, and RuntimeError elsewhere.
    """
    first = dist.get_rank() == 0
    message = _encode(outcome, shape) if first else torch.empty(HEADER + shape[0] * shape[1], dtype=torch.int64)
    message = message.to(device)
    dist.broadcast(message, src=0)
    (kind, question, tag, trace), sigma = message[:HEADER].tolist(), message[HEADER:]
    name = names[question] if names else ""
    if kind == NOT_FINITE:
        raise NonFiniteCost(question, name)
    if kind == NOT_SCORED:
        raise RowNotScored(question, tag, trace, name)
    if kind == FAILED:
        raise outcome if first else RuntimeError("matching failed on global rank 0; its log has the reason")
    return sigma.cpu().numpy().reshape(shape)


def _encode(outcome: np.ndarray | Exception | None, shape: tuple[int, int]) -> Tensor:
    message = torch.zeros(HEADER + shape[0] * shape[1], dtype=torch.int64)
    if isinstance(outcome, NonFiniteCost):
        message[:2] = torch.tensor([NOT_FINITE, outcome.question])
    elif isinstance(outcome, RowNotScored):
        message[:HEADER] = torch.tensor([NOT_SCORED, outcome.question, outcome.tag, outcome.trace])
    elif isinstance(outcome, Exception):
        message[0] = FAILED
    else:
        message[HEADER:] = torch.from_numpy(np.asarray(outcome, np.int64).reshape(shape)).flatten()
    return message
