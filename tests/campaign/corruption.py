"""Damage every file of runs under way and finished; each must end with the undisturbed numbers or a clear refusal.

A scene is a folder with a run in some state and everything the run reads. A case is a scene, one of its files, and a
damage. Started on damaged files, a run may
- end with the numbers of the undisturbed run (it did not need the file, or made it again),
- or end with a UserError (exit status 2) that names the file or its folder and what to do.
"""

import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from nemo_forking.config import Config
from tests.campaign import lives
from tests.campaign.compare import differences
from tests.campaign.ground import Ground, lay_ground, start
from tests.campaign.lives import FINISHED, USER_ERROR

REMEDY = re.compile(
    r"\b(remedy|remove|delete|prepare|choose|restore|mend|set|copy|take|run|bring back|export|download)\b",
    re.IGNORECASE,
)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def flipped(share: float) -> Callable[[Path], None]:
    """One bit of the byte at this share of the file."""

    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[min(int(len(content) * share), len(content) - 1)] ^= 0x04
        file.write_bytes(content)

    return flip


def holed(file: Path) -> None:
    """A block of zeros, as a machine's crash may leave."""
    content = bytearray(file.read_bytes())
    content[len(content) // 3 : 2 * len(content) // 3] = bytes(2 * len(content) // 3 - len(content) // 3)
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "removed": Path.unlink,
    "emptied": emptied,
    "truncated": truncated,
    "zeros": holed,
    "flipped at 0": flipped(0.0),
    "flipped at 1/4": flipped(0.25),
    "flipped at 1/2": flipped(0.5),
    "flipped at 3/4": flipped(0.75),
    "flipped at end": flipped(1.0),
}
# read by nobody, or only as long as the run is young: TensorBoard's events, locks, what prepared data tells readers
SKIPPED = ("tensorboard/", "problems.jsonl", "tied_base/", "no_")


@dataclass(frozen=True)
class Scene:
    """A run in some state, in `home/run`, with what it reads in `home/ground`."""

    name: str
    recipe: str
    home: Path
    whole: Path

    def config(self, home: Path) -> Config:
        """The run in a copy of the scene."""
        return Ground(home / "ground").config(self.recipe, home / "run")

    def files(self) -> Iterator[str]:
        """Of the run and of what it reads, relative to the scene; of a finished run, the exported model."""
        finished = self.home / "run" / "model"
        for path in sorted((finished if finished.exists() else self.home).rglob("*")):
            name = str(path.relative_to(self.home))
            if path.is_file() and path.stat().st_size and not any(part in name for part in SKIPPED):
                yield name


@dataclass
class Report:
    """Outcome counts by scene and kind of file, and what went wrong."""

    seconds: float = 0.0
    counts: Counter = field(default_factory=Counter)  # (scene, kind of file, outcome)
    failures: list[str] = field(default_factory=list)


def scenes(folder: Path, recipes: tuple[str, ...]) -> list[Scene]:
    """Runs ended at telling moments, and finished ones."""
    made = []
    for recipe in recipes:
        ground, whole = lay_ground(folder / recipe / "ground", (recipe,)), folder / recipe / "run"
        lives.live(ground.config(recipe, whole), start(recipe), folder / "log").must(FINISHED)
        if recipe == "ssft":
            made += [_ended(folder, "ssft, step 3 of 6 saved", recipe, ends_saving(4))]
        else:
            lines = 32  # of samples, and of verdicts, a batch
            made += [
                _ended(folder, "gfpo, completing batch 2", recipe, lives.kills_add(2 * lines + 20)),
                _ended(folder, "gfpo, grading batch 2", recipe, lives.kills_add(3 * lines + 20)),
                _ended(folder, "gfpo, batch 2 graded", recipe, ends_saving(2)),
            ]
        made += [Scene(f"{recipe}, finished", recipe, folder / recipe, whole)]
    return made


def ends_saving(step: int) -> Callable[[], None]:
    """`prepare` of a life that is killed before it saves a step."""

    def prepare() -> None:
        from nemo_forking.training.checkpoint import Checkpoints

        save = Checkpoints.save

        def save_or_die(self, strategy, number, extra):
            if number == step:
                lives.die()
            save(self, strategy, number, extra)

        Checkpoints.save = save_or_die

    return prepare


