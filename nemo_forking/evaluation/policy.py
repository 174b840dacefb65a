"""What reinforcement learning of the tag did: a reinforced model beside the SSFT model it started from (docs/gfpo.md).

Both are measured twice on the same questions, drawing their own tags and under every tag. The question is the unit of
every error, and differences are paired over questions.

Shape letters: Q questions, N tags, C kinds of question, B resamples of the questions or draws of signs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nemo_forking.errors import UserError
from nemo_forking.evaluation import estimators
from nemo_forking.evaluation.comparison import ROUNDING, check_same_questions
from nemo_forking.evaluation.estimators import mutual_information, standard_error
from nemo_forking.evaluation.folder import load_joined
from nemo_forking.evaluation.metrics import accuracy, best_tag
from nemo_forking.evaluation.table import SampleTable, tabulate
from nemo_forking.evaluation.training_log import load_training


def policy_rows(chosen: Mapping, every: Mapping, start: Mapping, start_every: Mapping, *, home: Path = Path()) -> dict:
    """One reinforced model's row of results.json, rates as fractions; docs/metrics.md defines every key.

    The best tag and the oracle are of the SSFT model, and chosen on these very questions: both are biased upwards, so
    the policy's lead over the one looks smaller than it is, and its distance from the other larger.

    Args:
        chosen: row of the reinforced model that draws its own tags (`metrics.summarise`'s, with "folder").
        every: row of the same model under every tag.
        start: row of the SSFT model it came from, drawing its own tags.
        start_every: row of that model under every tag.
        home: what relative paths in the rows are relative to.

    Raises:
        UserError: samples are missing or damaged, or the four rows are of different questions or tags.
    """
    own, all_tags, start_own, start_all = _tables((chosen, every, start, start_every), home)
    tags, kind_Q = chosen["tags"], own.kind_Q
    before_QN, after_QN = (accuracy(table, table.tag_QNK, tags) for table in (start_all, all_tags))
    best = best_tag(before_QN)
    best_C = np.array([best_tag(before_QN[kind_Q == kind]) for kind in range(len(own.kinds))])
    value_Q = {
        "pass@1": own.correct_QNK.mean(axis=(1, 2)),
        "start_pass@1": start_own.correct_QNK.mean(axis=(1, 2)),
        "ssft_best_tag_pass@1": before_QN[:, best],
        "oracle_tag_pass@1": before_QN[np.arange(len(kind_Q)), best_C[kind_Q]],
    }
    return {
        "seed": chosen["seed"],
        "questions": len(kind_Q),
        "start": start_every.get("system"),
        **{name: float(value.mean()) for name, value in value_Q.items()},
        "standard_error": {name: standard_error(value) for name, value in value_Q.items()},
        "difference": {name: _paired(value_Q["pass@1"], value) for name, value in value_Q.items() if name != "pass@1"},
        "ssft_best_tag": best,
        "by_kind": {
            kind: {
                "questions": int((kind_Q == place).sum()),
                "oracle_tag": int(best_C[place]),
                **{name: float(value[kind_Q == place].mean()) for name, value in value_Q.items()},
            }
            for place, kind in enumerate(own.kinds)
        },
        **_distribution(start_own, tags, "before"),
        **_distribution(own, tags, "after"),
        "per_tag_before": _per_tag(before_QN),
        "per_tag_after": _per_tag(after_QN),
        "per_tag_change": per_tag_change(before_QN, after_QN),
        **{name: chosen[name] for name in (f"cons@{tags}", "cons@32", f"pass@{tags}", "mean_tokens") if name in chosen},
        **({"rollouts": _rollouts(home / chosen["metrics"])} if chosen.get("metrics") else {}),
        **{name: chosen[name] for name in ("folder", "metrics") if name in chosen},
    }


def per_tag_change(before_QN: np.ndarray, after_QN: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """How far the tags' accuracies moved on the same questions, and whether chance alone moves one of them as far.

    The largest of N changes is expected to exceed one standard error though nothing has changed, and two quite often.
    So the p-value is of the largest: had training changed nothing, every question's differences (of all tags together)
    could as well have the other sign (Westfall and Young's maximum statistic, signs drawn).

    Returns:
        difference, standard_error: after - before of every tag, `[N]`.
        largest_z: the largest size of a difference in its standard errors; None where that error is 0 and the
            difference is not, as after a change that is equal on all questions.
        tag: which tag that is.
        p_value: chance of a largest change at least as clear.
    """
    difference_QN = after_QN - before_QN
    mean_N, error_N = difference_QN.mean(axis=0), np.array([standard_error(one_Q) for one_Q in difference_QN.T])
    # Sum over root of sum of squares rises with |z|, is finite where the error is 0, and its divisor ignores signs.
    root_N = np.sqrt((difference_QN**2).sum(axis=0))
    share_QN = np.divide(difference_QN, root_N, out=np.zeros_like(difference_QN), where=root_N > 0)
    clear_N = np.abs(share_QN.sum(axis=0))
    tag = int(clear_N.argmax())
    sign_BQ = np.random.default_rng(seed).choice([-1.0, 1.0], (estimators.RESAMPLES, len(share_QN)))
    hits = int((np.abs(sign_BQ @ share_QN).max(axis=1) >= clear_N[tag] - ROUNDING).sum())
    z = abs(mean_N[tag]) / error_N[tag] if error_N[tag] else None if mean_N[tag] else 0.0
    return {
        "difference": mean_N.tolist(),
        "standard_error": error_N.tolist(),
        "largest_z": None if z is None else float(z),
        "tag": tag,
        "p_value": (1 + hits) / (1 + len(sign_BQ)),  # the observed signs are one draw
    }


def _tables(rows: Sequence[Mapping], home: Path) -> list[SampleTable]:
    """The four measurements' samples, questions in one order."""
    for row, mode in zip(rows, ("own", "every", "own", "every"), strict=True):
        if row["tags_mode"] != mode:
            raise UserError(
                f"{row.get('system', row['folder'])} was asked with tags={row['tags_mode']}; a policy and the model it "
                f"started from are compared by their own tags and by every tag: here tags={mode} is needed"
            )
    if len({row["tags"] for row in rows}) > 1:
        raise UserError(f"the policy and the model it started from differ in tags: {[row['tags'] for row in rows]}")
    joined = [sorted(load_joined(home / row["folder"]), key=lambda line: line["question"]) for row in rows]
    for samples in joined[1:]:
        check_same_questions(joined[0], samples)
    return [
        tabulate(samples, row["tags"], tags_mode=row["tags_mode"]) for samples, row in zip(joined, rows, strict=True)
    ]


def _paired(after_Q: np.ndarray, before_Q: np.ndarray) -> dict[str, float]:
    difference_Q = after_Q - before_Q
    return {"value": float(difference_Q.mean()), "standard_error": standard_error(difference_Q)}


def _per_tag(accuracy_QN: np.ndarray) -> list[dict[str, float]]:
    return [{"pass@1": float(one_Q.mean()), "standard_error": standard_error(one_Q)} for one_Q in accuracy_QN.T]


def _distribution(table: SampleTable, tags: int, when: str) -> dict[str, Any]:
    """Which tags the model drew by kind of question (shares of samples), and how much a tag tells of the kind."""
    drawn_QN = np.stack([(table.tag_QNK == tag).sum(axis=(1, 2)) for tag in range(tags)], axis=1)
    here_CQ = np.stack([table.kind_Q == kind for kind in range(len(table.kinds))])
    count_CN = here_CQ @ drawn_QN
    share_CN = count_CN / np.maximum(count_CN.sum(axis=1, keepdims=True), 1)
    weight_BQ = estimators.resample(len(drawn_QN))
    count_BCN = np.stack([weight_BQ[:, here_Q] @ drawn_QN[here_Q] for here_Q in here_CQ], axis=1)
    return {
        f"tag_distribution_{when}": dict(zip(table.kinds, share_CN.tolist(), strict=True)),
        f"tag_information_bits_{when}": float(mutual_information(count_CN)),
        f"tag_information_interval_95_{when}": estimators.interval(mutual_information(count_BCN)),
    }


def _rollouts(file: Path) -> dict[str, int] | None:
    """Optimizer steps of the run, completions drawn for them, and rewards used again; None where it is not told."""
    lines = load_training(file)
    if not lines:
        return None
    drawn, reused = (sum(line.get(key) or 0 for line in lines) for key in ("rollouts", "rollouts_reused"))
    return {"steps": len(lines), "drawn": drawn, "reused": reused}
