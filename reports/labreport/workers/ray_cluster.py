"""Runs computed by the tasks of a Ray cluster (--ray): one GPU each, or one CPU core.

Every machine of the cluster needs this checkout, the data and the run store under the same paths, hence a file system
that all share. Ray itself is an extra: pip install -e '.[cluster]'.
"""

import socket
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from labreport.workers.processes import worker_environment
from labreport.workers.worker import compute
from simclr_core.errors import UserError

CONNECT_SECONDS = 10.0
PROBE_SECONDS = 180.0  # patience with nodes that start their first worker
START = "start a cluster with `ray start --head`, or give the address of its head"


class RayCluster:
    """A Ray cluster at `address` ("auto": the one this machine belongs to; "local": one for this process alone).

    Raises: UserError if there is none, if it lacks what the runs need, or if a node does not see the run store.
    """

    def __init__(self, address: str, device: str, store: Path) -> None:
        require_ray()
        _check_address(address)
        import ray

        self.ray, self.resource = ray, "GPU" if device == "cuda" else "CPU"
        self.progress: dict[str, dict] = {}
        self.tasks: dict[Future, Any] = {}
        try:
            ray.init(address=address, logging_level="ERROR", runtime_env={"env_vars": worker_environment()})
        except Exception as error:
            raise UserError(f"--ray {address}: {_first_line(error)}; {START}") from error
        try:
            if not self.slots():
                raise UserError(f"--ray {address}: the runs need a {self.resource} each and the cluster has none")
            self._probe(store)
        except BaseException:
            ray.shutdown()
            raise
        options = {"num_gpus": 1, "num_cpus": 0} if device == "cuda" else {"num_cpus": 1}
        self.task = ray.remote(max_retries=0, **options)(compute)  # who takes over is for labreport.workers.pool to say

    def slots(self) -> int:
        return int(self.ray.cluster_resources().get(self.resource, 0))

    def submit(self, item: Mapping[str, Any]) -> Future:
        task = self.task.remote(item)
        future = task.future()
        self.tasks[future] = task
        return future

    def stop(self) -> None:
        for future, task in self.tasks.items():
            if not future.done():
                self.ray.cancel(task, force=True)
        self.ray.shutdown()

    def _probe(self, store: Path) -> None:
        """Every node must be able to run this checkout's code and see, in the store, a file that is written here."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        store.mkdir(parents=True, exist_ok=True)
        token = store / f".pool-{uuid.uuid4().hex}"
        token.touch()
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in self.ray.nodes()
                 if node["Alive"] and node["Resources"].get(self.resource)}  # fmt: skip
        look = self.ray.remote(num_cpus=0, max_retries=0)(sees)
        asked = [look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(str(token))
                 for node in nodes]  # fmt: skip
        try:
            answers = self.ray.get(asked, timeout=PROBE_SECONDS)
        except Exception as error:
            raise UserError("--ray: a node of the cluster cannot run this checkout's code, which all must share: "
                            f"{type(error).__name__}: {_first_line(error)}") from error  # fmt: skip
        finally:
            token.unlink(missing_ok=True)
        if blind := [address for address, answer in zip(nodes.values(), answers, strict=True) if not answer]:
            raise UserError(f"--ray: {', '.join(blind)} does not see the run store {store}: put it on a file system "
                            "that all machines share ($SIMCLR_RUNS)")  # fmt: skip


def require_ray() -> None:
    """Raises: UserError if Ray is not installed."""
    if find_spec("ray") is None:
        raise UserError("--ray needs Ray, which is not installed: pip install -e '.[cluster]', or use --workers N")


def _check_address(address: str) -> None:
    """Ray itself waits for minutes for a head that is not there. Raises: UserError."""
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdecimal():
        raise UserError(f"--ray {address}: expected auto or HOST:PORT, such as head:6379")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray {address}: nothing answers there; {START}") from error


def sees(path: str) -> bool:
    return Path(path).is_file()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
