"""A prepared folder of RL prompts: what it holds, when it is made anew, and every way it can be wrong."""

import hashlib
import json
import re
from dataclasses import replace
from functools import cache

import pytest

from nemo_forking.config import load
from nemo_forking.config.compose import CONF
from nemo_forking.errors import UserError
from nemo_forking.evaluation.benchmarks.prompt import PromptTemplate
from nemo_forking.rl.prompts import load_prompts, prepare_prompts
from nemo_forking.rl.prompts.folder import check_settings
from nemo_forking.tasks import many_ways
from tests.unit.benchmark_files import PROMPTS, write
from tests.unit.rl_rows import dapo, intellect, program, stdin

STORY = "A gardener plants {} rows of beans beside the old stone wall and waters each of them twice a day in June."


def rows(count):
    return [dapo(f"u{n}", f"What is ${n}+1$?", str(n + 1)) for n in range(count)]


@pytest.fixture
def place(tmp_path):
    """Ten questions of DAPO-Math's shape, of which one is of the evaluation set and one is there twice."""
    story = STORY.format(12)
    write(tmp_path / "a.jsonl", [*rows(8), dapo("story", story, "24"), dapo("v", "What is $3 + 1$?", "4")])
    write(tmp_path / "math.jsonl", [{"id": "e1", "problem": story.upper(), "answer": "24"}])
    return tmp_path


@cache
def declared():
    """The paper's configuration, loaded once."""
    return load(["benchmarks=[math500,aime24,gpqa_diamond]"])


def config(place, benchmarks=("math500",), strict=False, max_questions=None, **changes):
    """Prompts of `place`, drawn to five; other changes are keys of `prompts`."""
    base = declared()
    prompts = {"source": (f"{place}/a.jsonl",), "folder": f"{place}/prompts", "count": 5} | changes
    local = {"source": f"{place}/math.jsonl", "max_questions": max_questions}
    chosen = {name: base.benchmarks[name] for name in benchmarks}
    return replace(
        base,
        data=replace(base.data, strict=strict),
        prompts=replace(base.prompts, **prompts),
        benchmarks={name: replace(b, **local) if b.answer == "math" else b for name, b in chosen.items()},
    )


def refused(place, **changes) -> str:
    with pytest.raises(UserError) as error:
        prepare_prompts(config(place, **changes))
    return str(error.value)


@pytest.mark.parametrize("name", sorted(file.stem for file in (CONF / "prompts").glob("*.yaml")))
def test_every_choice_of_the_group_has_templates_that_fit_and_values_that_are_marked(name):
    chosen = load([f"prompts={name}"])
    for answer, text in chosen.prompts.templates.items():
        PromptTemplate(text, answer, f"prompts.templates.{answer}")
    marks = {key: mark for key, mark in chosen.marks.items() if key.startswith("prompts.")}
    assert {key.split(".")[1] for key in marks} == {"source", "shape", "folder", "templates", "count", "seed"}
    assert all(re.match(r"paper|ours|unpublished: \w", mark) for mark in marks.values())


def test_a_folder_holds_the_prompts_drawn_and_what_became_of_every_row(place, capsys):
    folder = prepare_prompts(config(place))
    assert folder == place / "prompts" and sorted(file.name for file in folder.iterdir()) == [
        "prompts.jsonl",
        "report.json",
    ]
    prompts, sha256 = load_prompts(folder)
    raw = (folder / "prompts.jsonl").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == sha256 and len(prompts) == 5
    assert set(json.loads(raw.splitlines()[0])) == {"id", "prompt", "text", "gold", "kind", "answer"}
    for prompt in prompts:
        number = int(prompt.id[1:])
        assert (prompt.gold, prompt.text) == (str(number + 1), f"What is ${number}+1$?") and prompt.answer == "math"
    report = json.loads((folder / "report.json").read_text())
    assert report["sha256"] == sha256
    assert report["reading"]["rows"] == 10 and report["drawn"]["answers"] == {"math": 5}
    assert report["cleaning"]["counts"] == {"math500: same text": 1, "repeated": 1}
    (source,) = report["files"]["prompts"]["files"]
    assert source["name"] == str(place / "a.jsonl")
    assert source["sha256"] == hashlib.sha256((place / "a.jsonl").read_bytes()).hexdigest()
    assert {"prompts", "benchmarks.math500"} == set(report["files"])
    out = capsys.readouterr().out
    assert "8 of 10 RL prompts kept" in out and "5 prompts drawn of 8: 5 math" in out


