"""Evaluations of a run, kept in its folder: each names its run, its weights and its code."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from labreport.store.files import checksum, read_json, write_json
from labreport.store.identity import changed, evaluation_code
from labreport.store.packed import pack_arrays, unpack_arrays
from labreport.store.provenance import provenance
from labreport.store.runs import HEAD, Run, writer_lock
from labreport.store.train import pretrain
from simclr_core.data.dataset import Dataset
from simclr_core.data.files import set_aside
from simclr_core.errors import StoreError, enough_memory


def evaluation(run: Run, data: Dataset, kind: str, config: dict, compute: Callable[[], dict],
               epoch: int | None = None, on: str = "h") -> dict:  # fmt: skip
    """The stored result, or the one that `compute` makes now, stored as <kind>-<hash>.json.

    Args:
        config: everything the result depends on beside the run itself; JSON types.
        compute: returns JSON types and uint8 arrays.
        epoch, on: the weights it reads, as ProbeConfig's.
    Raises: StoreError for other data than the run's.
    """
    if run.record["data"]["fingerprint"] != data.fingerprint:
        raise StoreError(f"{run.name} was made with other data than this {data.name}; give its own")
    files = [run.weights_file(epoch), *([HEAD] if on == "z" else [])]
    config = json.loads(json.dumps(config))
    about = {"run": run.name, "kind": kind, "config": config}
    path = run.path / f"{kind}-{checksum(config)[:12]}.json"
    code = {} if data.recorded else evaluation_code(kind)

    def made() -> dict:
        return {**about, "weights": {file: run.record["files"].get(file) for file in files}}

    def stored() -> dict:
        return unpack_arrays(_read(path, made(), code)["result"])

    if path.is_file():  # looked at first: a store that is only read needs no lock
        with suppress(StoreError):
            return stored()
    with writer_lock(run.path.parent, f"{run.name}-{path.stem}"):
        try:
            if path.is_file():  # by another process meanwhile, or of no use
                return stored()
        except StoreError as error:
            set_aside(path, str(error))
        if not data.recorded and not (run.path / run.weights_file(epoch)).is_file():
            pretrain(run.config, data, run.path.parent, [epoch] if epoch else [], weights=True)
        with _memory_for(run, kind, config):
            result = pack_arrays(compute())
        origin = {"code": code, "provenance": provenance(run.config.device)}
        write_json(path, {**made(), **origin, "result": result})
    return unpack_arrays(result)


def _read(path: Path, made: dict, code: dict[str, str]) -> dict:
    """Raises: StoreError with the reason if the stored result is not this one, and current."""
    content = read_json(path)
    for key, expected in made.items():
        if content.get(key) != expected:
            raise StoreError(f"{path} is of another {key} than {made['run']}'s")
    if code and (modules := changed(content.get("code", {}), code)):
        raise StoreError(f"{path}: {', '.join(modules)} changed since it was made")
    return content


def _memory_for(run: Run, kind: str, config: dict):
    batch = f" with batch_size {config['batch_size']}" if "batch_size" in config else ""
    advice = "try a smaller batch_size" if batch else "try fewer labelled images"
    return enough_memory(f"in {kind} of {run.name}{batch}", f"{advice}, or a narrower encoder")
