"""The row of a reinforced model, against sums and means written out by hand."""

import itertools
import math
import random
import statistics
from collections import Counter

import numpy as np
import pytest

from nemo_forking.errors import UserError
from nemo_forking.evaluation.metrics import summarise
from nemo_forking.evaluation.policy import per_tag_change, policy_rows
from tests.unit.made_runs import write_lines
from tests.unit.samples import sample

KIND_OF = {"q0": "even", "q1": "odd", "q2": "even", "q3": "odd", "q4": "odd"}
TAGS, ROUNDS = 3, 4


def drawn(seed, mode, chance=lambda kind, tag: 0.5, prefer=None, questions=KIND_OF):
    """Samples under every tag, or under tags drawn with a preference by kind."""
    rng = random.Random(seed)
    lines = []
    for question, slot, round_ in itertools.product(questions, range(TAGS), range(ROUNDS)):
        kind = questions[question]
        tag = slot if mode == "every" else rng.choices(range(TAGS), (prefer or {}).get(kind))[0]
        right = rng.random() < chance(kind, tag)
        lines.append(sample(question, slot, "1" if right else "2", round_=round_, tag=tag, kind=kind))
    return lines


def row_of(folder, samples, mode, **more):
    """A measurement's folder and its row."""
    samples = sorted(samples, key=lambda line: (line["question"], line["slot"], line["round"]))
    asked = {line["question"]: {key: line[key] for key in ("asked", "kind", "gold")} for line in samples}
    write_lines(folder / "questions.jsonl", [{"id": name, **one} for name, one in asked.items()])
    key, judged = ("question", "slot", "round"), ("verdict", "answer", "route")
    kept = [name for name in samples[0] if name not in (*judged, "asked", "kind", "gold")]
    write_lines(folder / "samples.jsonl", [{name: line[name] for name in kept} for line in samples])
    write_lines(folder / "verdicts.jsonl", [{name: line[name] for name in (*key, *judged)} for line in samples])
    return summarise(samples, TAGS, seed=7, tags_mode=mode) | {"folder": str(folder), "system": folder.name, **more}


def strong(kind, tag):
    return {"even": (0.9, 0.1, 0.3), "odd": (0.1, 0.3, 0.9)}[kind][tag]


@pytest.fixture
def made(tmp_path):
    """Four measurements: samples by name, and rows."""
    prefer = {"even": (8, 1, 1), "odd": (0, 1, 9)}
    samples = {
        "chosen": drawn(1, "own", strong, prefer),
        "every": drawn(2, "every", strong),
        "start": drawn(3, "own", strong),
        "start_every": drawn(4, "every", strong),
    }
    modes = {"chosen": "own", "every": "every", "start": "own", "start_every": "every"}
    rows = {name: row_of(tmp_path / name, samples[name], modes[name]) for name in samples}
    return samples, rows


def share(samples, **wanted):
    """Share of right samples among those wanted, question by question, by question."""
    found = {}
    for line in samples:
        if all(line[key] == value for key, value in wanted.items()):
            found.setdefault(line["question"], []).append(line["verdict"] == "correct")
    return {question: statistics.mean(map(float, right)) for question, right in found.items()}


def error(values):
    return statistics.stdev(values) / math.sqrt(len(values))


def test_accuracies_and_differences_are_means_over_questions(made):
    samples, rows = made
    row = policy_rows(**rows)
    own, before = share(samples["chosen"]), share(samples["start"])
    tags = [share(samples["start_every"], tag=tag) for tag in range(TAGS)]
    best = max(range(TAGS), key=lambda tag: statistics.mean(tags[tag].values()))
    best_of = {
        kind: max(range(TAGS), key=lambda tag: sum(tags[tag][q] for q in KIND_OF if KIND_OF[q] == kind))
        for kind in ("even", "odd")
    }
    expected = {
        "pass@1": own,
        "start_pass@1": before,
        "ssft_best_tag_pass@1": tags[best],
        "oracle_tag_pass@1": {q: tags[best_of[kind]][q] for q, kind in KIND_OF.items()},
    }
    for name, values in expected.items():
        assert row[name] == pytest.approx(statistics.mean(values.values()))
        assert row["standard_error"][name] == pytest.approx(error(list(values.values())))
        if name != "pass@1":
            gaps = [own[q] - values[q] for q in KIND_OF]
            expected_gap = {"value": statistics.mean(gaps), "standard_error": error(gaps)}
            assert row["difference"][name] == pytest.approx(expected_gap)
    assert row["ssft_best_tag"] == best and row["oracle_tag_pass@1"] == rows["start_every"]["oracle_tag_pass@1"]
    for kind, one in row["by_kind"].items():
        of_kind = [q for q in KIND_OF if KIND_OF[q] == kind]
        assert one["questions"] == len(of_kind) and one["oracle_tag"] == best_of[kind]
        assert one["pass@1"] == pytest.approx(statistics.mean(own[q] for q in of_kind))
    assert (row["seed"], row["questions"], row["start"]) == (7, 5, "start_every")
    assert row["folder"] == rows["chosen"]["folder"] and row["cons@3"] == rows["chosen"]["cons@3"]
    assert "rollouts" not in row and "metrics" not in row


