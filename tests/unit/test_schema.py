"""The source schema: what is read, and every kind of bad line with its place, outcome and remedy."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_forking.data.checks import check_answer, check_control_tokens, occurs
from nemo_forking.data.encoding import TextEncoder
from nemo_forking.data.problems import KINDS, Report, StrictError
from nemo_forking.data.schema import read_questions
from nemo_forking.errors import UserError
from tests.unit.sources import character_tokenizer, row, trace, write_lines


def read(path, format="native", strict=False, seen=None):
    report = Report(strict)
    return list(read_questions(path, format, report, {} if seen is None else seen)), report


def only_problem(tmp_path, *lines, format="native"):
    """Read lines that hold one problem; give it as text, without the folder, with the ids that were read."""
    questions, report = read(write_lines(tmp_path / "t.jsonl", *lines), format)
    assert report.counts.total() == 1, report.examples
    (problems,) = report.examples.values()
    return str(problems[0]).replace(f"{tmp_path}/", ""), [q.id for q in questions]


def test_a_valid_row_is_read_whole(tmp_path):
    traces = [trace("ann", "so 4", complete=True, correct=None, n_tokens=3), trace("bob", "4!", answer="four")]
    questions, report = read(write_lines(tmp_path / "t.jsonl", row(traces=traces, source="somewhere")))
    (question,) = questions
    assert (question.id, question.question, question.answer, question.line) == ("q1", "what is q1?", "4", 1)
    assert [(t.teacher, t.text, t.answer, t.complete, t.correct) for t in question.traces] == [
        ("ann", "so 4", None, True, None),
        ("bob", "4!", "four", None, None),
    ]
    assert not report.counts


def test_byte_order_mark_blank_lines_and_a_missing_last_newline_are_harmless(tmp_path):
    text = b"\xef\xbb\xbf" + json.dumps(row("a")).encode() + b"\r\n\n  \n" + json.dumps(row("b")).encode()
    (tmp_path / "t.jsonl").write_bytes(text)
    questions, report = read(tmp_path / "t.jsonl")
    assert [(q.id, q.line) for q in questions] == [("a", 1), ("b", 4)]
    assert not report.counts


BAD_LINES = {
    "bad_utf8": (
        b'{"id": "caf\xe9"}',
        "t.jsonl:2: line: byte 0xe9 at column 12 is not UTF-8 (line dropped). Remedy: save the file as UTF-8.",
    ),
    "bad_json": (
        '{"id": "x", ',
        "t.jsonl:2: line: not JSON: Expecting property name enclosed in double quotes at column 12 (line dropped). "
        "Remedy: write one complete JSON object on every line.",
    ),
    "nested": ("[" * 100_000, "t.jsonl:2: line: not JSON: nested too deep"),
    "not_an_object": ("[1, 2]", "t.jsonl:2: line: holds a list instead of an object (line dropped)."),
    "missing question": (row("x", question=...), "t.jsonl:2: question: the field 'question' is missing (line dropped)"),
    "null answer": (row("x", answer=None), "t.jsonl:2: answer: the field 'answer' is missing (line dropped)"),
    "misspelt traces": (
        {"id": "x", "question": "?", "answer": "4", "trace": []},
        "t.jsonl:2: traces: the field 'traces' (is 'trace' meant?) is missing (line dropped). Remedy: add the field.",
    ),
    "empty question": (
        row("x", question="  \n"),
        "t.jsonl:2: question: the field is empty (line dropped). Remedy: fill",
    ),
    "number for an answer": (row("x", answer=4), "t.jsonl:2: answer: a number instead of a string (line dropped)."),
    "number for an id": (row(7), "t.jsonl:2: id: a number instead of a string (line dropped)."),
    "half a surrogate": (
        '{"id": "x", "question": "\\ud83d", "answer": "4", "traces": [{"teacher": "a", "text": "4"}]}',
        "t.jsonl:2: question: the text holds half a surrogate pair (line dropped). Remedy: remove the unpaired",
    ),
    "traces not a list": (
        row("x", traces={}),
        "t.jsonl:2: traces: an object instead of a list of objects (line dropped)",
    ),
    "no traces": (row("x", traces=[]), "t.jsonl:2: traces: the question has no traces (line dropped)"),
    "same id again": (
        row("first"),
        "t.jsonl:2: id: the id 'first' was used before, at t.jsonl:1 (line dropped). Remedy: giv",
    ),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_reported_and_dropped_alone(tmp_path, name):
    line, message = BAD_LINES[name]
    text, ids = only_problem(tmp_path, row("first"), line, row("last"))
    assert text.startswith(message)
    assert ids == ["first", "last"]


BAD_TRACES = {
    "no teacher": ({"text": "4"}, "traces[1].teacher: the field 'teacher' is missing (trace dropped)"),
    "no text": ({"teacher": "x"}, "traces[1].text: the field 'text' is missing (trace dropped)"),
    "empty text": (trace("x", ""), "traces[1].text: the field is empty (trace dropped)"),
    "text is a list": (trace("x", ["4"]), "traces[1].text: a list instead of a string (trace dropped)"),
    "a string": ("4", "traces[1]: a string instead of an object (trace dropped)"),
    "flag is a string": (
        trace("x", "is 4", correct="yes"),
        "traces[1].correct: a string instead of true or false (trace dr",
    ),
    "empty answer": (trace("x", "is 4", answer=" "), "traces[1].answer: the field is empty (trace dropped)"),
    "same text": (trace("x", "so 4\n"), "traces[1].text: the text equals that of traces[0] (ann) (trace dropped)"),
}


@pytest.mark.parametrize("name", BAD_TRACES)
def test_a_bad_trace_is_reported_and_dropped_alone(tmp_path, name):
    bad, message = BAD_TRACES[name]
    path = write_lines(tmp_path / "t.jsonl", row(traces=[trace("ann", "so 4"), bad, trace("bob", "4!")]))
    (question,), report = read(path)
    assert [(t.position, t.teacher) for t in question.traces] == [(0, "ann"), (2, "bob")]
    (problem,) = [p for problems in report.examples.values() for p in problems]
    assert str(problem).replace(f"{tmp_path}/", "").startswith(f"t.jsonl:1: {message}")


def test_a_row_whose_traces_are_all_bad_is_not_used(tmp_path):
    _, ids = only_problem(tmp_path, row(traces=[trace("ann", " ")]))
    assert ids == []


def test_a_misspelt_optional_field_is_named_and_other_fields_pass(tmp_path):
    text, ids = only_problem(tmp_path, row(traces=[trace("ann", "4", corect=True, n_tokens=1)], category="sums"))
    assert text.startswith("t.jsonl:1: traces[0].corect: the unknown field looks like 'correct' and is ignored (kept).")
    assert ids == ["q1"]


def test_ids_are_unique_over_all_files(tmp_path):
    seen = {}
    read(write_lines(tmp_path / "a.jsonl", row("same")), seen=seen)
    questions, report = read(write_lines(tmp_path / "b.jsonl", row("same"), row("other")), seen=seen)
    assert [q.id for q in questions] == ["other"]
    assert str(tmp_path / "a.jsonl") in report.examples["duplicate_id"][0].message


def test_a_strict_run_stops_at_the_first_problem(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", row("a"), row("b", answer=""), "{")
    with pytest.raises(StrictError, match=r"t.jsonl:2: answer: the field is empty .* Stopped, since data.strict is on"):
        read(path, strict=True)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="none.jsonl is not a file; give the path of a JSONL file"):
        read(tmp_path / "none.jsonl")


def test_every_problem_is_written_and_only_the_first_few_are_kept(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", *(row(f"q{i}", answer="") for i in range(9)))
    with open(tmp_path / "problems.jsonl", "w") as sink:
        report = Report(sink=sink)
        assert list(read_questions(path, "native", report, {})) == []
    written = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    assert [problem["line"] for problem in written] == list(range(1, 10))
    assert set(written[0]) == {"kind", "file", "line", "field", "message", "outcome", "remedy"}
    assert report.counts == {"empty_field": 9} and len(report.examples["empty_field"]) == 3


texts = st.text(alphabet=st.sampled_from("ab4 \n\ud800é"), max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["teacher", "text", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["id", "question", "answer", "traces", "extra"]), json_values))
def test_whatever_a_row_holds_it_is_used_or_reported(tmp_path_factory, fields):
    path = write_lines(tmp_path_factory.mktemp("rows") / "t.jsonl", fields)
    questions, report = read(path)
    assert questions or report.counts
    for question in questions:
        assert question.traces and all(trace.text.strip() for trace in question.traces)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_whatever_bytes_a_line_holds_reading_goes_on(tmp_path_factory, raw):
    path = write_lines(tmp_path_factory.mktemp("rows") / "t.jsonl", raw.replace(b"\n", b" "), row("after"))
    questions, _ = read(path)
    assert questions[-1].id == "after"


def test_s1k_rows_become_questions_with_one_trace_a_trajectory(tmp_path):
    line = {
        "question": "2+2?",
        "solution": "It is 4.",
        "thinking_trajectories": ["hm, 4"],
        "attempt": "Answer: 4",
        "cot": None,
    }
    (question,), report = read(write_lines(tmp_path / "t.jsonl", line), "s1k")
    assert question.id.startswith("s1k-") and question.answer == "It is 4."
    assert [(t.teacher, t.text, t.answer) for t in question.traces] == [("trajectory-1", "hm, 4", "Answer: 4")]
    assert not report.counts


def test_s1k_1_1_columns_are_teachers_with_attempts_and_grades(tmp_path):
    line = {
        "question": "2+2?",
        "solution": "4",
        "gemini_thinking_trajectory": "I think 4",
        "gemini_attempt": "4.",
        "gemini_grade": "No",
        "deepseek_thinking_trajectory": "surely 4",
        "deepseek_attempt": "It is 4.",
        "deepseek_grade": "Yes",
        "opus_thinking_trajectory": "my own column",
        "gpt_thinking_trajectory": None,
    }
    (question,), report = read(write_lines(tmp_path / "t.jsonl", line), "s1k")
    assert [(t.teacher, t.answer, t.correct) for t in question.traces] == [
        ("gemini", "4.", False),
        ("deepseek", "It is 4.", True),
        ("opus", None, None),
    ]
    assert not report.counts


def test_s1k_problems_name_the_columns_of_the_source(tmp_path):
    lines = [
        {"question": "2+2?", "solution": "4", "deepseek_thinking_trajectory": "  ", "gemini_thinking_trajectory": "4"},
        {"question": "2+3?", "thinking_trajectories": ["5"]},
        {"question": "2+4?", "solution": "6"},
        {"question": "2+2?", "solution": "4", "thinking_trajectories": ["4"]},
    ]
    questions, report = read(write_lines(tmp_path / "t.jsonl", *lines), "s1k")
    assert [len(q.traces) for q in questions] == [1]
    fields = {(p.line, p.kind): p.field for problems in report.examples.values() for p in problems}
    assert fields == {
        (1, "empty_field"): "deepseek_thinking_trajectory",
        (2, "missing_field"): "answer",
        (3, "missing_field"): "thinking_trajectories or <teacher>_thinking_trajectory",
        (4, "duplicate_id"): "id",
    }


def check(tmp_path, line):
    (question,), report = read(write_lines(tmp_path / "t.jsonl", line))
    check_answer(question, report)
    return [str(p).replace(f"{tmp_path}/", "") for p in report.examples.get("answer_unreached", [])]


def test_correct_flags_decide_whether_the_answer_is_reached(tmp_path):
    wrong = [trace("ann", "it is 4", correct=False), trace("bob", "clearly 4", correct=False)]
    (message,) = check(tmp_path, row(traces=wrong))
    assert message.startswith(
        "t.jsonl:1: answer: none of 2 traces reaches it (2 flagged incorrect) (kept). Remedy: check"
    )
    assert check(tmp_path, row(traces=[*wrong, trace("cid", "by symmetry", correct=True)])) == []


def test_without_flags_the_answer_is_looked_for_at_the_end_of_the_traces(tmp_path):
    assert check(tmp_path, row(answer="12", traces=[trace("ann", "so 112"), trace("bob", "about 12.5")])) != []
    assert check(tmp_path, row(answer="12", traces=[trace("ann", "so 112"), trace("bob", "it is 12.")])) == []
    assert check(tmp_path, row(answer="12", traces=[trace("ann", "12 apples" + " and so on" * 500)])) != []
    rubric = "Says that the premise is wrong and names the missing barber"
    assert check(tmp_path, row(answer=rubric, traces=[trace("ann", "no idea")])) == []


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("\\dfrac{1}{2}", "thus $\\frac{1}{2}$"),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "\\boxed{(3,\\frac{\\pi}{2})}"),
        ("11\\sqrt2", "it equals $11\\sqrt{2}$."),
        ("1,234", "1234 people"),
        ("90^\\circ", "an angle of 90 degrees"),
        ("\\text{Evelyn}", "the fastest is Evelyn"),
        ("(B)", "option (B)"),
        ("-3", "x = -3"),
    ],
)
def test_an_answer_is_found_however_it_is_spelt(answer, text):
    assert occurs(answer, text)


@pytest.mark.parametrize(("answer", "text"), [("3", "x = 13"), ("C", "Clearly"), ("2", "2.5"), ("x+1", "x + 2")])
def test_a_part_of_another_number_or_word_is_not_the_answer(answer, text):
    assert not occurs(answer, text)


def test_control_tokens_in_text_are_reported_but_kept(tmp_path):
    line = row(
        question="what does <|im_end|> mean?", traces=[trace("ann", "4 <|im_start|>a<|im_start|>"), trace("bob", "4")]
    )
    (question,), report = read(write_lines(tmp_path / "t.jsonl", line))
    check_control_tokens(question, TextEncoder(character_tokenizer()), report)
    messages = [str(problem).replace(f"{tmp_path}/", "") for problem in report.examples["control_token"]]
    assert messages[0].startswith(
        "t.jsonl:1: question: holds 1 control token as text: <|im_end|> (kept). Remedy: none needed"
    )
    assert messages[1].startswith("t.jsonl:1: traces[0].text: holds 2 control tokens as text: <|im_start|> (kept).")
    assert len(question.traces) == 2


def test_every_kind_of_problem_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []
