"""What a grading worker does with a completion; some are its end. In a module of its own because workers import it."""

import os
import signal

from nemo_forking.rewards.verdict import Graded


def grade_or_die(pair: tuple[str, str]) -> Graded:
    """Compares a text's end with the gold, as work of `MathGrader`'s pool; "hang" and "die" do."""
    text, gold = pair
    if text == "hang":
        while True:
            pass
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return Graded("correct" if text.endswith(gold) else "wrong", text)
