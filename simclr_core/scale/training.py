"""SimCLR's training over several processes, and with the activations of a few images at a time.

Every step's images are shared out; loss, gradient, batch normalisation and weights are those of the
whole batch, as if it were one process.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from simclr_core.errors import UserError
from simclr_core.scale.processes import ALONE, Processes, Share, synchronise
from simclr_core.seeds import batches
from simclr_core.train import Training


@dataclass(eq=False)
class ScaledTraining(Training):
    """Args beside Training's: the processes, and the images whose activations are held at once."""

    processes: Processes = ALONE
    micro_batch: int = 0  # 0: the whole batch

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.processes.count > 1 and self.processes.batch_norm_sync:
            self.encoder, self.head = synchronise(self.encoder), synchronise(self.head)
        self.share: Share | None = None  # of the batch under way
        self.views = partial(self._own_views, self.views)

    def __iter__(self) -> Iterator[dict | None]:
        self.processes.barrier()  # before any clock starts
        return super().__iter__()

    def share_of(self, n: int) -> Share:
        """This process's part (alone: all) of each chunk of a batch of n images, as even as can be.

        Raises: UserError where a process's own batch normalisation would have less than two images.
        """
        count, chunks = self.processes.count, batches(torch.arange(n), self.micro_batch or n)
        least = min(map(len, chunks)) // count
        if least < 2 and not self.processes.batch_norm_sync:
            raise UserError(
                f"{count} processes with batch normalisation of their own need two images "
                f"each at every step, one would get {least}; take fewer, or --batch-norm-sync"
            )
        own = [chunk.tensor_split(count)[self.processes.rank] for chunk in chunks]
        return Share(n, torch.cat(own), list(map(len, own)))

    @contextmanager
    def feed(self, parts: list[Tensor]) -> Iterator[Iterator[Tensor]]:
        shares = [self.share_of(len(rows)) for rows in parts]
        own = [rows[share.rows] for rows, share in zip(parts, shares, strict=True)]
        with super().feed(own) as fed:
            yield self._follow(shares, fed)

    def _follow(self, shares: list[Share], fed: Iterator[Tensor]) -> Iterator[Tensor]:
        for self.share, images in zip(shares, fed, strict=True):
            yield images

    def _own_views(self, views: Callable, images: Tensor, generator: Generator) -> tuple:
        """Those that this process's images have in the whole batch."""
        if self.share is None:  # of a batch that is given, as estimates and benchmarks do
            return views(images, generator=generator)
        return views(images, generator=generator, rows=self.share.rows, n=self.share.n)

    def backward(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        share = self.share or self.share_of(len(x_i))
        if 0 < self.micro_batch < share.n:
            loss = self._cached_backward(x_i, x_j, share)
        else:
            loss = self.loss(*share.gather(*self.project(x_i, x_j)))
            loss.backward()
        self.processes.sum_gradients(self.encoder, self.head)
        return loss

    def _cached_backward(self, x_i: Tensor, x_j: Tensor, share: Share) -> Tensor:
        """The loss over the whole batch and its gradient, with few activations at a time.

        z of every chunk without activations; loss and its gradient by z; each chunk once more,
        backward from there. Exact but for batch normalisation, which is by each chunk's own
        statistics; its running averages move once a step, to what the chunks' average to.
        Source: Gao et al. 2021, arXiv 2101.06983.
        """
        chunks = list(zip(x_i.split(share.sizes), x_j.split(share.sizes), strict=True))
        sizes = list(map(len, batches(torch.arange(share.n), self.micro_batch)))
        with averaged_statistics(self.encoder, self.head, sizes=sizes):
            with torch.no_grad():
                z = [self.project(*chunk) for chunk in chunks]
            z_i, z_j = (torch.cat(part).requires_grad_() for part in zip(*z, strict=True))
            loss = self.loss(*share.gather(z_i, z_j))
            loss.backward()
            gradients = zip(z_i.grad.split(share.sizes), z_j.grad.split(share.sizes), strict=True)
            for chunk, by_z in zip(chunks, gradients, strict=True):
                torch.autograd.backward(self.project(*chunk), by_z)
        return loss


@contextmanager
def averaged_statistics(*modules: nn.Module, sizes: list[int]) -> Iterator[None]:
    """Batch normalisation's running averages move once, by the mean of the chunks' statistics.

    Only passes with gradients count. Where a chunk passes twice (each view alone), they move twice,
    as the whole batch would move them.
    Args: sizes: images of each chunk, over all processes.
    """
    norms = [m for module in modules for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [(norm.momentum, [b.clone() for b in norm.buffers()]) for norm in norms]
    seen: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms}

    def note(norm: nn.Module, *_) -> None:
        if torch.is_grad_enabled():
            seen[norm].append(torch.stack([norm.running_mean, norm.running_var]))

    hooks = [norm.register_forward_hook(note) for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the running averages are those of the last chunk alone
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm, (momentum, values) in zip(norms, before, strict=True):
            norm.momentum = momentum
            for buffer, value in zip(norm.buffers(), values, strict=True):
                buffer.copy_(value)
    for norm, statistics in seen.items():
        passes = len(statistics) // len(sizes)
        for k in range(passes):
            chunks = zip(statistics[k::passes], sizes, strict=True)
            mean, variance = sum(both * (n / sum(sizes)) for both, n in chunks)
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance, norm.momentum)
            norm.num_batches_tracked += 1
