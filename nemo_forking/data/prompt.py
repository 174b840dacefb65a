"""Prompt and target ids of a question: ids = prompt + tag + target, the three tokenised apart.

The prompt is the tokenizer's chat template, or a template string with ``{question}``. The target is a template string
with ``{trace}`` and perhaps ``{answer}``. Control tokens are real where a template puts them and plain text where a
question, trace or answer quotes them (`nemo_forking.data.encoding`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nemo_forking.data.encoding import Field, Template, TextEncoder
from nemo_forking.errors import UserError

CHAT = "chat"  # data.prompt value that stands for the tokenizer's own chat template
_MARK = "\ue000question\ue000"  # private-use characters stand for the question while the chat template is rendered


class PromptFormat:
    """Encodes prompts and targets of a run; evaluation uses the same object, so prompts cannot drift apart.

    Args:
        tokenizer: fast Hugging Face tokenizer.
        prompt: "chat", or a template string with ``{question}``.
        target: template string with ``{trace}`` and, if the answer is part of the target, ``{answer}``.
        system: system message of the chat template; None leaves the template's own default.

    Attributes:
        encoder: the tokenizer's `TextEncoder`.
        prompt_text: the prompt's template text with ``{question}`` in it.

    Raises:
        UserError: a template lacks its field, or the tokenizer has no usable chat template.
    """

    def __init__(self, tokenizer, prompt: str, target: str, system: str | None = None) -> None:
        self.encoder = TextEncoder(tokenizer)
        if prompt == CHAT:
            self._prompt = _chat_template(self.encoder, tokenizer, system)
        else:
            self._prompt = Template.parse(self.encoder, prompt, ("question",), "data.prompt")
            if system is not None:
                raise UserError("data.system is set, but data.prompt is a template string; write the message into it")
        self._target = Template.parse(self.encoder, target, ("trace", "answer"), "data.target")
        self.prompt_text = self._prompt.text

    def prompts(self, questions: Sequence[str]) -> list[list[int]]:
        """Return the prompt ids of every question."""
        return self._prompt.encode([{"question": question} for question in questions])

    def targets(self, traces: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Return the target ids of every (trace text, answer text): all that follows the tag."""
        return self._target.encode([{"trace": trace, "answer": answer} for trace, answer in traces])


def loss_mask(prompt: int, tag: int, target: int, include_tag: bool) -> np.ndarray:
    """Which tokens of prompt + tag + target are learnt, as bool [T]; arguments are lengths in tokens.

    With `include_tag` the tag's tokens count too, so that the model learns to emit tags (paper section 1).
    """
    mask_T = np.zeros(prompt + tag + target, dtype=bool)
    mask_T[prompt + (0 if include_tag else tag) :] = True
    return mask_T


def _chat_template(encoder: TextEncoder, tokenizer, system: str | None) -> Template:
    """Render the chat template around a stand-in for the question."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("data.prompt=chat, but the tokenizer has no chat template; give a string with {question}")
    messages = [{"role": "user", "content": _MARK}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    pieces = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True).split(_MARK)
    if len(pieces) != 2:
        raise UserError(
            "the tokenizer's chat template does not hold the question exactly once; give data.prompt a string"
        )
    return Template(encoder, [pieces[0], Field("question"), pieces[1]])
