"""One grader over questions of several kinds of answer."""

import json

import pytest

from nemo_forking.config.evaluation import GradingConfig
from nemo_forking.errors import UserError
from nemo_forking.evaluation.folder import GRADING, SAMPLES
from nemo_forking.evaluation.grading import grade_samples
from nemo_forking.rewards import Graded, Grader, Item, open_graders
from nemo_forking.rewards.choice import ChoiceGrader
from nemo_forking.rewards.several import SeveralGrader

GRADING_LIMITS = GradingConfig(workers=1, math_seconds=2.0, code_seconds=2.0, code_memory_mib=512)
ANSWERS = {"w": "many_ways", "m": "math", "c": "choice"}


def test_of_one_kind_it_is_that_kinds_own_grader():
    with open_graders({"a": "choice", "b": "choice"}, GRADING_LIMITS) as grader:
        assert isinstance(grader, ChoiceGrader)


def test_every_item_is_graded_by_the_rules_of_its_question():
    items = [
        Item("0", "worked\n123", "123", "w"),
        Item("1", "Answer: B", "C", "c"),
        Item("2", "Answer: B", "B", "c"),
        Item("3", "Answer: B", "B", "w"),
        Item("4", "worked\n123", "B", "c"),
    ]
    with open_graders(ANSWERS, GRADING_LIMITS) as grader:
        found = dict(grader.stream(items))
        described = grader.describe()
    assert described["name"] == "several" and described["math"]["name"] == "math"
    assert {id: graded.verdict for id, graded in found.items()} == {
        "0": "correct",
        "1": "wrong",
        "2": "correct",
        "3": "unparsable",
        "4": "unparsable",
    }


def test_samples_of_several_kinds_are_graded_in_a_folder(tmp_path):
    texts = {"w": "worked\n123", "c": "Answer: C"}
    lines = [
        {"question": question, "slot": slot, "round": 0, "tag": slot, "text": text, "tokens": 2, "finish": "stop"}
        for question, text in texts.items()
        for slot in range(2)
    ]
    (tmp_path / SAMPLES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    answers = {question: ANSWERS[question] for question in texts}
    verdicts = grade_samples(lambda: open_graders(answers, GRADING_LIMITS), {"w": "123", "c": "B"}, tmp_path)
    assert [line["verdict"] for line in verdicts] == ["correct", "correct", "wrong", "wrong"]
    assert set(json.loads((tmp_path / GRADING).read_text())["grader"]) == {"name", "choice", "many_ways"}


def test_an_unknown_kind_no_question_and_a_question_of_no_kind_are_errors():
    with pytest.raises(UserError, match="answer='zebra'"):
        open_graders({"w": "many_ways", "z": "zebra"}, GRADING_LIMITS)
    with pytest.raises(ValueError, match="no questions"):
        open_graders({}, GRADING_LIMITS)
    with open_graders({"w": "many_ways", "c": "choice"}, GRADING_LIMITS) as grader, pytest.raises(KeyError, match="x"):
        list(grader.stream([Item("0", "", "", "x")]))


class Closing(Grader):
    """Says when it is closed; may fail at that."""

    def __init__(self, fails=False):
        self.fails, self.closed = fails, False

    def stream(self, items):
        yield from ((item.id, Graded("wrong", None)) for item in items)

    def describe(self):
        return {"name": "closing", "sandbox": {"kernel": "a"}}

    def close(self):
        self.closed = True
        if self.fails:
            raise OSError("it would not end")


def test_all_are_closed_and_the_sandbox_of_a_machine_is_told_apart_from_what_verdicts_depend_on():
    graders = {"a": Closing(fails=True), "b": Closing(fails=True)}
    with pytest.raises(OSError, match="would not end"), SeveralGrader({"q": "a"}, graders) as several:
        assert several.describe() == {
            "name": "several",
            "a": {"name": "closing"},
            "b": {"name": "closing"},
            "sandbox": {"kernel": "a"},
        }
    assert graders["a"].closed and graders["b"].closed
