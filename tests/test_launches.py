"""How many kernels a GPU would be asked for, counted without one.

Views: on the meta device, which has shapes but no numbers, so that what the CPU draws is not
counted and a wait of the host raises. Optimisers: on the CPU, by the operations dispatched.
"""

import sys
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from simclr_core.augment import make_views, view_recipe
from simclr_core.model import build_encoder, build_projection_head
from simclr_core.optim import build_optimizer

FREE = ("empty", "new_empty", "empty_like", "detach", "lift_fresh", "_unsafe_view")


class Launches(TorchDispatchMode):
    """Operations on a device that are neither views nor allocations; copies to it apart."""

    def __init__(self, device):
        super().__init__()
        self.device, self.launches, self.copies = device, Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        devices = {x.device.type for x in leaves if isinstance(x, torch.Tensor)}
        name = function.overloadpacket.__name__
        if self.device in devices and not function.is_view and name not in FREE:
            counter = self.copies if len(devices) > 1 and name == "_to_copy" else self.launches
            counter[f"{line_of_ours()} {name}"] += 1
        return result

    def listed(self):
        lines = [f"{count:4d}  {where}" for where, count in sorted(self.launches.items())]
        return "\n".join([f"{self.launches.total()} launches:", *lines])


def line_of_ours():
    frame = sys._getframe(2)
    while frame and "simclr_core" not in frame.f_code.co_filename:
        frame = frame.f_back
    if not frame:
        return "torch"
    code = frame.f_code
    return f"{code.co_filename.rpartition('/')[2]}:{frame.f_lineno} {code.co_name}"


@pytest.mark.parametrize(
    ("name", "budget"), [("strong", 112), ("best", 107), ("basic", 23), ("r2", 42), ("digits", 36)]
)
def test_views_of_a_batch_take_few_launches_and_few_copies(name, budget):
    channels = 1 if name in ("r2", "digits") else 3
    images = torch.empty(256, 32, 32, channels, dtype=torch.uint8, device="meta")
    mean, generator = (0.5,) * channels, torch.Generator().manual_seed(0)
    make_views(images, view_recipe(name), mean, mean, generator)  # constants go there once
    with Launches("meta") as gpu:
        make_views(images, view_recipe(name), mean, mean, generator)
    assert gpu.launches.total() <= budget, gpu.listed()
    assert gpu.copies.total() == 2, gpu.copies  # the draws and the order


@pytest.mark.parametrize(
    ("name", "budget"), [("adam", 20), ("adamw", 20), ("sgd", 20), ("lars", 60), ("muon", 590)]
)
def test_optimisers_take_few_launches_on_a_resnet18(name, budget):
    encoder = build_encoder("resnet18", 3, 32, width=1 / 16)
    head = build_projection_head("mlp_bn", encoder.h_dim, encoder.h_dim, 16)
    optimizer = build_optimizer(name, [encoder, head], 0.1, 1e-4, 0.9)
    for w in [*encoder.parameters(), *head.parameters()]:
        w.grad = torch.randn_like(w)
    optimizer.step()  # makes its state
    with Launches("cpu") as gpu:
        optimizer.step()
    assert gpu.launches.total() <= budget, gpu.listed()
