"""Training that is cut off at a step."""

import pytest

from labreport.store import train as books
from simclr_core.train import Training


def cut_after(patch: pytest.MonkeyPatch, steps: int, error: BaseException | None = None) -> list:
    """From now on training writes a checkpoint after each step and stops when `steps` are taken.

    Returns: a list whose one item is the number of steps left; it may be set anew.
    """
    real, left = Training.step, [steps]

    def step(training, *views):
        if left[0] == 0:
            raise error or KeyboardInterrupt
        left[0] -= 1
        return real(training, *views)

    patch.setattr(books, "CHECKPOINT_SECONDS", 0.0)
    patch.setattr(Training, "step", step)
    return left
