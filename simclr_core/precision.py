"""Which device computes, and in which floating-point numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def resolve_device(name: str) -> str:
    """cpu or cuda; "auto" is the GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def resolve_precision(name: str, device: str) -> str:
    """fp32 or bf16; "auto" is bf16 where the device computes in it natively.

    A GPU from compute capability 8 on does (the others emulate it, slowly), and a CPU with
    AVX-512 BF16 or AMX.
    """
    if name != "auto":
        return name
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    abilities = torch.cpu.get_capabilities()
    return "bf16" if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else "fp32"


def autocast(device: str, precision: str) -> torch.autocast:
    """For a forward pass: bf16 where it is safe, if that is the precision."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Within the block fp32 means fp32: cuDNN's convolutions would else be in TF32, silently."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
