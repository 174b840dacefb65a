"""Datasets of the Hugging Face hub: the client's own cache without a network, and a hub served on this machine."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import huggingface_hub
import pytest

from nemo_forking.errors import UserError
from nemo_forking.evaluation.benchmarks import describe, load_problems
from tests.unit.benchmark_files import declare, math_rows, write

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub's client, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def snapshot(cache: Path, dataset: str, commit: str = COMMIT, revision: str = "main") -> Path:
    """The folder in the cache that holds a dataset's files."""
    place = cache / ("datasets--" + dataset.replace("/", "--"))
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / revision).write_text(commit)
    (place / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
    return place / "snapshots" / commit


# ---------------------------------------------------------------- the cache


def test_without_a_network_the_cache_is_read(cache):
    folder = snapshot(cache, "HuggingFaceH4/aime_2024")
    file = write(folder / "data" / "train-00000-of-00001.parquet", math_rows(30))
    (folder / "README.md").write_text("no rows")
    benchmark = declare("HuggingFaceH4/aime_2024", split="train")
    problems = load_problems("aime24", benchmark)
    assert [problem.id for problem in problems] == [f"q{n}" for n in range(30)]
    record = describe("aime24", benchmark, problems)
    assert (record["commit"], record["split"], record["complete"]) == (COMMIT, "train", True)
    (described,) = record["files"]
    assert described["name"] == "HuggingFaceH4/aime_2024/data/train-00000-of-00001.parquet"
    assert described["bytes"] == file.stat().st_size


def test_a_pinned_revision_is_not_replaced_by_another_that_is_there(cache):
    write(snapshot(cache, "some/set", "a" * 40) / "train.jsonl", math_rows(1))
    write(snapshot(cache, "some/set", "b" * 40) / "train.jsonl", math_rows(2))
    assert len(load_problems("mine", declare("some/set", revision="a" * 40))) == 1
    assert len(load_problems("mine", declare("some/set"))) == 2
    with pytest.raises(UserError, match="is not in the local cache and the hub cannot be reached"):
        load_problems("mine", declare("some/set", revision="c" * 40))


def test_another_file_in_the_cache_is_not_taken_for_the_one_meant(cache):
    write(snapshot(cache, "livecodebench/code_generation_lite") / "test4.jsonl", math_rows(1))
    with pytest.raises(UserError, match=r"benchmarks\.lcb\.split: no file .* is named after 'test5'"):
        load_problems("lcb", declare("livecodebench/code_generation_lite", split="test5"))


def test_a_dataset_that_cannot_be_had_tells_how_to_get_it(cache):
    with pytest.raises(UserError) as error:
        load_problems("gpqa_diamond", declare("Idavidrein/gpqa", "choice", subset="gpqa_diamond"))
    assert str(error.value) == (
        "benchmarks.gpqa_diamond.source: Idavidrein/gpqa is not in the local cache and the hub cannot be reached "
        "(OfflineModeIsEnabled). Where its terms must be accepted, do so at "
        "https://huggingface.co/datasets/Idavidrein/gpqa and log in with `huggingface-cli login`; "
        "or download its files by any means and name the file or folder in benchmarks.gpqa_diamond.source"
    )


@pytest.mark.parametrize("source", ["a--b/c", "some/set.git", "-x/y"])
def test_a_name_that_no_dataset_can_have_is_refused(cache, source):
    with pytest.raises(UserError, match=r"^benchmarks\.mine\.source: "):
        load_problems("mine", declare(source))


def test_a_local_folder_of_a_datasets_name_wins(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "some" / "set" / "a.jsonl", math_rows(3))
    assert len(load_problems("mine", declare("some/set"))) == 3


# ---------------------------------------------------------------- a hub

FILES = {
    "README.md": b"no rows",
    "test4.jsonl": b"never asked for",
    "test5.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in math_rows(3)),
}


class Hub(BaseHTTPRequestHandler):
    """What the client needs of the hub: lists of files, and files; `private/` is gated, `absent/` not there."""

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(self.path).partition("?")[0]
        self.server.asked.append(path)
        if "/absent/" in path:
            self.send(404, {"X-Error-Code": "RepoNotFound"})
        elif f"/{'d' * 40}" in path:
            self.send(404, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/datasets/") and "/tree/" in path:
            files = [{"type": "file", "path": name, "size": len(text), "oid": "0"} for name, text in FILES.items()]
            self.send(200, {}, json.dumps(files).encode())
        elif path.startswith("/api/datasets/"):
            files = [{"rfilename": name} for name in FILES]
            self.send(200, {}, json.dumps({"id": "some/set", "sha": COMMIT, "siblings": files}).encode())
        elif "/private/" in path:
            self.send(403, {"X-Error-Code": "GatedRepo"})
        else:
            text = FILES[path.rpartition("/")[2]]
            self.send(200, {"X-Repo-Commit": COMMIT, "ETag": f'"{len(text)}"'}, text)

    def send(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (
            {"Content-Length": str(len(content)), "Content-Type": "application/json"} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(hub: ThreadingHTTPServer, folder: Path, changes: list[dict]) -> list:
    """Load from the hub in a process of its own, since the client reads its environment once."""
    script = (
        "import json, sys\n"
        "from nemo_forking.errors import UserError\n"
        "from nemo_forking.evaluation.benchmarks import describe, load_problems\n"
        "from tests.unit.benchmark_files import declare\n"
        "for changes in json.loads(sys.argv[1]):\n"
        "    benchmark = declare(**changes)\n"
        "    try:\n"
        "        problems = load_problems('mine', benchmark)\n"
        "        print(json.dumps([len(problems), describe('mine', benchmark, problems)['commit']]))\n"
        "    except UserError as error:\n"
        "        print(json.dumps(str(error)))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(folder),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(changes)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_files_are_downloaded_from_the_hub_and_what_it_refuses_is_explained(hub, tmp_path):
    good = {"source": "some/set", "split": "test5"}
    answers = ask(hub, tmp_path, [
        good,
        good | {"revision": COMMIT},
        good | {"split": "test6"},
        good | {"revision": "d" * 40},
        good | {"source": "private/set"},
        good | {"source": "absent/set"},
    ])  # fmt: skip
    assert answers[:2] == [[3, COMMIT], [3, COMMIT]]
    assert answers[2].startswith("benchmarks.mine.split: no file of the dataset some/set is named after 'test6'")
    assert answers[3] == f"benchmarks.mine.revision: some/set has no revision {'d' * 40}"
    assert answers[4].startswith("benchmarks.mine.source: the hub does not give this account private/set, whose terms")
    assert answers[5].startswith("benchmarks.mine.source: the hub shows this account no dataset absent/set")
    assert all("`huggingface-cli login`" in answer and "in benchmarks.mine.source" in answer for answer in answers[4:])
    assert not any(path.endswith("test4.jsonl") for path in hub.asked)  # LiveCodeBench's other files are gigabytes
