import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
{first}
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): torch.zeros(16_000_000)  # at first they move on through the heap
before = faults()
for _ in range(4): torch.zeros(16_000_000)
print(faults() - before)
"""
PAGES = 4 * 16_000_000 * 4 // 4096


def faults_of_large_tensors(first: str) -> int:
    """Page faults of four tensors of 64 MB, each freed before the next, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(first=first)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.parametrize(
    "first",
    [
        "from simclr_core.memory import keep_freed_memory; assert keep_freed_memory()",
        "from labreport.notebook.study import Lab; Lab('01_mnist_study', {})",
    ],
)
def test_large_tensors_get_the_pages_of_freed_ones(first):
    if sys.platform != "linux" or faults_of_large_tensors("") < PAGES // 2:
        pytest.skip("this C library keeps freed memory anyway, or its pages are large")
    assert faults_of_large_tensors(first) < PAGES // 100


def test_another_system_is_left_as_it_is(monkeypatch):
    from simclr_core.memory import keep_freed_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
