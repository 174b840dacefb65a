"""Source files to a prepared folder: read, check, filter, tokenise once, choose traces, write."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from nemo_forking.data.checks import check_answer, check_control_tokens
from nemo_forking.data.choose import Chooser
from nemo_forking.data.encoding import load_tokenizer
from nemo_forking.data.folders import written_aside
from nemo_forking.data.problems import Report
from nemo_forking.data.prompt import PromptFormat
from nemo_forking.data.schema import SourceQuestion, SourceTrace, read_questions
from nemo_forking.data.settings import TAG_ROOM, DataConfig, check_settings
from nemo_forking.data.token_file import MANIFEST, TokenFile, TokenFileWriter
from nemo_forking.errors import UserError
from nemo_forking.files import file_hash

PROBLEMS = "problems.jsonl"
BATCH_CHARACTERS = 1_000_000  # text tokenised at a time; bounds memory whatever the size of the source
NOT_CONTENT = ("source", "folder", "tokenizer", "sample_down")  # settings that do not change what is prepared


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did: the folder's manifest, and the report, which is None where the folder was there already."""

    folder: Path
    manifest: dict
    report: Report | None


def prepare(
    config: DataConfig,
    advance: Callable[[int, int], None] | None = None,
    on_report: Callable[[Report], None] | None = None,
) -> Prepared:
    """Prepare the folder `config.folder`, unless it was prepared from the same files with the same settings.

    Args:
        config: settings.
        advance: called with (bytes read of all sources so far, their total).
        on_report: called with the problem report even when no folder comes of it.

    Raises:
        UserError: bad settings, missing files, or no question left. The folder is then as it was before.
        StrictError: the first problem, in a strict run; likewise.
    """
    check_settings(config)
    folder = Path(config.folder)
    inputs = _inputs(config)
    if (manifest := _current(folder, inputs)) is not None:
        return Prepared(folder, manifest, None)
    form = PromptFormat(load_tokenizer(config.tokenizer), config.prompt, config.target, config.system)
    with written_aside(folder, MANIFEST) as aside, open(aside / PROBLEMS, "w", encoding="utf-8") as sink:
        report = Report(config.strict, sink)
        try:
            with TokenFileWriter(aside) as writer:
                pipeline = _Pipeline(config, form, report, writer)
                pipeline.run(advance)
                pipeline.check_outcome()
                manifest = writer.finish(
                    {"inputs": inputs, "counts": pipeline.facts(), "problems": dict(report.counts)}
                )
        finally:
            if on_report is not None:
                on_report(report)
    return Prepared(folder, manifest, report)


def is_prepared(config: DataConfig) -> bool:
    """Whether `prepare` would find its folder up to date; raises UserError as it does for settings and sources."""
    check_settings(config)
    return _current(Path(config.folder), _inputs(config)) is not None


