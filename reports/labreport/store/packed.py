"""Pictures in JSON: uint8 arrays as shape and zlib-compressed base64."""

import base64
import math
import zlib
from typing import Any

import numpy as np

from simclr_core.errors import StoreError

LARGEST_PACKED = 1 << 28  # bytes of unpacked pictures; a report's have a hundredth of it


def pack_arrays(result: dict) -> dict:
    """The result with its uint8 arrays packed."""
    return {k: _pack(v) if isinstance(v, np.ndarray) else v for k, v in result.items()}


def unpack_arrays(result: dict) -> dict:
    """The result with its arrays unpacked. Raises: StoreError for more than their shape says."""
    return {k: _unpack(v) if _is_packed(v) else v for k, v in result.items()}


def _is_packed(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"shape", "uint8"}


def _pack(array: np.ndarray) -> dict:
    assert array.dtype == np.uint8, array.dtype
    packed = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()
    return {"shape": list(array.shape), "uint8": packed}


def _unpack(packed: dict) -> np.ndarray:
    try:
        size, content = math.prod(packed["shape"]), zlib.decompressobj()
        if not 0 <= size <= LARGEST_PACKED or min(packed["shape"]) < 0:
            raise ValueError(f"shape {packed['shape']}")
        unpacked = content.decompress(base64.b64decode(packed["uint8"]), size + 1)
        if not content.eof:
            raise ValueError(f"more or less than shape {packed['shape']}")
        return np.frombuffer(unpacked, np.uint8).reshape(packed["shape"])
    except (LookupError, TypeError, ValueError, zlib.error) as error:
        raise StoreError(f"pictures in a stored evaluation are damaged ({error})") from error
