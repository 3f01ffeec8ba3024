"""The processes of one training (`torchrun`), one a GPU: what they share out, sum and broadcast.

Process 0 leads: it alone reads and writes files. All have the same weights, bit by bit, as all take
the same steps.
Shape letters: n images of the whole batch, D width of z.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from simclr_core.errors import UserError

# With a leader that waits for another's lock; a process that died is noticed at once.
PATIENCE = timedelta(days=1)


class PeerLost(UserError):
    """Another process of this training has ended."""


@contextmanager
def _with_peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" in str(error):  # a signal's, raised wherever this process is
            raise
        raise PeerLost("another process of this training has ended; "
                       "the same command goes on from the last checkpoint") from error  # fmt: skip


def _sum_over_processes(tensor: Tensor) -> Tensor:
    """In place."""
    with _with_peers():
        dist.all_reduce(tensor)
    return tensor


class _SumOverProcesses(torch.autograd.Function):
    """All go on with the sum, so that a summand's gradient is the sum of all gradients.

    torch.distributed.nn has the same, deprecated without a public successor.
    """

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return _sum_over_processes(tensor.clone())

    backward = forward


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation by the statistics of all processes' rows together, on CPUs and GPUs."""

    def __init__(self, norm: _BatchNorm):
        """In the place of `norm`: its parameters and buffers themselves."""
        super().__init__(norm.num_features, norm.eps, norm.momentum, device="meta")
        self._parameters, self._buffers = norm._parameters, norm._buffers

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            learned = self.running_mean, self.running_var, self.weight, self.bias
            return nn.functional.batch_norm(x, *learned, eps=self.eps)
        axes, shape = [k for k in range(x.ndim) if k != 1], (-1, *[1] * (x.ndim - 2))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        rows = wide.new_full((1,), x.numel() // x.shape[1])  # of this process; pixels count
        total = _SumOverProcesses.apply(torch.cat([wide.sum(axes), rows]))
        mean, rows = total[:-1] / total[-1], total[-1]
        centred = wide - mean.view(shape)
        variance = _SumOverProcesses.apply(centred.square().sum(axes)) / rows
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * rows / (rows - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


def synchronise(network: nn.Module) -> nn.Module:
    """The network with SyncBatchNorm for its batch normalisation; same weights, same names."""
    if isinstance(network, _BatchNorm):
        return SyncBatchNorm(network)
    for name, child in network.named_children():
        setattr(network, name, synchronise(child))
    return network


@dataclass(frozen=True)
class Share:
    """The part of a batch that one process works on."""

    n: int  # images of the whole batch
    rows: Tensor  # those of this process, int64 on the CPU; may be none
    sizes: list[int]  # how many of them are in each chunk of the batch (gradient caching)

    def gather(self, z_i: Tensor, z_j: Tensor) -> tuple[Tensor, Tensor]:
        """z of all processes' images, each (n, D), in the batch's order.

        Only this process's rows carry a gradient. That is complete, as each process computes the
        whole loss: by its rows as anchors and as the others' negatives.
        """
        if len(self.rows) == self.n:
            return z_i, z_j
        own = torch.stack([z_i, z_j], 1)  # (rows, 2, D)
        own = own.to(torch.promote_types(own.dtype, torch.float32))  # the loss's precision
        rows = self.rows.to(own.device, non_blocking=True)
        whole = own.new_zeros(self.n, *own.shape[1:]).index_copy_(0, rows, own.detach())
        return _sum_over_processes(whole).index_copy(0, rows, own).unbind(1)


@dataclass(frozen=True)
class Processes:
    """The processes of one training, seen from one of them."""

    rank: int = 0
    count: int = 1
    batch_norm_sync: bool = True  # or each process by its own statistics, which moves numbers

    @classmethod
    def start(cls, batch_norm_sync: bool = True) -> "Processes":
        """What torchrun's environment says; this process alone without one."""
        rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if count > 1:
            end_with_parent()
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            with _with_peers():
                dist.init_process_group(backend, timeout=PATIENCE)
        return cls(rank, count, batch_norm_sync or count == 1)

    @staticmethod
    def end() -> None:
        """Or a thread of torch's may still run while Python ends, which then aborts at times."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def record(self) -> dict:
        """For provenance.json: the number of processes is not part of a run's identity."""
        return {"count": self.count, "batch_norm_sync": self.batch_norm_sync}

    def sum_gradients(self, *modules: nn.Module) -> None:
        """A sum, not a mean: each has the whole loss's gradient by way of its own images."""
        if self.count == 1:
            return
        gradients = [p.grad for module in modules for p in module.parameters()]
        summed = _sum_over_processes(torch.cat([g.flatten() for g in gradients]))
        parts = summed.split([g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def broadcast(self, message: Any = None) -> Any:
        """The leader's message, to all; the others wait for it here."""
        messages = [message]
        if self.count > 1:
            with _with_peers():
                dist.broadcast_object_list(messages)
        return messages[0]

    def barrier(self) -> None:
        """Wait until all are here; on the CPU, whatever they train on."""
        if self.count > 1:
            _sum_over_processes(torch.zeros(1))


ALONE = Processes()


def end_with_parent() -> None:
    """A process whose parent is killed gets SIGTERM (Linux): nobody trains on unseen."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
