"""Run folders: found by what defines them, never half written, never half read.

runs/<dataset>-<encoder>-<augmentation>-<head>-<hash>/
    config.json  history.csv  encoder.safetensors  projection_head.safetensors
    encoder-<epoch>.safetensors (kept ones)  checkpoint.pt (while unfinished)
    provenance.json (written last: the run is finished)  <evaluation>-<hash>.json
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError as NoWeights
from safetensors.torch import load, save
from torch import nn

from labreport.store.files import file_sha256, read_json, write_json
from labreport.store.identity import changed, identity, run_name, training_code
from labreport.store.provenance import provenance
from labreport.store.recorded import dataset_from_record
from simclr_core.config import Own, PretrainConfig
from simclr_core.data.dataset import Dataset
from simclr_core.data.files import one_at_a_time, write_atomically
from simclr_core.errors import StoreError

HISTORY_FIELDS = ("epoch", "loss", "lr", "seconds", "images_per_second")  # nats, -, s, images/s
ENCODER, HEAD, CHECKPOINT = "encoder.safetensors", "projection_head.safetensors", "checkpoint.pt"


@dataclass(frozen=True)
class Run:
    """A finished run in the store, and the configuration that it was asked for with."""

    path: Path
    config: PretrainConfig

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def record(self) -> dict:
        """provenance.json: data, code, versions, device, threads, file checksums."""
        return read_json(self.path / "provenance.json")

    @property
    def history(self) -> list[dict[str, float]]:
        """One row per epoch; keys HISTORY_FIELDS. Empty for an untrained encoder."""
        return read_history(self.path / "history.csv")

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.history]

    @property
    def seconds(self) -> float:
        return sum(row["seconds"] for row in self.history)

    def weights_file(self, epoch: int | None = None) -> str:
        """Of the encoder at the end, or after a kept epoch."""
        return ENCODER if epoch in (None, self.config.epochs) else kept_name(epoch)

    def load_encoder(self, epoch: int | None = None, device: str | None = None) -> nn.Module:
        """The encoder in eval mode on the device (None: the run's), at the end or a kept epoch.

        Raises: StoreError if the weights are not here (a run may have come without them).
        """
        return self._load(self._build_encoder, self.weights_file(epoch), device)

    def load_projection_head(self, device: str | None = None) -> nn.Module:
        return self._load(self._build_head, HEAD, device)

    def _build_encoder(self) -> nn.Module:
        own = Own(encoder=self.config.own.encoder)
        fresh = replace(self.config, init="random", own=own)  # all is loaded, nothing downloaded
        return fresh.build_encoder(self.record["data"]["image_shape"])

    def _build_head(self) -> nn.Module:
        with torch.device("meta"):
            h_dim = self._build_encoder().h_dim
        return self.config.build_projection_head(h_dim)

    def _load(self, build: Callable[[], nn.Module], name: str, device: str | None) -> nn.Module:
        path = self.path / name
        if not path.is_file():
            raise StoreError(f"{path} is not here, so {self.name} gives no new evaluation; "
                             "train it again (--fresh)")  # fmt: skip
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != self.record["files"].get(name):
                raise ValueError("its checksum does not fit")
            weights = load(content)
            with torch.device("meta"):  # nothing is allocated that the file does not hold
                expected = build().state_dict()
            if _shapes(weights) != _shapes(expected):
                raise ValueError("not the shapes of this network")
        except (OSError, LookupError, TypeError, ValueError, RuntimeError, NoWeights) as error:
            raise StoreError(f"{path} holds no weights of {self.name} ({error}); "
                             "train it again (--fresh)") from error  # fmt: skip
        module = build()
        module.load_state_dict(weights)
        return module.to(device or self.config.device).eval()

    def export_encoder(self, path: Path) -> None:
        """Write the encoder alone, float32, as torchvision's own ResNet loads it (docs/encoder.md).

        Its metadata say what it is: encoder, width, stem, image_shape, mean, std, h_dim, run.
        Raises: StoreError if the weights are not in the store or the file cannot be written.
        """
        encoder, data = self.load_encoder(device="cpu"), self.record["data"]
        about = {key: getattr(self.config, key) for key in ("encoder", "width", "stem")}
        about |= {key: data[key] for key in ("image_shape", "mean", "std")}
        about |= {"h_dim": encoder.h_dim, "run": self.name}
        save_weights(path, encoder, {key: json.dumps(value) for key, value in about.items()})

    # ---- is it current? -----------------------------------------------------------------------

    def fault(self, data: Dataset) -> str:
        """Why the finished run in this folder is not this one, whole and current; "" if it is."""
        try:
            self._check(data)
        except OSError as error:
            raise StoreError(f"{error.filename} cannot be read: {error.strerror}; "
                             "mend its permissions") from error  # fmt: skip
        except (StoreError, KeyError, AttributeError, TypeError) as error:
            return str(error)
        if data.recorded:
            return ""
        modules = changed(self.record.get("code", {}), training_code(self.config, data))
        return f"{self.name}: {', '.join(modules)} changed since it was trained" if modules else ""

    def _check(self, data: Dataset) -> None:
        """Raises: StoreError, KeyError, ... for a file that is damaged or belongs elsewhere."""
        if read_json(self.path / "config.json") != identity(self.config, data):
            raise StoreError(f"{self.path}/config.json is not the configuration of this run")
        record, place = self.record, f"{self.path}/provenance.json"
        if record["run"] != self.name:
            raise StoreError(f"{place} is about {record['run']}")
        if dataset_from_record(record["data"]).fingerprint != data.fingerprint:
            raise StoreError(f"{place} is about other data than this run's")
        for file, expected in record["files"].items():
            path = self.path / file
            if path.parent != self.path:
                raise StoreError(f"{place} names {file!r}, which is not in this run's folder")
            if path.exists() and not (path.is_file() and file_sha256(path) == expected):
                raise StoreError(f"{path} is damaged (its checksum does not fit)")
        if not (self.path / "history.csv").is_file():
            raise StoreError(f"{self.path}/history.csv is missing")

    @property
    def finished(self) -> bool:
        return (self.path / "provenance.json").is_file()

    def keeps(self, epochs: Iterable[int]) -> bool:
        """True if the encoders of these epochs are there, or the run came without weights."""
        if self.config.objective == "none" or not (self.path / ENCODER).is_file():
            return True
        kept = [kept_name(epoch) for epoch in epochs if epoch < self.config.epochs]
        return all((self.path / name).is_file() for name in kept)


def find_run(config: PretrainConfig, data: Dataset, store: str | Path) -> Run | None:
    """The finished run of this configuration and data, whole and made by today's code; or None.

    Of data that are only recorded (a report's stored runs) the code does not matter.
    Raises: StoreError if a file is there and cannot be read.
    """
    run = Run(Path(store) / run_name(config, data), config)
    return run if run.finished and not run.fault(data) else None


def finish_run(run: Run, data: Dataset, worked: list[dict]) -> None:
    """Write provenance.json with the checksums of the run's files: the run is finished.

    Args: worked: what trained it, part by part (Processes.record).
    """
    kept = [path for path in sorted(run.path.iterdir()) if path.suffix in (".safetensors", ".csv")]
    record = {
        **provenance(run.config.device),
        "run": run.name,
        "code": training_code(run.config, data),
        "data": data.record(),
        "threads": torch.get_num_threads(),
        "processes": worked,
        "files": {path.name: file_sha256(path) for path in kept},
    }
    write_json(run.path / "provenance.json", record)
    (run.path / CHECKPOINT).unlink(missing_ok=True)


@contextmanager
def writer_lock(store: Path, name: str) -> Iterator[None]:
    """One writer at a time; a dead process's lock is free, a live one is waited for."""
    busy = f"{name}: another process is at work on this run; waiting for it"
    with ExitStack() as held:
        try:
            (store / ".locks").mkdir(parents=True, exist_ok=True)
            held.enter_context(one_at_a_time(store / ".locks" / f"{name}.lock", busy))
        except OSError as error:
            raise StoreError(f"the run store {store} cannot be written: {error.strerror or error}; "
                             "set another with $SIMCLR_RUNS") from error  # fmt: skip
        yield


def kept_name(epoch: int) -> str:
    return f"encoder-{epoch:04d}.safetensors"


def save_weights(path: Path, module: nn.Module, about: dict[str, str] | None = None) -> str:
    """As safetensors with the metadata `about`; returns the file's SHA-256."""
    state = module.state_dict().items()
    content = save({key: value.detach().cpu().contiguous() for key, value in state}, about)
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


def write_history(path: Path, rows: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def read_history(path: Path) -> list[dict[str, float]]:
    """Raises: StoreError for anything else than rows of numbers; OSError."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        numbers = [{key: float(value) for key, value in row.items()} for row in rows]
        return [{**row, "epoch": int(row["epoch"])} for row in numbers]
    except (LookupError, TypeError, ValueError, ArithmeticError, csv.Error) as error:
        raise StoreError(f"{path} is damaged ({error})") from error
