"""`python -m simclr_core.pretrain --config run.json`: one pre-training run from the command line, on one GPU or many.

`--processes 4` starts four processes here, one a GPU (or a few CPU threads each). `torchrun --nproc_per_node=4 -m
simclr_core.pretrain --config run.json` does the same, over several machines too, but adds its own log when one ends.
"""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path

import torch

from simclr_core.data import load_dataset
from simclr_core.distributed import PeerLost, Processes, end_with_parent
from simclr_core.errors import StreamError, UserError
from simclr_core.memory import keep_freed_memory
from simclr_core.pretrain import PretrainConfig, _Training, pretrain
from simclr_core.runs import Run, run_name

LOST = 75  # exit status of a process that ends because another one has ended (EX_TEMPFAIL: the command may be repeated)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m simclr_core.pretrain", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="JSON file: the fields of PretrainConfig")
    parser.add_argument("--data", metavar="DIR", help="folder with the data set")
    parser.add_argument("--store", metavar="DIR", default=os.environ.get("SIMCLR_RUNS") or "runs")
    parser.add_argument("--keep-epochs", type=int, nargs="*", default=[], metavar="EPOCH",
                        help="epochs whose encoder is kept beside the last one's")  # fmt: skip
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="on this machine; one GPU each")
    parser.add_argument("--batch-norm-sync", action=argparse.BooleanOptionalAction, default=True,
                        help="over the whole batch; without, each process's own part: other numbers")  # fmt: skip
    parser.add_argument("--events", action="store_true", help="print progress as one JSON object an epoch")
    options = parser.parse_args(argv)
    try:
        if options.processes > 1 and "RANK" not in os.environ:
            read_config(options.config)
            return _launch(options.processes, sys.argv[1:] if argv is None else argv)
        return _work(options, Processes.start(options.batch_norm_sync))
    except PeerLost:
        return LOST  # said by whoever started the processes
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        Processes.end()


def _work(options: argparse.Namespace, processes: Processes) -> int:
    keep_freed_memory()
    if processes.rank > 0:
        _follow(options.data, processes)
        return 0
    config = read_config(options.config)
    _check_gpus(config, processes)
    data = load_dataset(config.dataset, options.data)
    say = _print_event if options.events else _print_epoch
    run = pretrain(config, data, options.store, options.keep_epochs, say, processes)
    processes.tell(None)
    print(run.path)
    return 0


def _follow(data_dir: str | None, processes: Processes) -> None:
    """Train whatever the leader trains, until it says that all is done."""
    while order := processes.told():
        config, name, state = order
        _check_gpus(config, processes)
        data = load_dataset(config.dataset, data_dir)
        if run_name(config, data.fingerprint) != name:
            raise UserError(f"process {processes.rank} has other data or another version of this program than process "
                            "0; make them the same")  # fmt: skip
        training = _Training(Run(Path(name), config), data, (), None, processes)
        try:
            training.join(state)
        except (PeerLost, StreamError):
            raise
        except UserError:
            processes.told()  # the leader has the same error, and says it


def _check_gpus(config: PretrainConfig, processes: Processes) -> None:
    if config.device == "cuda" and processes.count > 1:
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise UserError(f"process {processes.rank} finds no GPU of its own: {gpus} here; start at most that many")
        torch.cuda.set_device(local)


def read_config(path: str | Path) -> PretrainConfig:
    """A PretrainConfig from a JSON file; a stored run's config.json is one. Raises: UserError naming file and field."""
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(given, dict):
        raise UserError(f"{path} must hold one JSON object, the fields of PretrainConfig")
    given.pop("sha256", None)  # a stored config.json's checksum
    known = {field.name: field for field in fields(PretrainConfig)}
    if unknown := sorted(given.keys() - known.keys()):
        raise UserError(f"{path}: unknown field {', '.join(unknown)}; known are {', '.join(known)}")
    if missing := [name for name, field in known.items() if field.default is MISSING and name not in given]:
        raise UserError(f"{path}: {', '.join(missing)} must be given")
    try:
        whole = {name for name, value in given.items() if known[name].type is float and type(value) is int}
        return PretrainConfig(**given | {name: float(given[name]) for name in whole})  # 1 and 1.0 are one run
    except (UserError, OverflowError) as error:
        raise UserError(f"{path}: {error}") from error


def _print_epoch(event: dict) -> None:
    print(f"epoch {event['epoch']} of {event['epochs']}: loss {event['loss']:.4f}, "
          f"{event['seconds_left']:.0f} s left", flush=True)  # fmt: skip


def _print_event(event: dict) -> None:
    print(json.dumps(event), flush=True)


def _launch(count: int, arguments: Sequence[str]) -> int:
    """torchrun on this machine; one line where one of the processes ends before its time."""
    logging.disable()  # of torchrun: it says nothing more, in more lines
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    end_with_parent()
    words = ["--standalone", f"--nproc-per-node={count}", "-m", "simclr_core.pretrain", *arguments]
    try:
        torchrun.run(torchrun.parse_args(words))
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        if 2 in codes.values():
            return 2  # a UserError, said
        rank = min(codes, key=lambda rank: (codes[rank] in (LOST, -signal.SIGTERM), rank))  # the others followed it
        code = codes[rank]
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        print(f"error: process {rank} of {count} {how}, and so did the run; the same command goes on from its last "
              "checkpoint", file=sys.stderr)  # fmt: skip
        return 1
    return 0
