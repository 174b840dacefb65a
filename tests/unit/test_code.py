"""Grading code: every kind of test, every verdict, and solutions that cheat."""

import random

import pytest

from nemo_forking.config.evaluation import GradingConfig
from nemo_forking.errors import UserError
from nemo_forking.rewards import open_grader
from nemo_forking.rewards.code import check_block, function_name, last_block
from nemo_forking.rewards.verdict import Graded, Item
from tests.unit.sandboxes import missing

GRADING = GradingConfig(workers=2, math_seconds=1.0, code_seconds=2.0, code_memory_mib=512)
STDIN = {
    "kind": "stdin",
    "tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 6\n", "output": "11"}],
    "prefix": "",
}
STARTER = "class Solution:\n    def join(self, a: List[int], b: int) -> List[int]:\n        "
FUNCTIONAL = {
    "kind": "functional",
    "tests": [{"input": "[1, 2]\n3", "output": "[1, 2, 3]"}, {"input": "[]\n4", "output": "[4]"}],
    "starter_code": STARTER,
}
ASSERT = {"kind": "assert", "tests": "assert f([3, 1]) == [1, 3]\nassert f([]) == []", "prefix": ""}
ADD = "print(sum(map(int, input().split())))"
JOIN = "class Solution:\n    def join(self, a: List[int], b: int):\n        return "
CORRECT = Graded("correct", None)


@pytest.fixture(scope="module")
def opened():
    try:
        with open_grader("code", GRADING) as grader:
            yield grader
    except UserError as error:
        missing(error)


@pytest.fixture
def grader(opened):
    yield opened
    assert opened.run(ADD, STDIN) == CORRECT  # usable after every test


@pytest.mark.parametrize(
    ("source", "verdict", "note"),
    [
        (ADD, "correct", ""),
        ("import sys\nprint(sum(int(x) for x in sys.stdin.read().split()), end='')", "correct", ""),
        ("print(sum(map(int, open(0).read().split()))); exit(1)", "correct", ""),  # as LiveCodeBench has it
        ("import os; print(sum(map(int, os.read(0, os.fstat(0).st_size).split())))", "correct", ""),
        ("import atexit; atexit.register(lambda: print(sum(map(int, input().split()))))", "correct", ""),
        ("def main(): print(sum(map(int, input().split())))\nif __name__ == '__main__': main()", "correct", ""),
        (
            "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 26)\n"
            "def deep(n): return n and 1 + deep(n - 1)\n"
            "def main(): print(sum(map(int, input().split())) + deep(50000) - 50000)\n"
            "threading.Thread(target=main).start()",
            "correct",
            "",
        ),
        ("a, b = map(int, input().split()); print(3)", "wrong", "test 2: wrong output"),
        ("x = ", "wrong", "test 1: SyntaxError"),
        ("print(3); 1 / 0", "wrong", "test 1: ZeroDivisionError: division by zero (line 1)"),
        ("import numpyy", "wrong", "test 1: ModuleNotFoundError"),
        ("import os; print(3, flush=True); os._exit(1)", "wrong", "test 1: "),
        ("import ctypes; ctypes.string_at(0)", "wrong", "test 1: signal 11"),
        ("x = bytearray(1 << 31)", "wrong", "test 1: MemoryError"),
        ("while True: print('x' * 10_000)", "wrong", "test 1: too much output"),
        ("while True: pass", "timed out", "test 1: out of time"),
        ("import time; time.sleep(60)", "timed out", "test 1: out of time"),
        ("import os, time\nif os.fork(): os._exit(0)\ntime.sleep(60)", "wrong", "test 1: wrong output"),
    ],
)
def test_programs_that_read_and_print(grader, source, verdict, note):
    graded = grader.run(source, STDIN)
    assert graded.verdict == verdict and graded.note.startswith(note), graded


@pytest.mark.parametrize(
    ("source", "verdict", "note"),
    [
        (JOIN + "a + [b]", "correct", ""),
        (JOIN + "(*a, float(b))", "correct", ""),
        ("def join(a, b): return a + [b]", "correct", ""),
        ("print('noise')\n" + JOIN + "a + [b]", "correct", ""),
        (JOIN + "[1, 2, 3]", "wrong", "test 2: wrong output"),
        (JOIN + "None", "wrong", "test 1: wrong output"),
        (JOIN + "{1, 2, 3}", "wrong", "test 1: TypeError"),
        (JOIN.replace("join", "other") + "a + [b]", "wrong", "test 1: AttributeError"),
        ("def other(a, b): return a + [b]", "wrong", "test 1: NameError"),
        (JOIN + "exit()", "wrong", "test 1: "),
        (JOIN + "self.join(a, b)", "wrong", "test 1: "),
    ],
)
def test_functions(grader, source, verdict, note):
    graded = grader.run(source, FUNCTIONAL)
    assert graded.verdict == verdict and graded.note.startswith(note), graded


