"""NeMo, Megatron and Lightning tell much at import and set-up; a user wants one line a step, and errors."""

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """While NeMo is imported: no warnings about what this machine lacks (Transformer Engine, Apex, exporters)."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def logs() -> None:
    """From here on in this process: errors only, whatever levels the libraries set for themselves."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
