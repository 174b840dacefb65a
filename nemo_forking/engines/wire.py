"""What is sent to a `vllm serve` process for one request, and what may come back.

Everything the server would otherwise take from the model's generation_config.json (top-k, penalties, the tokens that
end a text) is sent with every request, so that a completion depends on the request alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from nemo_forking.engines.interface import Completion, Request

BAN = -100.0  # the least bias the protocol takes: a factor of e^-100 on the token's odds
EXCERPT = 300  # characters of an answer quoted in a message
SURE = 1e-3  # nats: the logprob of a token that was the only one allowed is 0 within this


class Trouble(Exception):
    """A replica failed at something that may succeed later or elsewhere; `status` is its answer's, 0 without one."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


def bans(banned: Sequence[int]) -> dict[str, float]:
    """The `logit_bias` that keeps these ids from being drawn."""
    return {str(i): BAN for i in banned}


def to_body(request: Request, model: str, room: int, logit_bias: Mapping[str, float]) -> dict:
    """The body of POST /v1/completions.

    Args:
        request: what is asked.
        model: name the model is served under.
        room: the most tokens that fit behind the prompt.
        logit_bias: the engine's bans; left out where the request names what it allows.
    """
    return {
        "model": model,
        "prompt": [int(i) for i in request.prompt],
        "max_tokens": min(request.max_tokens, room),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stop_token_ids": list(request.stop),
        **({"allowed_token_ids": list(request.allowed)} if request.allowed else {"logit_bias": dict(logit_bias)}),
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "ignore_eos": True,
        "add_special_tokens": False,
        "skip_special_tokens": False,
        "logprobs": 0,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def from_answer(answer: Any, request: Request, vocabulary: int, room: int) -> Completion:
    """The completion in an answer's JSON.

    Raises:
        Trouble: what came back is no answer to this request.
    """
    try:
        (choice,) = answer["choices"]
        ids, reason = choice["token_ids"], choice["finish_reason"]
        logprobs, names = choice["logprobs"]["token_logprobs"], choice["logprobs"]["tokens"]
        prompt, usage = choice.get("prompt_token_ids"), answer.get("usage") or {}
        length = len(ids), len(logprobs), len(names)
        counted = usage.get("completion_tokens", len(ids))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Trouble("the answer is no completion with token ids and log-probabilities") from None
    if any(type(i) is not int or not 0 <= i < vocabulary for i in ids):
        raise Trouble(f"the answer has token ids outside the model's {vocabulary} vocabulary rows")
    if len(set(length)) != 1 or names != [f"token_id:{i}" for i in ids]:
        raise Trouble(f"the answer has {length[0]} token ids and {length[1]} log-probabilities of other tokens")
    if any(not isinstance(value, int | float) or not -math.inf < value <= SURE for value in logprobs):
        raise Trouble("the answer has a log-probability that is above 0 or no finite number")
    if counted != len(ids):
        raise Trouble(f"the answer has {len(ids)} token ids and counts {counted}")
    if prompt is not None and prompt != list(request.prompt):
        raise Trouble("the answer is to another prompt")
    _check_end(ids, reason, request, min(request.max_tokens, room))
    return Completion(request.id, ids, [float(value) for value in logprobs], reason)


def _check_end(ids: list[int], reason: str, request: Request, longest: int) -> None:
    """The completion must end where the request says it ends, and nowhere else."""
    ended = bool(ids) and ids[-1] in request.stop
    whole = ended if reason == "stop" else reason == "length" and len(ids) == longest and not ended
    if not whole or len(ids) > longest or any(i in request.stop for i in ids[:-1]):
        raise Trouble(
            f"the answer ends by {reason!r} after {len(ids)} of {longest} tokens, which the request rules out"
        )
    if request.allowed and not set(ids) <= set(request.allowed):
        raise Trouble("the answer has token ids that the request does not allow")


def message_of(text: str) -> str:
    """The server's own words in the body of an error."""
    try:
        found = json.loads(text)
        found = found.get("error", found)
        message = found if isinstance(found, str) else found.get("message") or found["detail"]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        message = text
    return str(message).strip()[:EXCERPT] or "no message"
