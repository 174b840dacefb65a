"""Local ranks: import NeMo once, then fork (CPU only; on GPUs torchrun or srun starts the ranks)."""

import ctypes
import multiprocessing as mp
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

import torch


class RankFailed(RuntimeError):
    """A forked rank raised; the message holds its traceback."""


def fork_ranks(function: Callable[..., Any], ranks: int, *args: Any) -> list[Any]:
    """Run function(*args) in `ranks` forked processes with torchrun's environment; their results in rank order.

    The first rank to fail ends the others. Raises RankFailed with that rank's traceback, or naming its signal.
    """
    context, port = mp.get_context("fork"), _free_port()
    pipes, processes = [], []
    for rank in range(ranks):
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_rank_main, args=(function, rank, ranks, port, send, args))
        process.start()
        send.close()
        pipes.append(receive)
        processes.append(process)
    try:
        return _collect(pipes, processes)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


def _collect(pipes, processes) -> list[Any]:
    results: dict[int, Any] = {}
    waiting = dict(enumerate(pipes))
    while waiting:
        for ready in connection.wait(list(waiting.values())):
            rank = next(r for r, pipe in waiting.items() if pipe is ready)
            del waiting[rank]
            try:
                failed, value = ready.recv()
            except EOFError:
                processes[rank].join()
                code = processes[rank].exitcode
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
                raise RankFailed(f"rank {rank} {how}") from None
            if failed:
                error, text = value
                if error is not None:
                    raise error
                raise RankFailed(f"rank {rank} failed:\n{text}")
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _rank_main(function, rank, ranks, port, send, args) -> None:
    from nemo_forking.errors import UserError

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphans training on after the parent is killed
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
    os.environ.update({k: str(v) for k, v in numbers.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="local")
    torch.set_num_threads(1)
    try:
        send.send((False, function(*args)))
    except UserError as error:
        send.send((True, (error, "")))
    except BaseException:
        send.send((True, (None, traceback.format_exc())))
    finally:
        send.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # a forked child must not run the parent's exit handlers


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
