import math

import pytest
import torch

from simclr_core.loss import nt_xent_floor, nt_xent_loss


def algorithm_1(z_i, z_j, temperature):
    """The paper's Algorithm 1 in plain loops, rows interleaved as there (positives 2k - 1 and 2k)."""
    z = [row for pair in zip(z_i, z_j, strict=True) for row in pair]
    n = len(z_i)

    def similarity(a, b):
        return (a @ b) / (a.norm() * b.norm())

    def pair_loss(i, j):
        denominator = sum(torch.exp(similarity(z[i], z[k]) / temperature) for k in range(2 * n) if k != i)
        return -torch.log(torch.exp(similarity(z[i], z[j]) / temperature) / denominator)

    return sum(pair_loss(2 * k, 2 * k + 1) + pair_loss(2 * k + 1, 2 * k) for k in range(n)) / (2 * n)


def projections(n, d=8, dtype=torch.float64, scale=3.0):
    return tuple((scale * torch.randn(n, d, dtype=dtype)).requires_grad_() for _ in range(2))


def value_and_gradients(loss, inputs, temperature):
    value = loss(*inputs, temperature)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


@pytest.mark.parametrize("n", [2, 3, 8, 17, 64])
@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 1.0])
def test_value_and_gradient_agree_with_the_papers_algorithm(n, temperature):
    inputs = projections(n)
    expected = value_and_gradients(algorithm_1, inputs, temperature)
    for ours, theirs in zip(value_and_gradients(nt_xent_loss, inputs, temperature), expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-10
    single = [x.detach().float().requires_grad_() for x in inputs]
    for ours, theirs in zip(value_and_gradients(nt_xent_loss, single, temperature), expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("n", [2, 5, 256])
def test_loss_is_log_2n_minus_1_when_all_views_coincide(n):
    z = torch.ones(n, 4, dtype=torch.float64)
    assert nt_xent_loss(z, z, 0.3).item() == pytest.approx(math.log(2 * n - 1), abs=1e-12)


def test_loss_is_symmetric_in_the_views_and_in_the_order_of_images():
    z_i, z_j = projections(16)
    order = torch.randperm(16)
    expected = nt_xent_loss(z_i, z_j, 0.2)
    torch.testing.assert_close(nt_xent_loss(z_j, z_i, 0.2), expected)
    torch.testing.assert_close(nt_xent_loss(z_i[order], z_j[order], 0.2), expected)


def test_loss_does_not_depend_on_the_scale_of_a_row():
    z_i, z_j = projections(8)
    scale = torch.rand(8, 1, dtype=torch.float64) + 0.1
    torch.testing.assert_close(nt_xent_loss(scale * z_i, z_j, 0.5), nt_xent_loss(z_i, z_j, 0.5))


def test_positives_are_the_other_view_of_the_same_image():
    """Rows paired rightly give a small loss, rows paired wrongly a large one."""
    z = torch.eye(8)
    assert nt_xent_loss(z, z, 0.1) < 0.01
    assert nt_xent_loss(z, z.roll(1, 0), 0.1) > 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_are_finite_at_temperature_001(dtype):
    z_i, z_j = projections(64, 16, dtype)
    value, *gradients = value_and_gradients(nt_xent_loss, (z_i, z_j), 0.01)
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(g.isfinite().all() and g.dtype == dtype for g in gradients)


def test_loss_stays_fp32_under_autocast():
    z_i, z_j = projections(32, 16, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent_loss(z_i, z_j, 0.5)
    torch.testing.assert_close(inside, nt_xent_loss(z_i, z_j, 0.5), rtol=0, atol=0)


def test_bad_arguments_are_named():
    z = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(3, 3\)"):
        nt_xent_loss(z, z[:3], 0.5)
    with pytest.raises(ValueError, match="N = 1"):
        nt_xent_loss(z[:1], z[:1], 0.5)
    for temperature in (0, -0.5, float("nan")):
        with pytest.raises(ValueError, match=f"temperature must be > 0, got {temperature}"):
            nt_xent_loss(z, z, temperature)


def test_memory_is_quadratic_in_n_and_free_of_n_squared_times_d():
    """No tensor of the graph is larger than the 2N x 2N matrix, although D is large."""
    n, d, largest = 64, 512, 0

    def note(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        nt_xent_loss(*projections(n, d), 0.5)
    assert 0 < largest <= max((2 * n) ** 2, 2 * n * d)


@pytest.mark.parametrize(("n", "floor"), [(128, 3.55), (256, 4.24), (512, 4.93)])
def test_floor_is_the_loss_of_a_regular_simplex_with_coinciding_views(n, floor):
    assert nt_xent_floor(n, 0.5) == pytest.approx(floor, abs=0.005)  # PROTOCOLS' figures, claim R2.8
    simplex = torch.eye(n, dtype=torch.float64) - 1 / n
    assert nt_xent_loss(simplex, simplex, 0.5).item() == pytest.approx(nt_xent_floor(n, 0.5), abs=1e-9)
