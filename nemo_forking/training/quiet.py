"""NeMo, Megatron and Lightning tell much at import and set-up; a user wants one line a step, and errors."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

TALKERS = ("nemo_logger", "lightning", "lightning.pytorch", "lightning.fabric", "megatron", "torch.distributed")


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """While NeMo is imported: no warnings about what this machine lacks (Transformer Engine, Apex, exporters)."""
    warnings.filterwarnings("ignore")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def logs() -> None:
    """From here on: errors only."""
    warnings.filterwarnings("ignore")
    for name in TALKERS:
        logging.getLogger(name).setLevel(logging.ERROR)
