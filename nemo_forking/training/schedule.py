"""The learning rate: a pure function of the step, so that a resumed run needs no state for it."""

import math


def learning_rate(step: int, *, peak: float, floor: float, steps: int, warmup_fraction: float) -> float:
    """Linear warm-up over the first `warmup_fraction` of `steps`, then a cosine to `floor` at the last step.

    `step` counts from 1, as in the logs; the first step already moves.
    """
    warmup = max(1, round(warmup_fraction * steps))
    if step <= warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
