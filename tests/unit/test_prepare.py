"""Preparing data: what is kept, what is written, and that nothing is half-written."""

import json
import os
import signal
import threading
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_forking.data.choose import Chooser
from nemo_forking.data.folders import written_aside
from nemo_forking.data.prepare import prepare
from nemo_forking.data.problems import StrictError
from nemo_forking.data.settings import TAG_ROOM
from nemo_forking.data.token_file import TokenFile, length_statistics
from nemo_forking.errors import UserError
from tests.unit.sources import character_tokenizer, row, small_config, trace

TARGET_ENDS = len("answer\n4") + 2  # what the default target adds to a trace: two control tokens, and the answer's turn


def teachers_of(config):
    file = TokenFile(config.folder)
    questions = [file.question(index) for index in range(len(file))]
    return {q.id: [file.teachers[trace.teacher] for trace in q.traces] for q in questions}


def left_over(config):
    """Names beside the prepared folder that should not be there after a run."""
    return sorted(name for name in os.listdir(os.path.dirname(config.folder)) if name.startswith(".out"))


def test_tokens_come_back_as_they_were_encoded(tmp_path):
    second = row("ü", question="what is b?", answer="7", traces=[trace("cid", "is 7"), trace("ann", "7")])
    config = small_config(tmp_path, row("a"), second)
    prepared = prepare(config)
    file = TokenFile(config.folder)
    assert (len(file), file.teachers, file.manifest) == (2, ["ann", "bob", "cid"], prepared.manifest)
    first, second = file.question(0), file.question(1)
    assert (first.id, second.id, second.index) == ("a", "ü", 1)
    tokenizer = character_tokenizer()
    control = tokenizer.get_added_vocab()
    plain = {
        text: [tokenizer.convert_tokens_to_ids(c) for c in text] for text in ("Q: what is a?\n", "is 7", "answer\n7")
    }
    assert first.prompt.tolist() == plain["Q: what is a?\n"] and first.prompt.dtype == np.int64
    ends = [control["<|im_start|>"], *plain["answer\n7"], control["<|im_end|>"]]
    assert second.traces[0].ids.tolist() == plain["is 7"] + ends
    assert [file.teachers[trace.teacher] for trace in second.traces] == ["cid", "ann"]
    with pytest.raises(IndexError):
        file.question(2)


def test_the_manifest_tells_what_was_prepared_from_what(tmp_path):
    manifest = prepare(small_config(tmp_path, row("a"), row("b"), "{")).manifest
    assert manifest["counts"] == {"questions_read": 2, "traces_read": 4, "traces_not_chosen": 0} | {
        "questions_written": 2,
        "traces_written": 4,
    }
    assert manifest["problems"] == {"bad_json": 1}
    assert manifest["inputs"]["settings"]["traces"] == 2
    (source,) = manifest["inputs"]["sources"]
    assert source["name"] == "source.jsonl" and len(source["sha256"]) == 64
    assert set(manifest["inputs"]["tokenizer"]) == {"tokenizer.json", "tokenizer_config.json"}
    target = manifest["lengths"]["target"]
    assert (target["count"], target["max"]) == (4, len("two and two, 4") + TARGET_ENDS)
    assert target["total"] == sum(manifest["lengths"]["teacher"][name]["total"] for name in ("ann", "bob"))
    assert str(tmp_path) not in json.dumps(manifest)


def test_problems_are_written_beside_the_tokens(tmp_path):
    config = small_config(tmp_path, row("a"), row("b", answer=""), row("c", traces=[trace("ann", "is 4")]))
    report = prepare(config).report
    lines = (tmp_path / "out" / "problems.jsonl").read_text().splitlines()
    assert [(json.loads(line)["kind"], json.loads(line)["line"]) for line in lines] == [
        ("empty_field", 2),
        ("fewer_traces", 3),
    ]
    assert report.counts == {"empty_field": 1, "fewer_traces": 1}


def test_the_teachers_own_answer_stands_in_the_target(tmp_path):
    config = small_config(
        tmp_path, row(traces=[trace("ann", "so", answer="four"), trace("bob", "4")]), target="{trace}={answer}"
    )
    prepare(config)
    file, tokenizer = TokenFile(config.folder), character_tokenizer()
    texts = ["".join(tokenizer.convert_ids_to_tokens(trace.ids.tolist())) for trace in file.question(0).traces]
    assert texts == ["so=four", "4=4"]


FLAGS = [
    trace(f"t{i}", f"text {i}: 4", complete=c, correct=k)
    for i, (c, k) in enumerate([(True, True), (False, True), (None, False), (True, None)])
]


