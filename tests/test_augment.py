"""Views: each operation against torchvision's image by image, each draw against its distribution."""

from itertools import permutations, product

import pytest
import torch
from scipy import stats
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as TF

from simclr_core import augment
from simclr_core.augment import (
    VIEW_RECIPES,
    ViewRecipe,
    adjust_colour_,
    apply_recipe,
    blur,
    crop_and_flip,
    crop_axes,
    draw_parameters,
    gaussian,
    make_views,
    normalise,
    rotate,
    shift_hue_,
    view_recipe,
)

MEAN, STD = {1: (0.1307,), 3: (0.49, 0.48, 0.45)}, {1: (0.3081,), 3: (0.25, 0.24, 0.26)}
EVERYTHING = ViewRecipe(
    (0.2, 1.0), crop_p=0.7, flip_p=0.5, jitter=(0.9, 0.8, 0.7, 0.5), jitter_p=0.8, grayscale_p=0.3,
    blur_p=0.6, blur_kernel=5, rotation_degrees=40.0, rotation_interpolation="bilinear",
)  # fmt: skip
CLOSE = {"rtol": 0, "atol": 1e-5}
CLOSE_NORMALISED = {"rtol": 0, "atol": 5e-5}  # the same, divided by the std
JITTER = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
LIKELY = 1e-3  # a fixed seed gave these p-values once; a wrong distribution gives far smaller ones


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photos(n, channels, height=32, width=32, seed=3):
    """uint8 (n, height, width, channels): smooth with some noise; first an all grey one, then one of extremes."""
    coarse = torch.rand(n, channels, 6, 6, generator=seeded(seed))
    noise = torch.rand(n, channels, height, width, generator=seeded(seed + 1))
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    images = (images * 1.4 + noise * 0.2 - 0.3).clamp(0, 1)
    images[0] = 0.5
    images[1] = (images[1] > 0.5).float()
    return images.mul(255).byte().permute(0, 2, 3, 1).contiguous()


def floats(n, channels, height=32, width=32):
    return photos(n, channels, height, width).permute(0, 3, 1, 2).float() / 255


def per_image(function, x, *parameters):
    """torchvision's function on each image with its own parameters, as Python numbers."""
    return torch.stack([function(image, *(p[k].item() for p in parameters)) for k, image in enumerate(x)])


def view_by_torchvision(image, recipe, p, mean, std):
    """One view of a uint8 (H, W, C) image from row p of the draws, by torchvision on floats alone."""
    x = image.permute(2, 0, 1).float() / 255
    if recipe.normalise_twice:
        x = TF.normalize(x, mean, std)
    x = TF.resized_crop(x, *(int(side) for side in p.box), list(x.shape[1:]), antialias=True)
    if p.flipped:
        x = TF.horizontal_flip(x)
    if p.jittered:
        for k in p.order.tolist():
            x = JITTER[k](x, p.factors[k].item())
    if p.grayscale:
        x = TF.rgb_to_grayscale(x, num_output_channels=x.shape[0])
    if p.blur_sigma:
        x = TF.gaussian_blur(x, recipe.blur_kernel, p.blur_sigma.item())
    x = TF.rotate(x, p.angle.item(), InterpolationMode(recipe.rotation_interpolation))
    return TF.normalize(x, mean, std)


# The operations, each beside torchvision's


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (28, 28), (20, 33)])
def test_crop_and_flip_equal_torchvisions_antialiased_crop(channels, size):
    x = floats(64, channels, *size)
    recipe = ViewRecipe((0.05, 1.0), flip_p=0.5)
    p = draw_parameters(recipe, 64, *size, seeded())

    def crop(image, *box_and_flipped):
        *box, flipped = map(int, box_and_flipped)
        image = TF.resized_crop(image, *box, list(size), antialias=True)
        return TF.horizontal_flip(image) if flipped else image

    expected = per_image(crop, x, *p.box.unbind(1), p.flipped)
    assert 16 < p.flipped.sum() < 48
    axes = crop_axes(p.box, p.flipped, *size)
    torch.testing.assert_close(crop_and_flip(x, axes), expected, **CLOSE)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("function", "coefficients"),
    [
        (TF.adjust_brightness, lambda f: (f, 0 * f, 0 * f)),
        (TF.adjust_contrast, lambda f: (f, 0 * f, 1 - f)),
        (TF.adjust_saturation, lambda f: (f, 1 - f, 0 * f)),
    ],
)
def test_brightness_contrast_and_saturation_equal_torchvisions(function, coefficients, channels):
    x, factors = floats(64, channels), torch.rand(64, generator=seeded()) * 2.2
    expected = per_image(function, x, factors)
    torch.testing.assert_close(adjust_colour_(x, torch.stack(coefficients(factors), 1)), expected, **CLOSE)


