"""2 x 2 max-pool and ReLU for a CPU. Shape letters: N images, C channels, S image side."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Read as integers of the same width, positive floating-point numbers are in their own order and negative ones below
# them. A CPU compares integers three times as fast as bf16; where no number is positive ReLU makes the gradient 0.
BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}


def max_pool_relu(x: Tensor) -> Tensor:
    """relu(max_pool2d(x, 2)): (N, C, S, S) to (N, C, S / 2, S / 2), rounded down.

    On a CPU, channels_last and even sides, the same numbers to the bit, gradient too, in half of the time (bf16,
    forward and backward): torch's pool keeps an int64 index for every number and clears the whole gradient first.
    """
    ours = x.device.type == "cpu" and x.dtype in BITS and x.is_contiguous(memory_format=torch.channels_last)
    if not ours or x.shape[2] % 2 or x.shape[3] % 2:
        return F.relu(F.max_pool2d(x, 2), inplace=True)
    return _MaxPoolReLU.apply(x)


class _MaxPoolReLU(torch.autograd.Function):
    """Maxima of columns two by two, then of rows; of equal numbers the first in reading order takes the gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (N, S, S, C), contiguous
        n, height, width, channels = x.shape
        wide = torch.maximum(*_columns(x)).view(-1, 2, width // 2 * channels)  # rows two by two
        y = torch.maximum(wide[:, 0], wide[:, 1]).relu_()
        ctx.save_for_backward(x, wide, y)
        return y.view(n, height // 2, width // 2, channels).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        x, wide, y = (saved.view(BITS[saved.dtype]) for saved in ctx.saved_tensors)
        by_y = gradient.permute(0, 2, 3, 1).reshape(y.shape).view(y.dtype)
        by_y = torch.gt(y, 0, out=torch.empty_like(y)).mul_(by_y)  # bits times 0 or 1
        by_wide, by_x = torch.empty_like(wide), torch.empty_like(x)
        _to_larger(by_y, wide[:, 0], wide[:, 1], by_wide.unbind(1))
        _to_larger(by_wide.view(-1, x.shape[3]), *_columns(x), _columns(by_x))
        return by_x.view(gradient.dtype).permute(0, 3, 1, 2)


def _columns(x: Tensor) -> tuple[Tensor, Tensor]:
    """Even and odd columns of x (N, S, S, C), each (N S S / 2, C)."""
    return x.view(-1, 2, x.shape[3]).unbind(1)


def _to_larger(gradient: Tensor, first: Tensor, second: Tensor, out: tuple[Tensor, Tensor]) -> None:
    """Write the gradient into out[0] where `first` is at least `second`, into out[1] where not, and 0 beside it."""
    torch.gt(second, first, out=out[1]).mul_(gradient)
    torch.sub(gradient, out[1], out=out[0])
