"""The node check: what it reads off a node, a ring of real processes, and bad nodes of a simulated cluster."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from nemo_forking.cluster.node import Found, compare, gpu_problems, look, parse, port_is_free
from nemo_forking.cluster.slurm import LOGS, ROOT, job_of, submit
from nemo_forking.config import load

# Lines of nvidia-smi in the order of nemo_forking.cluster.node.QUERY: eight-GPU nodes, an old one that tells less.
HEALTHY = "4, 81559, 1980, 0, Not Active, NVIDIA H100 80GB HBM3\n"
SICK = "40960, 81559, 1980, 2, Active, NVIDIA H100 80GB HBM3\n"
SLOW = "4, 81559, 1410, 0, Not Active, NVIDIA H100 80GB HBM3\n"
OLD = "4, 16160, 1380, [N/A], [Not Supported], Tesla T4\n"
CHECK = ["-m", "nemo_forking.cluster.node_check"]
LATE = """
import sys, time
from nemo_forking.cluster import node_check
told = node_check._all_told
node_check._all_told = lambda *asked: (time.sleep(1), told(*asked))[1]
sys.exit(node_check.main(sys.argv[1:]))
"""  # the check by a rank that looks late for what the others said


def test_gpus_in_use_with_errors_or_slowed_down_are_told():
    gpus = parse(HEALTHY + SICK + OLD)
    problems = gpu_problems(gpus, wanted=4)
    assert problems[0] == "3 GPUs, and the layout wants 4"
    assert [problem.split(":")[0] for problem in problems[1:]] == [
        "GPU 1 has 40960 MiB in use before the job",
        "GPU 1 has 2 uncorrected memory errors",
        "GPU 1 is slowed down by its hardware (heat or power)",
    ]
    assert gpu_problems(parse(HEALTHY * 8), wanted=8) == []


def test_a_gpu_unlike_the_others_is_told():
    found = [Found("n1", gpus=parse(HEALTHY * 2)), Found("n2", gpus=parse(HEALTHY + SLOW))]
    assert compare(found) == {"n2": ["GPU 1 has a highest clock of 1410 MHz, most of this job's: 1980"]}
    assert compare([Found("n1"), Found("n2")]) == {}


def test_a_node_without_gpus_space_or_its_port_is_not_fit(tmp_path):
    config = load(["experiment=ssft_math_32b", f"run.folder={tmp_path}", "launcher.free_gib=1e9"])
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not port_is_free(port)
        problems = look(config, "n1", port).problems
    assert problems[0].startswith(("no GPU: nvidia-smi is not there", "nvidia-smi"))
    assert "GiB free, and launcher.free_gib asks for 1000000000" in problems[-2]
    assert f"port {port}, at which the ranks of this job meet, is taken" in problems[-1]


def check(
    folder: Path, ranks: Sequence[int], *, seconds: float = 60, late: Sequence[int] = ()
) -> list[tuple[int, str]]:
    """The check on two nodes of one rank each, some of them started, on this machine: status and output of each."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"NEMO_FORKING_HOSTS": "n1,n2", "TORCHELASTIC_RUN_ID": "7.0", "NEMO_FORKING_CHECK_SECONDS": str(seconds)}
    running = []
    for rank in ranks:
        own = {"RANK": str(rank), "LOCAL_RANK": "0", "SLURMD_NODENAME": f"n{rank + 1}", "PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        how = ["-c", LATE] if rank in late else CHECK
        command = [sys.executable, *how, "experiment=tiny", f"run.folder={folder}", "launcher.free_gib=0.1"]
        running.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | shared | own, **pipes))
    said = [process.communicate()[0] for process in running]
    return [(process.returncode, text) for process, text in zip(running, said, strict=True)]


def test_fit_nodes_pass_the_ring_and_leave_nothing_behind(tmp_path):
    done = check(tmp_path / "run", [0, 1])
    assert [status for status, _ in done] == [0, 0], done
    assert "ring over 2 nodes, 2 ranks" in done[0][1] and "all nodes are fit" in done[0][1]
    assert list((tmp_path / "run").iterdir()) == []


def test_a_rank_that_is_late_at_the_end_passes_too(tmp_path):
    assert [status for status, _ in check(tmp_path / "run", [0, 1], late=[1])] == [0, 0]


def test_a_node_that_writes_nothing_is_named(tmp_path):
    ((status, said),) = check(tmp_path / "run", [0], seconds=3)
    assert status == 1
    assert "error: node check: 1 of 2 nodes not fit\n  n2: " in said and "--exclude=n2" in said


def test_the_node_of_a_rank_that_does_not_join_is_named(tmp_path):
    place = tmp_path / "run" / ".node_check-7.0"
    place.mkdir(parents=True)
    (place / "n2.json").write_text(json.dumps(asdict(Found("n2"))))  # it wrote, and died
    ((status, said),) = check(tmp_path / "run", [0], seconds=8)
    assert status == 1
    assert "error: node check: 1 of 2 nodes not fit\n  n2: joining the ranks: rank 1: no answer" in said


def test_a_node_that_does_not_share_the_run_folder_is_named_and_the_job_fails(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("NEMO_FORKING_CHECK_SECONDS", "10")
    folder = tmp_path / "run"
    folder.mkdir()
    cluster.stop_node("n3")
    hidden = f'mount -t tmpfs none {folder} && exec "$@"'  # n3 sees another disk there
    cluster.start_node("n3", before=("unshare", "--mount", "sh", "-c", hidden, "sh"))
    overrides = ["experiment=tiny", f"run.folder={folder}", "layout.nodes=2", "launcher.free_gib=0.1"]
    config = load(["launcher=slurm", *overrides])
    try:
        launcher = replace(config.launcher, extra=("--nodelist=n1,n3",))
        number = submit(job_of("ssft", config, overrides), launcher)
        assert cluster.wait(number)["JobState"] == "FAILED"
    finally:
        cluster.stop_node("n3")
        cluster.start_node("n3")
    said = next(Path(os.environ[LOGS]).glob(f"*-{number}.out")).read_text()
    assert "error: node check: 1 of 2 nodes not fit" in said
    assert f"  n3: {folder}: what this node writes there is not seen on n1" in said
    assert "--exclude=n3" in said


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
