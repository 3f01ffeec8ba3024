"""Random streams and batches: everything random follows from a seed, a purpose and an index."""

import numpy as np
import torch
from torch import Generator, Tensor

PURPOSES = {"weights": 0, "order": 1, "views": 2, "labels": 3}  # one independent stream each


def stream_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A seed for one purpose and index (an epoch, a step), independent of the others."""
    sequence = np.random.SeedSequence([seed, PURPOSES[purpose], index])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def generator(seed: int, purpose: str, index: int = 0) -> Generator:
    return Generator().manual_seed(stream_seed(seed, purpose, index))


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Cut an order into batches; the last is what is left, a single image joins the one before."""
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