@pytest.mark.parametrize("channels", [1, 3])
def test_grayscale_equals_torchvisions(channels):
    x = floats(8, channels)
    expected = TF.rgb_to_grayscale(x, num_output_channels=channels)
    on = torch.arange(8) % 2
    expected = torch.where(on.bool()[:, None, None, None], expected, x)
    coefficients = torch.stack([1 - on, on, 0 * on], dim=1).float()
    torch.testing.assert_close(adjust_colour_(x, coefficients), expected, **CLOSE)


def test_hue_shift_equals_torchvisions():
    x = floats(64, 3)
    turns = torch.rand(64, generator=seeded()) - 0.5
    torch.testing.assert_close(shift_hue_(x.clone(), turns), per_image(TF.adjust_hue, x, turns), **CLOSE)


def test_hue_shift_equals_torchvisions_where_channels_are_equal_or_extreme():
    colours = torch.tensor(list(product((0.0, 0.25, 0.5, 1.0), repeat=3))).T.reshape(3, 8, 8)
    turns = torch.tensor([-0.5, -1 / 3, -1 / 6, -0.01, 0.0, 0.01, 1 / 6, 1 / 3, 0.5])
    x = colours.repeat(len(turns), 1, 1, 1)
    torch.testing.assert_close(shift_hue_(x.clone(), turns), per_image(TF.adjust_hue, x, turns), **CLOSE)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(32, 32), (28, 28), (7, 12)])
def test_blur_equals_torchvisions(channels, kernel, size):
    x = floats(32, channels, *size)
    sigma = torch.linspace(0.1, 2.0, 32)
    expected = per_image(lambda image, s: TF.gaussian_blur(image, kernel, s), x, sigma)
    torch.testing.assert_close(blur(x, gaussian(sigma, kernel)), expected, **CLOSE)


def test_blur_of_sigma_0_changes_nothing():
    x = floats(4, 3)
    assert blur(x, gaussian(torch.zeros(4), 5)).equal(x)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (20, 33)])
def test_rotation_equals_torchvisions(channels, interpolation, size):
    x = floats(64, channels, *size)
    angle = torch.rand(64, generator=seeded()) * 360 - 180
    mode = InterpolationMode(interpolation)
    expected = per_image(lambda image, degrees: TF.rotate(image, degrees, mode), x, angle)
    torch.testing.assert_close(rotate(x, angle, interpolation), expected, **CLOSE)


def test_nearest_rotation_equals_torchvisions_with_fill_0():
    x, angle = floats(32, 3), torch.linspace(-15, 14, 32)
    expected = per_image(lambda image, degrees: TF.rotate(image, degrees, fill=0), x, angle)
    torch.testing.assert_close(rotate(x, angle, "nearest"), expected, **CLOSE)


# Whole recipes


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_applies_the_four_operations_in_each_images_own_order(channels):
    recipe = ViewRecipe(jitter=(0.8, 0.8, 0.8, 0.5), jitter_p=1.0)
    orders = torch.tensor(list(permutations(range(4)))).repeat(4, 1)
    images = photos(len(orders), channels)
    p = draw_parameters(recipe, len(orders), 32, 32, seeded())
    p.order.copy_(orders)
    views = apply_recipe(images, recipe, p, (0.0,) * channels, (1.0,) * channels)
    expected = []
    for k, x in enumerate(images.permute(0, 3, 1, 2).float() / 255):
        for operation in orders[k].tolist():
            x = JITTER[operation](x, p.factors[k, operation].item())
        expected.append(x)
    torch.testing.assert_close(views, torch.stack(expected), **CLOSE)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("recipe", [*(view_recipe(name, 1.0) for name in VIEW_RECIPES), EVERYTHING],
                         ids=[*VIEW_RECIPES, "everything"])  # fmt: skip
def test_views_equal_torchvisions_image_by_image(recipe, channels):
    images = photos(150, channels, 28, 28)
    p = draw_parameters(recipe, 150, 28, 28, seeded(1))
    mean, std = MEAN[channels], STD[channels]
    views = apply_recipe(images, recipe, p, mean, std)
    expected = [view_by_torchvision(image, recipe, p[k], mean, std) for k, image in enumerate(images)]
    torch.testing.assert_close(views, torch.stack(expected), **CLOSE_NORMALISED)


