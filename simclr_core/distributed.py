"""One training on several processes (`torchrun`), one a GPU, as if it were one process: every step's images are shared
out, and loss, gradient, batch normalisation and weights are those of the whole batch.

Process 0 leads: it alone reads and writes the store. All have the same weights, bit by bit, as all take the same steps.
Shape letters: n images of the whole batch, D width of z.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from simclr_core.errors import UserError

PATIENCE = timedelta(days=1)  # with a leader that waits for another's lock; a process that died is noticed at once


class PeerLost(UserError):
    """Another process of this training has ended."""


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" in str(error):  # a signal's, raised wherever this process is: not a peer's end
            raise
        raise PeerLost("another process of this training has ended; the same command goes on from the last "
                       "checkpoint") from error  # fmt: skip


def _sum_over_processes(tensor: Tensor) -> Tensor:
    """In place."""
    with _together():
        dist.all_reduce(tensor)
    return tensor


class _SumOverProcesses(torch.autograd.Function):
    """Every process goes on with the sum, so the gradient of a summand is the sum of their gradients."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return _sum_over_processes(tensor.clone())

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _sum_over_processes(gradient.clone())


class _SyncBatchNorm(_BatchNorm):
    """Batch normalisation by the statistics of all processes' rows together; torch's nn.SyncBatchNorm needs a GPU."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes, shape = [k for k in range(x.ndim) if k != 1], (-1, *[1] * (x.ndim - 2))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        rows = wide.new_full((1,), x.numel() // x.shape[1])  # of this process; pixels count as rows
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


@dataclass(frozen=True)
class Share:
    """The part of a batch that one process works on."""

    n: int  # images of the whole batch
    rows: Tensor  # those of this process, int64 on the CPU; may be none
    sizes: list[int]  # how many of them are in each chunk of the batch (gradient caching)

    def gather(self, z_i: Tensor, z_j: Tensor) -> tuple[Tensor, Tensor]:
        """z of all processes' images, each (n, D), in the batch's order; they themselves if this process has them all.

        The gradient of this process's rows goes on into its network, the other rows are constants here: each process
        computes the whole loss, so its gradient by its own rows is complete, as anchors and as others' negatives.
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
    batch_norm_sync: bool = True  # statistics of the whole batch; else each process's own, which gives other numbers

    @classmethod
    def start(cls, batch_norm_sync: bool = True) -> "Processes":
        """What torchrun's environment says; this process alone without one."""
        rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if count > 1:
            end_with_parent()
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            with _together():
                dist.init_process_group(backend, timeout=PATIENCE)
        return cls(rank, count, batch_norm_sync or count == 1)

    @staticmethod
    def end() -> None:
        """Without it a thread of torch's may still run while Python ends, which then aborts now and then."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def record(self) -> dict:
        """For provenance.json: the number of processes is not part of a run's identity."""
        return {"count": self.count, "batch_norm_sync": self.batch_norm_sync}

    def share(self, chunks: Sequence[Tensor]) -> Share:
        """Every process's part of each chunk, as even as can be; a batch is cut into chunks of rows.

        Raises: UserError where a process's own batch normalisation would have fewer than two images.
        """
        parts = [chunk.tensor_split(self.count) for chunk in chunks]
        least = min(len(part) for chunk in parts for part in chunk)
        if least < 2 and not self.batch_norm_sync:
            raise UserError(f"{self.count} processes with batch normalisation of their own need two images each at "
                            f"every step, one would get {least}; take fewer, or --batch-norm-sync")  # fmt: skip
        own = [chunk[self.rank] for chunk in parts]
        return Share(sum(map(len, chunks)), torch.cat(own), [len(part) for part in own])

    def synchronise(self, network: nn.Module, device: str) -> nn.Module:
        """The network with batch normalisation over all processes (unless switched off); same weights, same names."""
        if self.count == 1 or not self.batch_norm_sync:
            return network
        if device == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(network)
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.__class__ = _SyncBatchNorm  # same state, another forward
        return network

    def sum_gradients(self, *modules: nn.Module) -> None:
        """A sum, not a mean: each process has the gradient of the whole batch's mean loss by way of its own images."""
        if self.count == 1:
            return
        gradients = [p.grad for module in modules for p in module.parameters()]
        summed = _sum_over_processes(torch.cat([g.flatten() for g in gradients]))
        for gradient, part in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def tell(self, message: Any) -> None:
        """The leader's word to all others, who wait for it in `told`."""
        if self.count > 1:
            with _together():
                dist.broadcast_object_list([message])

    def meet(self) -> None:
        """Wait until all are here."""
        if self.count > 1:
            _sum_over_processes(torch.zeros(1))

    def told(self) -> Any:
        box = [None]
        with _together():
            dist.broadcast_object_list(box)
        return box[0]


ALONE = Processes()


def end_with_parent() -> None:
    """A process whose parent is killed gets SIGTERM (Linux): nobody trains on unseen."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
