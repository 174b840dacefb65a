"""RL prompts: read from data sets of three shapes, freed of evaluation questions, drawn by seed, kept in a folder."""

from nemo_forking.rl.prompts.choose import choose
from nemo_forking.rl.prompts.clean import CleanReport, clean
from nemo_forking.rl.prompts.folder import load_prompts, prepare_prompts
from nemo_forking.rl.prompts.prompt import Prompt
from nemo_forking.rl.prompts.read import SHAPES, Reading, read_prompts

__all__ = [
    "SHAPES",
    "CleanReport",
    "Prompt",
    "Reading",
    "choose",
    "clean",
    "load_prompts",
    "prepare_prompts",
    "read_prompts",
]
