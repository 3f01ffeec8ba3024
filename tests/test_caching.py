"""Gradient caching: the whole batch's loss and gradient, with the activations of one chunk."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from simclr_core.scale.training import ScaledTraining
from simclr_core.seeds import generator

RESNET = {"encoder": "resnet18", "width": 0.0625, "head": "mlp_bn"}


def in_float64(config, data):
    training = config.training(data, partial(ScaledTraining, micro_batch=config.micro_batch))
    training.encoder.double(), training.head.double()
    views = training.views(data.train.images[: config.batch_size], generator=generator(0, "views"))
    return training, [x.double() for x in views]


def gradients_of_one_step(config, data):
    training, views = in_float64(config, data)
    loss = training.step(*views)  # Adam leaves the gradients where they are
    networks = training.encoder, training.head
    return loss, [p.grad for network in networks for p in network.parameters()]


@pytest.mark.parametrize("micro_batch", [2, 7, 10, 31])  # of 32: chunks left over, one image too
@pytest.mark.parametrize("batch_norm", ["joint", "per_view"])
def test_loss_and_gradient_are_the_whole_batchs(micro_batch, batch_norm, tiny_config, tiny_data):
    config = replace(tiny_config, batch_norm=batch_norm)
    loss, gradients = gradients_of_one_step(config, tiny_data)
    cached = gradients_of_one_step(replace(config, micro_batch=micro_batch), tiny_data)
    torch.testing.assert_close(cached[0], loss)
    for ours, whole in zip(cached[1], gradients, strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-12, rtol=1e-9)


def test_activations_of_one_chunk_are_held_at_a_time(tiny_config, tiny_data):
    training, views = in_float64(replace(tiny_config, micro_batch=8), tiny_data)
    held = []
    training.encoder.register_forward_hook(
        lambda _, given, h: held.append((len(given[0]), h.requires_grad))
    )
    training.step(*views)
    assert held == [(16, False)] * 4 + [(16, True)] * 4  # both views of eight images


def norms(*networks: nn.Module) -> list:
    return [
        m for n in networks for m in n.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]


def chunk_statistics(network: nn.Module, x: torch.Tensor) -> list[list[torch.Tensor]]:
    """Mean and variance at every norm of a network that sees x alone."""
    network = deepcopy(network).train()
    for norm in norms(network):
        norm.momentum = 1.0
    network(x)
    return [[norm.running_mean, norm.running_var] for norm in norms(network)]


@pytest.mark.parametrize("batch_norm", ["joint", "per_view"])
@pytest.mark.parametrize("batch_size", [32, 29])  # four chunks of 8; three and one of 5
def test_running_averages_move_once_to_the_mean_of_the_chunks_statistics(
    batch_norm, batch_size, tiny_config, tiny_data
):
    changes = {"batch_norm": batch_norm, "batch_size": batch_size, "micro_batch": 8}
    training, (x_i, x_j) = in_float64(replace(tiny_config, **RESNET, **changes), tiny_data)
    network = nn.Sequential(training.encoder, training.head)
    chunks = list(zip(x_i.split(8), x_j.split(8), strict=True))
    passes = zip(*chunks, strict=True) if batch_norm == "per_view" else [map(torch.cat, chunks)]
    expected = [[norm.running_mean.clone(), norm.running_var.clone()] for norm in norms(network)]
    for parts in passes:
        found = [chunk_statistics(network, x) for x in parts]
        for k, values in enumerate(expected):
            for which, value in enumerate(values):
                seen = [
                    len(chunk[0]) / batch_size * s[k][which]
                    for chunk, s in zip(chunks, found, strict=True)
                ]
                value.mul_(0.9).add_(0.1 * sum(seen))
    training.step(x_i, x_j)
    for norm, values in zip(norms(network), expected, strict=True):
        torch.testing.assert_close([norm.running_mean, norm.running_var], values)
        assert norm.num_batches_tracked == (2 if batch_norm == "per_view" else 1)
        assert norm.momentum == 0.1
