"""Pre-training runs apart from the notebooks: `python -m labreport.workers.worker`, each run a line of JSON on stdin.

Each is answered by a line on stdout. The worker ends when its stdin is closed: whoever started it is gone. After an
error that is no UserError it ends with status 1, since a device may be left in any state.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from simclr_core.errors import UserError

DONE, ERROR, PROGRESS = "done: ", "error: ", "progress: "  # how the lines begin that are no mere talk


def work_item(run: Any, keep: Iterable[int], store: Path) -> dict[str, Any]:
    """What a worker is told of a labreport.run.plan.PlannedRun; JSON types.

    Raises: UserError for a run with parts that a notebook's own code defines.
    """
    if parts := run.config.own.parts():
        raise UserError(f"{run.name} has a part of its own ({', '.join(parts)}), defined in a notebook, where workers "
                        "cannot read it; leave out --workers and --ray")  # fmt: skip
    return {"run": run.name, "config": run.config.record(), "data": run.data.name, "fingerprint": run.data.fingerprint,
            "keep": list(keep), "store": str(store)}  # fmt: skip


def compute(item: Mapping[str, Any], progress: Callable[[dict], None] | None = None) -> str:
    """Train the run, or go on with it; returns "" or what the user can mend."""
    import torch

    from labreport.store import pretrain
    from simclr_core.config import PretrainConfig
    from simclr_core.memory import keep_freed_memory

    try:
        config, data = PretrainConfig(**item["config"]), _load(item["data"])
        if data.fingerprint != item["fingerprint"]:
            raise UserError(f"the worker's {item['data']} is another version than the one planned with; "
                            "give all machines the same data (--data, $SIMCLR_DATA)")  # fmt: skip
        if config.device == "cpu":
            torch.set_num_threads(1)
            keep_freed_memory()
        pretrain(config, data, item["store"], item["keep"], progress)
    except UserError as error:
        return str(error)
    return ""


@cache
def _load(name: str) -> Any:
    from simclr_core.data import load_dataset

    return load_dataset(name)


def main() -> int:
    items: queue.SimpleQueue[dict] = queue.SimpleQueue()
    threading.Thread(target=_read, args=[items], daemon=True).start()
    while True:
        try:
            message = compute(items.get(), lambda event: print(PROGRESS + json.dumps(event)))
        except Exception as error:
            print(f"{ERROR}{type(error).__name__}: {' '.join(str(error).split())}")
            return 1
        print(DONE + message)


def _read(items: queue.SimpleQueue) -> None:
    buffer = b""
    while content := os.read(0, 65536):  # sys.stdin's lock would be in the way of an exit
        *lines, buffer = (buffer + content).split(b"\n")
        for line in lines:
            items.put(json.loads(line))
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
