"""Time and peak memory of NT-Xent, forward and backward: tiled, plain matmul, lightly's and the broadcast form.

Every form gets the same z_i and z_j, normalises them and gives the gradients of both. Times: medians of interleaved
rounds, one thread unless told otherwise. Memory: peak beyond the inputs (gradients included), each in a process of its
own, from /proc (Linux) or CUDA's allocator. Run: python benchmarks/loss.py [--large]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from statistics import median

import torch
from common import environment, in_a_process_of_its_own, interleave, peak_of, speedup
from torch import Tensor
from torch.nn import functional as F

from simclr_core.loss import nt_xent_plain
from simclr_core.tiled_loss import nt_xent_tiled

D, TEMPERATURE = 128, 0.5  # the paper's width of z, and the study's temperature
SIZES, LARGE = (256, 512, 2048, 4096), (8192, 16384, 32768, 65536)
MOST_BYTES = 8e9  # a form that would need more is left out
BROADCAST, PLAIN, LIGHTLY, TILED = "broadcast cosine", "plain matmul + cross_entropy", "lightly NTXentLoss", "tiled"


def broadcast(z_i: Tensor, z_j: Tensor) -> Tensor:
    """As many tutorials write it: a (2N, 2N, D) product inside cosine_similarity, then masks."""
    z = torch.cat([z_i, z_j])
    similarity = F.cosine_similarity(z[:, None], z[None], dim=-1)  # (2N, 2N)
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = similarity.masked_fill(own, -9e15) / TEMPERATURE
    return (logits.logsumexp(1) - logits[own.roll(len(z_i), 0)]).mean()


def plain(z_i: Tensor, z_j: Tensor) -> Tensor:
    return nt_xent_plain(F.normalize(torch.cat([z_i, z_j])), TEMPERATURE)


def lightly(z_i: Tensor, z_j: Tensor) -> Tensor:
    from lightly.loss import NTXentLoss

    return NTXentLoss(TEMPERATURE)(z_i, z_j)


def tiled(z_i: Tensor, z_j: Tensor) -> Tensor:
    return nt_xent_tiled(F.normalize(torch.cat([z_i, z_j])), TEMPERATURE)


# name: the form, and its peak memory in 2N x 2N fp32 matrices (measured, with freed memory kept, which takes
# more, rounded up; 0: not quadratic)
FORMS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    BROADCAST: (broadcast, 11 * D),
    PLAIN: (plain, 7.1),
    LIGHTLY: (lightly, 6),
    TILED: (tiled, 0),
}


def available(n: int) -> list[str]:
    """The forms that are installed and need at most MOST_BYTES for N images."""
    fits = [name for name, (_, matrices) in FORMS.items() if matrices * (2 * n) ** 2 * 4 <= MOST_BYTES]
    return [name for name in fits if name != LIGHTLY or find_spec("lightly")]


def run_of(name: str, n: int, device: str) -> Callable[[], int]:
    """One forward and backward pass, waiting for the device."""
    generator = torch.Generator().manual_seed(0)
    z_i, z_j = (torch.randn(n, D, generator=generator).to(device).requires_grad_() for _ in range(2))
    form = FORMS[name][0]

    def run() -> int:
        torch.autograd.grad(form(z_i, z_j), (z_i, z_j))
        if device == "cuda":
            torch.cuda.synchronize()
        return 1

    return run


def largest_error(name: str, device: str, n: int = 64) -> float:
    """Greatest relative error of value and gradient against the plain form in float64: are we timing the same thing?"""
    inputs = [torch.randn(n, D, generator=torch.Generator().manual_seed(k)).to(device) for k in (1, 2)]

    def results(form: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
        z = [x.to(dtype).requires_grad_() for x in inputs]
        value = form(*z)
        return [value.detach().double(), *(g.double() for g in torch.autograd.grad(value, z))]

    pairs = zip(results(FORMS[name][0], torch.float32), results(plain, torch.float64), strict=True)
    return max(((ours - theirs).norm() / theirs.norm()).item() for ours, theirs in pairs)


def measure_once(name: str, n: int, device: str) -> dict[str, float]:
    """Seconds and peak bytes beyond the inputs of a single pass; meant for a fresh process."""
    run_of(name, 8, device)()  # libraries loaded, threads started
    seconds, extra = peak_of(run_of(name, n, device), device)
    return {"seconds": seconds, "bytes": extra}


def measure_apart(name: str, n: int, device: str) -> dict[str, float]:
    """`measure_once` in a process of its own."""
    words = ["--once", name, "--sizes", str(n), "--device", device, "--threads", str(torch.get_num_threads())]
    return in_a_process_of_its_own(__file__, *words)


def measure(sizes: Iterable[int], rounds: int, device: str) -> list[dict]:
    """A row per N and form: milliseconds, their ratio to the plain form's, peak extra megabytes (1e6 bytes).

    The broadcast form is timed by one pass in a process of its own: it is hundreds of times slower, and after its
    gigabytes glibc's allocator keeps more memory, which would flatter the plain form. Likewise the tiled form where
    no other fits; the ratio is None there.
    """
    rows = []
    for n in sizes:
        apart = {name: measure_apart(name, n, device) for name in available(n)}
        beside = [name for name in apart if name != BROADCAST and PLAIN in apart]
        seconds = {name: [once["seconds"]] for name, once in apart.items()}
        seconds |= interleave({name: run_of(name, n, device) for name in beside}, rounds, at_least=0.1)
        for name, once in apart.items():
            ratio = 1 / speedup(seconds, name, PLAIN) if name in beside else None
            if name == BROADCAST and beside:
                ratio = once["seconds"] / median(seconds[PLAIN])
            row = {"n": n, "form": name, "rounds": len(seconds[name])}
            row |= {"milliseconds": 1000 * median(seconds[name]), "ratio_to_plain": ratio}
            rows.append(row | {"extra_megabytes": once["bytes"] / 1e6})
            print(line(rows[-1]), flush=True)
    return rows


def line(row: dict) -> str:
    ratio = "" if row["ratio_to_plain"] is None else f"{row['ratio_to_plain']:7.2f} of plain"
    return (
        f"  {row['n']:6,}  {row['form']:28} {row['milliseconds']:11,.1f} ms {row['extra_megabytes']:9,.1f} MB"
        f" extra {ratio}".rstrip()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N")
    parser.add_argument("--large", action="store_true", help=f"also N = {LARGE}: minutes on a CPU")
    parser.add_argument("--once", choices=tuple(FORMS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.once:
        print(json.dumps(measure_once(arguments.once, arguments.sizes[0], arguments.device)))
        return
    peers = ["torch", *(["lightly"] if find_spec("lightly") else [])]
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print(f"{environment(peers)}\nNT-Xent, forward + backward, N images, D = {D}, fp32, on {where}; ", end="")
    print(f"medians of {arguments.rounds} interleaved rounds (one pass: broadcast, and where only the tiled form fits)")
    for name in available(64):
        print(f"  {name:28} error against float64 at N = 64: {largest_error(name, arguments.device):.0e}")
    if not find_spec("lightly"):
        print("  lightly: not installed, left out")
    rows = measure([*arguments.sizes, *(LARGE if arguments.large else ())], arguments.rounds, arguments.device)
    ratios = {row["n"]: row["ratio_to_plain"] for row in rows if row["form"] == TILED and row["ratio_to_plain"]}
    print("tiled, of plain's time: " + ", ".join(f"{ratio:.2f} at N = {n:,}" for n, ratio in ratios.items()))


if __name__ == "__main__":
    main()
