"""Where numbers come from: commit, versions, device."""

import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch


@cache
def provenance(device: str = "cpu") -> dict:
    """Commit, clean or dirty, versions and the name of the device, of this process's numbers."""
    names = ("torch", "torchvision", "numpy", "scikit-learn")
    gpu = device == "cuda" and torch.cuda.is_available()
    return {
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in names}},
        "device": torch.cuda.get_device_name() if gpu else cpu_name(),
    }


def _git(*words: str) -> str:
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("model name"))
        return line.split(":", 1)[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
