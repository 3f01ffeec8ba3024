"""`pretrain`: configuration and data in, finished run in the store out; exact to resume."""

import io
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from labreport.store.files import file_sha256, write_json
from labreport.store.identity import identity, label, run_name, training_code
from labreport.store.runs import (
    CHECKPOINT,
    ENCODER,
    HEAD,
    Run,
    finish_run,
    kept_name,
    save_weights,
    write_history,
    writer_lock,
)
from simclr_core.config import PretrainConfig
from simclr_core.data.dataset import Dataset
from simclr_core.data.files import read_checksummed, set_aside, write_checksummed
from simclr_core.errors import StoreError, UserError, enough_memory
from simclr_core.scale.processes import ALONE, Processes
from simclr_core.scale.training import ScaledTraining
from simclr_core.train import Training

CHECKPOINT_SECONDS = 30.0  # ours: at most this much work (and a step) is lost to a kill


def pretrain(config: PretrainConfig, data: Dataset, store: str | Path,
             keep_epochs: Sequence[int] = (), progress: Callable[[dict], None] | None = None,
             processes: Processes = ALONE, weights: bool = False) -> Run:  # fmt: skip
    """Return the stored run if it is finished, resume it if it was cut off, train it otherwise.

    A stored run that today's code would not have made is named, set aside and trained anew.
    Args:
        keep_epochs: epochs whose encoder is kept beside the last one; not part of the identity.
        progress: called after each epoch with run, epoch, epochs, loss, seconds_left.
        processes: that share the work (labreport.store.command); not part of it either.
        weights: train a run again that came without them.
    Raises: UserError for images outside the data, a device that is not there, a loss that is not
        finite, or a store that cannot be written.
    """
    _check(config, data, keep_epochs)
    run = Run(Path(store) / run_name(config, data), config)
    ready = partial(_ready, run, data, keep_epochs, weights)
    if ready():
        return run
    with writer_lock(Path(store), run.name), memory_for(config):
        if ready():  # by another process meanwhile
            return run
        if config.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device 'cuda' was asked for but there is no CUDA GPU here; use 'cpu'")
        _ = data.train.images  # a data set without its images says so before anything is written
        if run.finished and (fault := run.fault(data)):
            set_aside(run.path, fault)
        elif run.finished and _is_there(run, keep_epochs, weights):
            (run.path / CHECKPOINT).unlink()  # a call was killed that had done all else
            return run
        elif run.finished:
            keep_epochs = _reopen(run, keep_epochs)
        write_json(run.path / "config.json", identity(config, data))
        worked = _train(run, data, keep_epochs, progress, processes)
        finish_run(run, data, worked)
    return run


def _check(config: PretrainConfig, data: Dataset, keep_epochs: Sequence[int]) -> None:
    if config.images[1] > len(data.train):
        there = f"the {len(data.train):,} training images of {data.name}"
        raise UserError(f"images {config.images} reach past {there}")
    if outside := [epoch for epoch in keep_epochs if not 1 <= epoch <= config.epochs]:
        raise UserError(f"keep_epochs {outside} lie outside the {config.epochs} epochs of the run")


def _ready(run: Run, data: Dataset, keep_epochs: Sequence[int], weights: bool) -> bool:
    """True if the run is finished and current, with all that is asked for and nothing left over."""
    if not run.finished or run.fault(data):
        return False
    if data.recorded:  # a store that is only read
        return True
    return _is_there(run, keep_epochs, weights) and not (run.path / CHECKPOINT).exists()


def _is_there(run: Run, keep_epochs: Sequence[int], weights: bool) -> bool:
    return run.keeps(keep_epochs) and (not weights or (run.path / ENCODER).is_file())


def _reopen(run: Run, keep_epochs: Sequence[int]) -> list[int]:
    """Make a finished run one to be trained, to the same numbers; returns the epochs to keep.

    Its evaluations stay: each names the weights it is of.
    """
    print(f"{run.name}: trained again, for encoders that are not here", file=sys.stderr)
    kept = [k for k in range(1, run.config.epochs) if (run.path / kept_name(k)).is_file()]
    (run.path / "provenance.json").unlink()
    return sorted({*kept, *keep_epochs})


def memory_for(config: PretrainConfig):
    """Memory that runs out is told with the batch and what to change."""
    held = config.micro_batch or config.batch_size
    return enough_memory(
        f"pre-training {label(config)} on {config.device} with batch_size {config.batch_size}, the "
        f"activations of {held} images at once",
        f"try micro_batch {max(2, held // 4)} (same loss and gradient, batch normalisation apart), "
        f"a smaller batch_size, or a smaller width than {config.width:g}",
    )


def build_training(config: PretrainConfig, data: Dataset, processes: Processes = ALONE) -> Training:
    """The training, over several processes and by chunks of the batch where that is asked for."""
    if processes.count == 1 and not config.micro_batch:
        return config.training(data)
    scaled = {"processes": processes, "micro_batch": config.micro_batch}
    return config.training(data, partial(ScaledTraining, **scaled))


