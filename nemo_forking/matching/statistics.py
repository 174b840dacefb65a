"""What the assignments look like over training: the figures of the paper's section 13, kept step by step.

Shape letters: Q questions, N tags, M traces, S teachers.

Tags are worth their name when each settles on a way of reasoning. Then the tags a teacher's traces get become few
(entropy of the tag given the teacher falls), questions keep their assignment from one epoch to the next (change rate
falls), and a few configurations, out of 360 for 4 traces and 6 tags, take all the weight. A tag that is never used is
starving: nothing trains it when N > M (paper section 17).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from nemo_forking.errors import UserError

FORGOTTEN = 1e-4  # a configuration of less weight is dropped, so that memory stays bounded


class Statistics:
    """Running statistics of assignments; the same on every rank, since every rank knows the assignments.

    Counts decay by `decay` a step: at 0.98 the last 50 steps or so are seen. Everything but the costs is kept in
    `state_dict`, so that a resumed run reports what an uninterrupted one would.
    """

    def __init__(self, n_tags: int, teachers: Sequence[str], *, decay: float = 0.98, top: int = 8):
        self.n_tags, self.teachers, self.decay, self.top = n_tags, list(teachers), decay, top
        self._count_SN = np.zeros((len(self.teachers), n_tags))
        self._configurations: defaultdict[tuple[int, ...], dict[tuple[int, ...], float]] = defaultdict(dict)
        # (question, teacher, nth trace of that teacher) -> the last tag, and every tag so far as the bits of a number
        self._last: dict[tuple[int, int, int], int] = {}
        self._covering: dict[tuple[int, int, int], int] = {}
        self._coverage_N = [0] * n_tags

    def update(
        self,
        question_indices: Sequence[int],
        sigma_QM: np.ndarray,
        teacher_QM: np.ndarray,
        cost_QNM: np.ndarray | None = None,
    ) -> dict:
        """Take in one step and return its metrics, all JSON-able.

        Args:
            question_indices: each question's index in the data, by which it is known again.
            sigma_QM: tag of every trace; traces with -1 (absent, or trained without a tag) are left out.
            teacher_QM: index of every trace's teacher; any value where absent.
            cost_QNM: nats per token, where it is known; NaN for questions that were not scored.

        Returns:
            cost_mean: nats per token over matched pairs, and cost_gain, by how much the mean tag is worse (what
                matching gains over a random assignment). None without costs.
            change_rate: share of traces whose tag differs from the question's last visit; None when all are new.
            tag_usage: [N] pairs of every tag in this step.
            tag_coverage: [N] different traces ever given to every tag in this run, by which a tag for Pass@1 can be
                chosen (paper section 10.2; its formula is unpublished, this one is ours).
            tag_teacher: [[N] per teacher], decayed counts.
            assignment_entropy_bits: H(tag | teacher), log2 N when tags mean nothing; mutual_information_bits:
                I(tag; teacher). Both of the decayed counts.
            configuration_entropy_bits: entropy of the whole assignment of a question given its teachers, and
                configuration_top_mass, the weight of the `top` most used ones. Both of decayed counts.
        """
        self._count_SN *= self.decay
        self._decay_configurations()
        usage_N = np.zeros(self.n_tags, np.int64)
        changed: list[bool] = []
        for question, sigma_M, teacher_M in zip(question_indices, sigma_QM, teacher_QM, strict=True):
            pairs = _in_teacher_order(sigma_M, teacher_M)
            changed += self._visit(int(question), pairs)
            for teacher, _, tag in pairs:
                usage_N[tag] += 1
                self._count_SN[teacher, tag] += 1
            if pairs:
                used = self._configurations[tuple(teacher for teacher, _, _ in pairs)]
                tags = tuple(tag for _, _, tag in pairs)
                used[tags] = used.get(tags, 0.0) + 1.0
        return {
            **_costs(sigma_QM, cost_QNM),
            "change_rate": float(np.mean(changed)) if changed else None,
            "tag_usage": usage_N.tolist(),
            "tag_coverage": list(self._coverage_N),
            "tag_teacher": self._count_SN.tolist(),
            "assignment_entropy_bits": conditional_entropy_bits(self._count_SN),
            "mutual_information_bits": mutual_information_bits(self._count_SN),
            **self._configuration_metrics(),
        }

    def state_dict(self) -> dict:
        """Everything needed to go on exactly, of plain lists, numbers and strings."""
        return {
            "n_tags": self.n_tags,
            "teachers": list(self.teachers),
            "counts": self._count_SN.tolist(),
            "configurations": [
                [list(teachers), list(tags), weight]
                for teachers, used in self._configurations.items()
                for tags, weight in used.items()
            ],
            "last": [[*place, tag] for place, tag in self._last.items()],
            "covering": list(self._covering.values()),  # of the places of "last", in their order
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict`. Raises UserError when the tags or the teachers are others.

        A state from before coverage was counted knows only every trace's last tag, so only these count as covering it.
        """
        for field, mine in (("n_tags", self.n_tags), ("teachers", self.teachers)):
            if state[field] != mine:
                raise UserError(
                    f"the checkpoint's assignment statistics have {field}={state[field]}, this run has {mine}: resume "
                    "with the data and tags.count the run was started with, or start a new run"
                )
        self._count_SN = np.array(state["counts"], np.float64).reshape(len(self.teachers), self.n_tags)
        self._configurations = defaultdict(dict)
        for teachers, tags, weight in state["configurations"]:
            self._configurations[tuple(teachers)][tuple(tags)] = weight
        self._last = {(question, teacher, nth): tag for question, teacher, nth, tag in state["last"]}
        covering = state.get("covering", [1 << tag for tag in self._last.values()])
        self._covering = dict(zip(self._last, covering, strict=True))
        self._coverage_N = [sum(tags >> tag & 1 for tags in covering) for tag in range(self.n_tags)]

    def _visit(self, question: int, pairs: list[tuple[int, int, int]]) -> list[bool]:
        """Remember the question's tags; for every trace seen before, whether its tag has changed."""
        changed = []
        for teacher, nth, tag in pairs:
            before = self._last.get((question, teacher, nth))
            if before is not None:
                changed.append(before != tag)
            self._last[question, teacher, nth] = tag
            self._cover((question, teacher, nth), tag)
        return changed

    def _cover(self, place: tuple[int, int, int], tag: int) -> None:
        so_far = self._covering.get(place, 0)
        if not so_far >> tag & 1:
            self._covering[place] = so_far | 1 << tag
            self._coverage_N[tag] += 1

    def _decay_configurations(self) -> None:
        for teachers, used in list(self._configurations.items()):
            kept = {tags: weight * self.decay for tags, weight in used.items() if weight * self.decay >= FORGOTTEN}
            if kept:
                self._configurations[teachers] = kept
            else:
                del self._configurations[teachers]

    def _configuration_metrics(self) -> dict[str, float | None]:
        groups = [np.array(sorted(used.values(), reverse=True)) for used in self._configurations.values()]
        total = sum(group.sum() for group in groups)
        if not total:
            return {"configuration_entropy_bits": None, "configuration_top_mass": None}
        return {
            "configuration_entropy_bits": float(sum(group.sum() * entropy_bits(group) for group in groups) / total),
            "configuration_top_mass": float(sum(group[: self.top].sum() for group in groups) / total),
        }


