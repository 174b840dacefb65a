"""Starts a training run: in this process where a launcher made it a rank, else in local ranks forked from it.

Forking imports NeMo once for all ranks; it is for CPU only, on GPUs torchrun or srun starts the ranks.
"""

import gc
import importlib
import multiprocessing as mp
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

import torch

from nemo_forking.config import Config, save_resolved
from nemo_forking.config.schema import INJECTIVE
from nemo_forking.data.packing import pass_layout, round_up
from nemo_forking.data.settings import TAG_ROOM
from nemo_forking.data.token_file import TokenFile
from nemo_forking.errors import AGAIN, GIVE_UP, GivenUp, Stopped, UserError
from nemo_forking.model.base import check_base
from nemo_forking.processes import end_with_parent, is_first_rank
from nemo_forking.storage import storing
from nemo_forking.training import quiet
from nemo_forking.training.fp8 import check_fp8
from nemo_forking.training.identity import check_base_whole, finished, set_identity
from nemo_forking.training.services import check_services


def start_training(config: Config) -> None:
    """Train as configured, from the newest checkpoint on; nothing when the exported model is there already.

    Under torchrun or srun every rank calls it. Raises UserError before any rank starts for data, settings or a run
    folder that do not fit.
    """
    file = TokenFile(config.data.folder)
    check_data_fits(config, file)
    if finished(config, set_identity(config, file)):
        return
    run_ranks("nemo_forking.training.trainer", "train", config)


