"""The set step in the loop: matching before every update, its statistics in every checkpoint."""

from nemo.lightning.megatron_parallel import MegatronParallel

from nemo_forking.training.identity import set_identity
from nemo_forking.training.loop import Loop
from nemo_forking.training.passes import Pass
from nemo_forking.training.step import Matched, SetStep


class SetLoop(Loop):
    """Set supervised fine-tuning, or a baseline by another matching rule."""

    def __init__(self, config, set_step: SetStep, checkpoints, latest, after_step):
        super().__init__(config, set_identity(config, set_step.file), checkpoints, latest, after_step)
        self.set_step = set_step
        self.matched: Matched | None = None

    def prepare(self, model: MegatronParallel, step: int) -> Pass:
        """Score, match, and lay out the matched pairs."""
        share, self.matched = self.set_step(list(model), step)
        return share

    def question_of(self, row: int) -> str:
        """Rows are numbered over all questions' traces."""
        return [question.id for question in self.matched.questions for _ in question.traces][row]

    def decided(self) -> tuple[dict, dict[str, float], dict]:
        """How the matching went."""
        m = self.matched
        record = {
            **m.statistics,
            "tokens": m.tokens_trained,
            "tokens_scored": m.tokens_scored,
            "imbalance": m.imbalance,
            "imbalance_scoring": m.imbalance_scoring,
            "flops": m.flops,
        }
        return record, m.seconds, {"matched": m}

    def line(self, record: dict) -> list[str]:
        """How settled the matching is."""
        parts = []
        if record["cost_mean"] is not None:
            parts += [f"cost {record['cost_mean']:.4f}", f"H(tag|teacher) {record['assignment_entropy_bits']:.2f} bit"]
        if record["change_rate"] is not None:
            parts.append(f"changed {record['change_rate']:.0%}")
        return parts

    def state(self) -> dict:
        """Statistics of the matching, and the tags that questions keep."""
        return {"statistics": self.set_step.statistics.state_dict(), "kept": self.set_step.kept.state_dict()}

    def restore(self, state: dict) -> None:
        """Take up both."""
        self.set_step.statistics.load_state_dict(state["statistics"])
        self.set_step.kept.load_state_dict(state["kept"])