def test_r2_literal_is_what_r2_describes_image_by_image():
    images, recipe, mean, std = photos(60, 1, 28, 28), view_recipe("r2_literal"), MEAN[1], STD[1]
    x_i, x_j = make_views(images, recipe, mean, std, seeded(5))
    p = draw_parameters(recipe, 60, 28, 28, seeded(5))
    for k, image in enumerate(images):
        x = view_1 = TF.normalize(image.permute(2, 0, 1).float() / 255, mean, std)
        top, left, height, width = (int(side) for side in p.box[k])
        if p.flipped[k]:  # before the crop, as R2 has it: the crop's place is then counted from the right
            x, left = TF.horizontal_flip(x), 28 - left - width
        x = TF.resized_crop(x, top, left, height, width, [28, 28], antialias=True)
        if p.blur_sigma[k]:
            x = TF.gaussian_blur(x, 5, p.blur_sigma[k].item())
        x = TF.normalize(TF.rotate(x, p.angle[k].item(), fill=0), mean, std)
        torch.testing.assert_close(x_i[k], view_1, **CLOSE)
        torch.testing.assert_close(x_j[k], x, **CLOSE_NORMALISED)


def test_a_recipe_that_does_nothing_only_normalises():
    images = photos(5, 3)
    expected = TF.normalize(images.permute(0, 3, 1, 2).float() / 255, MEAN[3], STD[3])
    x_i, x_j = make_views(images, ViewRecipe(), MEAN[3], STD[3], seeded())
    for view in (x_i, x_j, normalise(images, MEAN[3], STD[3])):
        torch.testing.assert_close(view, expected, **CLOSE)


def test_named_recipes_are_the_protocols():
    assert view_recipe("basic") == ViewRecipe((0.2, 1.0), flip_p=0.5)
    assert view_recipe("color", 0.5).jitter == view_recipe("best").jitter == (0.4, 0.4, 0.4, 0.1)
    assert view_recipe("strong", 1.0).jitter == (0.8, 0.8, 0.8, 0.2)
    gray, color, strong, best = map(view_recipe, ("gray", "color", "strong", "best"))
    assert [r.jitter_p for r in (gray, color, strong, best)] == [0.0, 0.8, 0.8, 0.8]
    assert [r.grayscale_p for r in (gray, color, strong, best)] == [0.2, 0.0, 0.2, 0.1]
    assert [r.blur_p for r in (gray, color, strong, best)] == [0.0, 0.0, 0.5, 0.0]
    r2 = ViewRecipe((0.8, 1.0), crop_p=0.5, flip_p=0.5, blur_p=0.3, blur_kernel=5, rotation_degrees=15.0)
    assert view_recipe("r2_two_views") == r2
    assert view_recipe("digits").flip_p == 0


# Draws


def test_every_gate_opens_with_its_probability():
    recipe = ViewRecipe((0.2, 0.5), crop_p=0.35, flip_p=0.5, jitter_p=0.8, grayscale_p=0.2, blur_p=0.3)
    n = 20_000
    p = draw_parameters(recipe, n, 32, 32, seeded())
    cropped = (p.box != torch.tensor([0.0, 0.0, 32, 32])).any(1)
    for happened, probability in (
        (cropped, 0.35), (p.flipped, 0.5), (p.jittered, 0.8), (p.grayscale, 0.2), (p.blur_sigma > 0, 0.3)
    ):  # fmt: skip
        assert stats.binomtest(int(happened.sum()), n, probability).pvalue > LIKELY
    gates = torch.stack([cropped, p.flipped, p.jittered, p.grayscale, p.blur_sigma > 0]).float()
    assert (gates.corrcoef() - torch.eye(5)).abs().max() < 0.03  # independent of one another


def test_draws_are_uniform_over_their_ranges():
    recipe = ViewRecipe(jitter=(0.4, 1.5, 0.8, 0.1), blur_p=1.0, blur_sigma=(0.1, 2.0), rotation_degrees=15.0)
    p = draw_parameters(recipe, 20_000, 32, 32, seeded())
    brightness, contrast, saturation, hue = p.factors.unbind(1)
    for drawn, low, high in (
        (brightness, 0.6, 1.4), (contrast, 0.0, 2.5), (saturation, 0.2, 1.8), (hue, -0.1, 0.1),
        (p.blur_sigma, 0.1, 2.0), (p.angle, -15.0, 15.0),
    ):  # fmt: skip
        assert stats.kstest(drawn.numpy(), stats.uniform(low, high - low).cdf).pvalue > LIKELY


