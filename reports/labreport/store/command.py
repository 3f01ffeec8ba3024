"""`python -m labreport.store --config run.json`: one pre-training run, on one GPU or many.

`--processes 4` starts four processes here, one a GPU (or a few CPU threads each).
`torchrun --nproc_per_node=4 -m labreport.store --config run.json` does the same, over several
machines too, but adds its own log when one ends.
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

from labreport.store.identity import run_name
from labreport.store.train import build_training, load_state, pretrain
from simclr_core.config import PretrainConfig
from simclr_core.data import load_dataset
from simclr_core.errors import StreamError, UserError
from simclr_core.memory import keep_freed_memory
from simclr_core.scale.processes import PeerLost, Processes, end_with_parent

LOST = 75  # exit status where another process has ended (EX_TEMPFAIL: may be repeated)


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
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


def _parser() -> argparse.ArgumentParser:
    about = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m labreport.store", description=about)
    say = parser.add_argument
    say("--config", required=True, help="JSON file: the fields of PretrainConfig")
    say("--data", metavar="DIR", help="folder with the data set")
    say("--store", metavar="DIR", default=os.environ.get("SIMCLR_RUNS") or "runs")
    say("--keep-epochs", type=int, nargs="*", default=[], metavar="EPOCH",
        help="epochs whose encoder is kept beside the last one's")  # fmt: skip
    say("--processes", type=int, default=1, metavar="N", help="on this machine; one GPU each")
    say("--batch-norm-sync", action=argparse.BooleanOptionalAction, default=True,
        help="over the whole batch; without, each process's own part: other numbers")  # fmt: skip
    say("--events", action="store_true", help="print progress as one JSON object an epoch")
    return parser


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
    processes.broadcast(None)
    print(run.path)
    return 0


def _follow(data_dir: str | None, processes: Processes) -> None:
    """Train whatever the leader trains, until it says that all is done."""
    while order := processes.broadcast():
        config, name, state = order
        _check_gpus(config, processes)
        data = load_dataset(config.dataset, data_dir)
        if run_name(config, data) != name:
            raise UserError(f"process {processes.rank} has other data or another version of this "
                            "program than process 0; make them the same")  # fmt: skip
        training = build_training(config, data, processes)
        training.load_state_dict(load_state(state, config.device)["training"])
        try:
            for _ in training:
                pass
        except (PeerLost, StreamError):
            raise
        except UserError:
            processes.broadcast()  # the leader has the same error, and says it


def _check_gpus(config: PretrainConfig, processes: Processes) -> None:
    if config.device == "cuda" and processes.count > 1:
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            here = f"{gpus} here; start at most that many"
            raise UserError(f"process {processes.rank} finds no GPU of its own: {here}")
        torch.cuda.set_device(local)


def read_config(path: str | Path) -> PretrainConfig:
    """From a JSON file: a configuration's fields, or a stored run's config.json.

    Raises: UserError naming file and field.
    """
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as JSON: {reason}") from error
    given = given.get("config", given) if isinstance(given, dict) else given
    if not isinstance(given, dict):
        raise UserError(f"{path} must hold one JSON object, the fields of PretrainConfig")
    if given.get("objective") == "none":
        given = {"images": (0, 1), **given}  # which do not matter to an untrained encoder
    known = {field.name: field for field in fields(PretrainConfig) if field.name != "own"}
    if unknown := sorted(given.keys() - known.keys()):
        raise UserError(f"{path}: unknown field {', '.join(unknown)}; known are {', '.join(known)}")
    needed = [name for name, field in known.items() if field.default is MISSING]
    if missing := [name for name in needed if name not in given]:
        raise UserError(f"{path}: {', '.join(missing)} must be given")
    try:
        return PretrainConfig(**given)
    except UserError as error:
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
    words = ["--standalone", f"--nproc-per-node={count}", "-m", "labreport.store", *arguments]
    try:
        torchrun.run(torchrun.parse_args(words))
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        if 2 in codes.values():
            return 2  # a UserError, said
        followed = LOST, -signal.SIGTERM  # how the others end then
        rank = min(codes, key=lambda rank: (codes[rank] in followed, rank))
        code = codes[rank]
        signalled = f"was ended by {signal.Signals(-code).name}" if code < 0 else ""
        how = signalled or f"ended with status {code}"
        print(f"error: process {rank} of {count} {how}, and so did the run; the same command goes "
              "on from its last checkpoint", file=sys.stderr)  # fmt: skip
        return 1
    return 0
