"""RL prompts freed of repetitions and of evaluation questions."""

import io
import json

import pytest
from rich.console import Console

from nemo_forking.evaluation.benchmarks import Problem, load_problems
from nemo_forking.evaluation.benchmarks.prompt import PromptTemplate
from nemo_forking.evaluation.benchmarks.sources import Source
from nemo_forking.rl.prompts import Prompt, clean, read_prompts
from nemo_forking.rl.prompts.text import words
from tests.unit.benchmark_files import declare

LONG = (
    "A rectangular garden of length $24$ meters and width $\\dfrac{35}{2}$ meters is surrounded by a path of the same "
    "width on every side. The path is paved with square stones, each of which has sides of $\\frac12$ meter, and "
    "exactly $1{,}200$ of those stones are needed for it. A gardener walks around the outer border of the path at a "
    "speed of $3$ meters a second. Find the time in seconds that he needs for one round, given that "
    "$x^2 - 5x + 6 \\leq 0$."
)
SHORT = "What is the remainder when $2^{10} + 3^{5} - 7$ is divided by $11$?"
ASKED = "where $m$ and $n$ are relatively prime positive integers. Find the value of the sum $m + n$."


def prompt(id: str, text: str, gold="1", answer="math") -> Prompt:
    return Prompt(id, text, gold, text, "", answer)


def question(id: str, text: str, gold="1") -> Problem:
    return Problem(id, text, gold, text)


def overlap(text: str, other: str, gold="1", other_gold="1") -> str | None:
    """The reason for which a prompt of this text is removed beside an evaluation question of the other."""
    kept, report = clean([prompt("p", text, gold)], {"set": [question("q", other, other_gold)]})
    assert [each.id for each in report.removed] == ["p"] * (not kept)
    return report.removed[0].reason if report.removed else None


# ---------------------------------------------------------------- evaluation questions


@pytest.mark.parametrize(
    "changed",
    [
        LONG,
        LONG.upper().replace("\\DFRAC", "\\dfrac").replace("\\FRAC", "\\frac").replace("\\LEQ", "\\leq"),
        LONG.replace(" ", "\n "),
        LONG.replace("$", "").replace("\\dfrac{35}{2}", "\\frac{35}{2}").replace("1{,}200", "1200"),
        LONG.replace(", ", " ").replace(". ", " ;"),
        LONG.replace("\\leq", "\\le").replace("\\frac12", "\\tfrac{1}{2}"),
    ],
)
def test_an_evaluation_question_in_another_spelling_is_the_same_text(changed):
    assert overlap(changed, LONG) == "set: same text"
    assert overlap(LONG, changed) == "set: same text"


@pytest.mark.parametrize(
    "changed",
    [
        LONG + " Please reason step by step and put the final answer, 1 number, in a box.",
        "Problem 7. " + LONG,
        LONG.replace("Find the time in seconds that he needs", "Determine how many seconds he takes"),
        LONG.replace("A gardener walks", "A gardener named Anna walks").replace("is surrounded", "lies surrounded"),
        LONG + " The answer has the form $\\frac{m}{n}$, " + ASKED,
    ],
)
def test_a_reworded_or_longer_evaluation_question_is_found_by_its_words(changed):
    assert overlap(changed, LONG, gold="40") == "set: shared words"


@pytest.mark.parametrize(
    "old, new",
    [
        ("$24$", "$36$"),
        ("35", "37"),
        ("1{,}200", "1,400"),
        ("$3$", "$4$"),
        ("- 5x", "+ 5x"),
        ("\\leq", "\\geq"),
        ("0$", "8$"),
    ],
)
def test_a_renumbered_question_is_another_one(old, new):
    assert old in LONG
    assert overlap(LONG.replace(old, new), LONG) is None
    assert overlap(LONG.replace(old, new) + " Put the answer, 1 number, in a box.", LONG) is None


@pytest.mark.parametrize("old, new", [("11", "13"), ("10", "12"), ("3", "5"), ("- 7", "+ 7"), ("+ 3^{5} ", "")])
def test_a_renumbered_short_question_is_another_one(old, new):
    assert overlap(SHORT.replace(old, new), SHORT) is None


def test_a_short_question_is_found_with_some_words_around_it_but_not_within_a_long_problem():
    assert overlap("Solve this. " + SHORT, SHORT) == "set: shared words"
    assert overlap(SHORT + " Give a number.", SHORT) == "set: shared words"
    assert overlap(LONG + " " + SHORT, SHORT) is None


def test_a_word_exchanged_in_a_short_question_makes_another_one_where_the_answers_differ_too():
    one, other = (
        "Determine the number of ways to arrange the letters of the word " + word for word in ("TOOT", "PROOF")
    )
    assert overlap(one, other, "6", "60") is None
    assert overlap(one, other, "6", "6") == "set: shared words"
    assert overlap(one.replace("Determine", "What is"), one, "6", "7") == "set: shared words"


def test_sixty_words_in_common_are_enough_whatever_is_asked():
    assert len(words(LONG)) > 60
    asked = LONG + " Then the gardener plants roses along the outer border. " + "How many does she plant in all? " * 8
    assert overlap(LONG, asked, "40", "7") == "set: shared words"


def test_what_every_contest_problem_says_is_no_overlap():
    one = "The probability that a fair coin, tossed 8 times, never shows heads twice in a row is $\\frac mn$, " + ASKED
    other = "A circle of radius 5 is inscribed in a square of area $\\frac mn$ that has a diagonal of 9, " + ASKED
    assert len(set(zip(*(words(ASKED)[place:] for place in range(13)), strict=False))) > 0
    assert overlap(one, other) is None