@pytest.mark.parametrize(
    ("scale", "ratio", "size"),
    [
        ((0.2, 1.0), (3 / 4, 4 / 3), (32, 32)),
        ((0.8, 1.0), (0.3, 3.0), (28, 28)),
        ((0.08, 1.0), (0.5, 2.0), (20, 33)),
    ],
)
def test_crops_are_distributed_as_torchvisions(scale, ratio, size):
    n = 8_000
    recipe = ViewRecipe(scale, ratio)
    ours = draw_parameters(recipe, n, *size, seeded()).box
    image = torch.empty(1, *size)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(n)]).float()

    def measures(box):
        top, left, height, width = box.unbind(1)
        return top, left, height, width, height * width, width / height, top / (size[0] - height + 1)

    for drawn, expected in zip(measures(ours), measures(theirs), strict=True):
        assert stats.ks_2samp(drawn.numpy(), expected.numpy()).pvalue > LIKELY
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] >= 1).all()
    assert (ours[:, :2] + ours[:, 2:] <= torch.tensor(size)).all()


@pytest.mark.parametrize("ratio", [(2.0, 3.0), (0.2, 0.4)])
@pytest.mark.parametrize("size", [(32, 32), (21, 28)])
def test_a_crop_that_never_fits_is_torchvisions_central_one(ratio, size):
    recipe = ViewRecipe((0.95, 1.0), ratio)
    expected = RandomResizedCrop.get_params(torch.empty(1, *size), (0.95, 1.0), ratio)
    assert draw_parameters(recipe, 3, *size, seeded()).box.tolist() == [list(expected)] * 3


def test_operation_orders_are_uniform_over_all_24():
    order = draw_parameters(ViewRecipe(), 24_000, 8, 8, seeded()).order
    seen, counts = (order * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_counts=True)
    assert len(seen) == 24
    assert stats.chisquare(counts.numpy()).pvalue > LIKELY


def test_each_view_has_its_own_draw():
    p = draw_parameters(EVERYTHING, 500, 32, 32, seeded())
    assert len(p.angle.unique()) > 490
    assert all(len(factor.unique()) > 490 for factor in p.factors.unbind(1))
    assert len(p.box.unique(dim=0)) > 250


# Views


