"""Full disks and read-only folders: a run ends with a message that names folder and remedy, and then goes on.

The disk is a tmpfs of its own, filled to the last byte at a chosen moment; a folder is made read-only by mounting it
over itself. Both need root.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nemo_forking.data.prepare import prepare
from nemo_forking.evaluation.folder import Growing
from nemo_forking.model import weights
from nemo_forking.rl.collect import Collector
from nemo_forking.training.checkpoint import Checkpoints
from nemo_forking.training.metrics import Metrics
from tests.campaign import lives
from tests.campaign.compare import differences
from tests.campaign.ground import Ground, lay_ground, start
from tests.campaign.lives import FINISHED, USER_ERROR
from tests.unit.sources import row, small_config

SIZE = "48m"
BALLAST = "ballast"
Act = Callable[[Path], None]  # on the run's folder


@dataclass(frozen=True)
class Case:
    """What happens to a run's disk, and when: before the nth call of a function in some rank, or before the start."""

    name: str
    recipe: str
    act: Act
    owner: object = None
    function: str = ""
    call: int = 1


@dataclass
class Report:
    """What became of each case."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)  # case, outcome, message
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


def fill(folder: Path) -> None:
    """Leave no byte on the disk."""
    with open(folder / BALLAST, "wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass


def freeze(name: str) -> Act:
    """Make one folder of the run read-only."""

    def act(folder: Path) -> None:
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        _mount("--bind", target, target)
        _mount("-o", "remount,ro,bind", target)

    return act


def cases(recipes: tuple[str, ...]) -> list[Case]:
    """Every kind of write of a run, on a full disk and in a read-only folder."""
    found = []
    for recipe in recipes:
        found += [
            Case("full before the start", recipe, fill),
            Case("full at the second checkpoint", recipe, fill, Checkpoints, "save", 2),
            Case("full at the second line of metrics", recipe, fill, Metrics, "write", 2),
            Case("read-only before the start", recipe, freeze(".")),
            Case("read-only checkpoints", recipe, freeze("checkpoints"), Checkpoints, "save", 2),
        ]
    if "ssft" in recipes:
        found.append(Case("full at the export", "ssft", fill, weights, "export", 1))
    if "gfpo" in recipes:
        found += [
            Case("full at the second refit", "gfpo", fill, weights, "export", 2),
            Case("full at a completion of batch 2", "gfpo", fill, Growing, "add", 64 + 7),
            Case("full at a verdict of batch 2", "gfpo", fill, Growing, "add", 64 + 32 + 7),
            Case("read-only rollouts", "gfpo", freeze("rollouts"), Collector, "choose", 2),
        ]
    return found


def campaign(folder: Path, recipes: tuple[str, ...], names: tuple[str, ...] = ()) -> Report:
    """All cases, or those named, in `folder`; then preparing data on the same disks."""
    report, began = Report(), time.monotonic()
    ground = lay_ground(folder / "ground", recipes)
    wholes = {recipe: folder / f"whole_{recipe}" for recipe in recipes}
    for recipe, whole in wholes.items():
        lives.live(ground.config(recipe, whole), start(recipe), folder / "log").must(FINISHED)
    for case in cases(recipes):
        if not names or case.name in names:
            _note(report, f"{case.recipe}, {case.name}", *_run(case, ground, wholes[case.recipe], folder))
    if not names:
        for name, act in (("full", fill), ("read-only", freeze("."))):
            _note(report, f"preparing data, {name}", *_prepare(act, folder))
    report.seconds = time.monotonic() - began
    return report


def _note(report: Report, name: str, problem: str | None, message: str) -> None:
    report.rows.append((name, "wrong" if problem else "told, nothing lost, went on", message))
    if problem:
        report.failures.append(f"{name}: {problem}")


def _run(case: Case, ground: Ground, whole: Path, folder: Path) -> tuple[str | None, str]:
    """(what is wrong, the message) of one case."""
    with disk(folder / "disk") as mounted:
        home = mounted / "run"
        home.mkdir()
        config, log = ground.config(case.recipe, home), folder / "log"
        if case.owner is None:
            case.act(home)
        life = lives.live(config, start(case.recipe), log, _at(case, home) if case.owner else None)
        message, problem = life.message(), None
        if life.status != USER_ERROR:
            problem = f"status {life.status}: {life.told()[-2500:]}"
        elif str(mounted) not in message or "remedy" not in message:
            problem = f"unclear: {message}"
        kept = sorted(path.name for path in home.glob("checkpoints/step_*"))
        _relieve(home)
        if problem:
            return problem, message
        if case.function == "save" and kept != ["step_0000001"]:
            return f"the checkpoints are {kept}", message
        life = lives.live(config, start(case.recipe), log)
        if life.status != FINISHED:
            return f"did not go on: {life.told()[-1500:]}", message
        (home / BALLAST).unlink(missing_ok=True)
        found = differences(home, whole)
        return ("; ".join(found[:5]) or None), message


def _prepare(act: Act, folder: Path) -> tuple[str | None, str]:
    with disk(folder / "disk") as mounted:
        sources = folder / "sources"
        sources.mkdir(exist_ok=True)
        out = mounted / "prepared"
        config = replace(small_config(sources, row("q1"), row("q2")), folder=str(out / "data"))
        out.mkdir()
        act(out)
        log = folder / "log"
        life = lives.live(_Prepared(config), lambda c: prepare(c.data), log)
        message = life.message()
        _relieve(out)
        if life.status != USER_ERROR or str(out) not in message or "remedy" not in message:
            return f"status {life.status}: {life.told()[-1500:]}", message
        if (out / "data").exists():
            return "half a folder was left", message
        life = lives.live(_Prepared(config), lambda c: prepare(c.data), log)
        return (None if life.status == FINISHED else f"did not go on: {life.told()[-800:]}"), message


@dataclass(frozen=True)
class _One:
    processes: int = 1


@dataclass(frozen=True)
class _Prepared:
    """What `lives.live` needs of a configuration, around one of data."""

    data: object
    layout: _One = _One()


def _at(case: Case, home: Path) -> Callable[[], None]:
    """`prepare` of a life: do it at the call."""

    def prepare_life() -> None:
        real, calls = getattr(case.owner, case.function), []

        def counted(*args, **kwargs):
            calls.append(1)
            if len(calls) == case.call and os.environ.get("RANK") == "0":
                case.act(home)
            return real(*args, **kwargs)

        setattr(case.owner, case.function, counted)

    return prepare_life


@contextmanager
def disk(where: Path) -> Iterator[Path]:
    """A small disk of its own; OSError where this process may not mount one."""
    where.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", where)
    try:
        yield where
    finally:
        _relieve_mounts(where)
        subprocess.run(["umount", "-l", str(where)], check=False)


def may_mount(where: Path) -> bool:
    """Whether this process may mount a disk."""
    try:
        with disk(where):
            return True
    except OSError:
        return False


def _mount(*words: object) -> None:
    try:
        done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise OSError("there is no mount command") from error
    if done.returncode:
        raise OSError(f"mount {' '.join(map(str, words))}: {done.stderr.strip()}")


def _relieve(home: Path) -> None:
    """Make room, and everything writable."""
    _relieve_mounts(home)
    (home / BALLAST).unlink(missing_ok=True)


def _relieve_mounts(home: Path) -> None:
    inside = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in reversed(inside):
        if Path(place).is_relative_to(home) and (Path(place) != home or inside.count(place) > 1 or home.name != "disk"):
            subprocess.run(["umount", "-l", place], check=False)


def show(report: Report, console: Console) -> None:
    """Print every case and what its user read."""
    table = Table("case", "outcome", "message", title="Full disks, read-only folders", title_justify="left")
    for name, outcome, message in report.rows:
        table.add_row(name, outcome, message[:220])
    console.print(table)
    for failure in report.failures:
        console.print(failure, style="red", highlight=False, markup=False)
    good = len(report.rows) - len(report.failures)
    console.print(f"{good} of {len(report.rows)} cases met well, {report.seconds:.0f} s", style="bold")
