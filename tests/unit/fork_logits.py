"""The tags' log-probabilities from logits over a whole vocabulary, on either support of `policy.support`."""

from collections.abc import Sequence

from torch import Tensor

from nemo_forking.losses.fork import wide


def fork_logprobs(logits_QV: Tensor, fork_ids: Sequence[int], support: str) -> Tensor:
    """logprob_QN among the tags or among all tokens, float32 or better."""
    if support == "tags":
        return wide(logits_QV[..., list(fork_ids)]).log_softmax(-1)
    return wide(logits_QV).log_softmax(-1)[..., list(fork_ids)]
