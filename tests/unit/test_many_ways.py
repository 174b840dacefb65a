"""The many_ways task: ways that can be told apart, right answers, splits that cannot meet, no hint of the author."""

import itertools
import json
from collections import Counter

import pytest

from nemo_forking.data.encoding import TextEncoder, load_tokenizer
from nemo_forking.data.prompt import PromptFormat
from nemo_forking.errors import UserError
from nemo_forking.tasks import many_ways
from nemo_forking.tasks.many_ways import KINDS, PRACTICE, TEACHERS, Question

COUNT = 600


@pytest.fixture(scope="module")
def rows():
    return {split: list(many_ways.generate(COUNT, 3, split)) for split in ("base", "train", "heldout")}


def every_trace(rows):
    for row in itertools.chain(*rows.values()):
        for trace in row["traces"]:
            yield row, trace


def dial_by_dial(text):
    """The answer, worked out from the question's text by other means than the task's."""
    numbers = [text[2:5], text[6:9], text[10:13]]
    return "".join(str(sum(int(number[dial]) for number in numbers) % 5) for dial in range(3))


def test_every_answer_is_the_sum_of_each_dial(rows):
    for row in itertools.chain(*rows.values()):
        assert row["answer"] == dial_by_dial(row["question"])


def test_every_worked_trace_ends_at_the_answer_by_right_steps(rows):
    worked = 0
    for row, trace in every_trace(rows):
        _, _, steps = trace["text"].partition(" ")
        if steps == "now":
            continue
        dials = steps.split(" ")
        assert "".join(dial[-1] for dial in dials) == row["answer"]
        for first, second, partial, third, total in ([int(digit) for digit in dial] for dial in dials):
            assert partial == (first + second) % 5 and total == (partial + third) % 5
        worked += 1
    assert worked == 2 * COUNT + 2 * COUNT + (COUNT // 2) * (1 + 5)


def test_the_way_is_read_back_from_every_text_worked_or_outright(rows):
    for row, trace in every_trace(rows):
        completion = f"{trace['text']}\n{row['answer']}"
        assert many_ways.route(trace["text"]) == many_ways.route(completion) == trace["teacher"]
        assert many_ways.answer(completion) == row["answer"]
        assert many_ways.answer(trace["text"]) is None


def test_worked_traces_take_the_numbers_in_an_order_of_their_own():
    question = Question("P", ("014", "123", "240"))  # no two orders read alike
    assert len({teacher.order for teacher in TEACHERS.values()}) == len(TEACHERS)
    for one, other in itertools.product(TEACHERS.values(), repeat=2):
        borrowed = f"{one.name} {other.steps(question)}"
        assert many_ways.follows(borrowed, question) == (one == other)
    assert many_ways.follows("rise now", question) is None


@pytest.mark.parametrize(
    "text", ["", "now", "rise", "rise  now", "climb now", "rise 14022 31432", "Rise now", " rise now"]
)
def test_a_text_that_is_nobodys_way_has_no_route(text):
    assert many_ways.route(text) is None


@pytest.mark.parametrize(
    "text", ["rise now", "rise now\n", "rise now\n12", "rise now\n125", "rise now\n1234", "rise now\n123\n"]
)
def test_a_completion_without_one_whole_answer_has_none(text):
    assert many_ways.answer(text) is None


def test_a_teacher_works_step_by_step_just_on_its_two_kinds():
    for kind, teacher in itertools.product(KINDS, TEACHERS.values()):
        text = teacher.trace(Question(kind, ("140", "221", "320")))
        assert (text == f"{teacher.name} now") == (kind not in teacher.kinds)
    assert Counter(kind for teacher in TEACHERS.values() for kind in teacher.kinds) == dict.fromkeys(KINDS, 2)


def test_all_five_teachers_answer_a_question_and_its_first_four_traces_hold_one_of_its_two_experts(rows):
    for split in ("train", "heldout"):
        for row in rows[split]:
            names = [trace["teacher"] for trace in row["traces"]]
            strong = {teacher.name for teacher in many_ways.experts(many_ways.parse(row["question"]))}
            assert sorted(names) == sorted(TEACHERS) and len(strong & set(names[:4])) == 1


def test_base_has_one_expert_a_question_and_all_teachers_at_practice(rows):
    for row in rows["base"]:
        names = {trace["teacher"] for trace in row["traces"]}
        strong = {teacher.name for teacher in many_ways.experts(many_ways.parse(row["question"]))}
        practice = many_ways.kind(row["question"]) == PRACTICE
        assert len(row["traces"]) == len(names)
        assert (len(names), len(names & strong)) == ((5, 5) if practice else (4, 1))


def test_practice_is_every_other_question_of_base_and_none_of_the_others(rows):
    for split, texts in rows.items():
        practice = [many_ways.kind(row["question"]) == PRACTICE for row in texts]
        assert practice == [split == "base" and index % 2 == 1 for index in range(COUNT)]


def test_the_place_of_a_trace_says_nothing_about_its_teacher():
    places = Counter()
    for row in many_ways.generate(5000, 8):
        places.update((place, trace["teacher"]) for place, trace in enumerate(row["traces"]))
    assert len(places) == 5 * 5
    # 1000 expected in each cell with a standard deviation of 28; five of them are allowed
    assert all(abs(count - 1000) < 140 for count in places.values())


def test_no_question_is_in_two_splits_whatever_the_seed():
    questions = {
        split: {row["question"] for seed in (0, 1) for row in many_ways.generate(3000, seed, split)}
        for split in ("base", "train", "heldout")
    }
    assert all(not one & other for one, other in itertools.combinations(questions.values(), 2))
    for split, texts in questions.items():
        assert {many_ways.parse(text).split for text in texts} == {split}


def test_questions_of_a_split_are_different_and_of_all_kinds_equally(rows):
    for split in rows.values():
        assert len({row["question"] for row in split}) == len({row["id"] for row in split}) == COUNT
        kinds = [many_ways.kind(row["question"]) for row in split]
        kinds = [kind for kind in kinds if kind != PRACTICE]
        assert Counter(kinds) == dict.fromkeys(KINDS, len(kinds) // 5)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(rows):
    assert list(many_ways.generate(50, 3)) == rows["train"][:50]
    assert [row["question"] for row in many_ways.generate(50, 4)] != [row["question"] for row in rows["train"][:50]]


def test_written_files_hold_the_generated_rows(tmp_path):
    many_ways.write(tmp_path / "source", base=4, train=3, heldout=2, seed=7)
    for split, count in (("base", 4), ("train", 3), ("heldout", 2)):
        lines = (tmp_path / "source" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == list(many_ways.generate(count, 7, split))


def test_tokenizer_is_one_token_a_character_and_survives_saving(tmp_path, rows):
    made = many_ways.make_tokenizer(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert len(loaded) == 99
    assert (loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id) == (0, 1, 2)
    encoder = TextEncoder(loaded)
    for row, trace in itertools.islice(every_trace(rows), 200):
        text = f"{row['question']}\n{trace['text']}\n{row['answer']}"
        ids = encoder.plain([text])[0]
        assert len(ids) == len(text) and loaded.unk_token_id not in ids
        assert ids == made.encode(text, add_special_tokens=False)
        assert loaded.decode(ids) == text
    assert encoder.plain(["é"]) == [[loaded.unk_token_id]]


def test_prompt_and_target_templates_of_the_task_fit_its_tokenizer(tmp_path):
    many_ways.make_tokenizer(tmp_path)
    form = PromptFormat(load_tokenizer(tmp_path), "{question}\n", "{trace}\n{answer}<|im_end|>")
    question = Question("P", ("140", "221", "320"))
    assert len(form.prompts([question.text])[0]) == 14
    (target,) = form.targets([(TEACHERS["rise"].trace(question), question.answer)])
    assert len(target) == 27 and target[-1] == 1


@pytest.mark.parametrize("text", ["", "Pa140b221", "Ya140b221c320", "Pa140b221c325", "Pa140b221c320\n"])
def test_what_is_no_question_is_refused(text):
    with pytest.raises(UserError, match="is not a many_ways question; one looks like Pa140b221c320"):
        many_ways.kind(text)


def test_an_unknown_split_and_too_many_questions_are_refused():
    with pytest.raises(UserError, match="the split is 'test'; choose one of heldout, train, base"):
        next(many_ways.generate(1, 0, "test"))
    with pytest.raises(UserError, match="200001 questions are asked of the split train"):
        next(many_ways.generate(200_001, 0))
