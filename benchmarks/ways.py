"""Three ways to the cost of every (tag, trace): ours, a plain Hugging Face loop, and the same loop in batches.

Each takes the same rows `prompt + tag + first T_r trace tokens` and returns cost_R [R], nats per counted token.
Shape letters: R rows, B batch, T time, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.models import read
from benchmarks.steps import packs
from nemo_forking.data.batches import Row, deal
from nemo_forking.training.passes import score

IGNORED = -100  # transformers' label of a position that is not counted


@torch.no_grad()
def ours(model: nn.Module, rows: Sequence[Row], pack: int) -> Tensor:
    """The set step's scoring: rows packed to `pack` tokens, one forward-only schedule, head on label rows in chunks."""
    scored = score([model], list(rows), packs(pack))
    cost_R = torch.empty(len(rows), dtype=torch.float64, device=scored.sum_R.device)
    cost_R[scored.row_R] = scored.sum_R / scored.count_R
    return cost_R


@torch.no_grad()
def plain(model: nn.Module, rows: Sequence[Row]) -> Tensor:
    """One forward a pair, padded to the longest with its mask, full logits and transformers' own loss over them."""
    longest = max(len(row.ids) for row in rows)
    costs = []
    for row in rows:
        ids_BT, labels_BT = (x.to(model.device) for x in _padded([row], longest))
        seen_BT = (torch.arange(longest) < len(row.ids)).long()[None].to(model.device)
        costs.append(model(ids_BT, attention_mask=seen_BT, labels=labels_BT, use_cache=False).loss)
    return torch.stack(costs).double()


@torch.no_grad()
def batched(model: nn.Module, rows: Sequence[Row], size: int) -> Tensor:
    """What care within the loop gives: `size` pairs of like length a forward, each padded only to the longest.

    Torch's causal attention is taken (models.read). The logits are still those of every position.
    """
    cost_R = torch.empty(len(rows), dtype=torch.float64, device=model.device)
    for members in _alike(rows, size):
        chosen = [rows[i] for i in members]
        ids_BT, labels_BT = (x.to(model.device) for x in _padded(chosen, max(len(row.ids) for row in chosen)))
        logits_BTV = read(model, ids_BT[:, :-1]).logits.float()
        nll_BT = F.cross_entropy(logits_BTV.flatten(0, 1), labels_BT[:, 1:].flatten(), reduction="none")
        count_B = (labels_BT[:, 1:] != IGNORED).sum(1)
        cost_R[members] = nll_BT.view(len(chosen), -1).double().sum(1) / count_B
    return cost_R


def work(rows: Sequence[Row], pack: int, size: int) -> dict[str, dict[str, int]]:
    """Positions that each way sends through the layers, and through the head."""
    plan = deal([row.length for row in rows], packs(pack))
    every = len(rows) * max(len(row.ids) for row in rows)
    alike = sum(len(members) * max(rows[i].length for i in members) for members in _alike(rows, size))
    return {
        "ours": {"tokens": sum(plan.times[0]), "head_tokens": sum(row.counted for row in rows)},
        "plain": {"tokens": every, "head_tokens": every},
        "batched": {"tokens": alike, "head_tokens": alike},
    }


def _padded(rows: Sequence[Row], longest: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, T] padded on the right with 0, and labels [B, T] with all but the counted tokens ignored."""
    ids_BT = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels_BT = torch.full_like(ids_BT, IGNORED)
    for b, row in enumerate(rows):
        ids_BT[b, : len(row.ids)] = torch.from_numpy(row.ids)
        labels_BT[b, row.first : len(row.ids)] = torch.from_numpy(row.ids[row.first :])
    return ids_BT, labels_BT


def _alike(rows: Sequence[Row], size: int) -> Iterator[list[int]]:
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    return (order[i : i + size] for i in range(0, len(order), size))
