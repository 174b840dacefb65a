"""How token losses add up to the loss of a step (design 3.5; paper section 1).

Shape letters: P pairs (a trace and its tag) of one global batch.

The published training loss is a plain sum over a question's traces and their tokens, in expectation over questions.
What the authors' code divides by is not published; the traces left in their repository point at a mean over tokens,
each rank by its own count. So the choice is in conf, and whatever it is, the divisor is that of the whole global batch,
fixed before the first micro-batch: the loss is the same however pairs are dealt to ranks and micro-batches.
"""

import numpy as np

from nemo_forking.errors import UserError

MODES = ("token", "trace", "sum")


def token_weight(counts_P: np.ndarray, mode: str, *, questions: int | None = None) -> np.ndarray:
    """The weight of every counted token of each pair: loss = sum over pairs and tokens of weight * nll.

    Args:
        counts_P: counted tokens of every pair of the global batch (the tag too where `loss.include_tag`).
        mode:
            `token`, 1 / all tokens: the mean over tokens. Every token counts alike, so long traces dominate. The scale
            does not depend on batch size or length, so usual learning rates carry over (the default).
            `trace`, 1 / (P * tokens of the pair): the mean over pairs of their mean over tokens, which is the
            matching cost at full length. Every trace counts alike; a token of a short trace weighs more.
            `sum`, 1 / questions: the published formula, a mean over questions of the sum over traces and tokens. Larger
            by the tokens of a question (tens of thousands) than `token`, so gradient clipping is always at work.
        questions: number of questions in the global batch; needed by `sum`.

    Returns:
        weight_P float64.

    Raises:
        UserError: unknown mode. ValueError: no pairs, or a pair without a counted token.
    """
    counts_P = np.asarray(counts_P, np.float64)
    if counts_P.size == 0 or counts_P.min() < 1:
        raise ValueError(f"every pair needs at least one counted token, got counts {counts_P.tolist()}")
    if mode == "token":
        return np.full(len(counts_P), 1.0 / counts_P.sum())
    if mode == "trace":
        return 1.0 / (len(counts_P) * counts_P)
    if mode == "sum":
        if not questions:
            raise ValueError("loss.normalise=sum needs the number of questions in the batch")
        return np.full(len(counts_P), 1.0 / questions)
    raise UserError(f"loss.normalise is {mode!r}; it must be one of {', '.join(MODES)}")