@pytest.mark.parametrize(("when", "name"), [("before", "start"), ("after", "chosen")])
def test_the_distribution_is_of_samples_by_kind_and_its_information_in_bits(made, when, name):
    samples, rows = made
    row = policy_rows(**rows)
    count = Counter((line["kind"], line["tag"]) for line in samples[name])
    total = sum(count.values())
    for kind, shares in row[f"tag_distribution_{when}"].items():
        of_kind = sum(count[kind, tag] for tag in range(TAGS))
        assert shares == pytest.approx([count[kind, tag] / of_kind for tag in range(TAGS)])
    bits = 0.0
    for (kind, tag), joint in count.items():
        alone = sum(n for (one, _), n in count.items() if one == kind) * sum(
            n for (_, one), n in count.items() if one == tag
        )
        bits += joint / total * math.log2(joint * total / alone)
    assert row[f"tag_information_bits_{when}"] == pytest.approx(bits)
    low, high = row[f"tag_information_interval_95_{when}"]
    assert 0 <= low <= high <= math.log2(TAGS)


def test_a_change_of_tags_is_paired_over_questions(made):
    samples, rows = made
    row = policy_rows(**rows)
    change = row["per_tag_change"]
    z = []
    for tag in range(TAGS):
        before, after = share(samples["start_every"], tag=tag), share(samples["every"], tag=tag)
        gaps = [after[q] - before[q] for q in KIND_OF]
        assert change["difference"][tag] == pytest.approx(statistics.mean(gaps))
        assert change["standard_error"][tag] == pytest.approx(error(gaps))
        assert row["per_tag_before"][tag]["pass@1"] == pytest.approx(statistics.mean(before.values()))
        assert row["per_tag_after"][tag]["standard_error"] == pytest.approx(error(list(after.values())))
        z.append(abs(statistics.mean(gaps)) / error(gaps) if any(gaps) else 0.0)
    assert change["largest_z"] == pytest.approx(max(z)) and change["tag"] == z.index(max(z))


def test_the_p_value_is_that_of_the_largest_change_under_all_signs():
    """Every choice of signs written out; z of the text book, not the statistic of the code."""
    difference_QN = np.random.default_rng(3).integers(-3, 4, (7, 3)) / 4

    def largest(values_QN):
        return max(
            abs(statistics.mean(one)) / error(one) if any(one) and len(set(one)) > 1 else math.inf
            for one in values_QN.T.tolist()
        )

    observed = largest(difference_QN)
    signs = itertools.product([-1, 1], repeat=7)
    hits = sum(largest(difference_QN * np.array(sign)[:, None]) >= observed - 1e-9 for sign in signs)
    assert 0.02 < hits / 128 < 0.9
    found = per_tag_change(np.zeros((7, 3)), difference_QN)
    assert found["p_value"] == pytest.approx(hits / 128, abs=0.03)
    assert found["largest_z"] == pytest.approx(observed)


def test_no_change_has_z_0_and_an_equal_one_on_all_questions_is_not_hidden():
    before_QN = np.random.default_rng(0).random((40, 3))
    same = per_tag_change(before_QN, before_QN.copy())
    assert (same["largest_z"], same["p_value"], same["difference"]) == (0.0, 1.0, [0.0, 0.0, 0.0])
    after_QN = np.ones((40, 3))
    after_QN[:, 1] = 0.0
    collapsed = per_tag_change(np.ones((40, 3)), after_QN)
    assert collapsed["largest_z"] is None and collapsed["tag"] == 1
    assert collapsed["difference"][1] == -1.0 and collapsed["p_value"] < 0.001


def test_chance_alone_rarely_looks_like_a_change():
    rng = np.random.default_rng(5)
    p_values = [per_tag_change(*rng.binomial(4, 0.4, (2, 30, 6)) / 4)["p_value"] for _ in range(100)]
    assert 0 <= sum(p < 0.1 for p in p_values) <= 20 and 0.35 < np.mean(p_values) < 0.65


def test_missing_samples_are_wrong_and_were_drawn_under_no_tag(tmp_path):
    samples = drawn(1, "own", lambda kind, tag: 1.0)
    kept = [line for line in samples if (line["question"], line["slot"]) != ("q0", 0)]
    every = row_of(tmp_path / "every", drawn(2, "every"), "every")
    rows = [row_of(tmp_path / "chosen", kept, "own"), every, row_of(tmp_path / "start", samples, "own"), every]
    row = policy_rows(*rows)
    assert row["pass@1"] == pytest.approx(1 - 1 / 3 / 5) and row["start_pass@1"] == 1.0
    assert all(sum(shares) == pytest.approx(1) for shares in row["tag_distribution_after"].values())
    assert row["per_tag_change"]["largest_z"] == 0.0


def test_rollouts_are_counted_from_the_runs_metrics(made, tmp_path):
    _, rows = made
    lines = [{"step": 1, "rollouts": 24, "rollouts_reused": 0}, {"step": 2, "rollouts": 6, "rollouts_reused": 18}]
    write_lines(tmp_path / "run" / "metrics.jsonl", [*lines, {"step": 3}])
    relative = {name: row | {"folder": name} for name, row in rows.items()}
    relative["chosen"]["metrics"] = "run/metrics.jsonl"
    row = policy_rows(**relative, home=tmp_path)
    assert row["rollouts"] == {"steps": 3, "drawn": 30, "reused": 18}
    assert (row["folder"], row["metrics"]) == ("chosen", "run/metrics.jsonl")


def test_rows_that_do_not_belong_together_are_refused(made, tmp_path):
    _, rows = made
    other = row_of(tmp_path / "other", drawn(4, "every", questions=KIND_OF | {"q9": "odd"}), "every")
    with pytest.raises(UserError, match="different questions: only the second has q9"):
        policy_rows(**rows | {"start_every": other})
    with pytest.raises(UserError, match="differ in tags"):
        policy_rows(**rows | {"start_every": other | {"tags": 6}})
    with pytest.raises(UserError, match="^start was asked with tags=own; .* tags=every is needed"):
        policy_rows(**rows | {"start_every": rows["start"]})
