"""Host memory of a conversion, in a process that has done nothing else: `python -m tests.distributed.growth FILE`.

FILE is a pickled list of configurations. Prints the bytes by which the process' memory, files that it maps included,
grows at most during a conversion: the least of all after the first, which brings imports and the tokenizer.
"""

import ctypes
import gc
import pickle
import sys
from pathlib import Path

from nemo_forking.config import Config
from nemo_forking.convert.convert import convert


def main(file: str) -> None:
    ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD: a tensor's memory is new, and goes back when it is freed
    first, *others = pickle.loads(Path(file).read_bytes())
    convert(first, lambda line: None)
    print(min(map(growth, others)))


def growth(config: Config) -> int:
    gc.collect()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    convert(config, lambda line: None)
    return memory("VmHWM") - before


def memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    main(sys.argv[1])
