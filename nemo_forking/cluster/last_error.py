"""Why an attempt of a job ended: `python -m nemo_forking.cluster.last_error logs/ssft-x-17.0` prints a summary.

It reads the attempt's logs: of every rank and replica, and what srun said of their ends. Equal errors of several ranks
are told once; the one whose log ended first stands first, for the others often fail because of it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

LONGEST = 40  # lines of one error
SHOWN = 3  # different errors
ANSI = re.compile(r"\x1b\[[0-9;]*m")
BEGINS = re.compile(r"(\[rank\d+\]:\s*)?(Traceback \(most recent call last\)|error: )")
ENDED = re.compile(r"srun: error: (\S+): tasks? (\S+): (.+)")


def summary(prefix: Path) -> str:
    """The errors of the attempt whose logs' names begin with `prefix`."""
    lines = []
    srun = prefix.with_name(f"{prefix.name}.srun.log")
    said = srun.read_text(errors="replace").splitlines() if srun.exists() else []
    ends = [f"{host}: rank {tasks}: {how}" for host, tasks, how in (m.groups() for m in map(ENDED.search, said) if m)]
    if ends:
        lines += ["how the tasks ended, in Slurm's words:", *(f"  {end}" for end in ends[:8])]
    else:
        lines += [f"  {line}" for line in said[-8:]]
    errors = by_error(prefix)
    for error, who in list(errors.items())[:SHOWN]:
        lines += [f"last error of {', '.join(who[:8])}{' and others' if len(who) > 8 else ''}:"]
        lines += [f"  {line}" for line in error.splitlines()]
    if len(errors) > SHOWN:
        lines.append(f"and {len(errors) - SHOWN} other errors")
    if not errors:
        lines.append("no rank wrote an error: it was killed from outside, or the machine ended")
    return "\n".join([*lines, f"all of it: {prefix}.*"])


def by_error(prefix: Path) -> dict[str, list[str]]:
    """Error -> the ranks ("rank3") and replicas ("server0") that ended with it, in the order their logs ended."""
    logs = [path for path in prefix.parent.glob(f"{prefix.name}.*.log") if not path.name.endswith(".srun.log")]
    errors: dict[str, list[str]] = {}
    for path in sorted(logs, key=lambda path: path.stat().st_mtime_ns):
        if error := last_error(path.read_text(errors="replace")):
            errors.setdefault(error, []).append(path.name.removeprefix(f"{prefix.name}.").removesuffix(".log"))
    return errors


def last_error(text: str) -> str:
    """The last error in a log: from where it begins, to the end or LONGEST lines, whose middle is left out."""
    lines = [line for line in ANSI.sub("", text).rstrip().splitlines() if not line.startswith("slurmstepd")]
    starts = [number for number, line in enumerate(lines) if BEGINS.match(line)]
    error = lines[starts[-1] :] if starts else []
    if len(error) > LONGEST:
        error = [*error[: LONGEST // 4], "  ...", *error[-3 * LONGEST // 4 :]]
    return "\n".join(error)


def main(argv: Sequence[str]) -> int:
    """The command of this file's head."""
    print(summary(Path(argv[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
