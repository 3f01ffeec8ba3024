"""Runs the benchmarks and writes what they print to RESULTS.md: a section for each benchmark and machine.

Sections of other benchmarks and machines stay as they are. Run: python benchmarks/results.py --only augment step
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from labreport.store.provenance import provenance
from simclr_core.precision import resolve_device

HERE = Path(__file__).parent
ON_GPU = {
    "augment": False,
    "gradient_caching": True,
    "loss": True,
    "mnist_study": False,
    "pool": False,
    "step": True,
    "streaming": False,
}  # benchmark: can it run on a GPU
QUICK = {"loss": ("--rounds", "1", "--sizes", "64")}  # of the others: --quick
TITLE = "# Results\n\nWritten by `python benchmarks/results.py`. The ratios are what to trust.\n"


def read_sections(path: Path) -> dict[str, str]:
    """Heading: text."""
    _, *sections = path.read_text().split("\n## ") if path.is_file() else [""]
    return {heading: text.strip() for heading, _, text in (section.partition("\n") for section in sections)}


def run_benchmark(name: str, options: Sequence[str]) -> str:
    """What it prints, shown as it comes; in a process of its own, whose threads and memory are no other's.

    Raises: SystemExit if it fails.
    """
    print(f"== {name}", flush=True)
    command = [sys.executable, str(HERE / f"{name}.py"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [print(line, end="", flush=True) or line for line in process.stdout]
    if process.returncode:
        raise SystemExit(f"benchmarks/{name}.py failed with status {process.returncode}")
    return "".join(lines).rstrip()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ON_GPU, default=ON_GPU, help="default: all of them")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="of those that can use a GPU")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try it out")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args(argv)
    for name in args.only:
        device = resolve_device(args.device) if ON_GPU[name] else "cpu"
        options = ["--device", device] if ON_GPU[name] else []
        options += QUICK.get(name, ("--quick",)) if args.quick else ()
        origin = provenance(device)
        commit = origin["commit"][:10] + (" with changes" if origin["dirty"] else "")
        command = " ".join(["python", f"benchmarks/{name}.py", *options])
        printed = run_benchmark(name, options)
        text = f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}, `{command}`:\n\n```\n{printed}\n```"
        sections = read_sections(args.output) | {f"{name} on {origin['device']}": text}
        text = "\n".join(f"\n## {heading}\n{text}\n" for heading, text in sorted(sections.items()))
        args.output.write_text(TITLE + text)  # after each: a run that is cut off keeps what it has


if __name__ == "__main__":
    main()