@pytest.mark.parametrize(
    ("complete", "correct", "kept"),
    [
        ("any", "any", ["t0", "t1", "t2", "t3"]),
        ("not_false", "any", ["t0", "t2", "t3"]),
        ("only_true", "any", ["t0", "t3"]),
        ("any", "not_false", ["t0", "t1", "t3"]),
        ("any", "only_true", ["t0", "t1"]),
        ("only_true", "only_true", ["t0"]),
    ],
)
def test_flags_filter_traces(tmp_path, complete, correct, kept):
    config = small_config(tmp_path, row(traces=FLAGS), traces=4, complete=complete, correct=correct)
    prepare(config)
    assert teachers_of(config) == {"q1": kept}


def test_only_the_named_teachers_are_used(tmp_path):
    config = small_config(tmp_path, row(traces=FLAGS), traces=4, teachers=["t3", "t0"])
    assert prepare(config).manifest["counts"]["traces_of_other_teachers"] == 2
    assert teachers_of(config) == {"q1": ["t0", "t3"]}


def test_long_traces_are_dropped_before_the_choice(tmp_path):
    traces = [trace("long", "4" * 60), trace("ann", "is 4"), trace("bob", "4 it is")]
    fits = len("Q: what is q1?\n") + TAG_ROOM + len("4 it is") + TARGET_ENDS
    config = small_config(tmp_path, row(traces=traces), choose="order", max_length=fits)
    report = prepare(config).report
    assert teachers_of(config) == {"q1": ["ann", "bob"]}
    (problem,) = report.examples["too_long"]
    length = len("Q: what is q1?\n") + TAG_ROOM + 60 + TARGET_ENDS
    parts = "(prompt 15 + tag 5 + target 70)"
    start = f"source.jsonl:1: traces[0].text: {length} tokens {parts}, over the limit of {fits} (trace dropped)"
    assert start in str(problem)
    prepare(replace(config, max_length=fits - 1))
    assert teachers_of(config) == {"q1": ["ann"]}


def test_questions_with_too_few_traces_are_dropped_and_with_few_reported(tmp_path):
    one, two = [trace("ann", "is 4")], [trace("ann", "is 4"), trace("bob", "4!")]
    config = small_config(tmp_path, row("a", traces=one), row("b", traces=two), traces=3, min_traces=2)
    report = prepare(config).report
    assert list(teachers_of(config)) == ["b"]
    assert ":1: traces: 1 usable trace, 3 asked, at least 2 needed (question dropped)" in str(
        report.examples["too_few_traces"][0]
    )
    assert ":2: traces: 2 usable traces, 3 asked (kept). Remedy: add traces" in str(report.examples["fewer_traces"][0])


def test_characters_the_tokenizer_does_not_know_drop_the_trace(tmp_path):
    config = small_config(tmp_path, row("a", traces=[trace("ann", "é4"), trace("bob", "is 4")]), row("é"), row("c"))
    report = prepare(config).report
    assert {id: len(teachers) for id, teachers in teachers_of(config).items()} == {"a": 1, "c": 2}
    fields = [(problem.line, problem.field) for problem in report.examples["unknown_character"]]
    assert fields == [(1, "traces[0].text"), (2, "question"), (2, "question")]


def test_a_question_limit_stops_early(tmp_path):
    config = small_config(tmp_path, row("a"), row("b", answer=""), row("c"), row("d"), max_questions=2)
    assert list(prepare(config).manifest and teachers_of(config)) == ["a", "c"]


def test_memory_bounded_batches_give_the_same_file_as_one_batch(tmp_path, monkeypatch):
    lines = [row(f"q{i}", traces=[trace(t, f"{t} says 4") for t in "abcd"[i % 2 :]]) for i in range(20)]
    config = small_config(tmp_path, *lines)
    prepare(config)
    whole = (tmp_path / "out" / "tokens.bin").read_bytes()
    monkeypatch.setattr("nemo_forking.data.prepare.BATCH_CHARACTERS", 30)
    prepare(replace(config, folder=str(tmp_path / "small")))
    assert (tmp_path / "small" / "tokens.bin").read_bytes() == whole


def test_a_rerun_does_nothing_until_something_changed(tmp_path):
    config = small_config(tmp_path, row("a"), row("b"))
    assert prepare(config).report is not None
    before = (tmp_path / "out" / "tokens.bin").stat()
    assert prepare(config).report is None
    assert prepare(replace(config, sample_down=True)).report is None  # has no part in what is prepared
    assert (tmp_path / "out" / "tokens.bin").stat().st_ino == before.st_ino
    assert prepare(replace(config, seed=1)).report is not None
    with open(config.source[0], "a") as source:
        source.write(json.dumps(row("c")) + "\n")
    assert prepare(config).report is not None
    assert list(teachers_of(config)) == ["a", "b", "c"]
    os.truncate(tmp_path / "out" / "tokens.bin", 8)
    assert prepare(config).report is not None
    assert len(TokenFile(config.folder)) == 3


