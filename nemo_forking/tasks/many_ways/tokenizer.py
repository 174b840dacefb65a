"""A character-level tokenizer in Hugging Face format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<|pad|>", "<|im_end|>", "<|unknown|>"


def make_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Make the task's tokenizer, save it to `folder`, and return it.

    One token a character: the line end and the 95 printable ASCII characters, behind three special tokens (padding 0,
    end 1, unknown 2); 99 in all. A model of 128 vocabulary rows leaves room for the tags behind them.
    """
    from transformers import PreTrainedTokenizerFast  # here, for it takes seconds, and the task's rows need none of it

    characters = ["\n", *(chr(code) for code in range(32, 127))]
    ids = {token: index for index, token in enumerate([PAD, END, UNKNOWN, *characters])}
    core = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
