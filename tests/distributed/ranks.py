"""Forked gloo ranks for tests: import the heavy things once in the test module, then fork.

A forked rank starts in a fraction of a second, since it inherits every module the caller imported. This works because
nothing here owns a CUDA context: on a GPU machine, fork before CUDA is first used.
"""

import faulthandler
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from nemo_forking.files import write_aside


def run(fn: Callable[..., Any], world: int, *args: Any, timeout: float = 180.0) -> list[Any]:
    """Call `fn(rank, *args)` on `world` forked ranks of one gloo group and return the results in rank order.

    Args:
        fn: any callable (closures too: nothing is pickled on the way in). Its result must be picklable.
        *args: further arguments, the same on every rank.
        world: number of ranks; each runs torch on one thread, with RANK, LOCAL_RANK and WORLD_SIZE set.
        timeout: seconds after which ranks that are still running are ended.

    Raises:
        the exception of the rank that failed first (by the clock), its traceback added as a note;
        TimeoutError with the stacks of the ranks that hung.
    """
    with tempfile.TemporaryDirectory(prefix="ranks-") as name:
        folder = Path(name)
        context = mp.start_processes(_rank, (fn, world, folder, timeout, args), world, join=False, start_method="fork")
        try:
            _join(context, folder, deadline=time.monotonic() + timeout + 1.0)
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()
                process.join()
        return [pickle.loads((folder / f"result{rank}").read_bytes()) for rank in range(world)]


def _rank(rank: int, fn: Callable[..., Any], world: int, folder: Path, timeout: float, args: tuple) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    with open(folder / f"stacks{rank}", "w") as stacks:
        faulthandler.dump_traceback_later(timeout, file=stacks)
        try:
            store = dist.FileStore(str(folder / "store"), world)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
            result = pickle.dumps(fn(rank, *args))
            (folder / f"result{rank}").write_bytes(result)
            dist.barrier()  # a rank that leaves early breaks the others' connecting
            dist.destroy_process_group()
        except BaseException as error:
            _record(error, folder / f"error{rank}")
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()


def _record(error: BaseException, path: Path) -> None:
    """Keep the exception for the parent, with the time: the ranks that fail later often fail because of the first."""
    when = time.monotonic_ns()  # one clock for all processes of a machine
    text = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PickleError, TypeError, AttributeError):  # it cannot cross a process border: keep what it said
        error = RuntimeError(f"{type(error).__name__}: {error}")
    write_aside(path, pickle.dumps((when, error, text)))  # whole or not there: this rank may be ended meanwhile


def _join(context: mp.ProcessContext, folder: Path, deadline: float) -> None:
    """Wait for every rank; raise the first failure."""
    while True:
        try:
            if context.join(timeout=max(0.0, min(1.0, deadline - time.monotonic()))):
                return
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as failure:
            errors = [pickle.loads(path.read_bytes()) for path in folder.glob("error*")]
            if not errors:
                raise
            _, error, text = min(errors, key=lambda record: record[0])
            error.add_note(f"raised in a rank:\n{text}")
            raise error from failure
        if time.monotonic() >= deadline:
            stacks = [f"rank {i}:\n{(folder / f'stacks{i}').read_text()}" for i in range(len(context.processes))]
            raise TimeoutError("ranks did not finish in time\n" + "\n".join(stacks))