def test_the_same_input_gives_the_same_bytes(tmp_path):
    config = small_config(tmp_path, *(row(f"q{i}", traces=FLAGS) for i in range(5)))
    prepare(config)
    prepare(replace(config, folder=str(tmp_path / "again")))
    for name in ("tokens.bin", "index.npz", "manifest.json", "problems.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"choose": "best"}, "data.choose is 'best'; choose one of balanced, random, order"),
        ({"complete": "true"}, "data.complete is 'true'; choose one of any, not_false, only_true"),
        ({"format": "csv"}, "data.format is 'csv'; choose one of native, s1k"),
        ({"min_traces": 3}, "data.min_traces is 3; it must lie between 1 and data.traces=2"),
        ({"max_length": 5}, "data.max_length is 5; it must leave room"),
        ({"max_questions": 0}, "data.max_questions is 0; give a number above 0, or null"),
        ({"source": []}, "data.source is not set; give data.source=..."),
        ({"source": ["none.jsonl"]}, "data.source: none.jsonl is not a file"),
        ({"tokenizer": "none"}, "tokenizer folder none does not exist"),
        ({"target": "{answer}"}, r"data.target: the template '\{answer\}' lacks \{trace\}"),
        ({"teachers": ["anne"]}, "data.teachers: no trace is by 'anne'; the sources have ann"),
        ({"max_length": 20}, r"no usable question in .*source.jsonl \(2 too_long, 1 too_few_traces\); mend the rows"),
        ({"strict": True, "traces": 3}, "2 usable traces, 3 asked .* Stopped, since data.strict is on"),
    ],
)
def test_a_refused_run_leaves_nothing_behind(tmp_path, settings, message):
    config = replace(small_config(tmp_path, row()), **settings)
    with pytest.raises(UserError, match=message):
        prepare(config)
    assert not (tmp_path / "out").exists() and left_over(config) == []


def test_a_refused_run_leaves_the_former_folder_as_it_was(tmp_path):
    config = small_config(tmp_path, row("a"))
    prepare(config)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match="no usable question"):
        prepare(replace(config, max_length=20))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_strict_run_stops_at_the_first_problem_of_the_file(tmp_path):
    lines = [row("a"), row("b", traces=[trace("ann", "4"), trace("bob", "4" * 500)]), row("c", question="")]
    config = small_config(tmp_path, *lines, strict=True)
    with pytest.raises(StrictError, match=r"source.jsonl:2: traces\[1\].text: 5\d\d tokens .*over the limit of 400"):
        prepare(config)
    assert not (tmp_path / "out").exists() and left_over(config) == []
    with pytest.raises(StrictError, match="holds 1 control token as text: <|im_end|>"):
        prepare(small_config(tmp_path, row(question="<|im_end|>?"), strict=True))


@pytest.mark.parametrize("former", [False, True])
def test_a_killed_run_leaves_no_half_folder_and_the_next_one_finishes(tmp_path, former):
    config = small_config(tmp_path, *(row(f"q{i}") for i in range(6)))
    if former:
        prepare(config)
        config = replace(config, seed=1)
    child = os.fork()
    if child == 0:  # dies in the middle of the source, with part of the work written aside
        prepare(config, advance=lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done > total / 2 else None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "out").exists() == former
    assert left_over(config) == [".out.partial"]
    assert prepare(config).report is not None
    assert len(TokenFile(config.folder)) == 6 and left_over(config) == []


def test_two_runs_at_once_are_kept_apart(tmp_path):
    config = small_config(tmp_path, row("a"))
    errors = []

    def second_run(done, total):
        with pytest.raises(UserError, match="another process is preparing .*out; wait for it") as caught:
            prepare(config)
        errors.append(caught.value)

    prepare(config, advance=second_run)
    assert len(errors) == 1 and len(TokenFile(config.folder)) == 1


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    config = small_config(tmp_path, row("a"))
    (tmp_path / "out").mkdir()
    prepare(config)  # an empty folder is fine
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="precious exists and is no prepared data .*; remove it or set data.folder"):
        prepare(replace(config, folder=str(precious)))
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_an_error_inside_the_block_removes_what_was_written_aside(tmp_path):
    with pytest.raises(KeyboardInterrupt), written_aside(tmp_path / "out", "mark") as aside:
        (aside / "mark").write_text("")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_damaged_folders_are_refused(tmp_path):
    config = small_config(tmp_path, row("a"), row("b"))
    prepare(config)
    folder, good = tmp_path / "out", (tmp_path / "out" / "tokens.bin").read_bytes()
    (folder / "tokens.bin").write_bytes(good[:-4])
    with pytest.raises(
        UserError, match=r"tokens.bin has \d+ bytes, but its manifest says \d+; remove the folder and prepare"
    ):
        TokenFile(folder)
    (folder / "tokens.bin").write_bytes(bytes([good[0] ^ 1]) + good[1:])
    with pytest.raises(UserError, match="tokens.bin was changed after it was prepared"):
        TokenFile(folder)
    TokenFile(folder, verify=False)
    (folder / "tokens.bin").write_bytes(good)
    (folder / "index.npz").unlink()
    with pytest.raises(UserError, match="index.npz is missing"):
        TokenFile(folder)
    (folder / "manifest.json").write_text('{"version": 99}')
    with pytest.raises(UserError, match="has version 99, not 1; prepare the data again"):
        TokenFile(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="manifest.json is not JSON"):
        TokenFile(folder)
    with pytest.raises(UserError, match="none holds no prepared data; run recipes/prepare_data.py with data.folder="):
        TokenFile(tmp_path / "none")


