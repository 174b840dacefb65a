"""Tags a question keeps between two matchings: `matching.every` visits lie from one to the next.

A visit's number is the epoch it falls into, so all ranks know without asking which questions are matched anew.
"""

from collections.abc import Sequence

from nemo_forking.data.token_file import Question


class Kept:
    """Every question's tags as its last matching gave them; the same on every rank.

    Args:
        every: visits from one matching of a question to the next; at 1 nothing is kept.
    """

    def __init__(self, every: int):
        self.every = every
        self._tags: dict[int, dict[int, int]] = {}  # question -> place of the trace in the data -> tag

    def tags(self, question: Question, visit: int) -> list[int] | None:
        """The tag of every trace on the question's visit (from 0), or None when it is to be matched anew.

        That is on every `every`-th visit, and whenever a trace was not there at the last matching: tags of two
        matchings are never mixed, since they might be the same.
        """
        kept = self._tags.get(question.index, {})
        if visit % self.every == 0 or any(trace.place not in kept for trace in question.traces):
            return None
        return [kept[trace.place] for trace in question.traces]

    def keep(self, question: Question, tags: Sequence[int]) -> None:
        """Remember what a matching gave the question's traces."""
        if self.every > 1:
            self._tags[question.index] = {
                trace.place: int(tag) for trace, tag in zip(question.traces, tags, strict=True)
            }

    def state_dict(self) -> list[list[int]]:
        """[question, place, tag] of every trace, for a checkpoint."""
        return [[question, *pair] for question, tags in self._tags.items() for pair in tags.items()]

    def load_state_dict(self, state: list[list[int]]) -> None:
        """Go on from `state_dict`."""
        self._tags = {}
        for question, place, tag in state:
            self._tags.setdefault(question, {})[place] = tag
