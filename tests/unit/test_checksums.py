"""Checksums of lines and of folders: what is as it was written passes, every damage is told."""

import json
import shutil
from pathlib import Path

import pytest

from nemo_forking.checksums import SUMS, checked, file_facts, folder_problems, with_crc
from nemo_forking.errors import UserError
from nemo_forking.evaluation.folder import load_lines

RECORD = {"question": "q1", "slot": 0, "round": 3, "ids": [5, 17], "logprob": -1.25, "text": "wörds"}


def test_a_line_is_read_back_as_it_was_written():
    assert checked(with_crc(RECORD)) == RECORD
    assert checked(json.dumps(RECORD)) == RECORD  # written without


def test_whatever_bit_of_a_line_is_flipped_no_other_values_are_read():
    line = with_crc(RECORD).encode()
    for place in range(len(line)):
        for bit in (0x01, 0x04, 0x10):
            damaged = bytearray(line)
            damaged[place] ^= bit
            try:
                found = checked(damaged.decode(errors="replace"))
            except ValueError:
                continue
            assert {name: found[name] for name in RECORD} == RECORD  # the flipped bit was in the checksum's name


def test_a_sample_that_is_not_what_was_written_is_refused_by_its_line(tmp_path):
    file = tmp_path / "samples.jsonl"
    file.write_text(with_crc(RECORD) + "\n" + with_crc(RECORD | {"slot": 1}).replace("17", "71") + "\n")
    with pytest.raises(UserError, match=f"^{file}, line 2: not a line of this file as it was written"):
        load_lines(file)


@pytest.fixture
def sealed(tmp_path) -> Path:
    folder = tmp_path / "sealed"
    folder.mkdir()
    (folder / "large").write_bytes(bytes(range(256)) * 4)
    (folder / "small").write_text("{}")
    (folder / SUMS).write_text(json.dumps({name: file_facts(folder / name) for name in ("large", "small")}))
    return folder


def spoil(file: Path, place: int = 100) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_whole_folder_has_no_problems_wherever_it_is(sealed, tmp_path):
    assert folder_problems(sealed) == folder_problems(Path(shutil.copytree(sealed, tmp_path / "copy"))) == []
    (sealed / SUMS).unlink()
    spoil(sealed / "large")
    assert folder_problems(sealed) == []  # never sealed


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (spoil, "large is not what was written (its SHA-256 differs from that in checksums.json)"),
        (lambda file: file.write_bytes(bytes(1023)), "large has 1023 bytes, 1024 were written, says checksums.json"),
        (Path.unlink, "large is missing"),
    ],
    ids=["flipped", "cut off", "removed"],
)
def test_every_damage_is_told_by_its_file(damage, told, sealed):
    damage(sealed / "large")
    assert folder_problems(sealed) == [told]


def test_of_large_files_only_the_size_is_looked_at_where_that_is_asked_for(sealed):
    spoil(sealed / "large")
    assert folder_problems(sealed, largest=1000) == []
    (sealed / "large").write_bytes(bytes(1023))
    (problem,) = folder_problems(sealed, largest=1000)
    assert problem.startswith("large has ")
    spoil(sealed / "small", place=0)
    assert len(folder_problems(sealed, largest=1000)) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"large": 3}', '{"large": {"bytes": 1}}', "\x00"])
def test_damaged_checksums_are_a_problem_themselves(text, sealed):
    (sealed / SUMS).write_text(text)
    (problem,) = folder_problems(sealed)
    assert problem.startswith(SUMS)
