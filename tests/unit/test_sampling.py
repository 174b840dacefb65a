"""Drawing samples with an engine whose completions follow from the request's prompt and seed alone."""

import json

import pytest

from nemo_forking.engines import Completion, Engine
from nemo_forking.errors import UserError
from nemo_forking.evaluation.sampling import (
    HeldOut,
    Reader,
    SamplingSettings,
    draw_samples,
    load_samples,
    weights_hash,
)

STOP = 9
TAGS = ((101,), (102,), (103,))
QUESTIONS = [HeldOut(id=f"q{i}", prompt=(i,), answer=str(i), kind="even" if i % 2 == 0 else "odd") for i in range(4)]
SETTINGS = SamplingSettings(rounds=2, max_tokens=5, stop=(STOP,))


class Scripted(Engine):
    """Writes the question's number, the tag's id and a seeded number; dies after a given number of completions."""

    def __init__(self, die_after=None):
        self.asked = []
        self.die_after = die_after

    def describe(self):
        return {"engine": "scripted"}

    def stream(self, requests):
        for count, request in enumerate(reversed(requests)):
            if count == self.die_after:
                raise KeyboardInterrupt
            self.asked.append(request)
            question, tag = request.prompt
            if tag == 103:
                yield Completion(request.id, [tag] * request.max_tokens, [0.0] * request.max_tokens, "length")
            else:
                yield Completion(request.id, [question, tag, request.seed % 97, STOP], [0.0] * 4, "stop")


READER = Reader(
    decode=lambda ids: " ".join(map(str, ids)),
    answer=lambda text: None if text.startswith("103") else text.split()[0],
    route=lambda text: "left" if "101" in text else "right",
)


def draw(path, engine=None, **changes):
    arguments = {"questions": QUESTIONS, "tags_NK": TAGS, "settings": SETTINGS, **changes}
    return draw_samples(engine or Scripted(), reader=READER, path=path, **arguments)


def test_every_question_tag_and_round_is_drawn_once_and_parsed(tmp_path):
    path = tmp_path / "new" / "samples.jsonl"
    samples = draw(path)
    assert load_samples(path) == samples
    assert [(s["question"], s["tag"], s["round"]) for s in samples] == [
        (question.id, tag, round_) for question in QUESTIONS for tag in range(3) for round_ in range(2)
    ]
    stopped, cut = samples[6], samples[10]
    assert stopped["text"].split()[:2] == ["1", "101"] and len(stopped["text"].split()) == 3
    assert (stopped["answer"], stopped["route"], stopped["correct"]) == ("1", "left", True)
    assert (stopped["kind"], stopped["tokens"], stopped["finish"]) == ("odd", 4, "stop")
    assert (cut["tag"], cut["answer"], cut["correct"], cut["tokens"], cut["finish"]) == (2, None, False, 5, "length")


def test_samples_of_one_question_differ_by_seed(tmp_path):
    engine = Scripted()
    draw(tmp_path / "samples.jsonl", engine)
    assert len({request.seed for request in engine.asked}) == len(engine.asked) == 24


@pytest.mark.parametrize("die_after", [0, 1, 10, 23])
def test_a_killed_run_continues_to_the_same_file_and_draws_nothing_twice(tmp_path, die_after):
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    draw(whole)
    with pytest.raises(KeyboardInterrupt):
        draw(broken, Scripted(die_after=die_after))
    assert not broken.exists()
    partial = tmp_path / "broken.jsonl.partial"
    with partial.open("a") as file:
        file.write('{"question": "q0", "ta')  # the line a kill cut short
    engine = Scripted()
    draw(broken, engine)
    assert broken.read_bytes() == whole.read_bytes()
    assert len(engine.asked) == 24 - die_after
    assert not partial.exists()


def test_a_finished_file_is_read_and_nothing_drawn(tmp_path):
    first = draw(tmp_path / "samples.jsonl")
    engine = Scripted()
    assert draw(tmp_path / "samples.jsonl", engine) == first
    assert engine.asked == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"settings": SamplingSettings(rounds=2, max_tokens=5, stop=(STOP,), temperature=1.0)}, "temperature"),
        ({"questions": QUESTIONS[:3]}, "questions"),
        ({"tags_NK": TAGS[:2]}, "tags"),
        ({"identity": {"weights": "other"}}, "identity"),
    ],
)
def test_samples_drawn_otherwise_are_refused_and_kept(tmp_path, changes, named):
    path = tmp_path / "samples.jsonl"
    draw(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"drawn with another {named}; remove samples.jsonl"):
        draw(path, **changes)
    assert path.read_bytes() == before


def test_a_model_without_tags_is_sampled_under_the_bare_prompt(tmp_path):
    class Plain(Scripted):
        def stream(self, requests):
            assert all(len(request.prompt) == 1 for request in requests)
            yield from (Completion(r.id, [r.prompt[0], STOP], [0.0, 0.0], "stop") for r in requests)

    samples = draw(tmp_path / "samples.jsonl", Plain(), tags_NK=[()] * 3)
    assert len(samples) == 24 and all(sample["correct"] for sample in samples)


def test_damaged_files_are_named_with_the_line(tmp_path):
    path = tmp_path / "samples.jsonl"
    with pytest.raises(UserError, match="no samples here"):
        load_samples(path)
    draw(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]))
    with pytest.raises(UserError, match="holds 5 of 24 samples"):
        draw(path)
    path.write_text(lines[0] + json.dumps({"question": "q0"}) + "\n")
    with pytest.raises(UserError, match=r"samples.jsonl, line 2: not a sample"):
        load_samples(path)
    (tmp_path / "samples.jsonl.settings.json").unlink()
    with pytest.raises(UserError, match="settings.json: unreadable"):
        draw(path)


def test_question_ids_must_differ(tmp_path):
    with pytest.raises(UserError, match="ids must differ"):
        draw(tmp_path / "samples.jsonl", questions=[QUESTIONS[0], QUESTIONS[0]])


def test_the_weights_hash_follows_the_contents(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = weights_hash(tmp_path)
    assert weights_hash(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert weights_hash(tmp_path) != first
