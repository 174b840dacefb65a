"""Global forking tokens: teach one language model to reason in parallel, each way chosen by a single tag."""

import warnings

# torch's import says this to the user of every recipe; it concerns torch's own choice of a package
warnings.filterwarnings("ignore", message="The pynvml package is deprecated", category=FutureWarning)

__version__ = "0.1.0"