def test_the_order_rule_takes_the_first_traces():
    assert Chooser("order", 2, seed=0).choose("q", list("abcd")) == [0, 1]


@pytest.mark.parametrize("rule", ["random", "balanced"])
def test_a_choice_depends_on_the_seed_and_is_uniform_over_questions(rule):
    def pairs(seed):
        return [tuple(Chooser(rule, 2, seed).choose(f"q{i}", list("abcd"))) for i in range(600)]

    counts = Counter(pairs(0))
    assert pairs(0) == pairs(0) != pairs(1)
    assert set(counts) == set(combinations(range(4), 2)) and min(counts.values()) > 60


def test_the_balanced_rule_evens_out_teachers_that_are_present_unevenly():
    balanced, drawn = Chooser("balanced", 2, seed=0), Chooser("random", 2, seed=0)
    for i in range(300):
        teachers = ["often", "always", "daily", *(["rare"] if i % 3 == 0 else [])]
        balanced.choose(f"q{i}", teachers)
        drawn.choose(f"q{i}", teachers)
    assert balanced.used["rare"] >= 99  # used wherever present, but for a tie at the start
    assert max(balanced.used.values()) - min(balanced.used[name] for name in ("often", "always", "daily")) <= 1
    assert drawn.used["rare"] < 70


@given(
    rule=st.sampled_from(["order", "random", "balanced"]),
    count=st.integers(1, 5),
    questions=st.lists(st.lists(st.sampled_from("abcde"), max_size=7), max_size=8),
)
def test_a_choice_is_as_many_as_there_are_in_order_and_prefers_new_teachers(rule, count, questions):
    chooser = Chooser(rule, count, seed=3)
    for i, teachers in enumerate(questions):
        chosen = chooser.choose(f"q{i}", teachers)
        assert chosen == sorted(set(chosen)) and len(chosen) == min(count, len(teachers))
        if rule == "balanced":
            assert len({teachers[j] for j in chosen}) == min(count, len(set(teachers)))
    assert chooser.used.total() == sum(min(count, len(teachers)) for teachers in questions)


def test_length_statistics_against_a_sorted_list():
    lengths = np.array([5, 1, 9, 2, 2, 7, 30, 4, 4, 6])
    statistics = length_statistics(lengths)
    assert statistics == {"count": 10, "total": 70, "mean": 7.0, "p50": 5, "p90": 30, "p99": 30, "max": 30}
    assert length_statistics(np.array([], dtype=int))["count"] == 0


def test_real_traces_are_prepared_with_the_real_tokenizer(tmp_path, shared_data):
    with open(shared_data / "traces" / "multi_trace.jsonl") as lines:
        rows = [line for number, line in enumerate(lines) if number in (0, 67, 69, 232, 300, 500)]
    config = small_config(tmp_path, *(line.rstrip("\n") for line in rows), traces=4, max_length=32768, prompt="chat")
    config = replace(config, tokenizer=str(shared_data / "tokenizer"), complete="any", correct="any")
    report = prepare(config).report
    file = TokenFile(config.folder)
    assert len(file) == 6
    assert report.counts == {"too_long": 1, "control_token": 1, "answer_unreached": 2}
    for index in range(len(file)):
        question = file.question(index)
        assert 1 <= len(question.traces) <= 4
        for target in (one.ids for one in question.traces):
            assert target[-1] == 151645 and (target >= 151643).sum() == 2
            assert len(question.prompt) + TAG_ROOM + len(target) <= 32768


def test_readers_in_many_threads_do_not_disturb_each_other(tmp_path):
    config = small_config(tmp_path, *(row(f"q{i}") for i in range(20)))
    prepare(config)
    file = TokenFile(config.folder)
    expected = [file.question(i).prompt.tolist() for i in range(20)]
    wrong = []

    def read():
        wrong.extend(i for i in range(20) if file.question(i).prompt.tolist() != expected[i])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