@pytest.mark.parametrize(
    ("source", "verdict", "note"),
    [
        ("def f(a): return sorted(a)", "correct", ""),
        ("def f(a): return a", "wrong", "assertion failed (line 1)"),
        ("def g(a): return sorted(a)", "wrong", "NameError: name 'f' is not defined"),
        ("def f(a): return 1 / 0", "wrong", "ZeroDivisionError"),
        ("def f(a):\n    while True: pass", "timed out", "out of time"),
        ("while True: pass", "timed out", "out of time"),
        ("x = ", "wrong", "SyntaxError"),
    ],
)
def test_assertions(grader, source, verdict, note):
    graded = grader.run(source, ASSERT)
    assert graded.verdict == verdict and graded.note.startswith(note), graded


EQUAL_TO_ALL = "class E({base}):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(a): return E()"
LINE = """b'{"test": 0, "outcome": "ok", "output": "", "note": ""}\\n'"""


@pytest.mark.parametrize(
    "source",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        *(EQUAL_TO_ALL.format(base=base) for base in ("object", "list", "int", "dict", "str")),
        "import builtins\nbuiltins.sorted = builtins.len = builtins.all = lambda *a: True\ndef f(a): return a",
        "import sys\nsys.modules['builtins'].AssertionError = KeyError\ndef f(a): raise AssertionError",
        "def f(a): raise AssertionError",
        "def f(a):\n    raise SystemExit(0)",
        f"import os\nfor fd in range(64):\n    try: os.write(fd, {LINE})\n    except OSError: pass\nos._exit(0)",
        f"import os\nfor fd in range(64):\n    try: open(f'/proc/1/fd/{{fd}}', 'wb').write({LINE})\n"
        "    except OSError: pass\ndef f(a): return a",
        "import os\nfor p in ('mem', 'environ', 'maps', 'cwd/x'):\n    try: open('/proc/1/' + p, 'r+b')\n"
        "    except OSError: continue\n    os._exit(0)\ndef f(a): return a",
        "import os, signal\nos.kill(1, signal.SIGKILL); os.kill(os.getppid(), signal.SIGTERM)\ndef f(a): return a",
        "import sys, gc\nframe = sys._getframe()\nwhile frame.f_back: frame = frame.f_back\n"
        "found = [o for o in gc.get_objects() if 'assert f' in str(o)]\ndef f(a): return found or a",
        "def check(*a): pass\nassert_ = print\ndef f(a): return NotImplemented",
    ],
)
def test_a_solution_does_not_forge_the_verdict_of_assertions(grader, source):
    assert grader.run(source, ASSERT).verdict == "wrong"


def test_what_assertions_rely_on_is_not_the_solutions(grader):
    source = "import sys\ndef isclose(*a): return True\nabs = round = isclose\nmath = sys\ndef f(x): return 7"
    for tests in ("assert abs(f(1) - 1) < 0.5", "assert isclose(f(1), 1)", "assert math.isclose(f(1), 1)"):
        block = {"kind": "assert", "tests": tests, "prefix": "import math\nfrom math import isclose"}
        assert grader.run(source, block).verdict == "wrong"
    shadowing = {"kind": "assert", "tests": "assert sum(2, 3) == 6", "prefix": "", "function": "sum"}
    assert grader.run("def sum(a, b): return a * b", shadowing) == CORRECT


def test_the_expected_output_is_nowhere_in_the_sandbox(grader):
    secret = str(random.SystemRandom().getrandbits(200))
    source = f"""
import gc, os, sys
def look(path):
    try: return open(path, "rb").read()
    except OSError: return b""
data = sys.stdin.read()
names = ("environ", "cmdline", "fd/0", "mem")
places = [look(f"/proc/{{p}}/{{n}}") for p in ("self", "1", os.getppid()) for n in names]
places += [look("/box/main.py"), str(gc.get_objects()).encode(), str(sys._getframe().f_back.f_globals).encode()]
found = b"".join(places)
place = found.find({secret[:10]!r}.encode())
print(found[place : place + {len(secret)}].decode() if place >= 0 else "nowhere")
"""
    block = {"kind": "stdin", "tests": [{"input": "x", "output": secret}], "prefix": ""}
    hidden = source.replace(repr(secret[:10]), f"''.join(map(chr, {[ord(c) for c in secret[:10]]}))")
    assert grader.run(hidden, block) == Graded("wrong", None, "test 1: wrong output")


