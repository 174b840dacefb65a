"""Whether two runs came to the same: checkpoint, exported model, metrics, rollouts."""

from pathlib import Path

import numpy as np

from tests.run_files import records, weights

# torch writes a random id into the first, the second tells of times, and the third hashes both
UNLIKE = (".metadata", "metrics.jsonl", "checksums.json")
ROLLOUTS = ("fork.json", "samples.jsonl", "verdicts.jsonl", "rollouts.json")


def differences(run: Path, whole: Path, *, exact: bool = True, stale: bool = True) -> list[str]:
    """A line for each thing in which a run differs from the undisturbed one.

    Args:
        run: folder of the run.
        whole: that of the undisturbed one.
        exact: bit for bit, or to float32's accuracy.
        stale: whether half-written files left behind count.
    """
    if not (run / "model").is_dir():
        return ["nothing was exported"]
    found = _metrics(run, whole, exact) + (_left_behind(run) if stale else [])
    if not exact:
        return found + _close_weights(run, whole)
    last = max(path.name for path in (whole / "checkpoints").glob("step_*"))
    found += _bytes(run, whole, f"checkpoints/{last}") + _bytes(run, whole, "model")
    for batch in sorted((whole / "rollouts").glob("batch_*")):
        found += _bytes(run, whole, f"rollouts/{batch.name}", ROLLOUTS)
    return found


def _bytes(run: Path, whole: Path, folder: str, names: tuple[str, ...] | None = None) -> list[str]:
    there, wanted = ({p.name for p in (home / folder).glob("*")} for home in (run, whole))
    if names:
        there, wanted = there & set(names), wanted & set(names)
    found = [f"{folder}/{name} is missing" for name in sorted(wanted - there)]
    found += [f"{folder}/{name} should not be there" for name in sorted(there - wanted)]
    for name in sorted(wanted & there - set(UNLIKE if folder.startswith("checkpoints") else ())):
        if (run / folder / name).read_bytes() != (whole / folder / name).read_bytes():
            found.append(f"{folder}/{name} differs")
    return found


def _metrics(run: Path, whole: Path, exact: bool) -> list[str]:
    try:
        got, wanted = (records(home) for home in (run, whole))
    except ValueError as error:
        return [f"metrics.jsonl: {error}"]
    if [line["step"] for line in got] != [line["step"] for line in wanted]:
        return [f"metrics.jsonl has the steps {[line['step'] for line in got]}"]
    found = []
    for line, same in zip(got, wanted, strict=True):
        keys = [key for key in same.keys() | line.keys() if not _equal(line.get(key), same.get(key), exact)]
        found += [f"metrics.jsonl, step {same['step']}: {key}" for key in sorted(keys)]
    return found


def _equal(got, wanted, exact: bool) -> bool:
    if exact or type(got) is not type(wanted) or not isinstance(wanted, float | list | dict):
        return got == wanted
    if isinstance(wanted, list):
        return len(got) == len(wanted) and all(_equal(*pair, exact) for pair in zip(got, wanted, strict=True))
    if isinstance(wanted, dict):
        return got.keys() == wanted.keys() and all(_equal(got[key], wanted[key], exact) for key in wanted)
    return bool(np.isclose(got, wanted, rtol=1e-3, atol=1e-6))


def _close_weights(run: Path, whole: Path) -> list[str]:
    got, wanted = weights(run / "model"), weights(whole / "model")
    if got.keys() != wanted.keys():
        return ["model: other tensors"]
    return [f"model: {name}" for name in wanted if not np.allclose(got[name], wanted[name], rtol=1e-3, atol=1e-4)]


def _left_behind(run: Path) -> list[str]:
    """Half-written things that nobody will ever finish."""
    stale = sorted(str(path.relative_to(run)) for path in run.rglob("*.partial"))
    return [f"{name} was left behind" for name in stale]