def test_a_question_of_few_words_is_found_by_equal_text_only():
    assert overlap("Compute $\\sin 60^\\circ$!", "compute \\sin 60°") == "set: same text"
    assert overlap("Compute $\\sin 60^\\circ$ now", "Compute $\\sin 60^\\circ$") is None


def test_a_program_is_found_though_its_samples_are_cut_off():
    samples = "\nSample Input 1\n4 7\n1 2 3 4\nSample Output 1\n10\nSample Input 2\n2 9\n5 5\nSample Output 2\n10"
    one = prompt("p", LONG, {"tests": []}, "code")
    kept, report = clean([one], {"lcb": [Problem("q", LONG, {"tests": [1]}, LONG + samples)]})
    assert not kept and report.counts == {"lcb: shared words": 1}


# ---------------------------------------------------------------- repetitions


def test_of_prompts_with_one_text_the_smallest_id_stays_whatever_their_order():
    prompts = [prompt("b", SHORT), prompt("a", SHORT.lower()), prompt("c", " " + SHORT), prompt("d", LONG)]
    for order in (prompts, prompts[::-1]):
        kept, report = clean(order, {})
        assert {each.id for each in kept} == {"a", "d"}
        assert report.counts == {"repeated": 2} and {each.other for each in report.removed} == {"a"}


def test_one_question_with_two_answers_goes_altogether_but_answers_in_two_spellings_are_one():
    kept, report = clean([prompt("a", SHORT, "6"), prompt("b", SHORT, "7"), prompt("c", LONG)], {})
    assert [each.id for each in kept] == ["c"]
    assert [(each.id, each.other) for each in report.removed] == [("a", "b"), ("b", "a")]
    assert report.counts == {"conflicting answers": 2}
    kept, _ = clean([prompt("a", SHORT, "\\frac12"), prompt("b", SHORT, "$\\dfrac{1}{2}$")], {})
    assert [each.id for each in kept] == ["a"]


def test_tests_of_programs_do_not_conflict_and_another_figure_is_another_question():
    programs = [prompt("a", LONG, {"tests": [1]}, "code"), prompt("b", LONG, {"tests": [2]}, "code")]
    assert [each.id for each in clean(programs, {})[0]] == ["a"]
    drawn = [prompt(id, f"Find the area. [asy]draw({id});[/asy]", id) for id in "ab"]
    assert clean(drawn, {})[0] == drawn


def test_every_copy_of_an_evaluation_question_goes():
    copies = [prompt(id, LONG, id) for id in "ab"]
    kept, report = clean(copies, {"one": [question("q1", SHORT)], "two": [question("q2", LONG)]})
    assert not kept and report.counts == {"two: same text": 2}
    assert report.found == {"one": 0, "two": 1}


# ---------------------------------------------------------------- the report


def test_the_report_is_written_and_printed(tmp_path):
    prompts = [prompt("a", LONG), prompt("b", SHORT), prompt("c", SHORT)]
    _, report = clean(prompts, {"math500": [question("test/q[0].json", LONG)], "aime24": [question("q", "Else?")]})
    report.write(tmp_path / "clean.json")
    written = json.loads((tmp_path / "clean.json").read_text())
    assert written["prompts"] == 3 and written["kept"] == 1
    assert written["counts"] == {"math500: same text": 1, "repeated": 1}
    assert written["found"] == {"math500": 1, "aime24": 0}
    found = {"id": "a", "reason": "math500: same text", "other": "test/q[0].json", "cover": 1.0}
    assert found in written["removed"] and LONG not in (tmp_path / "clean.json").read_text()
    console = Console(file=io.StringIO(), width=100)
    report.print(console)
    shown = console.file.getvalue()
    assert "1 of 3 RL prompts kept" in shown and "a, test/q[0].json, 100%" in shown and "aime24: nothing" in shown


# ---------------------------------------------------------------- real data


def test_trial_prompts_hold_seven_questions_of_math500_and_none_of_aime(shared_data):
    """SOURCES.md of the trial data says that evaluation questions were removed by text; seven were spelt otherwise.

    Each pair was read: six are the evaluation question, three of them in other words; math-train-3304 is the first part
    of a question of two parts, whose second part is in MATH-500.
    """
    path = shared_data / "rl" / "rl_math_prompts.jsonl"
    template = PromptTemplate("{problem}", "math", "prompts.templates.math")
    prompts = read_prompts(Source((path,), (path.name,)), "plain", {"math": template}).prompts
    names = ("aime24", "aime25", "math500")
    sets = {name: load_problems(name, declare(shared_data / "eval" / f"{name}.jsonl")) for name in names}
    kept, report = clean(prompts, sets)
    assert report.found == {"aime24": 0, "aime25": 0, "math500": 7}
    removed = {
        each.reason: {other.id for other in report.removed if other.reason == each.reason} for each in report.removed
    }
    assert removed["math500: same text"] == {"aime-1983-1-2", "aime-1994-1-13", "aime-2016-1-10"}
    assert removed["math500: shared words"] == {
        *("aime-1995-1-9", "aime-2002-1-12", "aime-2006-2-5"),
        "math-train-3304",
    }
    assert report.counts["repeated"] == 124 and len(kept) == 3340
    assert clean(kept, sets)[0] == kept
    assert {each.id for each in clean(prompts[::-1], sets)[0]} == {each.id for each in kept}


def test_every_evaluation_question_is_found_in_itself_and_hardly_ever_in_another(shared_data):
    problems = load_problems("math500", declare(shared_data / "eval" / "math500.jsonl"))
    as_prompts = [prompt(each.id, "Problem. " + each.text + " Think first.", each.gold) for each in problems]
    kept, report = clean(as_prompts, {"math500": problems})
    assert all(len(words(each.text)) < 12 for each in kept)  # what is too short to be found with words around it
    assert {each.id for each in report.removed if each.id != each.other} == set()
