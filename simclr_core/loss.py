"""The contrastive loss. Shape letters: N images, D width of z; 2N views."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_core.tiled_loss import nt_xent_tiled

# Least N for the tiled form. CPU: measured with benchmarks/loss.py, D = 128, one thread (about
# equal at 192, the plain form ahead below). GPU: not measured. A matrix of up to 16,384^2 (1 GB,
# about 3 GB at the peak) is cheap there and few large kernels beat many small ones; beyond it the
# plain form soon does not fit.
TILED_FROM_CPU, TILED_FROM_GPU = 256, 8193


def nt_xent_loss(z_i: Tensor, z_j: Tensor, temperature: float) -> Tensor:
    """Mean NT-Xent loss over the 2N views of N images.

    Row k of both inputs comes from image k (rows stacked, not interleaved as in the paper; same
    mean), so the positive of row i is row (i + N) mod 2N. Computed in float32 or wider, whatever
    the inputs. Takes the tiled form, memory O(N D), where that is the cheaper, else the plain one,
    memory O(N^2); they agree to rounding.
    Args:
        z_i, z_j: projections, shape (N, D), N >= 2; normalised here, so any scale is fine.
        temperature: tau, dimensionless, > 0.
    Returns: scalar, in nats; log(2N - 1) when all similarities are equal.
    Raises: ValueError if shapes differ, N < 2 or temperature <= 0.
    Source: Chen et al. 2020, arXiv 2002.05709, eq. 1. (google-research/simclr reports twice this.)
    """
    if z_i.shape != z_j.shape or z_i.ndim != 2:
        shapes = f"{tuple(z_i.shape)} and {tuple(z_j.shape)}"
        raise ValueError(f"z_i and z_j must both be (N, D), got {shapes}")
    if len(z_i) < 2:
        raise ValueError(f"NT-Xent needs N >= 2 images (one has no negatives), got N = {len(z_i)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    z = torch.cat([z_i, z_j])
    with torch.autocast(z.device.type, enabled=False):
        z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)))
        tiled = len(z_i) >= (TILED_FROM_CPU if z.device.type == "cpu" else TILED_FROM_GPU)
        return nt_xent_tiled(z, temperature) if tiled else nt_xent_plain(z, temperature)


def nt_xent_plain(z: Tensor, temperature: float) -> Tensor:
    """The loss for unit rows z (2N, D), both views stacked, as a reader would write it."""
    logits = z @ z.T / temperature  # (2N, 2N)
    logits = logits.fill_diagonal_(-math.inf)  # a view is no negative of itself
    positives = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return F.cross_entropy(logits, positives)


def nt_xent_floor(n_images: int, temperature: float) -> float:
    """The least value NT-Xent can take on N images, in nats.

    Both views of an image coincide (similarity 1) and the N directions form a regular simplex, so
    every negative has similarity -1 / (N - 1): by Jensen's inequality nothing is lower. Attained
    only where D >= N - 1.
    It grows with N: losses of different batch sizes are not comparable.
    """
    negative = -1 / (n_images - 1)
    return math.log1p((2 * n_images - 2) * math.exp((negative - 1) / temperature))
