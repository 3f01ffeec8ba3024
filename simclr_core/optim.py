"""Optimisers and learning-rate schedules, in steps."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from simclr_core.errors import UserError


class _Momentum(Optimizer):
    """Runs `update` on each group's parameters that have a gradient; velocities begin with 0."""

    def __init__(self, params: Iterable, lr: float, momentum: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is None
        for group in self.param_groups:
            parameters = [w for w in group["params"] if w.grad is not None]
            for w in parameters:
                self.state[w] = self.state[w] or {"momentum_buffer": torch.zeros_like(w)}
            velocities = [self.state[w]["momentum_buffer"] for w in parameters]
            if parameters:
                self.update(group, parameters, [w.grad for w in parameters], velocities)


class LARS(_Momentum):
    """Layer-wise adaptive rate scaling with momentum; for parameters of fewer than two dimensions
    (biases, BN) neither adaptation nor weight decay.

    Parameter w, gradient g: g <- g + weight_decay w; g <- eta |w| / |g| g; v <- momentum v + g;
    w <- w - lr v. Source: You et al. 2017, arXiv 1708.03888; exclusions: SimCLR paper, B.9.
    """

    eta = 0.001  # as there

    def update(self, group: dict, parameters: list, updates: list, velocities: list) -> None:
        places = [k for k, w in enumerate(parameters) if w.ndim > 1]
        if places:
            w = [parameters[k] for k in places]
            g = torch._foreach_add([updates[k] for k in places], w, alpha=group["weight_decay"])
            w_norm, norm = (torch.stack(torch._foreach_norm(x)) for x in (w, g))
            ratio = torch.where((w_norm > 0) & (norm > 0), self.eta * w_norm / norm, 1.0)
            for k, u in zip(places, torch._foreach_mul(g, ratio.unbind()), strict=True):
                updates[k] = u
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, updates)
        torch._foreach_add_(parameters, velocities, alpha=-group["lr"])


class Muon(_Momentum):
    """Nesterov momentum whose step is made orthogonal, for parameters of two and more dimensions
    (a convolution's by output channels); for the others as it is. Decoupled weight decay.

    Parameter w, gradient g: v <- momentum v + g; u = g + momentum v; if w is a matrix (m, n),
    u <- 0.2 sqrt(max(m, n)) orthogonal(u), as long as Adam's step; w <- (1 - lr weight_decay) w -
    lr u. Sources: kellerjordan.github.io/posts/muon; the length: Liu et al. 2025, arXiv 2502.16982.
    """

    def update(self, group: dict, parameters: list, gradients: list, velocities: list) -> None:
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, gradients)
        updates = list(torch._foreach_add(gradients, velocities, alpha=group["momentum"]))
        same = defaultdict(list)  # all matrices of a shape at once: few, larger products
        for k, w in enumerate(parameters):
            if w.ndim > 1:
                same[w[0].numel(), len(w)].append(k)
        for shape, places in same.items():
            rows = orthogonal(torch.stack([updates[k].flatten(1) for k in places]))
            for k, row in zip(places, rows * (0.2 * math.sqrt(max(shape))), strict=True):
                updates[k] = row.view_as(parameters[k])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])


def orthogonal(x: Tensor) -> Tensor:
    """About U V^T where x = U S V^T, for matrices (..., m, n): singular values from 0.7 to 1.2.

    Five Newton-Schulz steps, with the coefficients of Muon's authors; in bf16 on a GPU, as there.
    """
    if x.shape[-2] > x.shape[-1]:
        return orthogonal(x.mT).mT
    y = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    y = y.bfloat16() if x.is_cuda else y
    for _ in range(5):
        gram = y @ y.mT
        y = 3.4445 * y + (-4.7750 * gram + 2.0315 * gram @ gram) @ y
    return y.to(x.dtype)


# Each of (parameters, lr, weight_decay, momentum); torch's own in one kernel a step.
OPTIMIZERS: dict[str, Callable[[list[Tensor], float, float, float], Optimizer]] = {
    "adam": lambda w, lr, decay, _: Adam(w, lr, weight_decay=decay, fused=True),  # an L2 penalty
    "adamw": lambda w, lr, decay, _: AdamW(w, lr, weight_decay=decay, fused=True),  # decoupled
    "sgd": lambda w, lr, decay, momentum: SGD(w, lr, momentum, weight_decay=decay, fused=True),
    "lars": lambda w, lr, decay, momentum: LARS(w, lr, momentum, decay),
    "muon": lambda w, lr, decay, momentum: Muon(w, lr, momentum, decay),
}
# Factor on the base learning rate at step k of n, counted from the end of the warm-up. The cosine:
# Loshchilov and Hutter 2016, arXiv 1608.03983, half a period from 1 to 0, without restarts.
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda k, n: 1.0,
    "cosine": lambda k, n: 0.5 * (1 + math.cos(math.pi * k / n)),
}


def build_optimizer(name: str, modules: Iterable[nn.Module], lr: float, weight_decay: float,
                    momentum: float) -> Optimizer:  # fmt: skip
    """The optimiser of the modules' parameters. Raises: UserError for an unknown name."""
    if name not in OPTIMIZERS:
        raise UserError(f"unknown optimizer {name!r}; known are {', '.join(OPTIMIZERS)}")
    parameters = [p for module in modules for p in module.parameters()]
    return OPTIMIZERS[name](parameters, lr, weight_decay, momentum)


def lr_factor(schedule: str, step: int, steps: int, warmup_steps: int = 0) -> float:
    """Factor on the base learning rate at a step (0-based) of `steps`.

    Linear warm-up, (step + 1) / warmup_steps, then the schedule. Raises: UserError, unknown name.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"unknown schedule {schedule!r}; known are {', '.join(SCHEDULES)}")
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return SCHEDULES[schedule](step - warmup_steps, max(1, steps - warmup_steps))
