import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from simclr_core import loss as loss_module
from simclr_core import tiled_loss
from simclr_core.loss import nt_xent_floor, nt_xent_loss, nt_xent_plain
from simclr_core.tiled_loss import nt_xent_tiled


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


def tiled(tile):
    """The tiled form with the signature of nt_xent_loss."""
    return lambda z_i, z_j, temperature: nt_xent_tiled(F.normalize(torch.cat([z_i, z_j])), temperature, tile)


def plain(z_i, z_j, temperature):
    return nt_xent_plain(F.normalize(torch.cat([z_i, z_j])), temperature)


def relative_errors(ours, theirs):
    return [((a - b).norm() / b.norm()).item() for a, b in zip(ours, theirs, strict=True)]


@pytest.fixture
def forms_used(monkeypatch):
    """Names of the forms that nt_xent_loss took, in order."""
    used = []
    for name in ("nt_xent_plain", "nt_xent_tiled"):
        form = getattr(loss_module, name)
        monkeypatch.setattr(loss_module, name, lambda *a, form=form, name=name: used.append(name) or form(*a))
    return used


@pytest.mark.parametrize(("n", "tile"), [(2, 1), (3, 2), (8, 3), (17, 8), (17, 64)])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5])
def test_tiled_form_agrees_with_the_papers_algorithm(n, tile, temperature):
    inputs = projections(n)
    expected = value_and_gradients(algorithm_1, inputs, temperature)
    for ours, theirs in zip(value_and_gradients(tiled(tile), inputs, temperature), expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-10


@pytest.mark.parametrize(("n", "d", "tile"), [(2, 1, 256), (5, 7, 256), (64, 33, 32), (100, 128, 33), (257, 5, 256)])
@pytest.mark.parametrize("temperature", [1, 0.5, 0.1, 0.01, 0.001])
def test_tiled_form_agrees_with_the_plain_one(n, d, tile, temperature):
    """N smaller than a tile, a multiple of it and not; one tile and many; tau on both sides of the running maximum."""
    inputs = projections(n, d)
    expected = value_and_gradients(plain, inputs, temperature)
    for ours, theirs in zip(value_and_gradients(tiled(tile), inputs, temperature), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11 / temperature)


@pytest.mark.parametrize("temperature", [1, 0.5, 0.1, 0.02, 0.0143, 0.01])
@pytest.mark.parametrize(("n", "tile"), [(256, 256), (300, 128)])
def test_float32_gradient_of_the_tiled_form_is_within_2e_6_of_float64(n, tile, temperature):
    inputs = projections(n, 128)
    single = [x.detach().float().requires_grad_() for x in inputs]
    double = [x.detach().double().requires_grad_() for x in single]
    expected = value_and_gradients(plain, double, temperature)
    ours = [x.double() for x in value_and_gradients(tiled(tile), single, temperature)]
    assert max(relative_errors(ours, expected)) <= 2e-6


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.02, 0.0111, 0.01, 0.001])
@pytest.mark.parametrize("spread", [0, 0.01, 0.5])
def test_tiled_form_is_as_good_as_the_plain_one_on_easy_and_collapsed_views(temperature, spread):
    """Views that (nearly) coincide, far apart from other images or all in one place; errors measured in float32."""
    for centre in (0, 5):
        x = centre + torch.randn(70, 32)
        single = [(x + spread * torch.randn(70, 32)).requires_grad_() for _ in range(2)]
        double = [v.detach().double().requires_grad_() for v in single]
        expected = value_and_gradients(plain, double, temperature)
        for ours, theirs in zip(value_and_gradients(tiled(32), single, temperature), expected, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=2e-8 / temperature)


@pytest.mark.parametrize("temperature", [1, 1e-2, 1e-3, 1e-4])
def test_tiled_form_is_finite_when_every_other_view_points_the_opposite_way(temperature):
    """Where all of a row's logits are -1 / temperature: without its maximum subtracted the sum of exponentials is 0."""
    direction = F.normalize(torch.randn(16), dim=0)
    z_i, z_j = direction.repeat(4, 1), -direction.repeat(4, 1)
    z_i[1:] *= -1  # row 0 stands against all others, its own other view included
    inputs = [z_i.requires_grad_(), z_j.requires_grad_()]
    for ours, theirs in zip(*(value_and_gradients(f, inputs, temperature) for f in (tiled(3), plain)), strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6 / temperature)


