"""Text to token ids, with control tokens only where a template puts them.

A Hugging Face tokenizer turns the characters ``<|im_start|>`` into the control token wherever they stand, also inside
a question or a trace that merely quotes them. Here the two are kept apart: `TextEncoder.plain` knows no added tokens at
all, and a `Template` places control tokens by id. Text between two control tokens is encoded in one piece, so where
nothing quotes a control token the ids are those the tokenizer itself gives for the filled-in string.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from nemo_forking.errors import UserError

FILES = ("tokenizer.json", "tokenizer_config.json")


def load_tokenizer(folder: str | Path):
    """Load a Hugging Face tokenizer from a local folder.

    Raises:
        UserError: the folder is absent or holds no fast tokenizer.
    """
    from transformers import AutoTokenizer  # seconds to import, so only when a tokenizer is really loaded

    if not Path(folder).is_dir():
        raise UserError(f"tokenizer folder {folder} does not exist; set data.tokenizer to a folder with tokenizer.json")
    for name in FILES:  # without the second, transformers guesses, and other ids may come of it
        if not (Path(folder) / name).is_file():
            raise UserError(
                f"{folder} holds no tokenizer that transformers can load ({name} is missing); it needs "
                f"{' and '.join(FILES)}: copy both from the model anew"
            )
    # transformers 4.57 takes every local tokenizer saved by a late 4.57 for an ill-formed one of Mistral's, and warns.
    talk = logging.getLogger("transformers.tokenization_utils_base")
    level = talk.level
    talk.setLevel(logging.ERROR)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises nothing more special
        raise UserError(
            f"{folder} holds no tokenizer that transformers can load ({error}); it needs "
            f"{' and '.join(FILES)}: copy both from the model anew"
        ) from error
    finally:
        talk.setLevel(level)
    TextEncoder(tokenizer)
    return tokenizer


class TextEncoder:
    """Encodes text as text, and knows the ids of the control tokens (all tokens added on top of the model's own).

    Attributes:
        control: text of every added token -> its id.
        unknown_id: id that stands for text the tokenizer cannot represent, or None (byte-level tokenizers).
    """

    def __init__(self, tokenizer) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(f"{type(tokenizer).__name__} is not a fast tokenizer; tokenizer.json is needed")
        backend = tokenizer.backend_tokenizer
        self._plain = Tokenizer(backend.model)
        if backend.normalizer is not None:
            self._plain.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            self._plain.pre_tokenizer = backend.pre_tokenizer
        self.control: dict[str, int] = dict(tokenizer.get_added_vocab())
        self.unknown_id: int | None = tokenizer.unk_token_id
        longest_first = sorted(self.control, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode every text as text; what looks like a control token becomes ordinary pieces."""
        return [encoding.ids for encoding in self._plain.encode_batch_fast(list(texts), add_special_tokens=False)]

    def find_control(self, text: str) -> list[str]:
        """Return the control tokens quoted in `text`, in order of appearance."""
        return self._control_pattern.findall(text)

    def split_control(self, text: str) -> list[int | str]:
        """Split template text into control-token ids and the plain text between them."""
        parts: list[int | str] = []
        end = 0
        for match in self._control_pattern.finditer(text):
            if match.start() > end:
                parts.append(text[end : match.start()])
            parts.append(self.control[match.group()])
            end = match.end()
        if end < len(text):
            parts.append(text[end:])
        return parts


@dataclass(frozen=True)
class Field:
    """A place in a template that is filled with a row's own text."""

    name: str


class Template:
    """Template text with fields that are filled with plain text; control tokens of the template are real ones.

    Args:
        parts: template text and fields, in order.

    Attributes:
        text: the template with its fields as ``{name}``.
        fields: names of its fields.
    """

    def __init__(self, encoder: TextEncoder, parts: Sequence[str | Field]) -> None:
        self.text = "".join(f"{{{part.name}}}" if isinstance(part, Field) else part for part in parts)
        self.fields = frozenset(part.name for part in parts if isinstance(part, Field))
        self._encoder = encoder
        self._parts: list[int | str | Field] = []
        for part in parts:
            self._parts += [part] if isinstance(part, Field) else encoder.split_control(part)

    @classmethod
    def parse(cls, encoder: TextEncoder, text: str, fields: Sequence[str], where: str) -> Template:
        """Read a template string; braces around anything but a name of `fields` are kept as they are.

        Args:
            encoder: encoder of the run's tokenizer.
            text: template string.
            fields: names that may be filled in; the first one must be there.
            where: configuration key, for messages.

        Raises:
            UserError: the first field is not in the template.
        """
        pieces = re.split("{(" + "|".join(map(re.escape, fields)) + ")}", text)
        template = cls(encoder, [Field(piece) if index % 2 else piece for index, piece in enumerate(pieces)])
        if fields[0] not in template.fields:
            raise UserError(f"{where}: the template {text!r} lacks {{{fields[0]}}}; put it where that text belongs")
        return template

    def encode(self, rows: Sequence[Mapping[str, str]]) -> list[list[int]]:
        """Encode one sequence of ids per row; all plain text of all rows goes through the tokenizer in one batch."""
        filled = [self._fill(row) for row in rows]
        encoded = iter(self._encoder.plain([part for parts in filled for part in parts if isinstance(part, str)]))
        return [
            [token for part in parts for token in (next(encoded) if isinstance(part, str) else (part,))]
            for parts in filled
        ]

    def _fill(self, row: Mapping[str, str]) -> list[int | str]:
        """Put the row's text in; neighbouring plain text is joined, since tokens may span the seam."""
        parts: list[int | str] = []
        for part in self._parts:
            value = row[part.name] if isinstance(part, Field) else part
            if isinstance(value, str) and parts and isinstance(parts[-1], str):
                parts[-1] += value
            else:
                parts.append(value)
        return parts
