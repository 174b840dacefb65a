"""What every test shares. The environment is set here, before anything imports torch."""

import gc
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # ranks are processes; threads would only fight over the cores
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # compiling costs more than the small models of the tests
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # Megatron asks for it with tensor parallelism
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # Megatron takes a GPU wherever it sees one
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # no warning from every fork
os.environ.setdefault("MPLBACKEND", "Agg")

# Forked ranks keep what was imported: a collection would walk all of NeMo's objects, and so copy their pages.
os.register_at_fork(after_in_child=gc.freeze)

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
settings.load_profile("untimed")

# assertions of helpers show what differs
pytest.register_assert_rewrite("tests.command_lines", "tests.run_files", "tests.distributed.resuming")

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real traces and of the real Qwen2.5 tokenizer; tests that need it are skipped where it is absent."""
    place = Path(os.environ.get("NEMO_FORKING_SHARED", CHECKOUT.parent / "shared" / "data"))
    if not place.is_dir():
        pytest.skip(f"no real data at {place} (environment variable NEMO_FORKING_SHARED names another folder)")
    return place
