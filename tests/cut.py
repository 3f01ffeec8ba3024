"""Training that is cut off at a step."""

import pytest

from simclr_core import pretrain as pretrain_module
from simclr_core.pretrain import _Training


def cut_after(patch: pytest.MonkeyPatch, steps: int) -> list[int]:
    """From now on training writes a checkpoint after each step and is interrupted when it has taken `steps`.

    Returns: a list whose one item is the number of steps left; it may be set anew.
    """
    real, left = _Training.step, [steps]

    def step(training, *views):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(training, *views)

    patch.setattr(pretrain_module, "CHECKPOINT_SECONDS", 0.0)
    patch.setattr(_Training, "step", step)
    return left