def test_golds_of_programs_and_line_ends_of_every_kind_come_back_as_they_were(place):
    text = "First.\u2028Second.\r\nThird\x85."
    write(place / "a.jsonl", [program([stdin("1", "2")], text), intellect("p2")])
    templates = {answer: PROMPTS[answer] for answer in ("math", "code")}
    folder = prepare_prompts(config(place, shape="intellect", templates=templates, count=None))
    prompts, _ = load_prompts(folder)
    assert {prompt.answer for prompt in prompts} == {"math", "code"}
    (code,) = [prompt for prompt in prompts if prompt.answer == "code"]
    assert code.text == text and code.gold["tests"] == [{"input": "1", "output": "2"}] and code.gold["function"] is None


def test_again_there_is_nothing_to_do_wherever_the_files_lie(place, capsys):
    folder = prepare_prompts(config(place))
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    (place / "a.jsonl").rename(place / "b.jsonl")
    capsys.readouterr()
    assert prepare_prompts(config(place, source=(f"{place}/b.jsonl",))) == folder
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()} == before
    assert capsys.readouterr().out.startswith("Up to date")


@pytest.mark.parametrize(
    "change, named",
    [
        ({"seed": 1, "count": 4}, "prompts.count, prompts.seed;"),
        ({"templates": {"math": "Solve: {problem}"}}, "prompts.templates;"),
        ({"strict": True}, "data.strict;"),
        ({"benchmarks": ["math500", "aime24"]}, "benchmarks, benchmarks.aime24;"),
        ("a.jsonl", "prompts.source;"),
        ("math.jsonl", "benchmarks.math500;"),
    ],
)
def test_a_folder_made_from_something_else_is_refused_by_name_and_stays(place, change, named):
    folder = prepare_prompts(config(place))
    before = (folder / "prompts.jsonl").read_bytes()
    if isinstance(change, str):
        (place / change).write_text((place / change).read_text() + "\n")
        change = {}
        check_settings(config(place))  # which asks for no file
    else:
        with pytest.raises(UserError, match=f"prepared before, with other {named}"):
            check_settings(config(place, **change))
    message = refused(place, **change)
    assert message.startswith(f"{folder}: prepared before, with other {named} remove the folder")
    assert (folder / "prompts.jsonl").read_bytes() == before


def test_a_draw_by_another_seed_differs_and_a_larger_one_begins_alike(place):
    def drawn(name, **changes):
        folder = prepare_prompts(config(place, folder=str(place / name), **changes))
        return [prompt.id for prompt in load_prompts(folder)[0]]

    assert drawn("x", count=8)[:5] == drawn("y") and drawn("z", seed=1) != drawn("y")


def test_malformed_rows_are_shown_and_skipped_or_stop_a_strict_run(place, capsys):
    write(place / "a.jsonl", [*rows(2), dapo("u9", gold=None)])
    assert refused(place, strict=True).startswith(f"{place}/a.jsonl:3: reward_model.ground_truth")
    assert not (place / "prompts").exists()
    prepare_prompts(config(place, count=None))
    out = capsys.readouterr().out
    assert "malformed: reward_model.ground_truth" in out and f"{place}/a.jsonl:3: reward_model.ground_truth" in out


def test_errors_name_the_keys_of_prompts(place):
    assert refused(place, source=()).startswith("prompts.source is empty")
    missing = refused(place, source=("./nowhere.jsonl",))
    assert missing.startswith("prompts.source: there is no file or folder ./nowhere.jsonl")
    hub = refused(place, source=("some/set",))
    assert hub.startswith("prompts.source: some/set is not in the local cache") and hub.endswith("in prompts.source")
    assert refused(place, templates={"math": "Solve"}).startswith("prompts.templates.math: {problem} does")
    essay = refused(place, templates={"essay": "{problem}"})
    assert essay.startswith("prompts.templates.essay: no such kind of answer")
    both = refused(place, templates={"math": "{problem}", "many_ways": "{problem}"})
    assert both.startswith("prompts.templates: math and many_ways both")
    assert refused(place, count=9).startswith("prompts.count: 9 prompts asked for, 8 are there")


