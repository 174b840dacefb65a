"""The report of a small made-up run: what must be in it, in which form, and what happens when parts are missing."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from rich.console import Console

from nemo_forking.errors import UserError
from nemo_forking.evaluation.metrics import summarise
from nemo_forking.evaluation.plots import _smooth
from nemo_forking.evaluation.report import print_table, side_by_side, summary_rows, write_report
from nemo_forking.evaluation.results import load_results, systems_of

TAGS = 3
KINDS = ("even", "odd")
HOSTILE = "<script>alert(1)</script> & more"
PLOTS = {"rules", "training", "routes", "kinds", "tags"}


def write_lines(path, objects):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))


def make_samples(seed):
    rng = np.random.default_rng(seed)
    return [
        {
            "question": f"q{q}",
            "asked": f"What is {q}?",
            "kind": KINDS[q % 2],
            "gold": str(q),
            "tag": tag,
            "round": round_,
            "text": f"{HOSTILE} by way {tag}",
            "answer": None if q == 3 else str(q if right else -1),
            "route": f"way{tag}",
            "correct": bool(right and q != 3),
            "tokens": 5 + tag,
            "finish": "stop",
        }
        for q in range(8)
        for tag in range(TAGS)
        for round_ in range(2)
        for right in [rng.random() < 0.6]
    ]


def make_run(folder, rule, seed):
    samples = make_samples(seed)
    write_lines(folder / rule / f"{seed}" / "samples.jsonl", samples)
    matched = rule == "optimal"
    lines = [
        {
            "step": step,
            "loss": 3 / step,
            "assignment_entropy_bits": 1 / step if matched else None,
            "change_rate": 0.5 / step if matched else None,
        }
        for step in range(1, 30)
    ]
    write_lines(folder / rule / f"{seed}" / "metrics.jsonl", lines)
    paths = {name: f"{rule}/{seed}/{name}.jsonl" for name in ("metrics", "samples")}
    return {**summarise(samples, TAGS, seed=seed), **paths}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    results = {
        "experiment": "small",
        "rules": {"random": [make_run(folder, "random", 1)], "optimal": [make_run(folder, "optimal", 2)]},
        "base": make_run(folder, "base", 3),
        "seconds": {"data": 1.5, "train": {"optimal": 10.0, "random": 8.0}},
        "provenance": {"git": "0123abc", "versions": {"torch": "2.13.0"}, "config": "run:\n  name: small\n"},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "small")


def rewrite(folder, change):
    results = json.loads((folder / "results.json").read_text())
    change(results)
    (folder / "results.json").write_text(json.dumps(results))


def test_the_page_holds_every_part_and_nothing_from_outside(run):
    html_path, markdown_path = write_report(run)
    page = html_path.read_text()
    images = re.findall(r'<img src="data:image/png;base64,([^"]+)" width="(\d+)"', page)
    assert len(images) == len(PLOTS)
    assert all(base64.b64decode(data).startswith(b"\x89PNG") and int(width) > 200 for data, width in images)
    assert not re.search(r"(src|href)=\"(?!data:)|https?://|@import|url\(", page)
    assert page.count('<section class="question"') == 8
    assert page.count("<article") == 8 * TAGS * 3
    for expected in ("0123abc", "versions.torch", "train optimal", "19.5 s", "no answer"):
        assert expected in page

    text = markdown_path.read_text()
    linked = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert {(run / path).stem for path in linked} == PLOTS
    assert all((run / path).read_bytes().startswith(b"\x89PNG") for path in linked)
    assert not list(run.rglob("*.aside"))


def test_what_a_model_wrote_is_escaped(run):
    page = write_report(run)[0].read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more by way 2" in page


def test_rules_come_in_their_order_with_the_base_last(run):
    results = load_results(run)
    assert [name for name, _ in summary_rows(systems_of(results))] == ["optimal", "random", "base"]
    table = [line for line in write_report(run)[1].read_text().splitlines() if line.startswith("| ")]
    assert [line.split()[1] for line in table[:4]] == ["rule", "optimal", "random", "base"]


def test_cells_are_percent_with_the_error_over_questions_or_over_seeds():
    def one(value):
        rates = ("pass@1", "best_tag_pass@1", "cons@1", "pass@1")
        return {
            **dict.fromkeys(rates, value),
            "mutual_information_bits": 2 * value,
            "per_tag": [{}],
            "standard_error": dict.fromkeys(rates, 0.015),
        }

    single = summary_rows(systems_of({"rules": {"optimal": [one(0.5)]}}))
    assert single == [("optimal", ["50.0 ± 1.5"] * 4 + ["1.00"])]
    # Of 0.5, 0.6, 0.7: standard deviation 0.1, so the mean's standard error is 0.1 / sqrt(3).
    several = summary_rows(systems_of({"rules": {"optimal": [one(0.5), one(0.6), one(0.7)]}}))
    assert several == [("optimal", ["60.0 ± 5.8"] * 4 + ["1.20 ± 0.12"])]


def test_the_console_table_shows_the_same_cells(run):
    results = load_results(run)
    written = io.StringIO()
    print_table(results, Console(file=written, width=120))
    for name, cells in summary_rows(systems_of(results)):
        line = next(line for line in written.getvalue().splitlines() if f" {name} " in line)
        assert all(cell in line for cell in cells)


def test_several_seeds_are_plotted_and_stated(run):
    rewrite(run, lambda results: results["rules"]["optimal"].append(make_run(run, "optimal", 5)))
    page = write_report(run)[0].read_text()
    assert "Mean ± standard error over 2 seeds; 8 held-out questions" in page


def test_a_run_without_curves_or_samples_still_has_its_table(run):
    def strip(results):
        for runs in (*results["rules"].values(), [results["base"]]):
            for one in runs:
                del one["metrics"], one["samples"]
        del results["seconds"], results["provenance"]

    rewrite(run, strip)
    page = write_report(run)[0].read_text()
    assert "What training did" not in page and '<section class="question"' not in page
    assert "Accuracy by rule" in page and "optimal" in page


def test_shown_questions_take_the_kinds_in_turn_and_only_the_first_round():
    shown = side_by_side({"optimal": make_samples(0), "random": make_samples(1), "base": []})
    assert [question["kind"] for question in shown[:4]] == ["even", "odd", "even", "odd"]
    assert [question["id"] for question in shown[:4]] == ["q0", "q1", "q2", "q3"]
    for question in shown:
        assert [name for name, _ in question["systems"]] == ["optimal", "random"]
        for _, samples in question["systems"]:
            assert [(sample["tag"], sample["round"]) for sample in samples] == [(tag, 0) for tag in range(TAGS)]


def test_smoothing_keeps_level_and_length():
    assert _smooth(np.full(200, 0.3)) == pytest.approx(np.full(200, 0.3))
    noisy = np.random.default_rng(0).normal(size=600)
    assert len(_smooth(noisy)) == 600 and _smooth(noisy).std() < 0.4 * noisy.std()
    middle = slice(300 - 10, 300 + 11)
    assert _smooth(noisy)[300] == pytest.approx(noisy[middle].mean())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "results.json: not there"),
        ("{", "results.json: not JSON"),
        ('{"rules": {}}', "field 'rules' is missing or empty"),
    ],
)
def test_unusable_results_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=message):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("samples", "samples.jsonl, line 49: not a sample"), ("metrics", "metrics.jsonl, line 30: not JSON")],
)
def test_damaged_files_are_named_and_nothing_is_written(run, name, message):
    with (run / f"random/1/{name}.jsonl").open("a") as file:
        file.write('{"question"')
    with pytest.raises(UserError, match=message):
        write_report(run)
    assert not (run / "report.html").exists() and not (run / "plots").exists()