def entropy_bits(weights: Iterable[float]) -> float:
    """Entropy in bits of the distribution proportional to `weights`; zero when all weights are."""
    weights = np.asarray(weights, np.float64)
    share = weights[weights > 0] / max(weights.sum(), np.finfo(np.float64).tiny)
    return float(np.maximum(0.0, -(share * np.log2(share)).sum()))


def conditional_entropy_bits(count_SN: np.ndarray) -> float:
    """H(column | row) in bits of a table of counts."""
    rows = count_SN.sum(axis=1)
    return sum(row * entropy_bits(count_N) for row, count_N in zip(rows, count_SN, strict=True)) / max(
        rows.sum(), 1e-300
    )


def mutual_information_bits(count_SN: np.ndarray) -> float:
    """I(row; column) in bits of a table of counts, at least zero."""
    return max(0.0, entropy_bits(count_SN.sum(axis=0)) - conditional_entropy_bits(count_SN))


def _in_teacher_order(sigma_M: np.ndarray, teacher_M: np.ndarray) -> list[tuple[int, int, int]]:
    """(teacher, nth trace of that teacher, tag) of every tagged trace, sorted, so that file order does not matter."""
    seen: Counter[int] = Counter()
    pairs = []
    for tag, teacher in zip(map(int, sigma_M), map(int, teacher_M), strict=True):
        if tag >= 0:
            pairs.append((teacher, seen[teacher], tag))
            seen[teacher] += 1
    return sorted(pairs)


def _costs(sigma_QM: np.ndarray, cost_QNM: np.ndarray | None) -> dict[str, float | None]:
    scored = cost_QNM is not None and ~np.isnan(cost_QNM[:, :1, 0])
    if not np.any(scored):
        return {"cost_mean": None, "cost_gain": None}
    question, trace = np.nonzero((np.asarray(sigma_QM) >= 0) & scored)
    matched = cost_QNM[question, np.asarray(sigma_QM)[question, trace], trace]
    return {
        "cost_mean": float(matched.mean()),
        "cost_gain": float((cost_QNM[question, :, trace].mean(axis=1) - matched).mean()),
    }