def _train(run: Run, data: Dataset, keep_epochs, progress, processes: Processes) -> list[dict]:
    """Leave weights and history in the folder; returns what trained the run, part by part."""
    if run.config.objective == "none":
        encoder = run.config.build_encoder(data.train.images.shape[1:])
        save_weights(run.path / ENCODER, encoder)
        write_history(run.path / "history.csv", [])
        return [processes.record()]
    training = build_training(run.config, data, processes)
    book = Book(run, training, keep_epochs, training_code(run.config, data), processes.record())
    book.resume()
    processes.broadcast((run.config, run.name, book.state() if processes.count > 1 else None))
    try:
        book.train(progress)
    except UserError as error:
        raise type(error)(f"{run.name}: {error}") from error
    save_weights(run.path / ENCODER, training.encoder)
    save_weights(run.path / HEAD, training.head)
    write_history(run.path / "history.csv", book.history)
    return book.worked


class Book:
    """What is written down while a run trains: history, kept encoders, checkpoints."""

    def __init__(self, run: Run, training: Training, keep_epochs, code: dict, worked: dict):
        self.run, self.training, self.keep_epochs = run, training, set(keep_epochs)
        self.origin = {"run": run.name, "code": code}  # what a checkpoint must be of
        self.worked = [worked]
        self.history: list[dict] = []  # training.history with times
        self.kept: dict[str, str] = {}  # file of a kept encoder -> its SHA-256
        self.seconds = 0.0  # of the epoch under way
        self.saved_at = time.monotonic()

    def train(self, progress: Callable[[dict], None] | None) -> None:
        started = time.perf_counter()
        for row in self.training:
            due = time.monotonic() - self.saved_at > CHECKPOINT_SECONDS
            if due and not row:
                self.training.finite_total()  # waits for the device
            self.seconds += time.perf_counter() - started
            if row:
                self._end_epoch(row)
            if due and len(self.history) < self.run.config.epochs:
                self.checkpoint()
            if row and progress:
                self._report(progress)
            started = time.perf_counter()

    def _end_epoch(self, row: dict) -> None:
        rate = round(len(self.training.images) / self.seconds, 1)
        times = {"seconds": round(self.seconds, 3), "images_per_second": rate}
        self.history.append({**row, **times})
        self.seconds, epoch = 0.0, row["epoch"]
        if epoch in self.keep_epochs and epoch < self.run.config.epochs:
            path = self.run.path / kept_name(epoch)
            self.kept[path.name] = save_weights(path, self.training.encoder)

    def _report(self, progress: Callable[[dict], None]) -> None:
        recent = [row["seconds"] for row in self.history[-5:]]
        epoch, epochs = len(self.history), self.run.config.epochs
        left = (epochs - epoch) * sum(recent) / len(recent)
        told = {"run": self.run.name, "epoch": epoch, "epochs": epochs, "seconds_left": left}
        try:
            progress({**told, "loss": self.history[-1]["loss"]})
        except BaseException:  # whoever stops the run here loses nothing
            self.checkpoint()
            raise

    def checkpoint(self) -> None:
        self.saved_at = time.monotonic()
        write_checksummed(self.run.path / CHECKPOINT, self.state())
        write_history(self.run.path / "history.csv", self.history)

    def state(self) -> bytes:
        """All that resuming needs."""
        kept = {name: getattr(self, name) for name in ("history", "kept", "seconds", "worked")}
        buffer = io.BytesIO()
        torch.save({**self.origin, **kept, "training": self.training.state_dict()}, buffer)
        return buffer.getvalue()

    def resume(self) -> None:
        """Go on from the checkpoint, if there is a good one that kept the encoders asked for."""
        path = self.run.path / CHECKPOINT
        if path.exists() and (state := self._read(path)):
            try:
                self._restore(state)
            except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
                raise StoreError(f"{path} is no checkpoint of this run ({type(error).__name__}); "
                                 "remove it") from error  # fmt: skip
            done = self.training.steps_done % self.training.steps_per_epoch
            print(f"{self.run.name}: resumed after epoch {len(self.history)} of "
                  f"{self.run.config.epochs} and {done} steps")  # fmt: skip
        for left in self.run.path.glob("encoder-*.safetensors"):
            if left.name not in self.kept:  # of an attempt that this does not go on with
                left.unlink()

    def _read(self, path: Path) -> dict | None:
        """The checkpoint's content; None in one line, if it is of no use."""
        try:
            state = load_state(read_checksummed(path), self.run.config.device)
            ours = all(state.get(key) == value for key, value in self.origin.items())
            done, kept = len(state["history"]), dict(state["kept"])
        except Exception as error:  # torch.load raises many kinds on what is no checkpoint
            set_aside(path, f"{path} is damaged ({type(error).__name__})")
            return None
        if not ours:
            set_aside(path, f"{path} is of {state.get('run')}, or of code that has changed since")
            return None
        asked = [kept_name(k) for k in sorted(self.keep_epochs) if k <= done]
        missing = [name for name in asked if not self._is_whole(name, kept)]
        if missing:
            made = f"{', '.join(missing)} must be made (again)"
            print(f"{self.run.name}: {made}; training starts anew")
        return None if missing else state

    def _is_whole(self, name: str, kept: dict[str, str]) -> bool:
        path = self.run.path / name
        if path.exists() and not (path.is_file() and file_sha256(path) == kept.get(name)):
            set_aside(path, f"{path} is damaged, or not of this training")
        return path.exists()

    def _restore(self, state: dict) -> None:
        self.training.load_state_dict(state["training"])
        self.history, self.kept, self.seconds = (state[k] for k in ("history", "kept", "seconds"))
        before = state["worked"]
        self.worked = before + [w for w in self.worked if w not in before[-1:]]


def load_state(content: bytes, device: str) -> dict:
    return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
