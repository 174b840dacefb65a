"""The report's tables of what was measured here: a body per benchmark, a row per system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from nemo_forking.evaluation.report.names import benchmark_title, metric_title
from nemo_forking.evaluation.report.results import Benchmark, Results, System, dig, metric, number, over_seeds, rate
from nemo_forking.evaluation.report.style import Look
from nemo_forking.evaluation.report.table import NOTHING, Cell, Table, cells, figure, p_value, percent, signed

Column = tuple[str, Callable[[System], str]]  # label, and a system's cell


def summary(results: Results, looks: dict[str, Look]) -> Table:
    """Accuracy of every system: one sample, votes, any of one sample per slot."""
    systems = [system for benchmark in results.benchmarks for system in benchmark.systems]
    slots = {system.slots for system in systems}
    several = str(slots.pop()) if len(slots) == 1 else "N"
    columns = [
        ("Pass@1", lambda s: _rate(s, "pass@1")),
        ("Best tag", lambda s: _rate(s, "best_tag_pass@1")),
        (f"Cons@{several}", lambda s: _rate(s, f"cons@{s.slots}")),
        ("Cons@32", lambda s: _rate(s, "cons@32")),
        (f"Pass@{several}", lambda s: _rate(s, f"pass@{s.slots}")),
        ("Mean tokens", lambda s: figure(over_seeds(s, metric("mean_tokens"))[0], digits=0)),
    ]
    if not any(run.get("cons@32") is not None for system in systems for run in system.runs):
        columns = [column for column in columns if column[0] != "Cons@32"]
    if any(has_routes(system) for system in systems):
        columns.append(("I(tag; route), bits", lambda s: _spread(s, "mutual_information_bits", 2)))
    caption = f"Accuracy in percent. {spread_note(results)}"
    table = _by_benchmark("summary", caption, results, columns, looks)
    return replace(table, notes=_asked_otherwise(results), aside=frozenset({"Mean tokens"}))


def asked(results: Results, looks: dict[str, Look]) -> Table:
    """How much was sampled, and how the samples were judged."""
    whole = {id(system): number(b.describe.get("expected")) for b in results.benchmarks for system in b.systems}
    columns = [
        ("questions", lambda s: _of(number(s.first.get("questions")), whole[id(s)])),
        ("samples each", lambda s: _each(s)),
        ("tags", lambda s: str(s.first.get("tags_mode") or NOTHING)),
        ("seeds", lambda s: ", ".join(str(run.get("seed", NOTHING)) for run in s.runs)),
        ("temperature", lambda s: figure(number(s.first.get("temperature")))),
        ("right", lambda s: percent(_share(s, "verdicts", "correct"))),
        ("wrong", lambda s: percent(_share(s, "verdicts", "wrong"))),
        ("unparsable", lambda s: percent(_share(s, "verdicts", "unparsable") or _share(s, "unparsable"))),
        ("timed out", lambda s: percent(_share(s, "verdicts", "timed out"))),
        ("missing", lambda s: percent(_share(s, "verdicts", "missing"))),
        ("cut off", lambda s: percent(_share(s, "truncated"))),
    ]
    caption = (
        "What was asked and how it was judged. Shares of all samples in percent, mean over seeds; cut off: the "
        "completion met its longest length; timed out: the grader gave up, which counts as wrong."
    )
    return _by_benchmark("asked", caption, results, columns, looks, words=(3, 4))


def tag_choice(results: Results, looks: dict[str, Look]) -> Table | None:
    """Pass@1 by how its tag is chosen; None where no system has tags to choose from."""
    chosen = [
        Benchmark(benchmark.name, [s for s in benchmark.systems if dig(s.first, "tag_choice", "all")], {})
        for benchmark in results.by_tag
    ]
    chosen = [benchmark for benchmark in chosen if benchmark.systems]
    if not chosen:
        return None
    tags = max(len(s.first["tag_choice"]["all"]) for benchmark in chosen for s in benchmark.systems)
    columns = [
        ("tag 1", lambda s: _choice(s, "tag1")),
        ("training coverage", lambda s: _choice(s, "coverage")),
        ("best here*", lambda s: _choice(s, "best")),
        ("the model's own", lambda s: _choice(s, "own")),
        ("all, mean", lambda s: _rate(s, "pass@1")),
        *((f"{tag + 1}", lambda s, tag=tag: percent(_of_tag(s, tag))) for tag in range(tags)),
    ]
    caption = (
        "Pass@1 in percent by how the tag is chosen. The authors release tag 1; training coverage takes the tag that "
        "was given the most different traces in training; in brackets, the tag chosen."
    )
    table = _by_benchmark("tag-choice", caption, chosen, columns, looks)
    drawn = tuple(("", text) for benchmark in chosen for text in _drawn(benchmark, several=len(chosen) > 1))
    notes = (("*", "Chosen on these very questions, so biased upwards."), *drawn)
    return replace(table, groups=(("Tag chosen by", 5), ("Every tag", tags)), notes=notes)


def comparisons(results: Results, looks: dict[str, Look]) -> Table | None:
    """Pairs of systems on the same questions; None where nothing was compared."""
    bodies: dict[str, list] = {}
    for one in results.comparisons:
        if one.get("system_b") in results.variants:
            continue  # of the same model as another one's; results.json has them
        names = [str(one.get(side) or NOTHING) for side in ("system_a", "system_b")]
        head = Cell(" − ".join(names)), Cell(metric_title(str(one.get("metric", ""))))
        bodies.setdefault(str(one.get("benchmark", "")), []).append((*head, *cells(_compared(one))))
    if not bodies:
        return None
    columns = ("systems", "metric", "first", "second", "difference", "95% interval", "p", "better / worse")
    caption = (
        "Pairs of systems, question by question, in points of percent. ± is the standard error of the paired "
        "differences, the interval a bootstrap over questions, p a two-sided sign-flip test."
    )
    parts = tuple((_body_name(name, results), tuple(rows)) for name, rows in bodies.items())
    return Table("comparisons", caption, columns, parts, words=frozenset({1}))


def diversity(results: Results, looks: dict[str, Look]) -> Table | None:
    """How different the samples of a question are; None where no row tells."""
    if not any(s.first.get("diversity") for benchmark in results.models for s in benchmark.systems):
        return None
    columns = [
        ("between tags", lambda s: _diversity(s, "dissimilarity")),
        ("within a tag", lambda s: _diversity(s, "dissimilarity_within_tag")),
        ("answer entropy, bits", lambda s: _diversity(s, "answer_entropy_bits")),
        ("distinct routes", lambda s: _diversity(s, "distinct_routes")),
    ]
    caption = (
        "How different the samples of a question are. Text dissimilarity is 1 − the Jaccard index of runs of four "
        "words: between samples of one round (one per tag), and between samples of one tag."
    )
    return _by_benchmark("diversity", caption, results.models, columns, looks)


def convergence(results: Results, looks: dict[str, Look]) -> Table | None:
    """When the matching settled in training, by system; None where no row tells."""
    found: dict[str, dict] = {}
    for benchmark in results.models:
        for system in benchmark.systems:
            told = system.first.get("convergence")
            if isinstance(told, dict) and isinstance(told.get("assignment_entropy_bits"), dict):
                found.setdefault(system.name, told)
    if not found:
        return None
    rows = []
    for name, told in found.items():
        starving = told.get("starving_tags")
        texts = [
            _count(told.get("steps")),
            f"{figure(number(dig(told, 'assignment_entropy_bits', 'turn')))} → "
            f"{figure(number(dig(told, 'assignment_entropy_bits', 'last')))}",
            _count(dig(told, "assignment_entropy_bits", "half_life")),
            _count(told.get("steps_to_converge")),
            percent(number(dig(told, "configuration_top_mass", "last"))),
            percent(number(dig(told, "change_rate", "last"))),
            NOTHING if starving is None else ", ".join(str(tag + 1) for tag in starving) or "none",
        ]
        rows.append((Cell(name, colour=looks[name].colour), *cells(texts)))
    columns = (
        "system",
        "steps",
        "entropy, bits",
        "half-life, steps",
        "settled at step",
        "top assignments, %",
        "still changing, %",
        "starving tags",
    )
    caption = (
        "How the matching converged (first seed): assignment entropy H(tag | teacher) at its highest and at the end, "
        "the steps it took; the share of the commonest assignments, and of traces whose tag changed, at the end."
    )
    return Table("convergence", caption, columns, (("", tuple(rows)),))


def spread_note(results: Results) -> str:
    """What the figures behind ± are."""
    if results.seeds == 1:
        asked = [f"{b.questions} {'held-out ' if results.study else ''}questions" for b in results.benchmarks]
        over = asked[0] if len(asked) == 1 and results.benchmarks[0].questions else "questions"
        return f"One seed; ± is the standard error over {over}."
    return f"Mean ± standard error over {results.seeds} seeds; of a system with one seed, over questions."


def has_routes(system: System) -> bool:
    """Whether a parser found routes in the system's completions."""
    return any(set(tag.get("routes") or ()) - {"unparsed"} for tag in system.per_tag)


