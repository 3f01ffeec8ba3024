"""The run store: one folder a run, found by what defines it, never half written, never half read.

runs/<dataset>-<encoder>-<augmentation>-<head>-<hash>/
    config.json  history.csv  encoder.safetensors  projection_head.safetensors  encoder-<epoch>.safetensors
    checkpoint.pt (while unfinished)  provenance.json (written last: the run is finished)  <evaluation>-<hash>.json
runs/.again/<run>/: a finished run on its second training, for encoders of more epochs (adopt_run)
"""

import base64
import csv
import hashlib
import io
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from simclr_core.data import Dataset, dataset_from_record, one_at_a_time
from simclr_core.errors import StoreError, UserError, enough_memory

METHOD_VERSION = 2  # raise it whenever a change moves numbers: stored runs of another version are not found
LARGEST_PACKED = 1 << 28  # bytes of unpacked pictures; a report's have a hundredth of it
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
        with suppress(OSError):
            temporary.unlink()
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
    with open(path, "rb") as file:
        expected = file.read(32)
        if hashlib.file_digest(file, "sha256").digest() != expected:
            raise StoreError(f"{path} is damaged (its checksum does not fit)")
        file.seek(32)
        return file.read()


def _checksum(value: dict) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, value: dict) -> None:
    """Sorted JSON with a SHA-256 of its own content, so that damage is seen. NaN and infinity are refused."""
    text = json.dumps({**value, "sha256": _checksum(value)}, indent=1, sort_keys=True, allow_nan=False)
    write_atomically(path, text + "\n")


def read_json(path: Path) -> dict:
    """Raises: StoreError if the file is damaged or unreadable."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError
        value = json.loads(path.read_bytes())
        stored = value.pop("sha256")
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError, MemoryError) as error:
        raise StoreError(f"{path} is damaged or cannot be read ({type(error).__name__})") from error
    if stored != _checksum(value):
        raise StoreError(f"{path} is damaged (its checksum does not fit)")
    return value


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged file or folder to <name>.damaged[-k] beside it, and say so."""
    k, target = 0, path.with_name(path.name + ".damaged")
    while target.exists():
        k += 1
        target = path.with_name(f"{path.name}.damaged-{k}")
    try:
        path.rename(target)
    except FileNotFoundError:  # by another process meanwhile
        return
    except OSError as error:
        raise StoreError(f"{path} is damaged and cannot be set aside: {error.strerror}") from error
    print(f"{reason}; set aside as {target.name}", file=sys.stderr)


