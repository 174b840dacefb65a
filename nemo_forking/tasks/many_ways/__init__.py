"""Many ways: a small synthetic reasoning task that five teachers answer by five visibly different ways.

See docs/many_ways.md for an example and for why the task shows what set supervised fine-tuning does.
"""

from nemo_forking.tasks.many_ways.generate import files, generate, write
from nemo_forking.tasks.many_ways.parser import answer, follows, route
from nemo_forking.tasks.many_ways.questions import KINDS, PRACTICE, Question, kind, parse
from nemo_forking.tasks.many_ways.teachers import TEACHERS, Teacher, experts
from nemo_forking.tasks.many_ways.tokenizer import make_tokenizer

__all__ = [
    "KINDS",
    "PRACTICE",
    "TEACHERS",
    "Question",
    "Teacher",
    "answer",
    "experts",
    "files",
    "follows",
    "generate",
    "kind",
    "make_tokenizer",
    "parse",
    "route",
    "write",
]