# ---------------------------------------------------------------- cells


def _compared(one: dict) -> list[str]:
    """Means of both systems, difference, interval, p and counts of one comparison."""
    points, error = number(one.get("difference")), number(one.get("standard_error"))
    interval = one.get("interval_95")
    known = isinstance(interval, list) and len(interval) == 2 and None not in map(number, interval)
    counts = [one.get(name) for name in ("better", "worse", "questions")]
    return [
        percent(number(one.get("a"))),
        percent(number(one.get("b"))),
        NOTHING if points is None else signed(100 * points) + ("" if error is None else f" ± {100 * error:.1f}"),
        " to ".join(signed(100 * end) for end in interval) if known else NOTHING,
        p_value(number(one.get("p_value"))),
        NOTHING if None in counts else "{} / {} of {}".format(*counts),
    ]


def _by_benchmark(
    name: str,
    caption: str,
    results: Results | Sequence[Benchmark],
    columns: Sequence[Column],
    looks: dict[str, Look],
    words: Sequence[int] = (),
) -> Table:
    benchmarks = results.benchmarks if isinstance(results, Results) else results
    bodies = tuple(
        (
            benchmark_title(benchmark.name) if len(benchmarks) > 1 else "",
            tuple(
                (Cell(s.name, colour=looks[s.name].colour), *cells([read(s) for _, read in columns]))
                for s in benchmark.systems
            ),
        )
        for benchmark in benchmarks
    )
    return Table(name, caption, ("system", *(label for label, _ in columns)), bodies, words=frozenset(words))


