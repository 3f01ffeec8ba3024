"""The run store: one folder a run, found by what defines it, never half written, never half read.

runs/<dataset>-<encoder>-<augmentation>-<head>-<hash>/
    config.json  history.csv  encoder.safetensors  projection_head.safetensors  encoder-<epoch>.safetensors
    checkpoint.pt (while unfinished)  provenance.json (written last: the run is finished)  <evaluation>-<hash>.json
"""

import base64
import csv
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file
from torch import nn

from simclr_core.errors import StoreError

if TYPE_CHECKING:
    from simclr_core.data import Dataset

METHOD_VERSION = 2  # raise it whenever a change moves numbers: stored runs of another version are not found
HISTORY_FIELDS = ("epoch", "loss", "lr", "seconds", "images_per_second")  # nats, -, s, images/s


# ---- files ------------------------------------------------------------------------------------------------


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write to a temporary name, flush to the disk, rename: readers see the old file or the new one.

    Raises: StoreError in one line when the folder cannot be written or the disk is full; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _remove_abandoned(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True) if os.access(path.parent, os.W_OK) else None
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; free some space or give a folder that can be written"
        ) from error


def _remove_abandoned(folder: Path) -> None:
    """Delete the temporary files of this machine's processes that were killed while they wrote."""
    for old in folder.glob(f".*.{platform.node()}.*.tmp"):
        if Path("/proc/self").exists() and not Path("/proc", old.name.split(".")[-2]).exists():
            old.unlink(missing_ok=True)


def write_checksummed(path: Path, content: bytes) -> None:
    """The content behind its SHA-256: torch reads its archives without checking them."""
    write_atomically(path, hashlib.sha256(content).digest() + content)


def read_checksummed(path: Path) -> bytes:
    """Raises: StoreError if the checksum does not fit; OSError."""
    stored = path.read_bytes()
    if hashlib.sha256(stored[32:]).digest() != stored[:32]:
        raise StoreError(f"{path} is damaged (its checksum does not fit)")
    return stored[32:]


def _checksum(value: dict) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, value: dict) -> None:
    """Sorted JSON with a SHA-256 of its own content, so that damage is seen. NaN and infinity are refused."""
    text = json.dumps({**value, "sha256": _checksum(value)}, indent=1, sort_keys=True, allow_nan=False)
    write_atomically(path, text + "\n")


