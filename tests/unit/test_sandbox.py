"""What opening a sandbox checks, what a run returns, and the system call filter on both architectures."""

import os
import struct
import subprocess
import sys
import threading

import pytest

from nemo_forking.errors import UserError
from nemo_forking.rewards.sandbox import Level, Limits, command, group, probe, seccomp, slots
from tests.conftest import CHECKOUT
from tests.unit.sandboxes import missing, open_sandbox


@pytest.fixture(scope="module")
def sandbox():
    with open_sandbox(slots=2, seconds=10) as opened:
        yield opened


def test_a_program_reads_its_input_and_gives_output_errors_and_status(sandbox):
    result = sandbox.run("import sys; print(input()[::-1]); sys.exit('said')", "olleh\n")
    assert (result.stdout, result.stderr, result.exit, result.why) == (b"hello\n", b"said\n", 1, "ok")


def test_large_inputs_and_outputs_pass_whole(sandbox):
    text = "\n".join(map(str, range(100_000)))
    result = sandbox.run("import sys; sys.stdout.write(sys.stdin.read())", text)
    assert result.stdout.decode() == text


def test_a_watcher_takes_the_output_and_may_end_the_program(sandbox):
    seen = []
    result = sandbox.run(
        "import time; print('first', flush=True); time.sleep(60)", watch=lambda chunk: seen.append(chunk) or True
    )
    assert (seen, result.stdout, result.why) == ([b"first\n"], b"", "stopped") and result.seconds < 10


def test_as_many_run_at_once_as_there_are_slots(sandbox):
    program = "import os, time; print(flush=True); time.sleep(60)"
    started, threads = threading.Semaphore(0), []
    for _ in range(3):
        run = lambda: sandbox.run(program, seconds=1.5, watch=lambda _: started.release())  # noqa: E731
        threads.append(threading.Thread(target=run))
        threads[-1].start()
    assert all(started.acquire(timeout=30) for _ in range(2))
    assert sandbox._free.empty()
    for thread in threads:
        thread.join()
    assert started.acquire(timeout=0)


def test_hashes_are_the_same_in_every_run(sandbox):
    program = "print(list({'a', 'b', 'c', 'd'}), hash('text'))"
    assert sandbox.run(program).stdout == sandbox.run(program).stdout


def test_ordinary_programs_find_what_they_need(sandbox):
    program = """
import asyncio, concurrent.futures, decimal, os, re, subprocess, tempfile, threading, time
async def wait(): await asyncio.sleep(0.01); return 1
assert asyncio.run(wait()) == 1
with concurrent.futures.ThreadPoolExecutor(2) as pool: assert list(pool.map(abs, [-1, 2])) == [1, 2]
with tempfile.NamedTemporaryFile("w+") as file: file.write("x")
assert subprocess.run(["/usr/bin/env", "echo", "1"], capture_output=True).stdout == b"1\\n"
assert open("/dev/stdin").read() == "input" and len(os.urandom(8)) == 8
print(open("/dev/null").read(), time.monotonic() > 0)
"""
    assert sandbox.run(program, "input").exit == 0, sandbox.run(program, "input").stderr


def test_the_probe_tries_every_part_and_says_what_it_is_made_of():
    try:
        level = probe()
    except UserError as error:
        missing(error)
    assert level.trusted and not level.missing and len(level.holds) >= 11
    assert {"bubblewrap", "libseccomp", "kernel", "machine", "python"} <= set(level.describe())


def test_two_sandboxes_never_share_a_user():
    with open_sandbox(slots=2) as one, open_sandbox(slots=2) as other:
        users = [slot.uid for box in (one, other) for slot in box.slots if slot.uid is not None]
        assert len(set(users)) == len(users)
        assert not users or users[0] not in {os.getuid(), 0}


def test_a_level_that_does_not_hold_is_refused_by_name():
    level = Level({"no network": True, "a bound on processes": False}, "", "", {})
    with pytest.raises(UserError, match="missing: a bound on processes"):
        level.require()
    with pytest.raises(UserError, match="does not start: bwrap: No permissions.*\n.*user namespace"):
        Level({}, "", "", {}, complaint="bwrap: No permissions").require()


@pytest.mark.parametrize("namespaces", [0, 100])
def test_inside_a_container_that_knows_root_alone_the_kernels_word_decides(namespaces):
    """`unshare -r` is such a container; in the first one the kernel forbids the user namespace of the sandbox."""
    open_sandbox(slots=1).close()
    program = "from nemo_forking.rewards.sandbox import probe; print(probe().users)"
    shell = f"echo {namespaces} > /proc/sys/user/max_user_namespaces && exec {sys.executable} -c '{program}'"
    done = subprocess.run(["unshare", "-r", "sh", "-c", shell], cwd=CHECKOUT, capture_output=True, text=True)
    if namespaces:
        assert done.stdout == "the caller, in a user namespace\n", done.stderr
    else:
        assert "UserError: the sandbox does not start: bwrap: " in done.stderr
        assert "sysctl user.max_user_namespaces" in done.stderr


