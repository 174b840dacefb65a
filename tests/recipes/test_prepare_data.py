"""The prepare_data recipe on small files and a slice of real traces, as a user runs it."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_forking.data.token_file import TokenFile
from tests.unit.sources import character_tokenizer, row, trace, write_lines

RECIPE = Path(__file__).parents[2] / "recipes" / "prepare_data.py"


@pytest.fixture
def prepare(tmp_path, capsys, monkeypatch):
    """Run the recipe on source.jsonl with the tokenizer beside it; give its status and output."""
    monkeypatch.setenv("COLUMNS", "120")
    recipe = runpy.run_path(str(RECIPE))["main"]

    def run(*arguments):
        status = recipe([*settings_for(tmp_path), *arguments])
        return status, *capsys.readouterr()

    return run


def settings_for(folder):
    return [
        "experiment=real_traces_trial",
        "data.prompt='Q: {question}'",
        f"data.source=[{folder}/source.jsonl]",
        f"data.tokenizer={folder}/tokenizer",
        f"data.folder={folder}/out",
    ]


def sources(folder, *lines):
    character_tokenizer().save_pretrained(folder / "tokenizer")
    write_lines(folder / "source.jsonl", *lines)


def test_it_prints_problems_lengths_and_a_masked_sample_and_a_rerun_is_skipped(prepare, tmp_path):
    bad = row("b", traces=[trace("ann", "so 4"), trace("bob", "so 4")])
    sources(tmp_path, row("a"), "not json", bad)
    status, out, err = prepare("data.traces=2")
    assert status == 0, err
    assert f"{tmp_path}/source.jsonl:2: line: not JSON" in out
    assert (
        "source.jsonl:3: traces[1].text: the text equals that of traces[0] (ann) (trace dropped). Remedy: remove" in out
    )
    assert "bad_json" in out and "duplicate_trace" in out and "fewer_traces" in out
    assert "2 questions written, 3 traces written" in out
    assert "Sample: question a, trace by ann, with the first tag" in out
    assert "[[<think1>" in out and out.rstrip().splitlines()[-2].endswith("<|im_end|>]]")
    assert out.rstrip().endswith(f"Prepared 2 questions in {tmp_path}/out")
    assert len(TokenFile(tmp_path / "out")) == 2

    status, out, err = prepare("data.traces=2")
    assert status == 0 and "Up to date" in out and "Sample: question a" in out


def test_strict_stops_at_the_first_problem_without_a_traceback(tmp_path):
    sources(tmp_path, row("a"), row("b", answer=""), "not json")
    command = [sys.executable, str(RECIPE), *settings_for(tmp_path), "data.traces=2", "--strict"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"error: {tmp_path}/source.jsonl:2: answer: the field is empty (line dropped). Remedy: fill" in done.stderr
    assert "Traceback" not in done.stderr and "not JSON" not in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()


def test_bad_settings_are_answered_with_the_remedy(prepare, tmp_path):
    sources(tmp_path, row("a"))
    status, _, err = prepare("data.chose=order")
    assert status == 2 and "data.choose" in err
    status, _, err = prepare("data.tokenizer=nowhere")
    assert status == 2 and "tokenizer folder nowhere does not exist; set data.tokenizer" in err


def test_a_slice_of_the_real_traces_with_the_real_tokenizer(prepare, tmp_path, shared_data):
    with open(shared_data / "traces" / "multi_trace.jsonl", "rb") as lines:
        (tmp_path / "source.jsonl").write_bytes(b"".join(next(lines) for _ in range(5)))
    settings = [
        "data.prompt=chat",
        f"data.tokenizer={shared_data}/tokenizer",
        "data.max_length=32768",
        "batch.packing=false",
        "tags.spelling=text",
    ]
    status, out, err = prepare(*settings)
    assert status == 0, err
    assert "You are Qwen, created by Alibaba Cloud." in out and "[[<|im_start|><think1>\n" in out
    file = TokenFile(tmp_path / "out")
    assert len(file) == 5 and all(len(file.question(i).traces) == 4 for i in range(5))