@pytest.mark.parametrize("temperature", [0.5, 0.01])  # at once, and with the running maximum
@pytest.mark.parametrize("tile", [2, 3, 64])
def test_tiled_gradient_passes_gradcheck(temperature, tile):
    z = F.normalize(torch.randn(10, 6, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: 3 * nt_xent_tiled(z, temperature, tile), z, eps=1e-7, atol=1e-5)


def test_tiled_form_can_be_differentiated_only_once():
    z = F.normalize(torch.randn(6, 4)).requires_grad_()
    (gradient,) = torch.autograd.grad(nt_xent_tiled(z, 0.5, 2).square(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


class LargestTensor(TorchDispatchMode):
    """Notes the most elements of any storage that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


@pytest.fixture
def nothing_kept(monkeypatch):
    """The tiles computed again in the backward pass, as for large N."""
    monkeypatch.setattr(tiled_loss, "KEPT", 0)


@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_tiled_form_never_makes_more_than_a_few_tiles_or_the_size_of_z(temperature, nothing_kept):
    n, d, tile = 600, 4, 32
    inputs = projections(n, d, torch.float32)
    sizes = {}
    for form in (tiled(tile), plain):
        with LargestTensor() as largest:
            value_and_gradients(form, inputs, temperature)
        sizes[form] = largest.elements
    ours, matrix = sizes.values()
    assert ours <= max(2 * tile**2, 2 * n * d)
    assert matrix >= (2 * n) ** 2  # so the mode sees what it is meant to see


def shapes_saved(temperature):
    saved = []
    z = F.normalize(torch.randn(200, 4)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        nt_xent_tiled(z, temperature, 20)
    return sorted(saved)


def test_tiled_form_saves_nothing_for_backward_but_z_and_the_row_sums(nothing_kept):
    assert shapes_saved(0.5) == [(200,), (200,), (200, 4)]


def test_tiles_are_kept_where_they_are_few(monkeypatch):
    tiles = (10 * 11 // 2, 20**2)
    for kept in (math.prod(tiles), math.prod(tiles) - 1):
        monkeypatch.setattr(tiled_loss, "KEPT", kept)
        assert (tiles in shapes_saved(0.5)) == (kept == math.prod(tiles))
    monkeypatch.undo()
    assert tiles in shapes_saved(0.5) and tiles not in shapes_saved(0.01)


@pytest.mark.parametrize(("n", "tile"), [(2, 1), (100, 33), (256, 256)])
def test_kept_tiles_change_no_number_and_serve_twice(n, tile, monkeypatch):
    inputs = projections(n, 32, torch.float32)
    value = tiled(tile)(*inputs, 0.5)
    twice = [[value, *torch.autograd.grad(value, inputs, retain_graph=True)] for _ in range(2)]
    monkeypatch.setattr(tiled_loss, "KEPT", 0)
    again = value_and_gradients(tiled(tile), inputs, 0.5)
    for ours, repeated, expected in zip(*twice, again, strict=True):
        assert torch.equal(ours, expected) and torch.equal(repeated, expected)


def test_loss_takes_the_tiled_form_for_large_n_only(forms_used):
    least = loss_module.TILED_FROM_CPU
    for n in (least - 1, least):
        nt_xent_loss(*projections(n, 4, torch.float32), 0.5)
    assert forms_used == ["nt_xent_plain", "nt_xent_tiled"]


@pytest.mark.parametrize("temperature", [0.5, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_both_forms_agree_through_the_public_entry(dtype, temperature, monkeypatch, forms_used):
    """In fp32, or fp64 for fp64 input, gradients in the inputs' type."""
    inputs = projections(40, 16, dtype)
    results = []
    for least in (2, 1000):
        monkeypatch.setattr(loss_module, "TILED_FROM_CPU", least)
        results.append(value_and_gradients(nt_xent_loss, inputs, temperature))
    assert forms_used == ["nt_xent_tiled", "nt_xent_plain"]
    (value, *gradients), (expected, *expected_gradients) = results
    assert value.dtype == expected.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    assert all(gradient.dtype == dtype for gradient in gradients)
    rounding = torch.finfo(dtype).eps if dtype.itemsize == 2 else 2e-6
    assert max(relative_errors(gradients, expected_gradients)) <= rounding


@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_tiled_form_and_its_gradient_stay_fp32_under_autocast(temperature, monkeypatch):
    monkeypatch.setattr(loss_module, "TILED_FROM_CPU", 2)
    inputs = projections(32, 16, torch.float32)
    expected = value_and_gradients(nt_xent_loss, inputs, temperature)
    with torch.autocast("cpu", torch.bfloat16):
        inside = value_and_gradients(nt_xent_loss, inputs, temperature)  # backward() inside, too
    for ours, theirs in zip(inside, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_tiled_form_never_waits_for_the_device(temperature):
    """On the meta device, which has shapes but no values, reading one raises."""
    inputs = [torch.empty(50, 8, device="meta", requires_grad=True) for _ in range(2)]
    value, *gradients = value_and_gradients(tiled(16), inputs, temperature)
    assert value.shape == () and all(g.shape == (50, 8) and g.is_meta for g in gradients)
    with pytest.raises(RuntimeError, match="meta"):
        value.item()