@contextmanager
def writer_lock(store: Path, name: str) -> Iterator[None]:
    """One writer at a time; the operating system frees a dead process's lock, a live one is waited for."""
    busy = f"{name}: another process is at work on this run; waiting for it"
    with ExitStack() as held:
        try:
            (store / ".locks").mkdir(parents=True, exist_ok=True)
            held.enter_context(one_at_a_time(store / ".locks" / f"{name}.lock", busy))
        except OSError as error:
            raise StoreError(
                f"the run store {store} cannot be written: {error.strerror or error}; set another with $SIMCLR_RUNS"
            ) from error
        yield


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
        "device": torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else cpu_name(),
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

    def load_encoder(self, epoch: int | None = None, device: str | None = None) -> nn.Module:
        """The encoder in eval mode on the device (None: the run's), as it was at the end or after a kept epoch.

        Raises: StoreError if the weights are not in the store (a run folder may have come without them).
        """
        name = "encoder.safetensors" if epoch in (None, self.config.epochs) else kept_name(epoch)
        fresh = replace(self.config, init="random")  # every weight is loaded, so none is downloaded
        return self._load(fresh.build_encoder, name, device)

    def load_projection_head(self) -> nn.Module:
        return self._load(self.config.build_projection_head, "projection_head.safetensors")

    def export_encoder(self, path: Path) -> None:
        """Write the encoder alone, float32, as safetensors that torchvision's own ResNet loads (docs/encoder.md).

        Its metadata say what it is: encoder, width, stem, image_shape, mean and std of the images, h_dim, run.
        Raises: StoreError if the weights are not in the store or the file cannot be written.
        """
        encoder, data = self.load_encoder(device="cpu"), self.record["data"]
        about = {**{key: getattr(self.config, key) for key in ("encoder", "width", "stem")}, "h_dim": encoder.h_dim,
                 **{key: data[key] for key in ("image_shape", "mean", "std")}, "run": self.name}  # fmt: skip
        save_weights(path, encoder, {key: json.dumps(value) for key, value in about.items()})

    def _load(self, build: Callable[[dict], nn.Module], name: str, device: str | None = None) -> nn.Module:
        path = self.path / name
        if not path.is_file():
            raise StoreError(f"{path} is not here, so {self.name} gives no new evaluation; train it again (--fresh)")
        try:
            weights = load_file(path)
            with torch.device("meta"):  # shapes alone: nothing is allocated that the file does not hold
                expected = build(self.record["data"]).state_dict()
            if _shapes(weights) != _shapes(expected):
                raise ValueError("not the shapes of this network")
        except (OSError, LookupError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise StoreError(f"{path} holds no weights of {self.name} ({error}); train it again (--fresh)") from error
        module = build(self.record["data"])
        module.load_state_dict(weights)
        return module.to(device or self.config.device).eval()

    def evaluation(self, kind: str, config: dict, data: Dataset, compute: Callable[[], dict]) -> dict:
        """The stored result of an evaluation, or the one that `compute` makes now, stored as <kind>-<hash>.json.

        Args:
            config: everything the result depends on beside the run itself; JSON types.
            data: must be the data of the run.
            compute: called without arguments when there is no stored result; returns JSON types.
        Raises: StoreError for other data than the run's.
        """
        record = self.record
        if record["data"]["fingerprint"] != data.fingerprint:
            raise StoreError(f"{self.name} was made with other data than this {data.name}; evaluate it on its own")
        path = self.path / f"{kind}-{_checksum({'config': config, 'method': METHOD_VERSION})[:12]}.json"
        if path.is_file():  # looked at first: a store that is only read needs no lock
            with suppress(StoreError):
                return read_json(path)["result"]
        with writer_lock(self.path.parent, f"{self.name}-{path.stem}"):
            return self._evaluate(path, kind, config, record, compute)

    def _evaluate(self, path: Path, kind: str, config: dict, record: dict, compute: Callable[[], dict]) -> dict:
        if path.is_file():  # by another process meanwhile, or damaged
            try:
                return read_json(path)["result"]
            except StoreError as error:
                set_aside(path, str(error))
        size = f" with batch_size {config['batch_size']}" if "batch_size" in config else ""
        advice = "try a smaller batch_size" if size else "try fewer labelled images"
        with enough_memory(f"in {kind} of {self.name}{size}", f"{advice}, or an encoder of smaller width"):
            result = compute()
        origin = provenance(self.config.device)
        weights = "encoder.safetensors"
        if self.record["files"].get(weights) == record["files"].get(weights):  # else it is of weights now replaced
            write_json(path, {"kind": kind, "config": config, "result": result, "provenance": origin})
        return result


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


def save_weights(path: Path, module: nn.Module, about: dict[str, str] | None = None) -> str:
    """As safetensors with the metadata `about`; returns the file's SHA-256."""
    content = save({key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}, about)
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


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
        if dataset_from_record(run.record["data"]).fingerprint != fingerprint:
            raise StoreError(f"{run.path}/provenance.json is about other data than this run's")
        for file, expected in run.record["files"].items():
            path = run.path / file
            if path.parent != run.path:
                raise StoreError(f"{run.path}/provenance.json names {file!r}, which is not in this run's folder")
            if path.is_file() and file_sha256(path) != expected:
                raise StoreError(f"{path} is damaged (its checksum does not fit)")
        if not (run.path / "history.csv").is_file():
            raise StoreError(f"{run.path}/history.csv is missing")
    except OSError as error:
        raise StoreError(f"{error.filename} cannot be read: {error.strerror}; mend its permissions") from error
    except (StoreError, KeyError, AttributeError, TypeError) as error:
        if mend:
            set_aside(run.path, str(error))
        return None
    return run


def adopt_run(run: Run, again: Run, data_record: dict, threads: int, processes: list[dict]) -> None:
    """Take over what a second training of a finished run left in `again`, whose folder is removed.

    With the same weights to the bit only the kept encoders are new, and every evaluation stays valid; with others (a
    GPU, another version of torch) the run is replaced, and the evaluations of the weights before are deleted.
    """
    record = run.record
    files = {path.name: file_sha256(path) for path in again.path.glob("*.safetensors")}
    weights = ("encoder.safetensors", "projection_head.safetensors")
    if all(record["files"].get(name) == files[name] for name in weights):
        write_json(run.path / "provenance.json", {**record, "files": {**record["files"], **files}})
        moved = sorted(files.keys() - set(weights))
    else:
        print(f"{run.name}: trained again for kept epochs it has other weights; evaluations are made anew",
              file=sys.stderr)  # fmt: skip
        for path in [run.path / "provenance.json", *run.path.glob("*-????????????.json")]:
            path.unlink(missing_ok=True)
        moved = [*files, "history.csv"]
    for name in moved:
        if (run.path / name).is_dir():
            set_aside(run.path / name, f"{run.path / name} is damaged (a folder)")
        os.replace(again.path / name, run.path / name)
    if not (run.path / "provenance.json").exists():
        finish_run(run, data_record, threads, processes)
    shutil.rmtree(again.path)


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
    """Raises: StoreError for anything else than rows of numbers; OSError."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        return [{**{k: float(v) for k, v in row.items()}, "epoch": int(row["epoch"])} for row in rows]
    except (LookupError, TypeError, ValueError, ArithmeticError, csv.Error) as error:
        raise StoreError(f"{path} is damaged ({error})") from error


def pack_array(array: np.ndarray) -> dict:
    """A uint8 array (pictures) as JSON types: shape and zlib-compressed base64."""
    assert array.dtype == np.uint8, array.dtype
    packed = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()
    return {"shape": list(array.shape), "uint8": packed}


def unpack_array(packed: dict) -> np.ndarray:
    """Raises: StoreError, before it is unpacked, for more than the shape says or than pictures need."""
    try:
        size, content = math.prod(packed["shape"]), zlib.decompressobj()
        if not 0 <= size <= LARGEST_PACKED or min(packed["shape"]) < 0:
            raise ValueError(f"shape {packed['shape']}")
        unpacked = content.decompress(base64.b64decode(packed["uint8"]), size + 1)
        if not content.eof:
            raise ValueError(f"more or less than shape {packed['shape']}")
        return np.frombuffer(unpacked, np.uint8).reshape(packed["shape"])
    except (LookupError, TypeError, ValueError, zlib.error) as error:
        raise StoreError(f"pictures in a stored evaluation are damaged ({error}); remove it") from error


def config_record(config) -> dict:
    """A config as JSON types (tuples become lists)."""
    return json.loads(json.dumps(asdict(config)))


def check_types(config) -> None:
    """Raises: UserError naming the field of a config whose value is not of its type; whole numbers pass as floats."""
    types = get_type_hints(type(config))
    for field in fields(config):
        value, kind = getattr(config, field.name), types[field.name]
        if not _is_a(value, kind):
            expected = kind.__name__ if isinstance(kind, type) and not get_args(kind) else kind
            raise UserError(f"{field.name} is {value!r:.200}, expected {expected}")


def _is_a(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_is_a(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        return isinstance(value, tuple | list) and len(value) == len(kinds) and all(map(_is_a, value, kinds))
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)
