"""NT-Xent without the 2N x 2N matrix. Shape letters: N images, D width of z; 2N views."""

import math
from itertools import combinations_with_replacement

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rows of a tile. CPU: two fp32 buffers of 256 KB stay in a core's L2 cache (128, 512: no faster).
# GPU: not measured; two buffers of 64 MB, enough to fill the device and to hide the launches.
TILE_CPU, TILE_GPU = 256, 4096
# Most numbers in the tiles kept for the backward pass, 256 MB in fp32: up to N = 5,632 on a CPU,
# 0.75 of the time at N = 256 and 0.9 at 4,096 (measured); the same numbers to the bit.
KEPT = 1 << 26
# Up to this 1 / temperature the sums of exp(similarity / temperature) over up to e^15 rows stay
# within fp32's normal range with no maximum subtracted: a similarity is at most 1 in size.
UNSHIFTED = 70.0
LOG2_E = math.log2(math.e)  # exp(x) = 2^(x LOG2_E); on a CPU in a quarter of the time


def nt_xent_tiled(z: Tensor, temperature: float, tile: int | None = None) -> Tensor:
    """`nt_xent_plain` without its matrix: z (2N, D) unit rows, fp32 or fp64; tile: rows, >= 1.

    Beyond z and its gradient it needs two tiles and a few vectors of 2N numbers, and up to KEPT
    numbers where these hold all tiles. Differentiable once.
    """
    tile = tile or (TILE_CPU if z.device.type == "cpu" else TILE_GPU)
    return _TiledNTXent.apply(z, temperature, tile)


class _TiledNTXent(torch.autograd.Function):
    """NT-Xent over the upper tiles of the symmetric logits L = z z^T / temperature, diagonal -inf.

    With S_i the sum of exp(L_ij) over row i and pos(i) the other view of i:
    loss = mean(log S_i - L_i,pos(i)), and dloss/dz = W z / (2N temperature) where
    W_ij = exp(L_ij) (1/S_i + 1/S_j) - 2 [j = pos(i)]. W is symmetric too: a tile above the diagonal
    serves its transpose below, and the backward pass, which computes the tiles again (the idea of
    FlashAttention, Dao et al. 2022, arXiv 2205.14135) unless they are few, needs nothing but z and
    S. S_i is kept as sums_i 2^peaks_i: a running maximum at low temperature, where one exponential
    no longer serves both directions, else 0. Tiles, peaks and positives hold L LOG2_E, for powers
    of 2. Nothing here waits for the device.
    """

    @staticmethod
    def forward(ctx, z: Tensor, temperature: float, tile: int) -> Tensor:
        n, scale = len(z) // 2, LOG2_E / temperature
        pairs, elements = _upper_tiles(n, tile), min(n, tile) ** 2
        shifted, positives, sums = 1 / temperature > UNSHIFTED, z.new_empty(n), z.new_zeros(2 * n)
        kept = not shifted and len(pairs) * elements <= KEPT
        buffers = z.new_empty(len(pairs) if kept else 1, elements)
        peaks = z.new_full((2 * n,), -scale if shifted else 0.0)  # no logit is less than -scale
        for k, (a, b) in enumerate(pairs):
            logits = _logits(z, a, b, scale, buffers[k if kept else 0])
            if b.start == a.start + n:
                positives[a] = logits.diagonal()
            if shifted:
                _add_exponentials(sums, peaks, a, logits)
                if a is not b:
                    _add_exponentials(sums, peaks, b, logits.T)
            else:
                sums[a].add_(logits.exp2_().sum(1))
                if a is not b:
                    sums[b].add_(logits.sum(0))
        ctx.save_for_backward(z, sums, peaks, *([buffers] if kept else []))
        ctx.scale, ctx.tile, ctx.shifted = scale, tile, shifted
        return (peaks.view(2, n) - positives + sums.log2().view(2, n)).mean() / LOG2_E

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None, None]:
        z, sums, peaks, *kept = ctx.saved_tensors
        n, inverse = len(z) // 2, 1 / sums
        gradient = torch.zeros_like(z)  # (2N, D)
        buffer, spare = z.new_empty(2, min(n, ctx.tile) ** 2)
        for k, (a, b) in enumerate(_upper_tiles(n, ctx.tile)):
            weights = _tile(spare, a, b)
            logits = None if kept else _logits(z, a, b, ctx.scale, buffer)
            if ctx.shifted:
                torch.sub(logits, peaks[b], out=weights).exp2_().mul_(inverse[b])
                weights.add_(logits.sub_(peaks[a, None]).exp2_().mul_(inverse[a, None]))
            else:
                exponentials = _tile(kept[0][k], a, b) if kept else logits.exp2_()
                torch.add(inverse[a, None], inverse[b], out=weights).mul_(exponentials)
            if b.start == a.start + n:
                weights.diagonal().sub_(2)
            gradient[a].addmm_(weights, z[b])
            if a is not b:
                gradient[b].addmm_(weights.T, z[a])
        return gradient.mul_(upstream * (ctx.scale / LOG2_E / (2 * n))), None, None


def _upper_tiles(n: int, tile: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the tiles on and above the diagonal of the matrix, at most `tile` wide.

    None crosses from one view to the other: the positives are the diagonals of tiles (a, a + N).
    """
    width = -(-n // -(-n // tile))  # as even as can be
    blocks = [slice(k + i, k + min(i + width, n)) for k in (0, n) for i in range(0, n, width)]
    return list(combinations_with_replacement(blocks, 2))


def _tile(buffer: Tensor, a: slice, b: slice) -> Tensor:
    """The beginning of the buffer, in the shape of the tile (a, b)."""
    rows, columns = a.stop - a.start, b.stop - b.start
    return buffer[: rows * columns].view(rows, columns)


def _logits(z: Tensor, a: slice, b: slice, scale: float, buffer: Tensor) -> Tensor:
    """The tile (a, b) of the logits, times LOG2_E, in the buffer: fresh memory costs page faults.

    All products here are in place, which autocast leaves in their own precision.
    """
    logits = _tile(buffer, a, b)
    logits.addmm_(z[a], z[b].T, beta=0, alpha=scale)
    return logits.fill_diagonal_(-math.inf) if a is b else logits  # a view is no negative of itself


def _add_exponentials(sums: Tensor, peaks: Tensor, rows: slice, logits: Tensor) -> None:
    """sums * 2^peaks += row sums of 2^logits, in place; peaks rise to the largest logit seen."""
    peak = torch.maximum(peaks[rows], logits.amax(1))
    sums[rows].mul_((peaks[rows] - peak).exp2_()).add_((logits - peak[:, None]).exp2_().sum(1))
    peaks[rows] = peak
