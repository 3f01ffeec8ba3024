import math

import pytest
import torch

from simclr_core.errors import UserError
from simclr_core.optim import (
    LARS,
    OPTIMIZERS,
    SCHEDULES,
    Muon,
    build_optimizer,
    lr_factor,
    orthogonal,
)


def test_cosine_starts_at_one_is_half_in_the_middle_and_ends_near_zero():
    assert lr_factor("cosine", 0, 100) == 1
    assert lr_factor("cosine", 50, 100) == pytest.approx(0.5)
    assert lr_factor("cosine", 99, 100) == pytest.approx(0.5 * (1 + math.cos(0.99 * math.pi)))


def test_warm_up_is_linear_and_the_cosine_follows_it():
    factors = [lr_factor("cosine", step, 30, warmup_steps=10) for step in range(30)]
    assert factors[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert factors[10] == 1 and factors[20] == pytest.approx(0.5)
    assert lr_factor("constant", 25, 30, 10) == 1


def test_lars_step_equals_the_hand_computed_one_and_leaves_biases_unscaled():
    weight, bias = torch.nn.Parameter(torch.tensor([[3.0, 4.0]])), torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = LARS([weight, bias], lr=0.5, momentum=0.9, weight_decay=0.1)
    weight.grad, bias.grad = torch.tensor([[0.3, 0.0]]), torch.tensor([1.0])
    optimizer.step()
    # g = (0.3, 0) + 0.1 (3, 4) = (0.6, 0.4); |w| = 5, |g| = sqrt(0.52); ratio = 0.001 * 5 / |g|
    ratio = 0.005 / math.sqrt(0.52)
    torch.testing.assert_close(weight.data, torch.tensor([[3 - 0.5 * ratio * 0.6, 4 - 0.5 * ratio * 0.4]]))
    torch.testing.assert_close(bias.data, torch.tensor([1.5]))  # no decay, no adaptation
    bias.grad = torch.tensor([1.0])
    weight.grad = None
    optimizer.step()
    torch.testing.assert_close(bias.data, torch.tensor([1.5 - 0.5 * 1.9]))  # momentum 0.9


@pytest.mark.parametrize("shape", [(16, 27), (64, 16), (10, 10), (3, 8, 24)])
def test_orthogonal_keeps_the_directions_and_evens_out_the_singular_values(shape):
    x = torch.randn(shape, dtype=torch.float64)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    values = u.mT @ orthogonal(x) @ v.mT  # diagonal in x's own directions
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(values, torch.diag_embed(diagonal), rtol=0, atol=1e-6)
    assert diagonal.min() > 0.5 and diagonal.max() < 1.3


def test_orthogonal_is_five_steps_with_the_authors_coefficients():
    values = [3.0, 4.0]
    expected = [value / 5 for value in values]  # the norm is 5
    for _ in range(5):
        expected = [3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5 for s in expected]
    found = orthogonal(torch.diag(torch.tensor(values, dtype=torch.float64)))
    assert found.diagonal().tolist() == pytest.approx(expected, abs=1e-5)


def test_muon_step_equals_the_hand_computed_one():
    kernel, bias = torch.nn.Parameter(torch.randn(4, 2, 3, 3)), torch.nn.Parameter(torch.tensor([2.0]))
    other = torch.nn.Parameter(torch.randn(4, 18))  # of the same shape as the kernel's matrix
    optimizer = Muon([kernel, other, bias], lr=0.5, momentum=0.9, weight_decay=0.1)
    before, gradients = kernel.detach().clone(), [torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)]
    for gradient in gradients:
        kernel.grad, bias.grad = gradient.clone(), torch.tensor([1.0])
        other.grad = gradient.flatten(1).clone()
        optimizer.step()

    u1, u2 = gradients[0] * 1.9, gradients[1] + 0.9 * (0.9 * gradients[0] + gradients[1])
    for u in (u1, u2):
        length = 0.2 * math.sqrt(18) * 0.5  # times lr
        before = 0.95 * before - length * orthogonal(u.flatten(1)).view_as(u)
    torch.testing.assert_close(kernel.data, before)
    torch.testing.assert_close(bias.data, torch.tensor([0.95 * (0.95 * 2 - 0.5 * 1.9) - 0.5 * (1 + 0.9 * 1.9)]))


def test_one_entry_adds_an_optimizer_or_a_schedule(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "mine", lambda *given: given)
    monkeypatch.setitem(SCHEDULES, "mine", lambda k, n: k / n)
    linear = torch.nn.Linear(1, 1)
    assert build_optimizer("mine", [linear], 0.1, 0.2, 0.3) == ([*linear.parameters()], 0.1, 0.2, 0.3)
    assert lr_factor("mine", 7, 12, warmup_steps=2) == 0.5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_without_any_gradient_changes_nothing(name):
    linear = torch.nn.Linear(2, 2)
    before = linear.weight.detach().clone()
    build_optimizer(name, [linear], 0.1, 0.1, 0.9).step()
    assert torch.equal(linear.weight, before)


def test_unknown_optimizer_and_schedule_are_refused():
    with pytest.raises(UserError, match="unknown optimizer 'adma'"):
        build_optimizer("adma", [torch.nn.Linear(1, 1)], 0.1, 0, 0.9)
    with pytest.raises(UserError, match="unknown schedule 'linear'"):
        lr_factor("linear", 0, 10)
