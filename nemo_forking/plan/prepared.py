"""The rows of real steps, where the data is prepared: attention is quadratic, so work depends on how lengths vary."""

from pathlib import Path

from nemo_forking.config import Config
from nemo_forking.data.token_file import TokenFile, read_manifest
from nemo_forking.data.traces import questions_of_step, visits
from nemo_forking.plan.rows import Lengths, Rows, lengths, matching_row, step_rows, training_row

REAL_STEPS = 8  # from the first on; reading them takes milliseconds


def planned_steps(config: Config) -> tuple[list[Rows], Lengths, float]:
    """Rows of some steps, what they rest on, and the share of questions that are matched anew (matching.every).

    The first steps of the prepared data, as training takes them; else one step whose rows all have the mean length.

    Raises:
        UserError: the prepared data is damaged, or has more traces than tags.
    """
    mean, every = lengths(config), config.matching.every
    if config.plan.recipe != "ssft" or read_manifest(Path(config.data.folder)) is None:
        return [step_rows(config, mean)], mean, 1 / every
    file = TokenFile(config.data.folder, verify=False)
    steps = [_rows(config, file, step) for step in range(min(REAL_STEPS, config.trainer.max_steps))]
    source = f"steps 1 to {len(steps)} of {config.data.folder}; these are its means"
    visit_of = visits(len(file), step=0, questions=config.trainer.max_steps * config.batch.questions)
    anew = sum(visit % every == 0 for visit in visit_of) / len(visit_of)
    return steps, Lengths(mean.prompt, mean.trace, source), anew


def _rows(config: Config, file: TokenFile, step: int) -> Rows:
    questions = questions_of_step(config, file, step)
    sizes = [(len(question.prompt), [len(trace.ids) for trace in question.traces]) for question in questions]
    scored = [
        matching_row(config, prompt, trace, group)
        for group, (prompt, traces) in enumerate(sizes)
        for _ in range(config.tags.count)
        for trace in traces
    ]
    trained = [training_row(config, prompt, trace) for prompt, traces in sizes for trace in traces]
    return Rows(scored if config.matching.rule == "optimal" else [], trained)