def test_the_assertions_are_nowhere_in_the_solutions_memory(grader):
    secret = random.SystemRandom().getrandbits(60) + (1 << 60)
    source = """
import re
def f(a):
    with open("/proc/self/mem", "rb", 0) as memory:
        for line in open("/proc/self/maps"):
            first, last = (int(end, 16) for end in line.split()[0].split("-"))
            try:
                memory.seek(first)
                found = re.search(rb"f[(]0[)] == ([0-9]{19})", memory.read(last - first))
            except (OSError, ValueError, MemoryError, OverflowError):
                continue
            if found:
                return int(found[1])
"""
    block = {"kind": "assert", "tests": f"assert f(0) == {secret}", "prefix": ""}
    assert grader.run(source, block) == Graded("wrong", None, "assertion failed (line 1)")


def test_values_of_all_kinds_pass_between_assertions_and_solution(grader):
    tests = """
from decimal import Decimal
for value in (None, True, -3, 2.5, float("inf"), "é\\n", b"x", 1j, (1, (2,)), {1, 2}, frozenset("a"), {(1, 2): [None]},
              range(3), Decimal("0.1"), [[], {}], 10**50):
    assert echo(value) == value and type(echo(value)) is type(value), value
assert list(numbers()) == [0, 1, 2] and next(numbers()) == 0
box = Box(5)
assert box.value == 5 and box.double() == 10 and len(box) == 5 and [*box] == [1, 2] and box[3] == 6
box.value = 6
assert box.double() == 12 and box == box and box != Box(6)
shared = [3, 1, 2]
assert shuffle(shared) is None and shared == [1, 2, 3]
node = tree_node([1, 2, None])
assert depth(node) == 2 and is_same(flip(node), 1) and node.right.val == 2 and node.left is None
try:
    fail()
except KeyError as error:
    assert "gone" in str(error)
else:
    assert False
assert total(1, b=2, *[], **{"c": 3}) == 6
"""
    prefix = """
class Node:
    def __init__(self, val, left=None, right=None): self.val, self.left, self.right = val, left, right
def tree_node(values): return Node(values[0], Node(values[1]))
def is_same(node, val): return type(node) is Node and node.val == val
"""
    source = """
def echo(value): return value
def numbers(): yield from range(3)
class Box:
    def __init__(self, value): self.value = value
    def double(self): return 2 * self.value
    def __len__(self): return 5
    def __iter__(self): return iter([1, 2])
    def __getitem__(self, key): return 2 * key
def shuffle(values): values.sort()
def depth(node): return 0 if node is None else 1 + max(depth(node.left), depth(node.right))
def flip(node):
    node.left, node.right = node.right, node.left
    return node
def fail(): raise KeyError("gone")
def total(a, b, c): return a + b + c
"""
    assert grader.run(source, {"kind": "assert", "tests": tests, "prefix": prefix}) == CORRECT


def test_every_test_begins_afresh(grader):
    source = """
import builtins, os, sys
assert not hasattr(builtins, "seen") and not os.environ.get("seen")
builtins.seen, os.environ["seen"] = 1, "1"
if os.fork() == 0:
    os.setsid()
    while True: pass
print(sum(map(int, input().split())), len([p for p in os.listdir("/proc") if p.isdigit()]) == 3)
"""
    block = {"kind": "stdin", "tests": [{"input": "1 2", "output": "3 True"}] * 5}
    assert grader.run(source, block) == CORRECT


def test_every_test_finds_its_folders_empty(grader):
    source = """
import os
before = [os.listdir(folder) for folder in ("/tmp", "/dev/shm")]
os.makedirs("/tmp/a/b"); os.symlink("/usr", "/tmp/a/usr"); os.symlink("nowhere", "/tmp/n")
open("/tmp/a/b/c", "w").close(); os.link("/tmp/a/b/c", "/tmp/hard"); open("/dev/shm/d", "w").close()
with open("/tmp/large", "wb") as file:
    file.write(bytes(48 << 20))
print(before)
"""
    block = {"kind": "stdin", "tests": [{"input": "", "output": "[[], []]"}] * 3}
    assert grader.run(source, block) == CORRECT


def test_no_signal_reaches_the_harness(grader):
    every = "import os, signal\nfor s in range(1, 65):\n    try: os.kill(1, s)\n    except OSError: pass\n"
    assert grader.run(every + ADD, STDIN) == CORRECT
    assert grader.run(every + JOIN + "a + [b]", FUNCTIONAL) == CORRECT
    assert grader.run(every + "def f(a): return sorted(a)", ASSERT) == CORRECT