@pytest.mark.parametrize(("name", "package"), [("bwrap", "bubblewrap"), ("prlimit", "util-linux")])
def test_a_missing_tool_is_named_with_its_package(monkeypatch, name, package):
    which = command.shutil.which
    monkeypatch.setattr(command.shutil, "which", lambda tool, path: None if tool == name else which("sh", path=path))
    with pytest.raises(UserError, match=f"apt-get install {package}"):
        command.find_tools(None, True)


def test_a_missing_interpreter_is_named(monkeypatch):
    monkeypatch.setattr(command.shutil, "which", lambda tool, path: f"/usr/bin/{tool}")  # here or not
    with pytest.raises(UserError, match="/nowhere/python, which is not there"):
        command.find_tools("/nowhere/python", False)


@pytest.mark.parametrize("name", ["seconds", "memory_mib", "processes", "scratch_mib", "open_files"])
def test_a_limit_that_nothing_runs_under_is_named(name):
    with pytest.raises(UserError, match=f"sandbox limit {name} is 0"):
        Limits(**{name: 0})


def test_users_are_taken_once_and_given_back():
    if not slots.own_users():
        pytest.skip("only root runs as users of its choice")
    first = slots.take_users(3)
    second = slots.take_users(3)
    assert not {user.uid for user in first} & {user.uid for user in second}
    for user in first:
        user.close()
    assert {user.uid for user in slots.take_users(2)} <= {user.uid for user in first}


def test_too_many_slots_are_refused():
    if not slots.own_users():
        pytest.skip("only root runs as users of its choice")
    with pytest.raises(UserError, match="lower evaluation.grading.workers"):
        slots.take_users(len(slots.USERS) + 1)


def test_the_group_of_a_killed_process_is_swept(sandbox):
    made = group.make_group(99)
    if made is None:
        pytest.skip("no control group can be made here")
    folder = made.folders["memory"]
    stale = folder.with_name(f"{group.NAME}-999999999-0")
    stale.mkdir()
    made.close()
    group.make_group(98).close()
    assert not stale.exists() and not folder.exists()


NUMBERS = {  # of system calls on x86_64 and aarch64, from the kernel's tables
    "read": (0, 63), "openat": (257, 56), "execve": (59, 221), "socket": (41, 198), "connect": (42, 203),
    "socketpair": (53, 199), "clone": (56, 220), "clone3": (435, 435), "unshare": (272, 97), "ptrace": (101, 117),
    "mount": (165, 40), "io_uring_setup": (425, 425), "bpf": (321, 280), "ioctl": (16, 29), "prlimit64": (302, 261),
    "memfd_create": (319, 279), "pidfd_getfd": (438, 438), "keyctl": (250, 219), "process_vm_readv": (310, 270),
}  # fmt: skip
ARCHITECTURES = {"X86_64": 0xC000003E, "AARCH64": 0xC00000B7}
ALLOW, REFUSE, ERRNO = 0x7FFF0000, 0x00050000, 0xFFFF


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("name", "arguments", "allowed"),
    [
        ("read", (), True),
        ("openat", (), True),
        ("execve", (), True),
        ("prlimit64", (), True),
        ("socketpair", (1,), True),
        ("socketpair", (2,), False),
        ("clone", (0x3D0F00,), True),  # a thread
        ("clone", (0x11,), True),  # a fork
        ("clone", (0x10000011,), False),  # with a user namespace
        ("clone", (0x40000011,), False),
        ("ioctl", (0, 0x5401), True),
        ("ioctl", (0, 0x5412), False),  # typing into the terminal
        ("ioctl", (0, 0x1_0000_5412), False),
        *((refused, (), False) for refused in sorted(set(NUMBERS) - {
            "read", "openat", "execve", "prlimit64", "socketpair", "clone", "ioctl"})),
    ],
)  # fmt: skip
def test_the_filter_decides_alike_on_both_architectures(architecture, name, arguments, allowed):
    number = NUMBERS[name][list(ARCHITECTURES).index(architecture)]
    decision = decide(seccomp.program(architecture), ARCHITECTURES[architecture], number, arguments)
    assert (decision == ALLOW) if allowed else (decision & ~ERRNO == REFUSE), hex(decision)


def test_the_filter_ends_calls_of_a_foreign_architecture():
    assert decide(seccomp.program("AARCH64"), ARCHITECTURES["X86_64"], 0, ()) == 0  # kill
    assert decide(seccomp.program("X86_64"), ARCHITECTURES["X86_64"], 0x40000000, ()) != ALLOW  # x32


def decide(program, architecture, number, arguments):
    """What the kernel's filter machine answers: our own reading of its few instructions."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    code = [struct.unpack_from("<HBBI", program, place) for place in range(0, len(program), 8)]
    place, value = 0, 0
    while True:
        operation, yes, no, constant = code[place]
        place += 1
        if operation == 0x20:  # load a word
            value = struct.unpack_from("<I", data, constant)[0]
        elif operation == 0x54:  # and
            value &= constant
        elif operation == 0x05:  # jump
            place += constant
        elif operation in (0x15, 0x25, 0x35, 0x45):  # jump if equal, greater, at least, any bit
            tests = {0x15: value == constant, 0x25: value > constant, 0x35: value >= constant, 0x45: value & constant}
            place += yes if tests[operation] else no
        elif operation == 0x06:  # return
            return constant
        else:
            raise AssertionError(f"unknown instruction {operation:#x}")