class _Pipeline:
    """One run over the sources, batch by batch, with counts of what became of questions and traces."""

    def __init__(self, config: DataConfig, form: PromptFormat, report: Report, writer: TokenFileWriter) -> None:
        self._config, self._form, self._report, self._writer = config, form, report, writer
        self._chooser = Chooser(config.choose, config.traces, config.seed)
        self._counts: Counter[str] = Counter()
        self._available: Counter[str] = Counter()  # teacher -> valid traces in the sources

    def run(self, advance: Callable[[int, int], None] | None) -> None:
        batch: list[SourceQuestion] = []
        characters = 0
        for question in self._read(advance):
            batch.append(self._filtered(question))
            characters += sum(len(trace.text) for trace in batch[-1].traces)
            # a strict run goes question by question, so that the first problem met is the first in the file
            if characters >= BATCH_CHARACTERS or self._report.strict or self._is_full(len(batch)):
                self._write(batch)
                batch, characters = [], 0
            if self._is_full():
                return
        self._write(batch)

    def _read(self, advance: Callable[[int, int], None] | None) -> Iterator[SourceQuestion]:
        total = sum(Path(path).stat().st_size for path in self._config.source)
        done = 0

        def line_read(size: int) -> None:
            nonlocal done
            done += size
            if advance is not None:
                advance(done, total)

        seen: dict[bytes, str] = {}
        for path in self._config.source:
            yield from read_questions(path, self._config.format, self._report, seen, line_read)

    def _filtered(self, question: SourceQuestion) -> SourceQuestion:
        """Check what the row says, then keep the traces that the teacher, complete and correct filters let through."""
        check_control_tokens(question, self._form.encoder, self._report)
        check_answer(question, self._report)
        self._counts["questions_read"] += 1
        self._counts["traces_read"] += len(question.traces)
        self._available.update(trace.teacher for trace in question.traces)
        return replace(question, traces=tuple(trace for trace in question.traces if self._passes(trace)))

    def _passes(self, trace: SourceTrace) -> bool:
        if self._config.teachers is not None and trace.teacher not in self._config.teachers:
            self._counts["traces_of_other_teachers"] += 1
            return False
        for name in ("complete", "correct"):
            rule, flag = getattr(self._config, name), getattr(trace, name)
            if (rule == "not_false" and flag is False) or (rule == "only_true" and flag is not True):
                self._counts[f"traces_not_{name}"] += 1
                return False
        return True

    def _write(self, batch: list[SourceQuestion]) -> None:
        """Tokenise a batch of questions, then choose and write each one's traces."""
        prompts = iter(self._form.prompts([question.question for question in batch]))
        pairs = [(trace.text, trace.answer or q.answer) for q in batch for trace in q.traces]
        targets = iter(self._form.targets(pairs))
        for question in batch:
            ids = {trace.position: next(targets) for trace in question.traces}
            self._write_question(question, next(prompts), ids)

    def _write_question(self, question: SourceQuestion, prompt: list[int], ids: dict[int, list[int]]) -> None:
        usable = [trace for trace in question.traces if self._usable(question, trace, prompt, ids[trace.position])]
        if not self._enough(question, len(usable)):
            return
        chosen = self._chooser.choose(question.id, [trace.teacher for trace in usable])
        traces = [(usable[j].teacher, ids[usable[j].position]) for j in chosen]
        self._writer.add(question.id, prompt, traces)
        self._counts["traces_not_chosen"] += len(usable) - len(chosen)

    def _usable(self, question: SourceQuestion, trace: SourceTrace, prompt: list[int], target: list[int]) -> bool:
        field_name, unknown = f"traces[{trace.position}].text", self._form.encoder.unknown_id
        if unknown is not None and (unknown in target or unknown in prompt):
            where = "question" if unknown in prompt else field_name
            message = "holds a character that the tokenizer does not know"
            self._report.add("unknown_character", question.file, question.line, where, message)
            return False
        length = len(prompt) + TAG_ROOM + len(target)
        if length > self._config.max_length:
            parts = f"prompt {len(prompt)} + tag {TAG_ROOM} + target {len(target)}"
            message = f"{length} tokens ({parts}), over the limit of {self._config.max_length}"
            self._report.add("too_long", question.file, question.line, field_name, message)
            return False
        return True

    def _enough(self, question: SourceQuestion, left: int) -> bool:
        if left >= self._config.traces:
            return True
        dropped = left < self._config.min_traces
        least = f", at least {self._config.min_traces} needed" if dropped else ""
        message = f"{left} usable trace{'s' * (left != 1)}, {self._config.traces} asked{least}"
        kind = "too_few_traces" if dropped else "fewer_traces"
        self._report.add(kind, question.file, question.line, "traces", message)
        return not dropped

    def _is_full(self, waiting: int = 0) -> bool:
        most = self._config.max_questions
        return most is not None and len(self._writer) + waiting >= most

    def check_outcome(self) -> None:
        """Refuse an empty result, and teachers asked for that nobody is."""
        for name in self._config.teachers or ():
            if name not in self._available:
                known = ", ".join(get_close_matches(name, self._available, n=3, cutoff=0.3)) or "none of a similar name"
                raise UserError(f"data.teachers: no trace is by {name!r}; the sources have {known}")
        if len(self._writer) == 0:
            raise UserError(
                f"no usable question in {', '.join(self._config.source)} ({_sum_up(self._report)}); "
                "mend the rows reported above or relax the filters"
            )

    def facts(self) -> dict[str, int]:
        counts = {"questions_written": len(self._writer), "traces_written": self._chooser.used.total()}
        return {**dict(sorted(self._counts.items())), **counts}


def _current(folder: Path, inputs: dict) -> dict | None:
    """Return the folder's manifest if it was made from just these inputs and is whole."""
    try:
        manifest = TokenFile(folder).manifest
    except UserError:  # absent, damaged or of another version: to be prepared
        return None
    return manifest if manifest["inputs"] == inputs else None


def _sum_up(report: Report) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in report.counts.most_common()) or "the files are empty"


def _inputs(config: DataConfig) -> dict:
    """Everything the prepared folder depends on: settings, and hashes of the sources and the tokenizer."""
    settings = {name: value for name, value in asdict(config).items() if name not in NOT_CONTENT}
    tokenizer = Path(config.tokenizer)
    files = [tokenizer / name for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")]
    return {
        "settings": json.loads(json.dumps(settings)),
        "sources": [
            {"name": Path(path).name, "bytes": Path(path).stat().st_size, "sha256": file_hash(Path(path))}
            for path in config.source
        ],
        "tokenizer": {file.name: file_hash(file) for file in files if file.is_file()},
    }