def _body_name(benchmark: str, results: Results) -> str:
    return benchmark_title(benchmark) if len(results.benchmarks) > 1 else ""


def _rate(system: System, key: str) -> str:
    return percent(*rate(system, key))


def _spread(system: System, key: str, digits: int) -> str:
    mean, error = over_seeds(system, metric(key))
    return figure(mean, error if len(system.runs) > 1 else None, digits)


def _share(system: System, *path: str) -> float | None:
    return over_seeds(system, lambda run: (number(dig(run, *path)), None))[0]


def _choice(system: System, name: str) -> str:
    def read(run: dict) -> tuple[float | None, float | None]:
        found = dig(run, "tag_choice", name)
        return number(dig(found, "pass@1")), number(dig(found, "standard_error"))

    text = percent(*over_seeds(system, read))
    tags = [dig(run, "tag_choice", name, "tag") for run in system.runs]
    named = [str(tag + 1) for tag in tags if isinstance(tag, int)]
    return f"{text} ({', '.join(named)})" if named and text != NOTHING else text


def _asked_otherwise(results: Results) -> tuple[tuple[str, str], ...]:
    """What the names of variants mean, for those that occur."""
    told = {"_own": "the same model, drawing its own tags", "_every": "the same model, under every tag"}
    found = [f"{end}: {words}." for end, words in told.items() if any(name.endswith(end) for name in results.variants)]
    return (("", " ".join(found)),) if found else ()


def _of_tag(system: System, tag: int) -> float | None:
    def read(run: dict) -> tuple[float | None, None]:
        values = dig(run, "tag_choice", "all") or []
        return (number(values[tag]) if tag < len(values) else None), None

    return over_seeds(system, read)[0]


def _diversity(system: System, key: str) -> str:
    return figure(over_seeds(system, lambda run: (number(dig(run, "diversity", key)), None))[0])


def _each(system: System) -> str:
    rounds = number(system.first.get("rounds"))
    return NOTHING if rounds is None else f"{system.slots} × {rounds:.0f}"


def _drawn(benchmark: Benchmark, several: bool) -> list[str]:
    """How often each tag was drawn by the systems that draw their own."""
    where = f" on {benchmark_title(benchmark.name)}" if several else ""
    return [
        f"{system.name} draws tags 1 to {len(shares)}{where} in {', '.join(f'{100 * s:.0f}' for s in shares)} %."
        for system in benchmark.systems
        if (shares := system.first.get("chosen"))
    ]


def _of(part: float | None, whole: float | None) -> str:
    """How many questions, and of how many where it is a sample."""
    return _count(part) + (f" of {_count(whole)}" if None not in (part, whole) and part != whole else "")


def _count(value: object) -> str:
    return figure(number(value), digits=0)