def test_limits_that_a_solution_lays_on_the_harness_only_harm_itself(grader):
    lowered = "\n".join(f"resource.prlimit(1, resource.RLIMIT_{name}, (0, 0))" for name in ("CPU", "FSIZE", "NOFILE"))
    for act in (lowered, "os.chmod('/tmp', 0)"):
        assert grader.run(f"import os, resource\n{act}\nprint(3)", STDIN).verdict != "correct"
        assert grader.run(f"import os, resource\n{act}\ndef f(a): return a", ASSERT).verdict != "correct"


def test_many_tests_take_one_sandbox_and_each_its_own_time(grader):
    block = {"kind": "stdin", "tests": [{"input": str(n), "output": str(n)} for n in range(40)], "time_limit_s": 1.0}
    assert grader.run("import time; n = input(); time.sleep(0.05); print(n)", block) == CORRECT
    late = grader.run("import time; n = int(input()); time.sleep(60 * (n == 7)); print(n)", block)
    assert late == Graded("timed out", None, "test 8: out of time")


def test_large_inputs_and_outputs(grader):
    text = " ".join(map(str, range(200_000)))
    block = {"kind": "stdin", "tests": [{"input": text, "output": text}] * 2}
    assert grader.run("print(input())", block) == CORRECT
    listed = "[" + ",".join(map(str, range(100_000))) + "]"
    function = {"kind": "functional", "tests": [{"input": listed, "output": listed}], "function": "same"}
    assert grader.run("def same(a): return a", function) == CORRECT


def test_names_that_modules_export_as_the_standard_streams_work(grader):
    block = STDIN | {"prefix": "from sys import *"}
    assert grader.run("a, b = map(int, stdin.readline().split())\nstdout.write(str(a + b))", block) == CORRECT


def test_items_are_graded_in_any_order_each_once(grader):
    completions = {
        "right": f"So:\n```python\n{ADD}\n```",
        "wrong": "```python\nprint(1)\n```",
        "none": "I do not know.",
        "late": "```python\nwhile True: pass\n```",
    }
    items = [Item(id, text, STDIN) for id, text in completions.items()]
    found = dict(grader.stream(items))
    assert {id: one.verdict for id, one in found.items()} == {
        "right": "correct", "wrong": "wrong", "none": "unparsable", "late": "timed out"
    }  # fmt: skip
    assert all(one.answer is None for one in found.values())


def test_the_grader_says_what_it_is_made_of(grader):
    described = grader.describe()
    assert described["name"] == "code" and described["sandbox"]["holds"] and described["seconds_per_test"] == 2.0


@pytest.mark.parametrize(
    ("completion", "block"),
    [
        ("```python\na\n```", "a"),
        ("```py\na\n```\ntext\n```python\nb\nc\n```", "b\nc"),
        ("```python\na\n```\n```text\n3\n```", "a"),
        ("```\na\n```", "a"),
        ("```python\na\n```\n```\n3\n```", "a"),
        ("  ```python\n  a\n  ```", "  a"),
        ("```python\na\n```\n```python\nunfinished", "a"),
        ("```python\nunfinished", None),
        ("no code", None),
        ("", None),
        ("```cpp\nint a;\n```", None),
        ("```Python3\na\n```", "a"),
        ("```python\n\n```", ""),
        ("a sketch:\n```python\nunfinished\nNow all of it:\n```python\na\n```", "a"),
        ("in short ```x = 1``` or so\n```python\na\n```", "a"),
        ("```x = 1```\n```python\na\n```", "a"),
    ],
)
def test_the_last_closed_block_of_python_counts(completion, block):
    assert last_block(completion) == block


def test_the_function_is_the_blocks_or_the_starter_codes():
    assert function_name({"function": "a", "starter_code": "def b(): "}) == "a"
    assert function_name({"function": None, "starter_code": STARTER}) == "join"
    assert function_name({"starter_code": "class Solution:\n  def __init__(self):\n  def c(self):"}) == "c"
    assert function_name({"starter_code": ""}) is None


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (None, "expected an object whose kind is one of stdin, functional, assert"),
        ({"kind": "other"}, "whose kind is one of"),
        ({"kind": "stdin", "tests": []}, "at least one test"),
        ({"kind": "stdin", "tests": [{"input": "1"}]}, r"tests\[0\] must have texts input and output"),
        ({"kind": "functional", "tests": [{"input": "x", "output": "1"}]}, r"tests\[0\]: input must be JSON"),
        ({"kind": "functional", "tests": [{"input": "1", "output": ""}]}, r"tests\[0\]: output must be JSON"),
        ({"kind": "assert", "tests": [1]}, "tests must be the source of assertions"),
        ({"kind": "assert", "tests": "assert f", "tets": 1}, "unknown field tets"),
    ],
)
def test_a_malformed_block_is_named(block, message):
    with pytest.raises(UserError, match=f"item 7: .*{message}"):
        check_block(block, "item 7")
