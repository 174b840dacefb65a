"""Checks of what a valid row says: quoted control tokens, and whether any trace reaches the answer."""

from __future__ import annotations

import re

from nemo_forking.data.encoding import TextEncoder
from nemo_forking.data.problems import Report
from nemo_forking.data.schema import SourceQuestion, SourceTrace

TAIL = 4000  # characters at the end of a trace in which its answer is looked for
MOST_WORDS, MOST_CHARACTERS = 3, 80  # an answer beyond either is prose (a rubric, a worked solution), not checked


def check_control_tokens(question: SourceQuestion, encoder: TextEncoder, report: Report) -> None:
    """Report control tokens that stand in a question, an answer or a trace as text."""
    texts = [("question", question.question), ("answer", question.answer)]
    for trace in question.traces:
        texts += [
            (f"traces[{trace.position}].text", trace.text),
            (f"traces[{trace.position}].answer", trace.answer or ""),
        ]
    for field, text in texts:
        found = encoder.find_control(text)
        if found:
            kinds = ", ".join(dict.fromkeys(found))
            message = f"holds {len(found)} control token{'s' * (len(found) > 1)} as text: {kinds}"
            report.add("control_token", question.file, question.line, field, message)


def check_answer(question: SourceQuestion, report: Report) -> None:
    """Report a question whose answer no trace reaches.

    A trace's `correct` flag decides where there is one. Otherwise the answer, normalised, is looked for in the
    normalised end of the trace, if it is short enough to be found literally; prose answers count as reached.
    """
    if question.traces and not any(_reaches(trace, question.answer) for trace in question.traces):
        flagged = sum(trace.correct is False for trace in question.traces)
        message = f"none of {len(question.traces)} traces reaches it ({flagged} flagged incorrect)"
        report.add("answer_unreached", question.file, question.line, "answer", message)


def _reaches(trace: SourceTrace, answer: str) -> bool:
    if trace.correct is not None:
        return trace.correct
    return occurs(answer, (trace.text[-TAIL:] + "\n" + (trace.answer or "")))


def occurs(answer: str, text: str) -> bool:
    """Whether a short answer occurs in a text, as a whole number or word, up to LaTeX spelling; true for prose."""
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", answer)
    if len(words) > MOST_WORDS or len(answer) > MOST_CHARACTERS:
        return True
    needle, hay = normalise(answer), normalise(text)
    if not needle:
        return True
    left = r"(?<!\w)(?<!\d\.)" if needle[0].isalnum() else ""
    right = r"(?!\w)(?!\.\d)" if needle[-1].isalnum() else ""
    # words keep their borders; formulas are compared without blanks and braces, whose use in LaTeX is free
    if re.fullmatch(r"[\w.\- ]+", needle):
        return re.search(left + re.escape(needle) + right, hay) is not None
    return re.sub(r"[ {}]", "", needle) in re.sub(r"[ {}]", "", hay)


def normalise(text: str) -> str:
    """Lower case; without dollar signs, LaTeX sizing and spacing, text wrappers, degree signs, thousands separators."""
    text = text.lower().replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = re.sub(r"\\(?:left|right|displaystyle|,|!|;|:)|\^\{?\\circ\}?|[$°]|\\%|%", "", text)
    text = re.sub(r"\\(?:text|mathrm|mbox|textbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".")