def test_the_same_seed_gives_the_same_views_and_another_seed_others():
    images = photos(40, 3)
    first, again, other = (make_views(images, EVERYTHING, MEAN[3], STD[3], seeded(k)) for k in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not first[0].equal(other[0])


@pytest.mark.parametrize("name", ["strong", "r2"])
@pytest.mark.parametrize("rows", [[3, 4, 11], []])
def test_views_of_some_rows_are_those_that_they_have_in_the_whole_batch(name, rows):
    images, rows = photos(20, 3), torch.tensor(rows, dtype=torch.int64)
    whole = make_views(images, view_recipe(name), MEAN[3], STD[3], seeded())
    some = make_views(images[rows], view_recipe(name), MEAN[3], STD[3], seeded(), rows, 20)
    for view, part in zip(whole, some, strict=True):
        torch.testing.assert_close(part, view[rows])


def test_the_two_views_of_an_image_differ():
    x_i, x_j = make_views(photos(40, 3)[2:], view_recipe("color"), MEAN[3], STD[3], seeded())
    assert ((x_i - x_j).abs().amax((1, 2, 3)) > 0.05).all()


@pytest.mark.parametrize("name", ["r2", "r2_literal"])
def test_view_1_is_the_image_itself_under_identity(name):
    images = photos(40, 1, 28, 28)
    x_i, x_j = make_views(images, view_recipe(name), MEAN[1], STD[1], seeded())
    assert x_i.equal(normalise(images, MEAN[1], STD[1]))
    changed = (x_i - x_j).abs().amax((1, 2, 3)) > 0.05
    assert changed.sum() >= 36  # a rotation by less than 2 degrees may leave every nearest pixel in place


def test_views_are_float32_channels_last_and_the_images_stay_unchanged():
    images = photos(40, 3)
    before = images.clone()
    for recipe in (EVERYTHING, ViewRecipe(), view_recipe("basic")):
        x_i, x_j = make_views(images, recipe, MEAN[3], STD[3], seeded())
        for view in (x_i, x_j, normalise(images, MEAN[3], STD[3])):
            assert view.dtype == torch.float32 and view.shape == (40, 3, 32, 32)
            assert view.is_contiguous(memory_format=torch.channels_last)
    assert images.equal(before)


def test_views_do_not_depend_on_the_block_size(monkeypatch):
    images, p = photos(50, 3), draw_parameters(EVERYTHING, 50, 32, 32, seeded())
    at_once = apply_recipe(images, EVERYTHING, p, MEAN[3], STD[3])
    monkeypatch.setattr(augment, "BLOCK_PIXELS", 7 * 32 * 32)
    in_blocks = apply_recipe(images, EVERYTHING, p, MEAN[3], STD[3])
    torch.testing.assert_close(in_blocks, at_once, **CLOSE_NORMALISED)
    part = apply_recipe(images[10:13], EVERYTHING, p[10:13], MEAN[3], STD[3])
    torch.testing.assert_close(part, at_once[10:13], **CLOSE_NORMALISED)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_views_on_a_gpu_equal_those_on_the_cpu():
    images = photos(50, 3)
    cpu = make_views(images, EVERYTHING, MEAN[3], STD[3], seeded())
    gpu = make_views(images.cuda(), EVERYTHING, MEAN[3], STD[3], seeded())
    for expected, view in zip(cpu, gpu, strict=True):
        torch.testing.assert_close(view.cpu(), expected, rtol=0, atol=1e-4)


# Errors


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop_scale", (0.0, 1.0)), ("crop_scale", (0.9, 0.2)), ("crop_scale", (0.2, 1.5)),
        ("crop_ratio", (0.0, 1.0)), ("crop_p", 1.5), ("flip_p", -0.1), ("jitter", (0.4, 0.4, 0.4)),
        ("jitter", (-1.0, 0.0, 0.0, 0.0)), ("jitter", (0.4, 0.4, 0.4, 0.6)), ("jitter_p", float("nan")),
        ("blur_kernel", 4), ("blur_kernel", -1), ("blur_sigma", (0.0, 2.0)), ("rotation_degrees", -5.0),
        ("rotation_interpolation", "bicubic"), ("first_view", "none"),
    ],
)  # fmt: skip
def test_a_bad_recipe_is_refused_with_its_field_and_value(field, value):
    with pytest.raises(ValueError, match=f"^{field} is ") as error:
        ViewRecipe(**{field: value})
    assert repr(value) in str(error.value)


def test_jitter_of_a_normalised_image_is_refused():
    with pytest.raises(ValueError, match=r"jitter_p is 0\.8; expected 0 with normalise_twice"):
        ViewRecipe(jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, normalise_twice=True)


def test_an_unknown_recipe_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"'colour'.*did you mean 'color'"):
        view_recipe("colour")
    with pytest.raises(ValueError, match=r"strength is -1"):
        view_recipe("color", -1)


@pytest.mark.parametrize(
    ("images", "mean", "message"),
    [
        (torch.zeros(2, 8, 8, 3), (0.5,) * 3, r"images is 'float32 \(2, 8, 8, 3\)'"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), (0.5,) * 3, r"images is 'uint8 \(2, 8, 8\)'"),
        (torch.zeros(2, 8, 8, 4, dtype=torch.uint8), (0.5,) * 4, "C = 1 or 3"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), (0.5,), r"mean is \(0\.5,\); expected 3 values"),
    ],
)
def test_images_of_another_form_are_refused(images, mean, message):
    with pytest.raises(ValueError, match=message):
        make_views(images, ViewRecipe(), mean, mean, seeded())
    with pytest.raises(ValueError, match=message):
        normalise(images, mean, mean)


def test_a_blur_wider_than_the_image_and_missing_draws_are_refused():
    images = photos(3, 1, 4, 4)
    recipe = ViewRecipe(blur_p=1.0, blur_kernel=9)
    with pytest.raises(ValueError, match="blur_kernel is 9; expected less than twice"):
        make_views(images, recipe, (0.5,), (0.5,), seeded())
    with pytest.raises(ValueError, match="number of draws is 2; expected 3"):
        apply_recipe(images, ViewRecipe(), draw_parameters(ViewRecipe(), 2, 4, 4, seeded()), (0.5,), (0.5,))
    with pytest.raises(ValueError, match="std is"):
        normalise(images, (0.5,), (0.0,))
