"""A short campaign of each kind; `make campaign` runs the long ones."""

import pytest

from tests.campaign import corruption, disk, kills


def test_killed_runs_come_to_the_numbers_of_undisturbed_ones(tmp_path):
    report = kills.campaign(tmp_path, 4, 1, ("ssft", "gfpo"), layouts=("tensor 2",))
    assert not report.failures
    assert len(report.survived) == 4


def test_damaged_files_never_lead_to_other_numbers(tmp_path):
    report = corruption.campaign(tmp_path, ("ssft", "gfpo"), every=211)
    assert not report.failures
    assert sum(report.counts.values()) > 5


def test_a_full_disk_and_a_read_only_folder_lose_nothing(tmp_path):
    if not disk.may_mount(tmp_path / "disk"):
        pytest.skip("this process may not mount a disk")
    names = ("full at the second checkpoint", "read-only checkpoints", "full at a completion of batch 2")
    report = disk.campaign(tmp_path, ("ssft", "gfpo"), names)
    assert not report.failures
    assert len(report.rows) == 5
