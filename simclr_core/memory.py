"""What the C library does with freed memory."""

import ctypes
import sys

# glibc's malloc.h: never trim at the top, ask for 256 MB more than needed, no blocks by mmap.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEEP = {M_TRIM_THRESHOLD: -1, M_TOP_PAD: 1 << 28, M_MMAP_MAX: 0}


def keep_freed_memory() -> bool:
    """Have this process keep the memory it frees, for its next tensors; True if it can (glibc).

    Else every large tensor goes back to the system, and each training step faults the pages of its
    activations in again: a step of the MNIST study takes 1.5 to 1.7 times as long (one thread).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(mallopt(option, value) for option, value in KEEP.items())