def run_ranks(module: str, function: str, config: Config) -> None:
    """Call `module.function(config)` in every rank of the layout: this process, where a launcher made it one.

    The module is imported here, after everything was checked: NeMo takes seconds.
    """
    launched = check_launch(config)
    check_fp8(config)
    check_services(config)
    if config.model.base:
        check_base(config.model.base, config.model)
        if is_first_rank():
            check_base_whole(config)
    # Megatron's order of communication and computation on a GPU under tensor parallelism; read when CUDA starts
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    # What NeMo takes for NCCL's timeout: ranks wait at a barrier while one writes a pipeline stage's weights
    os.environ.setdefault("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "3600")
    with quiet.imports():
        train = getattr(importlib.import_module(module), function)
    if is_first_rank():
        save_resolved(config, config.run.folder)
    if launched:
        _told(train, config)
    else:
        fork_ranks(_told, config.layout.processes, train, config)


def _told(train: Callable, config: Config) -> Any:
    """In a rank: train; what the file system refuses anywhere is told as that."""
    with storing(config.run.folder):
        return train(config)


def check_launch(config: Config) -> bool:
    """Whether torchrun or srun started this process as one rank of many.

    Raises UserError where the layout needs a launcher and there is none, has another number of processes than were
    launched, or asks for a GPU where torch sees none, or for none where it sees one.
    """
    layout, environment = config.layout, os.environ
    launched = "RANK" in environment or int(environment.get("SLURM_NTASKS", 1)) > 1
    command = f"torchrun --nproc-per-node {layout.devices} {sys.argv[0]} ..."
    if not launched and (layout.accelerator == "gpu" or layout.nodes > 1):
        raise UserError(
            f"layout has {layout.processes} {layout.accelerator.upper()} processes (nodes x devices = {layout.nodes} x "
            f"{layout.devices}), but no launcher started this one: use `{command}`, or srun"
        )
    count = int(environment.get("WORLD_SIZE", environment.get("SLURM_NTASKS", 1)))
    if launched and count != layout.processes:
        raise UserError(
            f"the launcher started {count} processes, but layout.nodes x devices = {layout.nodes} x {layout.devices} = "
            f"{layout.processes}: choose another layout, or start as many, `{command}`"
        )
    if layout.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("layout.accelerator=gpu, but torch sees no GPU here: choose a CPU layout, such as layout=cpu1")
    if layout.accelerator == "cpu" and torch.cuda.is_available():  # Megatron takes a GPU wherever there is one
        raise UserError("layout.accelerator=cpu, but torch sees a GPU: hide it, `export CUDA_VISIBLE_DEVICES=`")
    return launched


def check_data_fits(config: Config, file: TokenFile) -> None:
    """Refuse data that model, packed micro-batch or tags cannot hold; raises UserError with the key to change."""
    where, longest, traces = config.data.folder, file.longest() + TAG_ROOM, file.most_traces()
    if longest > config.model.max_length:
        raise UserError(
            f"{where} has a sequence of {longest} tokens, but model.max_length is {config.model.max_length}: prepare "
            f"it with data.max_length={config.model.max_length}"
        )
    unit = pass_layout(config.batch, config.layout).row_multiple
    needed = round_up(longest, unit)
    if config.batch.packing and needed > config.batch.tokens:
        raise UserError(
            f"{where} has a sequence of {longest} tokens, but a packed micro-batch holds batch.tokens="
            f"{config.batch.tokens}: raise it to {needed}, or prepare with data.max_length={config.batch.tokens}"
        )
    lengths = file.manifest["lengths"]
    scored = lengths["prompt"]["max"] + TAG_ROOM + min(config.matching.tokens, lengths["target"]["max"]) + unit
    if config.batch.packing and config.matching.rule == "optimal" and scored > config.batch.match_tokens:
        raise UserError(
            f"{where} has prompts of {lengths['prompt']['max']} tokens: with matching.tokens={config.matching.tokens} "
            f"a row does not fit batch.match_tokens={config.batch.match_tokens}; raise it to {scored}"
        )
    if config.matching.rule in INJECTIVE and traces > config.tags.count and not config.data.sample_down:
        raise UserError(
            f"{where} has a question with {traces} traces for {config.tags.count} tags: raise tags.count, prepare with "
            f"data.traces={config.tags.count}, or set data.sample_down=true"
        )


PATIENCE = 5.0  # seconds that ranks have to end in order after the first of them has stopped


class RankFailed(RuntimeError):
    """A forked rank raised; the message holds its traceback."""


def fork_ranks(function: Callable[..., Any], ranks: int, *args: Any) -> list[Any]:
    """Run function(*args) in `ranks` forked processes with torchrun's environment; their results in rank order.

    The first rank to fail ends the others; one that was asked to stop leaves them a moment to end by themselves.
    Raises RankFailed with that rank's traceback, or naming its signal; a UserError or Stopped as the rank raised it;
    GivenUp where ranks ended with that status. Signals that ask to stop go to the ranks.
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
        with _passed_on(processes):
            return _collect(pipes, processes)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


@contextmanager
def _passed_on(processes) -> Iterator[None]:
    """Signals that ask to stop are for the ranks, which end in order; a terminal sends them Ctrl-C by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, frame: object) -> None:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _collect(pipes, processes) -> list[Any]:
    results: dict[int, Any] = {}
    waiting = dict(enumerate(pipes))
    while waiting:  # a rank's own children may hold its pipe open, so that its death alone says that nothing follows
        connection.wait([*waiting.values(), *(processes[rank].sentinel for rank in waiting)])
        for rank, pipe in list(waiting.items()):
            dead = not processes[rank].is_alive()
            if not pipe.poll():
                if dead:
                    raise _death(rank, processes[rank])
                continue
            del waiting[rank]
            try:
                failed, value = pipe.recv()
            except EOFError:
                raise _death(rank, processes[rank]) from None
            if failed:
                error, text = value
                if isinstance(error, Stopped):
                    until = time.monotonic() + PATIENCE
                    for process in processes:
                        process.join(max(0.0, until - time.monotonic()))
                if error is not None:
                    raise error
                raise RankFailed(f"rank {rank} failed:\n{text}")
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _death(rank: int, process) -> BaseException:
    """What the end of a rank that gave no result means."""
    process.join()
    code = process.exitcode
    if code == AGAIN:
        return Stopped("the ranks did not get on any more (trainer.hang_minutes): see hang/ in the run folder")
    if code == GIVE_UP:
        return GivenUp("the ranks have hung again without having come further: see hang/ in the run folder")
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
    return RankFailed(f"rank {rank} {how}")


def _rank_main(function, rank, ranks, port, send, args) -> None:
    gc.freeze()  # else every full collection copies the parent's whole heap, page by page
    end_with_parent()  # no orphans training on after the parent is killed
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0}
    os.environ.update({k: str(v) for k, v in numbers.items()})
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the parent's thread pool does not survive a fork: calls hang
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="local")
    torch.set_num_threads(1)
    try:
        send.send((False, function(*args)))
    except (UserError, Stopped) as error:
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
