"""Kill runs at random moments until enough faults were injected; every run must end as an undisturbed one does."""

import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.campaign import lives
from tests.campaign.compare import differences
from tests.campaign.ground import Ground, lay_ground, start, with_layout
from tests.campaign.lives import FINISHED, NAMES, STOPPED, Life

AIMED = {  # phases that a moment drawn from the whole run would seldom meet
    "ssft": ("start-up", "loading a checkpoint", "matching", "saving a checkpoint", "after training"),
    "gfpo": (
        *("before the ranks", "start-up", "loading a checkpoint", "reading the fork", "export", "rollouts", "grading"),
        *("saving a checkpoint", "after training"),
    ),
}
GENTLE = 0.2  # share of signals that ask for an end
LIVES = 60  # of one run; more is no progress


@dataclass(frozen=True)
class Plan:
    """When a life is struck: `delay` seconds after its beginning, or after rank 0 enters `phase` for the nth time."""

    phase: str | None
    nth: int
    delay: float
    victim: int  # slot: 0 the recipe's own process, then the ranks
    number: int  # signal


@dataclass(frozen=True)
class Fault:
    """A signal that hit: what rank 0 was doing then."""

    recipe: str
    layout: str
    phase: str
    step: int
    signal: str
    victim: str


@dataclass
class Report:
    """What a campaign came to."""

    asked: int
    seed: int
    seconds: float = 0.0
    survived: list[Fault] = field(default_factory=list)
    lost: list[Fault] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    runs: int = 0

    @property
    def injected(self) -> list[Fault]:
        """All faults."""
        return self.survived + self.lost


