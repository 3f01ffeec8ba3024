"""SimCLR's training: two views of each image, encoder, projection head, loss, optimiser step.

Everything random follows from (seed, epoch, step), so that a training which takes over another's
`state_dict` goes on in its numbers, to the bit on a CPU with as many threads.
Shape letters: N images a step, C channels, S image side, H_dim width of h, D width of z.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from simclr_core.data.dataset import feed, shuffled
from simclr_core.errors import UserError
from simclr_core.optim import lr_factor
from simclr_core.precision import autocast, exact_fp32
from simclr_core.seeds import batches, generator


@dataclass(eq=False)
class Training:
    """One pre-training, step by step: `for row in training` goes from where it stands to the end.

    Source: Chen et al. 2020, arXiv 2002.05709, algorithm 1.
    """

    encoder: nn.Module  # x (N, C, S, S) to h (N, H_dim)
    head: nn.Module  # h to z (N, D); dropped after pre-training
    images: Tensor  # uint8 (N_all, S, S, C) on the device; or streamed
    views: Callable  # views(images, generator=g): x_i, x_j, each (N, C, S, S)
    loss: Callable[[Tensor, Tensor], Tensor]  # of z_i, z_j
    optimizer: Optimizer  # of encoder and head; its learning rates are the schedule's peaks
    epochs: int
    batch_size: int = 256  # N
    schedule: str = "constant"  # simclr_core.optim.SCHEDULES, stepped every step
    warmup_epochs: float = 0.0  # linear, before the schedule
    batch_norm: str = "joint"  # BN statistics over both views, or each view alone ("per_view")
    precision: str = "fp32"  # or bf16 (autocast; the loss is always fp32)
    seed: int = 0  # of the images' order and the views

    def __post_init__(self) -> None:
        self.device = next(self.head.parameters(), next(self.encoder.parameters(), None)).device
        self.steps_per_epoch = len(batches(torch.arange(len(self.images)), self.batch_size))
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.steps_done = 0
        self.history: list[dict] = []  # a row an epoch: epoch, loss (nats), lr
        self.total = torch.zeros((), device=self.device, dtype=torch.float64)  # of losses

    def __iter__(self) -> Iterator[dict | None]:
        """Yields after every step: None, or the epoch's row of the history after its last."""
        self.encoder.train()
        self.head.train()
        while self.steps_done < self.epochs * self.steps_per_epoch:
            epoch, done = divmod(self.steps_done, self.steps_per_epoch)
            order = shuffled(self.images, generator(self.seed, "order", epoch + 1))
            left = batches(order, self.batch_size)[done:]
            with self.feed(left) as fed:
                for rows, images in zip(left, fed, strict=True):
                    draws = generator(self.seed, "views", self.steps_done)
                    x_i, x_j = self.views(images, generator=draws)
                    self.total += self.step(x_i, x_j) * len(rows)
                    self.steps_done += 1
                    yield self._end_epoch() if rows is left[-1] else None
        networks = nn.ModuleList([self.encoder, self.head])
        if not all(p.isfinite().all() for p in networks.parameters()):  # since the last loss
            raise UserError("weights are not finite after the last step; "
                            "lower lr or raise temperature")  # fmt: skip

    def feed(self, parts: list[Tensor]):
        """A context with the images of each batch, given as rows, in turn."""
        return feed(self.images, parts)

    def step(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        """One optimiser step on two views, (N, C, S, S); returns the loss, detached."""
        steps, warmup = (k * self.steps_per_epoch for k in (self.epochs, self.warmup_epochs))
        factor = lr_factor(self.schedule, self.steps_done, steps, round(warmup))
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.optimizer.zero_grad(set_to_none=True)
        with exact_fp32():
            loss = self.backward(x_i, x_j)
        self.optimizer.step()
        return loss.detach()

    def backward(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        """The loss on two views; its gradients are left in the parameters."""
        z_i, z_j = self.project(x_i, x_j)
        loss = self.loss(z_i, z_j)
        loss.backward()
        return loss

    def project(self, x_i: Tensor, x_j: Tensor) -> tuple[Tensor, Tensor]:
        """z of both views, each (N, D)."""
        with autocast(self.device.type, self.precision):
            if self.batch_norm == "per_view":
                return self.head(self.encoder(x_i)), self.head(self.encoder(x_j))
            z = self.head(self.encoder(torch.cat([x_i, x_j])))  # (2N, D)
            return tuple(z.chunk(2))

    def finite_total(self) -> float:
        """The epoch's losses so far, summed, in nats; waits for the device. Raises: UserError."""
        total = self.total.item()
        if not math.isfinite(total):
            epoch, done = divmod(self.steps_done - 1, self.steps_per_epoch)
            lr = self.optimizer.param_groups[0]["lr"]
            raise UserError(
                f"the loss is {total} by step {done + 1} of epoch {epoch + 1} at learning rate "
                f"{lr:g}; lower lr or raise temperature"
            )
        return total

    def _end_epoch(self) -> dict:
        epoch, lr = self.steps_done // self.steps_per_epoch, self.optimizer.param_groups[0]["lr"]
        loss = self.finite_total() / len(self.images)
        self.history.append({"epoch": epoch, "loss": loss, "lr": lr})
        self.total = torch.zeros_like(self.total)
        return self.history[-1]

    def state_dict(self) -> dict:
        """What going on needs, after any step. Raises: UserError if the loss is not finite."""
        self.finite_total()
        networks = {k: getattr(self, k).state_dict() for k in ("encoder", "head", "optimizer")}
        return networks | {k: getattr(self, k) for k in ("steps_done", "total", "history")}

    def load_state_dict(self, state: dict) -> None:
        """Take over another's state. Raises: LookupError, RuntimeError, ... if it is none."""
        for name in ("encoder", "head", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.steps_done, self.history = state["steps_done"], list(state["history"])
        self.total = state["total"].to(self.device)
