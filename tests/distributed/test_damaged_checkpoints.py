"""Any file of the newest checkpoint damaged: the one before it is continued, to the same end, with a warning."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_forking.config import Config
from tests.distributed.resuming import ADAM, assert_same, finish, kill, trained
from tests.distributed.runs import TENSOR, Ground, errors, run, tiny

FOUR_STEPS = ADAM | {"trainer.max_steps": 4, "trainer.keep_last": 2}


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 0x10
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "flipped": flip,
    "removed": Path.unlink,
    "added": lambda file: file.write_bytes(b"of another run"),
}
FILES = (".metadata", "__0_0.distcp", "checksums.json", "common.pt", "extra.json", "metadata.json", "metrics.jsonl")
CASES = [
    ("__0_0.distcp", "truncated"),
    ("__0_0.distcp", "flipped"),
    ("__0_0.distcp", "removed"),
    ("__1_0.distcp", "added"),
    (".metadata", "removed"),
    ("checksums.json", "flipped"),
    ("common.pt", "truncated"),
    ("extra.json", "flipped"),
    ("metadata.json", "removed"),
]


@pytest.fixture(scope="module")
def whole(ground, tmp_path_factory) -> Config:
    return finish(tiny(ground, tmp_path_factory.mktemp("whole"), FOUR_STEPS))


@pytest.fixture(scope="module")
def killed(ground, tmp_path_factory) -> Path:
    """The folder of a run killed after its third step: checkpoints of steps 2 and 3."""
    config = tiny(ground, tmp_path_factory.mktemp("killed"), FOUR_STEPS)
    kill(config, after=3)
    return Path(config.run.folder)


def copied(killed: Path, ground: Ground, folder: Path, changes: dict | None = None) -> tuple[Config, Path]:
    shutil.copytree(killed, folder / "run")
    newest = folder / "run" / "checkpoints" / "step_0000003"
    assert {p.name for p in newest.iterdir() if not p.name.endswith("_1.distcp")} == set(FILES)
    return tiny(ground, folder / "run", FOUR_STEPS | (changes or {})), newest


@pytest.mark.parametrize(("file", "damage"), CASES)
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_continued(
    file, damage, killed, ground, whole, tmp_path, capfd
):
    config, newest = copied(killed, ground, tmp_path)
    DAMAGES[damage](newest / file)
    finish(config)
    warning = capfd.readouterr().err.replace("\n", "")
    assert "is damaged and was renamed to damaged_step_0000003" in warning and file in warning
    assert trained(config)[-2:] == trained(whole)[-2:]  # steps 3, again, and 4
    assert_same(config, whole)


def test_damage_is_seen_by_all_ranks_of_another_layout_and_what_is_damaged_goes_with_what_is_older(
    killed, ground, whole, tmp_path
):
    config, newest = copied(killed, ground, tmp_path, TENSOR | {"trainer.keep_last": 1})
    flip(newest / "__0_0.distcp")
    finish(config)
    assert [p.name for p in newest.parent.iterdir()] == ["step_0000004"]
    assert [line["step"] for line in trained(config)] == [1, 2, 3, 3, 4]
    assert trained(config)[-1]["sigma_QM"] == trained(whole)[-1]["sigma_QM"]


def test_damaged_metrics_are_those_of_the_checkpoint_again(killed, ground, whole, tmp_path, capfd):
    config, newest = copied(killed, ground, tmp_path)
    lines = newest.parents[1] / "metrics.jsonl"
    lines.write_text(lines.read_text().replace('"step": 2', '"step": 1'))
    finish(config)
    assert "is damaged and was replaced by" in capfd.readouterr().err.replace("\n", "")
    assert_same(config, whole)


def test_nothing_whole_is_an_error_that_says_what_to_do(killed, ground, tmp_path):
    config, newest = copied(killed, ground, tmp_path)
    for folder in newest.parent.iterdir():
        truncate(folder / "__0_0.distcp")
    ((kind, message),) = errors(config)
    assert kind == "UserError" and "no checkpoint in" in message and "remedy: bring back a good copy" in message
    assert sorted(p.name for p in newest.parent.iterdir()) == ["damaged_step_0000002", "damaged_step_0000003"]


def test_a_whole_checkpoint_is_continued_without_a_warning(killed, ground, whole, tmp_path, capfd):
    config, _ = copied(killed, ground, tmp_path)
    run(config)
    assert "damaged" not in capfd.readouterr().err
    assert_same(config, whole)
