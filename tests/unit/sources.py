"""Small source files and a character-level tokenizer for the data tests."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nemo_forking.data.settings import DataConfig


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Ids 0..94 for the characters from newline and blank to "}", and two control tokens; "~" is unknown."""
    symbols = ["\n", *(chr(code) for code in range(32, 126))]
    model = models.WordLevel({symbol: index for index, symbol in enumerate(symbols)} | {"~": 95}, unk_token="~")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", unk_token="~")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    return tokenizer


def trace(teacher: str, text: str, **fields) -> dict:
    return {"teacher": teacher, "text": text, **fields}


def row(id: str = "q1", answer: str = "4", traces: list | None = None, **fields) -> dict:
    """A valid row; `fields` replace or add fields, and a field given as `...` is left out."""
    traces = [trace("ann", "two and two, 4"), trace("bob", "count: 4")] if traces is None else traces
    full = {"id": id, "question": f"what is {id}?", "answer": answer, "traces": traces, **fields}
    return {name: value for name, value in full.items() if value is not ...}


def write_lines(path: Path, *lines: dict | str | bytes) -> Path:
    """Write rows (dicts), and lines as they are (text or bytes)."""
    raw = [line if isinstance(line, bytes) else line.encode() if isinstance(line, str) else None for line in lines]
    encoded = [json.dumps(line).encode() if data is None else data for line, data in zip(lines, raw, strict=True)]
    path.write_bytes(b"\n".join(encoded) + b"\n")
    return path


def small_config(folder: Path, *lines: dict | str | bytes, **settings) -> DataConfig:
    """A config over one source file of these lines, with the character tokenizer, everything below `folder`."""
    tokenizer = folder / "tokenizer"
    if not tokenizer.exists():
        character_tokenizer().save_pretrained(tokenizer)
    source = write_lines(folder / "source.jsonl", *lines)
    defaults = {"prompt": "Q: {question}\n", "traces": 2, "max_length": 400}
    return DataConfig(
        source=[str(source)], folder=str(folder / "out"), tokenizer=str(tokenizer), **(defaults | settings)
    )