def test_a_benchmark_that_cannot_be_read_is_an_error_and_not_an_unchecked_set(place):
    message = refused(place, benchmarks=("math500", "gpqa_diamond"))
    assert message.startswith("benchmarks.gpqa_diamond.source: ") and "leave gpqa_diamond out of benchmarks" in message
    assert not (place / "prompts").exists()


def test_without_benchmarks_nothing_is_looked_for_and_that_is_said(place, capsys):
    prepare_prompts(config(place, benchmarks=()))
    out = capsys.readouterr().out
    assert "benchmarks is empty: no evaluation set was looked for" in out and "9 of 10 RL prompts kept" in out


def test_all_questions_of_a_benchmark_are_looked_for_also_where_fewer_are_evaluated(place):
    others = [{"id": f"e{n}", "problem": STORY.format(n), "answer": "1"} for n in range(20)]
    write(place / "math.jsonl", others)
    folder = prepare_prompts(config(place, max_questions=1))
    cleaning = json.loads((folder / "report.json").read_text())["cleaning"]
    assert cleaning["evaluations"] == {"math500": 20} and cleaning["counts"]["math500: same text"] == 1


def test_a_folder_that_is_missing_damaged_foreign_or_of_another_format_is_told(place):
    folder = place / "prompts"
    with pytest.raises(UserError, match=r"no prepared prompts .* run recipes/prepare_prompts.py, or set"):
        load_prompts(folder)
    folder.mkdir()
    (folder / "mine.txt").write_text("keep me")
    assert refused(place).startswith(f"{folder} exists and is no prepared data (it lacks report.json)")
    (folder / "mine.txt").unlink()
    prepare_prompts(config(place))
    report, prompts = folder / "report.json", folder / "prompts.jsonl"
    whole = {file: file.read_bytes() for file in (report, prompts)}
    damages = [
        (prompts, whole[prompts][:-20], "changed since it was written; remove"),
        (prompts, None, "cannot be read"),
        (report, whole[report][:100], "damaged"),
        (report, b"[]", "damaged"),
        (report, whole[report].replace(b'"format": 1', b'"format": 7'), "of format 7, this version reads 1"),
    ]
    for file, content, said in damages:
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UserError, match=said):
            load_prompts(folder)
        assert said in refused(place)  # never taken for what is wanted, never overwritten
        file.write_bytes(whole[file])
    assert len(load_prompts(folder)[0]) == 5


def test_the_laptop_tasks_questions_are_told_apart_from_heldout_ones_though_all_are_alike_in_words(tmp_path):
    many_ways.write(tmp_path / "source", base=0, train=1000, heldout=300, seed=1)
    source = tmp_path / "source" / "rl.jsonl"
    heldout = (tmp_path / "source" / "heldout.jsonl").read_text().splitlines(keepends=True)
    source.write_text((tmp_path / "source" / "train.jsonl").read_text() + heldout[7])
    folder = prepare_prompts(load(["experiment=tiny", f"run.folder={tmp_path}"]))
    prompts, _ = load_prompts(folder)
    assert len(prompts) == 1000 and {prompt.answer for prompt in prompts} == {"many_ways"}
    for prompt in prompts:
        question = many_ways.parse(prompt.text)
        assert (prompt.gold, prompt.kind, prompt.prompt) == (question.answer, question.kind, question.text)
    (removed,) = json.loads((folder / "report.json").read_text())["cleaning"]["removed"]
    assert removed["id"] == removed["other"] == json.loads(heldout[7])["id"]
    assert removed["reason"] == "many_ways: same text"


def test_a_row_that_is_no_many_ways_question_names_file_and_line(tmp_path):
    write(tmp_path / "source" / "heldout.jsonl", [{"id": "h", "question": "Pa140b221c320", "answer": "131"}])
    write(tmp_path / "source" / "rl.jsonl", [{"id": "r", "question": "What is 1+1?", "answer": "2"}])
    with pytest.raises(UserError, match=r"rl\.jsonl:1: question: 'What is 1\+1\?' is not a many_ways question"):
        prepare_prompts(load(["experiment=tiny", f"run.folder={tmp_path}", "data.strict=true"]))
