"""Optimisers and learning-rate schedules, in steps."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from simclr_core.errors import UserError

OPTIMIZERS = ("adam", "adamw", "sgd", "lars", "muon")
SCHEDULES = ("constant", "cosine")


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling with momentum; parameters of fewer than two dimensions (biases, BN) get
    neither adaptation nor weight decay.

    Per parameter w with gradient g: g <- g + weight_decay w; g <- eta |w| / |g| g; v <- momentum v + g;
    w <- w - lr v. Source: You et al. 2017, arXiv 1708.03888, with the exclusions of the SimCLR paper (B.9);
    eta 0.001 as there.
    """

    def __init__(self, params: Iterable, lr: float, momentum: float = 0.9, weight_decay: float = 0.0,
                 eta: float = 0.001):  # fmt: skip
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta})

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is None
        for group in self.param_groups:
            for w in (w for w in group["params"] if w.grad is not None):
                update = w.grad
                if w.ndim > 1:
                    update = update.add(w, alpha=group["weight_decay"])
                    w_norm, norm = w.norm(), update.norm()
                    ratio = torch.where((w_norm > 0) & (norm > 0), group["eta"] * w_norm / norm, 1.0)
                    update = update * ratio
                velocity = self.state[w].setdefault("momentum_buffer", torch.zeros_like(w))
                velocity.mul_(group["momentum"]).add_(update)
                w.add_(velocity, alpha=-group["lr"])


class Muon(Optimizer):
    """Nesterov momentum whose step is made orthogonal, for parameters of two and more dimensions (a convolution's by
    output channels); for the others as it is. Decoupled weight decay.

    Per parameter w with gradient g: v <- momentum v + g; u = g + momentum v; if w is a matrix (m, n), u <- 0.2
    sqrt(max(m, n)) orthogonal(u), as long as Adam's step would be; w <- (1 - lr weight_decay) w - lr u. Sources: Jordan
    et al. 2024, kellerjordan.github.io/posts/muon; the length from Liu et al. 2025, arXiv 2502.16982.
    """

    def __init__(self, params: Iterable, lr: float, momentum: float = 0.9, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is None
        for group in self.param_groups:
            momentum, steps, same = group["momentum"], {}, defaultdict(list)
            for w in (w for w in group["params"] if w.grad is not None):
                velocity = self.state[w].setdefault("momentum_buffer", torch.zeros_like(w))
                steps[w] = w.grad.add(velocity.mul_(momentum).add_(w.grad), alpha=momentum)
                if w.ndim > 1:
                    same[w[0].numel(), len(w)].append(w)
            for shape, matrices in same.items():  # all of a shape at once: few, larger products
                rows = orthogonal(torch.stack([steps[w].flatten(1) for w in matrices])) * (0.2 * math.sqrt(max(shape)))
                steps |= {w: u.view_as(w) for w, u in zip(matrices, rows, strict=True)}
            for w, u in steps.items():
                w.mul_(1 - group["lr"] * group["weight_decay"]).add_(u, alpha=-group["lr"])


def orthogonal(x: Tensor) -> Tensor:
    """About U V^T where x = U S V^T, for matrices (..., m, n): singular values between 0.7 and 1.2.

    Five Newton-Schulz steps, with the coefficients of Muon's authors; in bf16 on a GPU, as there.
    """
    if x.shape[-2] > x.shape[-1]:
        return orthogonal(x.mT).mT
    y = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(torch.bfloat16 if x.is_cuda else x.dtype)
    for _ in range(5):
        gram = y @ y.mT
        y = 3.4445 * y + (-4.7750 * gram + 2.0315 * gram @ gram) @ y
    return y.to(x.dtype)


def build_optimizer(name: str, modules: Iterable[nn.Module], lr: float, weight_decay: float, momentum: float
                    ) -> Optimizer:  # fmt: skip
    """adam (L2 penalty), adamw (decoupled decay), sgd (momentum), all fused into one kernel a step; lars or muon."""
    parameters = [p for module in modules for p in module.parameters()]
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, fused=True)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum, fused=True)
    if name == "lars":
        return LARS(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum)
    if name == "muon":
        return Muon(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum)
    raise UserError(f"unknown optimizer {name!r}; known are {', '.join(OPTIMIZERS)}")


def lr_factor(schedule: str, step: int, steps: int, warmup_steps: int = 0) -> float:
    """Factor on the base learning rate at a step (0-based) of `steps`.

    Linear warm-up: (step + 1) / warmup_steps; then 1 ("constant"), or half a cosine from 1 to 0 at `steps`
    ("cosine"; Loshchilov and Hutter 2016, arXiv 1608.03983, without restarts).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
    raise UserError(f"unknown schedule {schedule!r}; known are {', '.join(SCHEDULES)}")