def campaign(
    folder: Path, kills: int, seed: int, recipes: tuple[str, ...], *, layouts: tuple[str, ...], mixed: bool = False
) -> Report:
    """Inject `kills` faults over runs of the recipes in turn, in `folder`; what failed stays there."""
    rng, report, began = random.Random(seed), Report(kills, seed), time.monotonic()
    ground = lay_ground(folder / "ground", recipes)
    wholes: dict[tuple[str, str], Whole] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, TextColumn("{task.fields[now]}"), console=Console(stderr=True), auto_refresh=False)
    with lives.adopting(), bar:
        task = bar.add_task("Faults", total=kills, now="")
        while len(report.injected) < kills and report.runs < 2 * kills + 10:
            recipe = recipes[report.runs % len(recipes)]
            layout = layouts[report.runs // len(recipes) % len(layouts)]
            if (recipe, layout) not in wholes:
                bar.update(task, now=f"{recipe}, {layout}: undisturbed", refresh=True)
                wholes[recipe, layout] = undisturbed(ground, recipe, layout, folder)
            home, whole = folder / f"run{report.runs:03d}", wholes[recipe, layout]
            run = Run(ground, recipe, layout, layouts if mixed else (), home, whole, rng)

            def tell(fault: Fault, shown=bar, of=task) -> None:
                now = f"{fault.recipe}, {fault.layout}: {fault.signal} to {fault.victim}, {fault.phase}"
                shown.update(of, advance=1, now=now, refresh=True)

            run.go(kills - len(report.injected), tell)
            report.runs += 1
            (report.lost if run.problems else report.survived).extend(run.faults)
            if run.problems:
                hit = ", ".join(f"{f.signal} to {f.victim} in {f.phase} of step {f.step}" for f in run.faults)
                report.failures.append(
                    f"run {report.runs - 1} ({recipe}, {layout}) after {hit or 'no fault'}:\n  "
                    + "\n  ".join(run.problems)
                    + f"\n  kept in {run.home}"
                )
            else:
                shutil.rmtree(run.home)
    report.seconds = time.monotonic() - began
    return report


@dataclass
class Whole:
    """An undisturbed run and how long it took."""

    home: Path
    seconds: float


def undisturbed(ground: Ground, recipe: str, layout: str, folder: Path) -> Whole:
    """Run once without a fault."""
    home, began = folder / f"whole_{recipe}_{layout.replace(' ', '_')}", time.monotonic()
    config = with_layout(ground.config(recipe, home), layout)
    lives.live(config, start(recipe), folder / "whole.log").must(FINISHED)
    return Whole(home, time.monotonic() - began)


@dataclass
class Run:
    """One run: life after life, each of them struck but the last."""

    ground: Ground
    recipe: str
    layout: str
    mixed: tuple[str, ...]  # layouts to change between, in place of the one
    home: Path
    whole: Whole
    rng: random.Random
    faults: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def go(self, most: int, tell) -> None:
        """To the run's end, with at most so many faults; `tell` is called for each."""
        for number in range(LIVES):
            layout = self.rng.choice(self.mixed) if self.mixed else self.layout
            config = with_layout(self.ground.config(self.recipe, self.home / "run"), layout)
            plan = self._plan(config.layout.processes) if len(self.faults) < most else None
            life = lives.begin(config, start(self.recipe), self.home / "logs" / f"{number}.log")
            fault = _strike(life, plan, self.recipe, layout) if plan else None
            hung = not lives.wait(life)
            if fault:
                self.faults.append(fault)
                tell(fault)
            if problem := self._judge(life, fault, hung):
                self.problems.append(f"life {number}: {problem}")
                return
            if life.status == FINISHED:
                self.problems += differences(self.home / "run", self.whole.home, exact=not self.mixed)
                return
        self.problems.append(f"no end after {LIVES} lives")

    def _plan(self, ranks: int) -> Plan:
        rng = self.rng
        phase = rng.choice((None, *AIMED[self.recipe])) if rng.random() < 0.6 else None
        gentle = rng.choice((signal.SIGTERM, signal.SIGUSR1)) if rng.random() < GENTLE else signal.SIGKILL
        delay = rng.random() * (0.05 if phase else 0.7 * self.whole.seconds) * (rng.random() if phase else 1.0)
        return Plan(phase, rng.randint(1, 2), delay, rng.randint(0, ranks), gentle)

    def _judge(self, life: Life, fault: Fault | None, hung: bool) -> str | None:
        """What is wrong with how a life ended."""
        if hung:
            return f"hung for {lives.LIMIT:.0f} s:\n{life.told()[-2000:]}"
        if left := lives.left_over():
            return f"left processes behind: {left}"
        if life.status in (FINISHED, STOPPED) and (life.status == FINISHED or fault):
            return None
        if fault and life.status != lives.USER_ERROR:
            return None  # killed; what its other ranks say of that is no fault
        return f"ended with status {life.status}:\n{life.told()[-3000:]}"


def _strike(life: Life, plan: Plan, recipe: str, layout: str) -> Fault | None:
    """Wait for the moment and send the signal; None where the life was over before."""
    trace, due, seen, entered = life.trace, None if plan.phase else time.monotonic() + plan.delay, 0, -1
    while not life.ended():
        if due is None:
            phase, now = trace.where()[0], trace.get(1, "entered")
            if phase == plan.phase and now != entered:
                seen, entered = seen + 1, now
                if seen == plan.nth or plan.phase not in ("matching", "saving a checkpoint", "rollouts", "grading"):
                    due = time.monotonic() + plan.delay
        elif time.monotonic() >= due and (recipes_own := trace.get(0, "pid")):
            phase, step = trace.where()
            victim = trace.get(plan.victim, "pid") or recipes_own  # the rank may not be there yet
            who = "recipe" if victim == recipes_own else f"rank {plan.victim - 1}"
            fault = Fault(recipe, layout, phase, step, signal.Signals(plan.number).name, who)
            return fault if lives.send(life, victim, plan.number) else None
        time.sleep(lives.WAIT)
    return None


def show(report: Report, console: Console) -> None:
    """Print where faults hit and what they did."""
    table = Table(title="Faults by what rank 0 was doing", title_justify="left")
    recipes = sorted({fault.recipe for fault in report.injected})
    table.add_column("phase")
    for recipe in recipes:
        table.add_column(recipe, justify="right")
    table.add_column("steps")
    for phase in NAMES:
        hit = [fault for fault in report.injected if fault.phase == phase]
        if hit:
            steps = " ".join(f"{step}:{count}" for step, count in sorted(Counter(f.step for f in hit).items()))
            table.add_row(phase, *(str(sum(f.recipe == recipe for f in hit)) for recipe in recipes), steps)
    console.print(table)
    for name in ("signal", "victim", "layout"):
        counted = Counter(getattr(fault, name) for fault in report.injected)
        console.print(f"{name}: " + ", ".join(f"{what} {count}" for what, count in sorted(counted.items())))
    for failure in report.failures:
        console.print(failure, style="red", highlight=False)
    console.print(
        f"{len(report.survived)} of {len(report.injected)} faults survived, in {report.runs} runs, "
        f"{report.seconds:.0f} s; --seed {report.seed} draws the same plans again (a moment hits what it meets)",
        style="bold",
    )
