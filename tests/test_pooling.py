import pytest
import torch
from torch.nn import functional as F

from simclr_core.pooling import max_pool_relu

DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def both(x, gradient_seed=0):
    """Results and gradients by x of torch's two steps and of ours."""
    results = []
    for form in (lambda x: F.relu(F.max_pool2d(x, 2)), max_pool_relu):
        leaf = x.detach().requires_grad_()
        y = form(leaf)
        gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(gradient_seed)).to(y.dtype)
        results.append((y, *torch.autograd.grad(y, leaf, gradient)))
    return results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (1, 1, 2, 2), (8, 32, 28, 28), (2, 3, 7, 5), (2, 3, 6, 5)])
def test_pool_and_gradient_are_torchs_to_the_bit(dtype, layout, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype).contiguous(memory_format=layout)
    for expected, found in zip(*both(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_layout_stays():
    for layout in (torch.contiguous_format, torch.channels_last):
        y = max_pool_relu(torch.randn(2, 3, 8, 8).contiguous(memory_format=layout))
        assert y.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_equal_numbers_the_first_takes_the_gradient_as_in_torch(dtype):
    x = torch.randint(-1, 2, (4, 3, 8, 8), generator=torch.Generator().manual_seed(2)).to(dtype)  # ties everywhere
    (_, expected), (_, found) = both(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert (found.flatten(2).count_nonzero(2) <= 16).all()  # one of four at most


def test_pool_leaves_its_input_and_gradient_alone():
    x, gradient = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), torch.randn(2, 3, 2, 2)
    before = x.clone(), gradient.clone()
    max_pool_relu(x.requires_grad_()).backward(gradient)
    assert torch.equal(x.detach(), before[0]) and torch.equal(gradient, before[1])


def test_a_gradient_of_the_gradient_is_refused():
    x = torch.rand(1, 2, 2, 2, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(max_pool_relu(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
