r"""The forking tokens: their two spellings, ids, place in the vocabulary and first embeddings.

Shape letters: N tags, K ids of one tag, V vocabulary rows, H hidden size.

`special`: ``<think1>`` .. ``<thinkN>`` are one added token each, in the spare rows behind the tokenizer's own ids
(Qwen2.5: 151665..151670 of 152064), so no matrix is resized. `text`: the spelling of the released checkpoints,
``<|im_start|><think1>\n``, five ids of the unchanged vocabulary of which only the digit differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nemo_forking.data.encoding import TextEncoder
from nemo_forking.errors import UserError

SPELLINGS = ("special", "text")


@dataclass(frozen=True)
class Tags:
    """The tags of a run.

    Attributes:
        spelling: "special" or "text".
        ids_NK: the ids put between prompt and trace, for every tag.
        fork_offset: position inside the tag of the one id that differs between tags.
        pieces_N: ids of the plain-text pieces of the tag's name, whose embeddings the tag starts from; empty tuples in
            the text spelling, whose ids are trained already.
    """

    spelling: str
    ids_NK: tuple[tuple[int, ...], ...]
    fork_offset: int
    pieces_N: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """Number of tags N."""
        return len(self.ids_NK)

    @property
    def length(self) -> int:
        """Number of ids K of every tag."""
        return len(self.ids_NK[0])

    @property
    def fork_ids(self) -> tuple[int, ...]:
        """The id at the fork, for every tag: the model chooses a tag by choosing among these."""
        return tuple(ids[self.fork_offset] for ids in self.ids_NK)

    def fork_position(self, prompt_length: int) -> int:
        """Position of the fork in a sequence whose prompt has `prompt_length` ids."""
        return prompt_length + self.fork_offset


def tag_text(index: int) -> str:
    """Return the name of tag `index` (0-based): ``<think1>`` is tag 0."""
    return f"<think{index + 1}>"


def make_tags(tokenizer, spelling: str, count: int, *, vocabulary_rows: int, first_row: int | None = None) -> Tags:
    """Work out the ids of `count` tags for a tokenizer, without changing it.

    A tokenizer that already holds the tags (saved after `add_to_tokenizer`) gives the same ids again.

    Args:
        tokenizer: fast Hugging Face tokenizer.
        spelling: "special" or "text".
        count: number of tags N, at least 1; at most 9 in the text spelling, whose digit is one token.
        vocabulary_rows: rows of the model's embedding matrix, which every id must fit.
        first_row: row of the first special tag if it must be a certain one; the tokenizer's first free row otherwise.

    Raises:
        UserError: unknown spelling, bad count, no room in the vocabulary, or a tokenizer without the needed tokens.
    """
    if spelling not in SPELLINGS:
        raise UserError(f"tags.spelling is {spelling!r}; choose one of {', '.join(SPELLINGS)}")
    if count < 1:
        raise UserError(f"tags.count is {count}; at least one tag is needed")
    make = _special_tags if spelling == "special" else _text_tags
    tags = make(tokenizer, count, first_row)
    largest = max(max(ids) for ids in tags.ids_NK)
    if largest >= vocabulary_rows:
        raise UserError(
            f"tags.count is {count}: tag id {largest} does not fit the model's {vocabulary_rows} vocabulary rows; "
            "lower tags.count or raise model.vocab_size"
        )
    return tags


def _special_tags(tokenizer, count: int, first_row: int | None) -> Tags:
    encoder = TextEncoder(tokenizer)
    names = [tag_text(index) for index in range(count)]
    present = [name for name in names if name in encoder.control]
    if present and len(present) < count:
        raise UserError(
            f"tags.count is {count}, but the tokenizer was saved with {len(present)} tags; set tags.count to that "
            "number or start from the tokenizer without tags"
        )
    free = len(tokenizer)
    rows = [encoder.control[name] for name in names] if present else list(range(free, free + count))
    if first_row is not None and rows[0] != first_row:
        raise UserError(
            f"the first tag takes row {rows[0]} of the tokenizer's vocabulary, not the asked row {first_row}"
        )
    pieces = encoder.plain(names)
    return Tags("special", tuple((row,) for row in rows), 0, tuple(map(tuple, pieces)))


def _text_tags(tokenizer, count: int, first_row: int | None) -> Tags:
    encoder = TextEncoder(tokenizer)
    if count > 9:
        raise UserError(
            f"tags.count is {count}; the text spelling has one digit, so at most 9 (or tags.spelling=special)"
        )
    if first_row is not None:
        raise UserError("a first row was given, but tags.spelling=text adds no vocabulary rows")
    if "<|im_start|>" not in encoder.control:
        raise UserError("tags.spelling=text needs the control token <|im_start|>, which the tokenizer lacks")
    opening = encoder.control["<|im_start|>"]
    ids_NK = tuple((opening, *ids) for ids in encoder.plain([f"{tag_text(i)}\n" for i in range(count)]))
    width = len(ids_NK[0])
    differing = [k for k in range(width) if len({ids[k] for ids in ids_NK if len(ids) == width}) > 1]
    if any(len(ids) != width for ids in ids_NK) or (count > 1 and len(differing) != 1):
        raise UserError("tags.spelling=text: in this tokenizer the tags differ in more than one token; use special")
    if count == 1:  # nothing differs: compare with a second tag to learn where the digit stands
        return Tags("text", ids_NK, _text_tags(tokenizer, 2, None).fork_offset, ((),))
    return Tags("text", ids_NK, differing[0], ((),) * count)


def add_to_tokenizer(tokenizer, tags: Tags):
    """Add the special tags to the tokenizer (in place) and return it; the text spelling needs nothing.

    The tags join the tokenizer's additional special tokens and never replace them; adding twice changes nothing, and
    the tokenizer may be saved and loaded again with the same ids.

    Raises:
        UserError: the tokenizer is not the one the tags were made for.
    """
    if tags.spelling != "special":
        return tokenizer
    names = [tag_text(index) for index in range(tags.count)]
    known = tokenizer.get_added_vocab()
    rows = [ids[0] for ids in tags.ids_NK]
    expected = [known.get(name, len(tokenizer) + index) for index, name in enumerate(names)]
    if expected != rows:
        raise UserError(f"the tokenizer would give the tags rows {expected}, not {rows}; it is not the run's tokenizer")
    new = [name for name in names if name not in tokenizer.additional_special_tokens]
    tokenizer.add_special_tokens({"additional_special_tokens": new}, replace_additional_special_tokens=False)
    if tokenizer.convert_tokens_to_ids(names) != rows:
        raise UserError(
            f"the tokenizer's ids have gaps, so the tags cannot take rows {rows}; renumber its added tokens"
        )
    return tokenizer


def initial_rows(tags: Tags, rows_VH: Tensor, std: float | None, noise: float, seed: int) -> Tensor:
    """First embedding (or output) rows of special tags: the mean of the pieces' rows plus noise of their own.

    Without noise, tags whose pieces agree would cost the same and the first assignments would be ties.

    Args:
        tags: special tags (the text spelling has no new rows).
        rows_VH: the trained matrix, any floating dtype; only the rows of the pieces are read.
        std: scale of the noise; None measures it over the pieces' rows.
        noise: noise in units of `std` (0 gives the plain mean).
        seed: the noise of tag i depends on (seed, i) only, so more tags leave the first ones as they were.

    Returns:
        [N, H] in the dtype and on the device of `rows_VH`; [0, H] in the text spelling.
    """
    hidden = rows_VH.shape[1]
    if tags.spelling == "text":
        return rows_VH.new_empty((0, hidden))
    used_PH = rows_VH[sorted({piece for pieces in tags.pieces_N for piece in pieces})].float()
    scale = noise * (float(used_PH.std()) if std is None else std)
    rows_NH = torch.stack([rows_VH[list(pieces)].float().mean(dim=0) for pieces in tags.pieces_N])
    for index in range(tags.count):
        key = np.array([seed, index], dtype=np.uint64)
        draw_H = np.random.Generator(np.random.Philox(key=key)).standard_normal(hidden, dtype=np.float32)
        rows_NH[index] += scale * torch.from_numpy(draw_H).to(rows_NH.device)
    return rows_NH.to(rows_VH.dtype)