def read_json(path: Path) -> dict:
    """Raises: StoreError if the file is damaged or unreadable."""
    try:
        value = json.loads(path.read_bytes())
        stored = value.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise StoreError(f"{path} is damaged or cannot be read ({type(error).__name__})") from error
    if stored != _checksum(value):
        raise StoreError(f"{path} is damaged (its checksum does not fit)")
    return value


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged file or folder to <name>.damaged[-k] beside it, and say so."""
    k, target = 0, path.with_name(path.name + ".damaged")
    while target.exists():
        k += 1
        target = path.with_name(f"{path.name}.damaged-{k}")
    try:
        path.rename(target)
    except OSError as error:
        raise StoreError(f"{path} is damaged and cannot be set aside: {error.strerror}") from error
    print(f"{reason}; set aside as {target.name}", file=sys.stderr)


@contextmanager
def writer_lock(store: Path, name: str) -> Iterator[None]:
    """One writer at a time; the operating system frees a dead process's lock, a live one is waited for."""
    try:
        (store / ".locks").mkdir(parents=True, exist_ok=True)
        lock = FileLock(store / ".locks" / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{name}: another process is at work on this run; waiting for it", file=sys.stderr, flush=True)
            lock.acquire()
    except OSError as error:
        raise StoreError(
            f"the run store {store} cannot be written: {error.strerror or error}; set another with $SIMCLR_RUNS"
        ) from error
    try:
        yield
    finally:
        lock.release()


# ---- provenance -------------------------------------------------------------------------------------------


@cache
def provenance(device: str = "cpu") -> dict:
    """Commit, clean or dirty, versions and the name of the device: where the numbers of this process come from."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        try:
            answer = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return answer.stdout.strip() if answer.returncode == 0 else ""

    names = ("torch", "torchvision", "numpy", "scikit-learn")
    return {
        "commit": git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in names}},
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# ---- runs -------------------------------------------------------------------------------------------------


def run_name(config, fingerprint: str) -> str:
    """Folder name of a run: readable parts, then a hash of config, data and METHOD_VERSION."""
    identity = {"config": config.identity(), "views": config.method(), "data": fingerprint, "method": METHOD_VERSION}
    return f"{config.label()}-{_checksum(identity)[:12]}"


@dataclass(frozen=True)
class Run:
    """A finished run in the store. `config` is the PretrainConfig it was asked for with."""

    path: Path
    config: object

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def record(self) -> dict:
        """provenance.json: data, versions, device, threads, file checksums."""
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

    def load_encoder(self, epoch: int | None = None) -> nn.Module:
        """The encoder in eval mode on the run's device, as it was at the end or after a kept epoch.

        Raises: StoreError if the weights are not in the store (a run folder may have come without them).
        """
        name = "encoder.safetensors" if epoch in (None, self.config.epochs) else kept_name(epoch)
        fresh = replace(self.config, init="random")  # every weight is loaded, so none is downloaded
        return self._load(fresh.build_encoder(self.record["data"]), name)

    def load_projection_head(self) -> nn.Module:
        return self._load(self.config.build_projection_head(self.record["data"]), "projection_head.safetensors")

    def _load(self, module: nn.Module, name: str) -> nn.Module:
        path = self.path / name
        if not path.is_file():
            raise StoreError(f"{path} is not here, so {self.name} gives no new evaluation; train it again (--fresh)")
        module.load_state_dict(load_file(path))
        return module.to(self.config.device).eval()

    def evaluation(self, kind: str, config: dict, data: "Dataset", compute: Callable[[], dict]) -> dict:
        """The stored result of an evaluation, or the one that `compute` makes now, stored as <kind>-<hash>.json.

        Args:
            config: everything the result depends on beside the run itself; JSON types.
            data: must be the data of the run.
            compute: called without arguments when there is no stored result; returns JSON types.
        Raises: StoreError for other data than the run's.
        """
        if self.record["data"]["fingerprint"] != data.fingerprint:
            raise StoreError(f"{self.name} was made with other data than this {data.name}; evaluate it on its own")
        path = self.path / f"{kind}-{_checksum({'config': config, 'method': METHOD_VERSION})[:12]}.json"
        if path.is_file():
            try:
                return read_json(path)["result"]
            except StoreError as error:
                set_aside(path, str(error))
        result = compute()
        origin = provenance(self.config.device)
        write_json(path, {"kind": kind, "config": config, "result": result, "provenance": origin})
        return result


def kept_name(epoch: int) -> str:
    return f"encoder-{epoch:04d}.safetensors"


def find_run(config, fingerprint: str, store: str | Path, mend: bool = False) -> Run | None:
    """The finished run of this config and data, or None. With `mend` (under the writer's lock only) a damaged run is
    named and set aside; without, it is passed over.

    Raises: StoreError if a file is there and cannot be read.
    """
    run = Run(Path(store) / run_name(config, fingerprint), config)
    if not (run.path / "provenance.json").is_file():
        return None
    try:
        if read_json(run.path / "config.json") != config.identity():
            raise StoreError(f"{run.path}/config.json is not the configuration of this run")
        for file, expected in run.record["files"].items():
            path = run.path / file
            if path.is_file() and file_sha256(path) != expected:
                raise StoreError(f"{path} is damaged (its checksum does not fit)")
        if not (run.path / "history.csv").is_file():
            raise StoreError(f"{run.path}/history.csv is missing")
    except OSError as error:
        raise StoreError(f"{error.filename} cannot be read: {error.strerror}; mend its permissions") from error
    except (StoreError, KeyError, AttributeError) as error:
        if mend:
            set_aside(run.path, str(error))
        return None
    return run


def reopen_run(run: Run) -> None:
    """Before a finished run is trained again: it is not finished now, and its evaluations belong to the old weights."""
    for path in [run.path / "provenance.json", *run.path.glob("*-????????????.json")]:
        path.unlink(missing_ok=True)


def finish_run(run: Run, data_record: dict, threads: int, processes: list[dict]) -> None:
    """Write provenance.json with the checksums of the run's files; from here on the run is finished.

    Args:
        processes: what trained it, part by part (Processes.record): a run may be resumed by another number of them.
    """
    files = {path.name: file_sha256(path) for path in sorted(run.path.glob("*"))
             if path.suffix in (".safetensors", ".csv")}  # fmt: skip
    write_json(run.path / "provenance.json",
               {**provenance(run.config.device), "data": data_record, "threads": threads, "processes": processes,
                "files": files})  # fmt: skip
    (run.path / "checkpoint.pt").unlink(missing_ok=True)


def write_history(path: Path, rows: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def read_history(path: Path) -> list[dict[str, float]]:
    with open(path, newline="") as file:
        return [{**{k: float(v) for k, v in row.items()}, "epoch": int(row["epoch"])} for row in csv.DictReader(file)]


def pack_array(array: np.ndarray) -> dict:
    """A uint8 array (pictures) as JSON types: shape and zlib-compressed base64."""
    assert array.dtype == np.uint8, array.dtype
    packed = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()
    return {"shape": list(array.shape), "uint8": packed}


def unpack_array(packed: dict) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(packed["uint8"])), np.uint8).reshape(packed["shape"])


def config_record(config) -> dict:
    """A config as JSON types (tuples become lists)."""
    return json.loads(json.dumps(asdict(config)))
