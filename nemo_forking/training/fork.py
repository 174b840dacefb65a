"""What the model makes of its tags: their log-probabilities at the fork, from a forward pass over prompts only.

Shape letters: Q questions, N tags.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from nemo_forking.data.batches import Layout
from nemo_forking.errors import UserError
from nemo_forking.matching.exchange import gather_costs
from nemo_forking.rl.rows import fork_rows
from nemo_forking.tags import Tags
from nemo_forking.training.passes import score


def tag_logprobs(chunks: list[nn.Module], prompts: Sequence[np.ndarray], tags: Tags, layout: Layout) -> np.ndarray:
    """Log-probability (nats, over the whole vocabulary) of every tag after every prompt, on every rank.

    Collectives: Megatron's forward-only schedule, then over the world one gather to global rank 0 and one broadcast.

    Args:
        chunks: the model's chunks of this rank.
        prompts: prompt ids, the same on every rank.
        tags: the tags.
        layout: how the pass is laid out.

    Returns:
        logprob_QN, float64. Log-probabilities among the tags alone are its `log_softmax` over N.

    Raises:
        UserError: on every rank alike, where one is not finite.
    """
    scored = score(chunks, fork_rows(prompts, tags), layout)
    count = len(prompts) * tags.count
    gathered = gather_costs(scored.row_R, scored.sum_R, scored.count_R, rows=count, rows_max=scored.rows_max)
    logprob = torch.zeros(count, dtype=torch.float64)
    if gathered is not None:
        nll, times = gathered
        logprob = torch.from_numpy(np.where(times == 1, -nll, np.nan))
    logprob = logprob.to(scored.sum_R.device)
    dist.broadcast(logprob, src=0)
    logprob_QN = logprob.cpu().numpy().reshape(len(prompts), tags.count)
    if not np.isfinite(logprob_QN).all():
        question = int(np.argwhere(~np.isfinite(logprob_QN))[0, 0])
        raise UserError(f"the tags' probabilities after prompt {question} are not finite: damaged weights")
    return logprob_QN
