"""The scripts of slurm/ as text and as commands: their syntax, what is submitted, and what is refused."""

import os
import shlex
import shutil
import subprocess
from dataclasses import replace

import pytest

from nemo_forking.cluster import job as inside
from nemo_forking.cluster.last_error import summary
from nemo_forking.cluster.slurm import LOGS, ROOT, Job, job_config, job_of, state, submit
from nemo_forking.config import load
from nemo_forking.config.compose import compose_values
from nemo_forking.config.written import written
from nemo_forking.errors import UserError

SCRIPTS = sorted([*(ROOT / "slurm").glob("*.sbatch"), *(ROOT / "slurm").glob("*.sh")])
PAPER = ["experiment=ssft_math_32b", "layout=16xh100", "launcher=slurm"]


@pytest.fixture
def no_slurm(monkeypatch, tmp_path):
    """A PATH without Slurm's commands, even where a test session installed them."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script):
    checker = shutil.which("shellcheck")
    commands = [["bash", "-n", str(script)], *([[checker, "-x", str(script)]] if checker else [])]
    for command in commands:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def dry(script: str, overrides: list[str], **changes) -> str:
    config = load(overrides)
    launcher = replace(config.launcher, **changes)
    return submit(job_of(script, config, overrides, (7, 8)), launcher, dry_run=True)


def test_a_job_has_the_size_of_its_layout_and_the_launchers_settings():
    line = dry("ssft", PAPER, partition="gpu", account="me", qos="long", time="4:00:00", extra=("--exclude=n7",))
    for word in (
        "--nodes=2 --ntasks-per-node=8 --gpus-per-node=8 --time=4:00:00 --signal=B:USR1@300 --partition=gpu",
        "--account=me --qos=long --dependency=afterok:7:8 --kill-on-invalid-dep=yes --requeue --exclusive",
        f"--exclude=n7 {ROOT}/slurm/ssft.sbatch {' '.join(PAPER)}",
    ):
        assert word in line, line
    assert "--no-requeue" in dry("ssft", PAPER, requeue=False)
    assert "--exclusive" not in dry("ssft", PAPER, extra=("--cpus-per-task=12",))


def test_gfpo_has_nodes_that_serve_beside_those_that_train_and_an_evaluation_has_them_alone():
    overrides = ["experiment=gfpo_math_32b", "layout=16xh100", "launcher=slurm", "launcher.serving_nodes=3"]
    assert "--nodes=5 --ntasks-per-node=8 --gpus-per-node=8" in dry("gfpo", overrides)
    assert "--nodes=3 --ntasks-per-node=1 --gpus-per-node=8" in dry("evaluate", overrides)
    assert "--nodes=1 --ntasks-per-node=1 --time" in dry("prepare", overrides)
    assert "--nodes=2 --ntasks-per-node=8" in dry("gfpo", [*overrides, "engine=vllm"])


def test_the_job_reads_the_launcher_it_was_submitted_with():
    mounts = ("/data:/data", "/a b:/c")
    image = "nvcr.io#nvidia/nemo:25.07"
    launcher = replace(load(PAPER).launcher, container=image, mounts=mounts, venv=None, requeue=False)
    words = shlex.split(submit(Job("ssft", ("experiment=ssft_math_32b",), "x", 1, 1, 0), launcher, dry_run=True))
    read = load([word for word in words if "=" in word and not word.startswith("--")]).launcher
    assert (read.container, read.mounts, read.requeue) == (image, mounts, False)


@pytest.mark.parametrize(
    "value", ["SSFT-32B (random σ)", "null", 'a "quoted" one', "", "a,b", "x: y", 3, 0.5, None, True]
)
def test_values_survive_the_syntax_of_overrides(value):
    text = f"evaluation.systems={written([{'name': value, 'tags': 'own'}])}"
    assert compose_values([text]).values["evaluation"]["systems"] == [{"name": value, "tags": "own"}]


def test_an_allocation_is_read_from_slurms_variables():
    environment = {"SLURM_JOB_NUM_NODES": "3", "SLURM_TASKS_PER_NODE": "8(x2),4", "SLURM_JOB_GPUS": "0-2,5"}
    had = inside.allocation(environment)
    assert (had.nodes, had.tasks_per_node, had.gpus_per_node) == (3, 4, 4)
    wanted = replace(had, nodes=2)
    assert not inside.fits(wanted, had) and inside.fits(replace(had, tasks_per_node=2), had)


def test_a_job_that_still_does_not_fit_is_not_submitted_for_ever(monkeypatch, capsys):
    monkeypatch.setenv(inside.AGAIN, "1")
    assert inside.main(["ssft", *PAPER]) == 2
    assert "wants 2 nodes, 8 tasks and 8 GPUs on each; Slurm gave 1 nodes" in capsys.readouterr().err


def test_a_replica_does_not_span_nodes(monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    monkeypatch.setenv("SLURM_TASKS_PER_NODE", "8")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    assert inside.main(["evaluate", *PAPER, "engine=server", "engine.tensor_parallel=16"]) == 2
    assert "engine.tensor_parallel=16 does not divide the 8 GPUs of a node" in capsys.readouterr().err


def test_without_slurm_the_error_says_where_jobs_are_submitted_from(no_slurm):
    config = load(PAPER)
    with pytest.raises(UserError, match="sbatch is not here: jobs are submitted from a machine with Slurm's commands"):
        submit(job_of("ssft", config, PAPER), config.launcher)
    with pytest.raises(UserError, match="scontrol is not here"):
        state(1)
    with pytest.raises(UserError, match="there is no .*nothing.sbatch; choose from convert, evaluate, gfpo, prep"):
        submit(Job("nothing", (), "x", 1, 1, 0), config.launcher)


def test_a_controller_that_does_not_answer_is_not_taken_for_a_job_that_ended(no_slurm, tmp_path):
    deaf = tmp_path / "scontrol"
    deaf.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
    deaf.chmod(0o755)
    with pytest.raises(UserError, match="Slurm does not answer: .* controller; try again"):
        state(1)


def test_a_script_submitted_by_hand_reads_the_launcher_of_slurm():
    assert job_config(["prompts", "experiment=gfpo_math_32b"]).launcher == load(["launcher=slurm"]).launcher
    assert job_config(["launcher=local", "experiment=tiny"]).launcher.kind == "local"


def test_the_last_error_is_told_once_for_all_ranks_that_had_it(tmp_path):
    trace = "step 1\nTraceback (most recent call last):\n  File 'x.py', line 3\nValueError: the cause\n"
    late = "Traceback (most recent call last):\n  File 'y.py'\nRuntimeError: connection closed by peer\n"
    for moment, (rank, text) in enumerate([(2, trace), (0, late), (1, late), (3, "step 1\n")]):
        log = tmp_path / f"job-7.0.rank{rank}.log"
        log.write_text(text)
        os.utime(log, (moment, moment))
    (tmp_path / "job-7.0.srun.log").write_text("srun: error: n2: task 2: Exited with exit code 1\n")
    (tmp_path / "job-7.1.rank0.log").write_text("Traceback (most recent call last):\nof another attempt\n")
    said = summary(tmp_path / "job-7.0")
    assert "n2: rank 2: Exited with exit code 1" in said
    assert said.index("last error of rank2") < said.index("ValueError: the cause") < said.index("of rank0, rank1")
    assert "another attempt" not in said and said.count("connection closed") == 1


def test_ranks_have_the_numbers_of_their_task_and_a_stop_is_no_bad_exit(tmp_path):
    task = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"}
    ends = tmp_path / "ends"
    environment = os.environ | task | {"SLURM_NODEID": "1", "NEMO_FORKING_ENDS": str(ends)}

    def rank(command: str) -> tuple[int, str]:
        ends.unlink(missing_ok=True)
        words = ["slurm/rank.sh", "bash", "-c", command]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout or (ends.read_text() if ends.exists() else "")

    assert rank("echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $GROUP_RANK") == (0, "5 1 8 4 1\n")
    assert rank("exit 0") == (0, "")
    assert rank("exit 3") == (3, "failed 3\n")
    assert rank("exit 75") == (75, "hung 75\n")
    assert rank("kill -USR1 $PPID; exit 75") == (0, "stopped SIGUSR1\n")
    assert rank("kill -TERM $PPID; kill -TERM $$") == (0, "stopped SIGTERM\n")  # before it listened
    environment["NEMO_FORKING_ENDS"] = str(tmp_path / "gone" / "ends")
    assert rank("kill -USR1 $PPID; exit 75") == (75, "")  # or the job would be taken for done


@pytest.mark.parametrize(
    ("ends", "srun", "verdict"),
    [
        ("", 0, 0),
        ("", 137, 137),
        ("stopped SIGTERM\nstopped SIGTERM\n", 0, 75),
        ("stopped SIGTERM\n", 137, 137),  # a rank was killed with its shell, and srun ended the others
        ("failed 2\nstopped SIGTERM\n", 2, 2),
        ("stopped SIGTERM\nfailed 1\n", 137, 1),
        ("hung 75\nstopped SIGTERM\n", 137, 75),
    ],
)
def test_of_a_step_the_first_failure_counts(ends, srun, verdict, tmp_path):
    (tmp_path / "x-7.0.ends").write_text(ends)
    environment = os.environ | {"SLURM_JOB_NAME": "x", "SLURM_JOB_ID": "7", LOGS: str(tmp_path)}
    command = ["bash", "-c", f"source slurm/common.sh && verdict {srun}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{verdict}\n", done.stderr


def test_every_script_is_described_by_a_job(cluster):
    for script in (ROOT / "slurm").glob("*.sbatch"):
        said = subprocess.run(["sbatch", "--test-only", script], cwd=ROOT, capture_output=True, text=True)
        assert said.returncode == 0 and "to start at" in said.stderr, said.stderr


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"partition": "none"}, "set launcher.partition to one that `sinfo` lists"),
        ({"time": "tomorrow"}, "write launcher.time as days-hours"),
    ],
)
def test_what_sbatch_refuses_is_told_with_a_remedy(changes, remedy, cluster):
    config = load(["experiment=tiny", "launcher=slurm"])
    with pytest.raises(UserError, match="was not submitted. sbatch: error: .*") as error:
        submit(job_of("ssft", config, []), replace(config.launcher, **changes))
    assert remedy in str(error.value)


def test_a_layout_the_cluster_has_no_nodes_for_is_refused(cluster):
    config = load(["experiment=tiny", "launcher=slurm", "layout.nodes=9"])
    with pytest.raises(UserError, match="choose another layout or launcher.partition"):
        submit(job_of("ssft", config, []), config.launcher)


def test_an_unknown_job_has_an_unknown_state(cluster):
    assert state(999_999) == "UNKNOWN"