def _ended(folder: Path, name: str, recipe: str, prepare: Callable[[], None]) -> Scene:
    home = folder / re.sub(r"\W+", "_", name)
    shutil.copytree(folder / recipe / "ground", home / "ground")
    scene = Scene(name, recipe, home, folder / recipe / "run")
    lives.live(scene.config(home), start(recipe), folder / "log", prepare).must(lives.RANK_FAILED)
    return scene


def campaign(folder: Path, recipes: tuple[str, ...], *, every: int = 1, only: str = "") -> Report:
    """Every case, or every nth of those whose name contains `only`; what failed stays in `folder`."""
    report, began = Report(), time.monotonic()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[now]}"), console=console, auto_refresh=False) as bar:
        all_scenes = scenes(folder, recipes)
        cases = [(s, f, damage) for s in all_scenes for f in s.files() for damage in DAMAGES]
        cases = [case for case in cases if only in f"{case[0].name}: {case[1]} {case[2]}"][::every]
        task = bar.add_task("Damages", total=len(cases), now="")
        for number, (scene, name, damage) in enumerate(cases):
            bar.update(task, now=f"{scene.name}: {name} {damage}"[:70], refresh=True)
            home = folder / f"case{number:04d}"
            outcome, problem = _case(scene, name, damage, home)
            report.counts[scene.name, kind_of(name), outcome] += 1
            if problem:
                report.failures.append(f"{scene.name}: {name} {damage}: {outcome}: {problem}\n  kept in {home}")
                bar.console.print(report.failures[-1][:1000], style="red", highlight=False, markup=False)
            else:
                shutil.rmtree(home)
            bar.update(task, advance=1, refresh=True)
    report.seconds = time.monotonic() - began
    return report


def _case(scene: Scene, name: str, damage: str, home: Path) -> tuple[str, str | None]:
    """Damage a copy and start it: (outcome, what is wrong with it)."""
    shutil.copytree(scene.home, home)
    config = scene.config(home)
    DAMAGES[damage](home / name)

    def checked(_: Config) -> None:
        start(scene.recipe)(Ground(home / "ground").checked_config(scene.recipe, home / "run"))

    life = lives.live(config, checked, home / "log")
    if life.status == FINISHED:
        found = differences(home / "run", scene.whole, stale=False)
        found = [line for line in found if f"run/{line.split()[0]}" != name]  # what nobody reads again stays as it is
        return ("other numbers", "; ".join(found[:4])) if found else ("same numbers", None)
    if life.status != USER_ERROR:
        return "no clear message", f"status {life.status}: {life.told()[-1500:]}"
    message = life.message()
    parents = [str(home / name), *(str(parent) for parent in (home / name).parents if home in parent.parents)]
    named = Path(name).name in message or any(parent in message for parent in parents) or "model.base" in message
    if not named or not REMEDY.search(message):
        return "unclear message", message[:600]
    return "refused", None


def kind_of(name: str) -> str:
    """What of a scene a file is: its name without what varies."""
    name = re.sub(r"(step|batch)_\d+", r"\1_<n>", name)
    return re.sub(r"__\d+_\d+", "__<rank>_<n>", name)


def show(report: Report, console: Console) -> None:
    """Print outcomes by scene and kind of file, then what went wrong."""
    outcomes = sorted(
        {outcome for *_, outcome in report.counts}, key=lambda o: ("same" not in o, "refused" not in o, o)
    )
    table = Table(
        "scene",
        Column("file", overflow="fold"),
        *outcomes,
        title="What became of runs on damaged files",
        title_justify="left",
    )
    last = ""
    for scene, kind in sorted({key[:2] for key in report.counts}):
        table.add_row(
            scene if scene != last else "", kind, *(str(report.counts[scene, kind, o] or "") for o in outcomes)
        )
        last = scene
    totals = [str(sum(n for key, n in report.counts.items() if key[2] == outcome)) for outcome in outcomes]
    table.add_row("all", "", *totals, style="bold")
    console.print(table)
    good = sum(report.counts.values()) - len(report.failures)
    console.print(f"{good} of {sum(report.counts.values())} damages met well, {report.seconds:.0f} s", style="bold")
