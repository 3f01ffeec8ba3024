"""Views: random augmentations of a batch of images, each image with its own draw.

`draw_parameters` draws what happens to each view, `apply_recipe` carries it out as a few batched
operations on the images' device, `make_views` does both. Every operation gives what torchvision's
v2.functional gives for that image as a float tensor in [0, 1]; in this order: crop and resize,
flip, colour jitter, grayscale, blur, rotation.

Shapes: N images or views, H height, W width, C channels (1 or 3). Images are uint8 (N, H, W, C),
x is float32 (N, C, H, W); mean and std are one value a channel, on the [0, 1] scale.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import lru_cache
from itertools import combinations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from simclr_core.errors import UserError

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # torchvision's numbers of the jitter operations
LUMA = {1: (1.0,), 3: (0.2989, 0.587, 0.114)}  # weights in grey; ITU-R BT.601 as in torchvision
BLOCK_PIXELS = 1 << 16  # at once on a CPU: temporaries stay in its cache, 1.4 to 2 times faster
PROBABILITIES = ("crop_p", "flip_p", "jitter_p", "grayscale_p", "blur_p")


@dataclass(frozen=True)
class ViewRecipe:
    """What may happen to an image on its way to a view; by default nothing does.

    Raises: ValueError naming the field, the bad value and what is expected.
    """

    crop_scale: tuple[float, float] | None = None  # area, fraction of the image's; None: no crop
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # its width / height
    crop_p: float = 1.0
    flip_p: float = 0.0  # left to right
    # Brightness, contrast, saturation: largest deviation from 1; hue: from 0, in turns
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.0
    grayscale_p: float = 0.0
    blur_p: float = 0.0
    blur_kernel: int = 3  # pixels, odd
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels
    rotation_degrees: float = 0.0  # uniform in +-
    rotation_interpolation: str = "nearest"  # torchvision's default; or "bilinear"
    first_view: str = "augmented"  # or "identity": view 1 is the image itself
    normalise_twice: bool = False  # before the augmentation as well as after: R2's literal form

    def __post_init__(self) -> None:
        hue = self.jitter[-1]
        for name, valid, expected in (
            *((p, 0 <= getattr(self, p) <= 1, "a probability, 0 to 1") for p in PROBABILITIES),
            ("crop_scale", _rising(self.crop_scale or (1, 1), 1.0), "0 < low <= high <= 1"),
            ("crop_ratio", _rising(self.crop_ratio), "0 < low <= high"),
            ("jitter", len(self.jitter) == 4 and min(self.jitter) >= 0 and hue <= 0.5,
             "four values >= 0, the last (hue) at most 0.5"),
            ("jitter_p", not (self.jitter_p and self.normalise_twice), "0 with normalise_twice"),
            ("blur_kernel", self.blur_kernel % 2 and self.blur_kernel > 0, "an odd number"),
            ("blur_sigma", _rising(self.blur_sigma), "0 < low <= high, in pixels"),
            ("rotation_degrees", 0 <= self.rotation_degrees <= 180, "0 to 180"),
            ("rotation_interpolation", self.rotation_interpolation in ("nearest", "bilinear"),
             "nearest or bilinear"),
            ("first_view", self.first_view in ("augmented", "identity"), "augmented or identity"),
        ):  # fmt: skip
            _require(valid, name, getattr(self, name), expected)


def _rising(bounds: tuple[float, float], limit: float = sys.float_info.max) -> bool:
    return len(bounds) == 2 and 0 < bounds[0] <= bounds[1] <= limit


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise UserError(f"{name} is {value!r}; expected {expected}")


# At strength 1. Sources: the SimCLR paper, appendices A, B.9; crop from 0.2: dkobak/simclr-cifar10.
_BASIC = ViewRecipe(crop_scale=(0.2, 1.0), flip_p=0.5)
_COLOR = replace(_BASIC, jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8)
# R2's flip precedes its crop: the same distribution, since a crop's place is uniform.
_R2 = ViewRecipe((0.8, 1.0), crop_p=0.5, flip_p=0.5, blur_p=0.3, blur_kernel=5)
_R2 = replace(_R2, rotation_degrees=15.0)
VIEW_RECIPES = {
    "basic": _BASIC,
    "color": _COLOR,
    "gray": replace(_BASIC, grayscale_p=0.2),
    "strong": replace(_COLOR, grayscale_p=0.2, blur_p=0.5),  # deviates: no blur on CIFAR-10 there
    "best": replace(_COLOR, grayscale_p=0.1),  # dkobak/simclr-cifar10 too
    "r2": replace(_R2, first_view="identity"),
    "r2_literal": replace(_R2, first_view="identity", normalise_twice=True),
    "r2_two_views": _R2,
    "r2_no_flip": replace(_R2, flip_p=0.0),
    # Ours.
    "digits": ViewRecipe((0.4, 1.0), rotation_degrees=15.0, rotation_interpolation="bilinear"),
}
# Each transform alone, and each pair ("crop_jitter"): the composition study (the paper's figure 5).
TRANSFORMS = {
    "crop": {"crop_scale": (0.2, 1.0)},
    "flip": {"flip_p": 0.5},
    "jitter": {"jitter": (0.8, 0.8, 0.8, 0.2), "jitter_p": 0.8},
    "grayscale": {"grayscale_p": 0.2},
    "blur": {"blur_p": 0.5},
}
VIEW_RECIPES |= {name: ViewRecipe(**effect) for name, effect in TRANSFORMS.items()}
for _a, _b in combinations(TRANSFORMS, 2):
    VIEW_RECIPES[f"{_a}_{_b}"] = ViewRecipe(**TRANSFORMS[_a], **TRANSFORMS[_b])


def view_recipe(name: str, strength: float = 0.5) -> ViewRecipe:
    """The recipe called `name`, its jitter times `strength` (the paper's s; 0.5 on CIFAR-10).

    Raises: ValueError for an unknown name, with the nearest one, and a strength not in 0 to 2.5.
    """
    if name not in VIEW_RECIPES:
        near = get_close_matches(name, VIEW_RECIPES, n=1, cutoff=0.0)[0]
        expected = f"one of {', '.join(VIEW_RECIPES)}; did you mean {near!r}?"
        _require(False, "view recipe", name, expected)
    valid = 0 <= strength <= 2.5
    _require(valid, "strength", strength, "0 to 2.5, where the hue's deviation is 0.5")
    recipe = VIEW_RECIPES[name]
    return replace(recipe, jitter=tuple(strength * deviation for deviation in recipe.jitter))


@dataclass(frozen=True)
class ViewParameters:
    """The draws of N views, one row each; indexing selects views."""

    box: Tensor  # (N, 4) top, left, height, width of the crop in pixels; all where not cropped
    flipped: Tensor  # (N,) bool
    jittered: Tensor  # (N,) bool
    factors: Tensor  # (N, 4) brightness, contrast, saturation, hue (turns); idle if not jittered
    order: Tensor  # (N, 4) BRIGHTNESS to HUE in the order applied
    grayscale: Tensor  # (N,) bool
    blur_sigma: Tensor  # (N,) pixels; 0: no blur
    angle: Tensor  # (N,) degrees, anticlockwise

    def __len__(self) -> int:
        return len(self.flipped)

    def __getitem__(self, rows: slice | Tensor) -> ViewParameters:
        return ViewParameters(*(getattr(self, field.name)[rows] for field in fields(self)))


def draw_parameters(recipe: ViewRecipe, n: int, height: int, width: int, generator: Generator
                    ) -> ViewParameters:  # fmt: skip
    """Draws for n views of height x width pixels, by a CPU generator: the same on every device."""

    def happens(p: float) -> Tensor:
        return torch.rand(n, generator=generator) < p

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n).uniform_(low, high, generator=generator)

    box = torch.tensor([0.0, 0.0, height, width]).expand(n, 4)
    if recipe.crop_scale:
        cropped = happens(recipe.crop_p)[:, None]
        box = torch.where(cropped, _draw_boxes(recipe, n, height, width, generator), box)
    *strengths, hue = recipe.jitter
    factors = [uniform(max(0.0, 1 - strength), 1 + strength) for strength in strengths]
    return ViewParameters(
        box=box,
        flipped=happens(recipe.flip_p),
        jittered=happens(recipe.jitter_p),
        factors=torch.stack([*factors, uniform(-hue, hue)], dim=1),
        order=torch.rand(n, 4, generator=generator).argsort(dim=1),
        grayscale=happens(recipe.grayscale_p),
        blur_sigma=happens(recipe.blur_p) * uniform(*recipe.blur_sigma),
        angle=uniform(-recipe.rotation_degrees, recipe.rotation_degrees),
    )


def _draw_boxes(recipe: ViewRecipe, n: int, height: int, width: int, generator: Generator
                ) -> Tensor:  # fmt: skip
    """(n, 4) as torchvision's RandomResizedCrop: the first of ten tries that fits, else central."""
    low, high = recipe.crop_ratio
    area = height * width * torch.empty(n, 10).uniform_(*recipe.crop_scale, generator=generator)
    ratio = torch.empty(n, 10).uniform_(math.log(low), math.log(high), generator=generator).exp_()
    sizes = torch.stack([area / ratio, area * ratio], dim=2).sqrt_().round_()  # (n, 10, 2)
    image = torch.tensor([height, width])
    fits = ((sizes > 0) & (sizes <= image)).all(dim=2)
    first = fits.int().argmax(dim=1)  # the first of equal values
    found = fits.any(dim=1, keepdim=True)
    central = torch.tensor([min(height, round(width / low)), min(width, round(height * high))])
    size = torch.where(found, sizes[torch.arange(n), first], central)  # (n, 2)
    corner = torch.rand(n, 2, generator=generator) * (image - size + 1)
    return torch.cat([torch.where(found, corner, (image - size) / 2).floor_(), size], dim=1)


def make_views(images: Tensor, recipe: ViewRecipe, mean: tuple[float, ...],
               std: tuple[float, ...], generator: Generator, rows: Tensor | None = None,
               n: int = 0) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Two views x_i, x_j of every image: halves of one tensor, or view 1 is the image itself.

    Args:
        rows, n: the images are these rows of a batch of n, and their views those they have in it.
    Shapes, errors: `apply_recipe`.
    """
    _check(images, mean, std)
    identity = recipe.first_view == "identity"
    stacked = images if identity else torch.cat([images, images])
    rows, n = (torch.arange(len(images)), len(images)) if rows is None else (rows, n)
    parameters = draw_parameters(recipe, n if identity else 2 * n, *images.shape[1:3], generator)
    parameters = parameters[rows if identity else torch.cat([rows, rows + n])]
    views = apply_recipe(stacked, recipe, parameters, mean, std)
    if identity:
        return normalise(images, mean, std), views
    return views[: len(images)], views[len(images) :]


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(images / 255 - mean) / std, the evaluation's only transform: (N, C, H, W), channels_last.

    Raises: ValueError for another dtype or shape.
    """
    _check(images, mean, std)
    mean, std = (_constant(values, images.device) for values in (mean, std))
    return images.div(255).sub_(mean).div_(std).permute(0, 3, 1, 2)


@torch.no_grad()
def apply_recipe(images: Tensor, recipe: ViewRecipe, parameters: ViewParameters,
                 mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:  # fmt: skip
    """Carries out the draws of `parameters`, one for each image, and normalises.

    Args:
        images: uint8 (N, H, W, C), on any device; not changed.
        parameters: N draws, on the CPU.
    Returns: views, float32 (N, C, H, W), channels_last, on the images' device.
    Raises: ValueError for another dtype, shape or number of draws, or a blur kernel too wide.
    """
    _check(images, mean, std)
    (n, *size, _), device = images.shape, images.device
    _require(len(parameters) == n, "number of draws", len(parameters), f"{n}, one for each image")
    expected = f"less than twice the side, images are {size[0]} x {size[1]}"
    fits = not recipe.blur_p or recipe.blur_kernel < 2 * min(size)
    _require(fits, "blur_kernel", recipe.blur_kernel, expected)
    # Views that shift their hue at the same step come one after another, so slices select them.
    hue_step = torch.where(parameters.jittered, parameters.order.argsort(dim=1)[:, HUE], 4)
    hue_step, rank = hue_step.sort(stable=True)
    coefficients = _coefficients(parameters[rank], recipe, size, device)
    rank = _put(rank, device)
    mean, std = (_constant(values, device).view(-1, 1, 1) for values in (mean, std))
    views = torch.empty(images.shape, device=device)
    block = max(1, BLOCK_PIXELS // math.prod(size)) if device.type == "cpu" else max(1, n)
    for rows in (slice(start, start + block) for start in range(0, n, block)):
        x = images.index_select(0, rank[rows]).div(255).permute(0, 3, 1, 2)
        if recipe.normalise_twice:
            x.sub_(mean).div_(std)
        x = _augment(x, recipe, [c[rows] for c in coefficients], hue_step[rows])
        x = x.sub_(mean).div_(std).permute(0, 2, 3, 1).contiguous()
        views.index_copy_(0, rank[rows], x)
    return views.permute(0, 3, 1, 2)


def _check(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    form = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
    valid = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[3] in LUMA
    _require(valid, "images", form, "uint8 (N, H, W, C) with C = 1 or 3")
    expected = f"{images.shape[3]} values, one a channel"
    _require(len(mean) == images.shape[3], "mean", mean, expected)
    _require(len(std) == images.shape[3], "std", std, expected)
    _require(min(std) > 0, "std", std, "values > 0")


def _coefficients(p: ViewParameters, recipe: ViewRecipe, size: list[int], device: torch.device
                  ) -> list[Tensor]:  # fmt: skip
    """What the operations below take, in their order, (N, ...) each, in one copy to the device."""
    made = (crop_axes(p.box, p.flipped, *size), colour_coefficients(p), p.factors[:, HUE],
            gaussian(p.blur_sigma, recipe.blur_kernel), p.angle)  # fmt: skip
    widths = [math.prod(tensor.shape[1:]) for tensor in made]
    flat = torch.cat([t.reshape(len(p), k) for t, k in zip(made, widths, strict=True)], dim=1)
    parts = _put(flat, device).split(widths, dim=1)
    return [part.view(tensor.shape) for part, tensor in zip(parts, made, strict=True)]


def _augment(x: Tensor, recipe: ViewRecipe, coefficients: list[Tensor], hue_step: Tensor) -> Tensor:
    """All operations of the recipe on one block; x is overwritten."""
    axes, colour, turns, weights, angle = coefficients
    if recipe.crop_scale or recipe.flip_p:
        x = crop_and_flip(x, axes)
    if recipe.jitter_p:
        hue = recipe.jitter[HUE] > 0 and x.shape[1] == 3
        _jitter_(x, colour, turns if hue else None, hue_step)
    if recipe.grayscale_p:
        adjust_colour_(x, colour[:, 3])
    if recipe.blur_p:
        x = blur(x, weights)
    if recipe.rotation_degrees:
        x = rotate(x, angle, recipe.rotation_interpolation)
    return x


def crop_axes(box: Tensor, flipped: Tensor, height: int, width: int) -> Tensor:
    """(N, 2, 4), `crop_and_flip`'s: of each axis first pixel and distance of the last one, pixels
    of the box (N, 4) for each of the result, and which of the result is its first."""
    start, size = box.view(-1, 2, 2).unbind(1)  # (N, 2)
    mirror = torch.stack([torch.zeros(len(box)), flipped * (width - 1.0)], dim=1)
    return torch.stack([start, size - 1, size / torch.tensor([height, width]), mirror], dim=2)


def crop_and_flip(x: Tensor, axes: Tensor) -> Tensor:
    """Resizes each image's box to the whole image, bilinear, and mirrors it; axes: `crop_axes`'.

    Equals resized_crop, antialias or not, which acts only where a box is larger than the result.
    (grid_sample would mix in pixels from outside the box.)
    """
    height, width = x.shape[2:]
    pixels = _constant(tuple(range(max(height, width))), x.device)
    start, last, scale, mirror = axes[..., None].unbind(2)  # (N, 2, 1)
    centre = (pixels - mirror).abs_().add_(0.5).mul_(scale).sub_(0.5).clamp_min_(0)
    centre = torch.minimum(centre, last, out=centre).add_(start)  # (N, 2, longer side)
    # Row i of an axis' matrix holds the weights of the pixels that its pixel i is made from.
    rows, columns = (centre[..., None] - pixels).abs_().neg_().add_(1).relu_().unbind(1)
    return _separable(rows[:, :height, :height], x, columns[:, :width, :width])


def _separable(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """rows x columnsᵀ for each channel; rows (N, H, H), columns (N, W, W)."""
    n, channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, height, width * channels)  # no copy if channels_last
    x = (rows @ x).view(n, height, width, channels).permute(0, 3, 1, 2)
    x = x.reshape(n, channels * height, width) @ columns.mT
    return x.view(n, channels, height, width)


def _jitter_(x: Tensor, colour: Tensor, turns: Tensor | None, hue_step: Tensor) -> None:
    """Each view's operations in its order; hue_step: hue's place in it, ascending; 4: no jitter.

    All hues shift at once: after what precedes them in any view, before what follows in any.
    """
    first = torch.searchsorted(hue_step, torch.arange(5)).tolist()  # the first view of each step
    before = [(slice(first[step + 1], first[4]), step) for step in range(3)]
    after = [(slice(0, first[step + 1]), step) for step in range(3)]
    shift = [] if turns is None else [(slice(0, first[4]), HUE)]
    for rows, step in (*before, *shift, *after):
        if rows.start < rows.stop and step == HUE:
            shift_hue_(x[rows], turns[rows])
        elif rows.start < rows.stop:
            adjust_colour_(x[rows], colour[rows, step])


def colour_coefficients(p: ViewParameters) -> Tensor:
    """(N, 4, 3), `adjust_colour_`'s: the three jitter operations as ordered, then grayscale."""
    operation = p.order[p.order != HUE].view(-1, 3)
    factor = torch.where(p.jittered[:, None], p.factors.gather(1, operation), 1.0)
    rest, on = 1 - factor, p.grayscale.float()
    saturation, contrast = (rest * (operation == k) for k in (SATURATION, CONTRAST))
    jitter = torch.stack([factor, saturation, contrast], dim=2)
    return torch.cat([jitter, torch.stack([1 - on, on, 0 * on], dim=1)[:, None]], dim=1)


def adjust_colour_(x: Tensor, coefficients: Tensor) -> Tensor:
    """x becomes alpha x + beta grey + gamma mean(grey), in [0, 1]; coefficients (N, 3): the three.

    Brightness by f is (f, 0, 0), saturation (f, 1 - f, 0), contrast (f, 0, 1 - f), grayscale
    (0, 1, 0).
    """
    alpha, beta, gamma = coefficients[:, :, None, None].unbind(1)  # (N, 1, 1)
    weights = LUMA[x.shape[1]]
    grey = x[:, 0] * weights[0]  # (N, H, W)
    for channel, weight in zip(x.unbind(1)[1:], weights[1:], strict=True):
        grey.add_(channel, alpha=weight)
    mean = grey.mean((1, 2), keepdim=True)
    grey.mul_(beta).add_(gamma * mean)
    return torch.addcmul(grey[:, None], x, alpha[:, None], out=x).clamp_(0, 1)


def shift_hue_(x: Tensor, turns: Tensor) -> Tensor:
    """Shifts the hue of x (N, 3, H, W), in [0, 1], by `turns` (N,), as through HSV and back.

    With m the smallest channel, m + d the largest and h the hue in turns, channel c of a colour is
    m + d clamp(6 |frac(h + 2c/3) - 1/2| - 1, 0, 1), and 6 |h| = 1 + (g + b - r - m) / d, h's sign
    that of g - b. Nothing is chosen pixel by pixel: slow on a CPU. Turns are -0.5 to 0.5.
    """
    r, g, b = x.unbind(1)  # (N, H, W)
    smallest = x.amin(1)
    six_d = x.amax(1).sub_(smallest).mul_(6)
    hue = (g + b).sub_(r).sub_(smallest).div_(six_d.clamp_min(1e-12))
    hue.add_(1 / 6).copysign_(g - b)
    hue.add_(turns[:, None, None] + 1)  # at least 0, as frac rounds towards 0
    thirds = _constant((0, 2 / 3, 4 / 3), x.device).view(3, 1, 1)
    torch.add(hue[:, None], thirds, out=x)
    x.frac_().sub_(0.5).abs_().clamp_(1 / 6, 1 / 3)
    return torch.addcmul(smallest.sub_(six_d, alpha=1 / 6)[:, None], x, six_d[:, None], out=x)


def gaussian(sigma: Tensor, kernel: int) -> Tensor:
    """(N, kernel): each view's weights of neighbouring pixels; sigma (N,) in pixels, 0: itself."""
    offsets = torch.arange(kernel) - kernel // 2
    return (-0.5 * (offsets / sigma[:, None].clamp_min(1e-3)) ** 2).softmax(dim=1)


def blur(x: Tensor, weights: Tensor) -> Tensor:
    """Blurs along both axes with `weights` (N, kernel), kernel odd, borders reflected."""
    kernel = weights.shape[1]
    matrices = {side: weights @ _taps(kernel, side, x.device) for side in set(x.shape[2:])}
    rows, columns = (matrices[side].view(-1, side, side) for side in x.shape[2:])
    return _separable(rows, x, columns)


@lru_cache
def _taps(kernel: int, side: int, device: torch.device) -> Tensor:
    """(kernel, side * side): 1 where pixel i of the result takes pixel j with that weight."""
    pixels, offsets = torch.arange(side), torch.arange(kernel)[:, None] - kernel // 2
    source = side - 1 - (side - 1 - (pixels + offsets).abs()).abs()  # (kernel, side), reflected
    return _put((source[:, :, None] == pixels).float().flatten(1), device)


def rotate(x: Tensor, angle: Tensor, interpolation: str) -> Tensor:
    """Rotates about the centre by `angle` (N,) degrees, anticlockwise; 0 comes in from outside.

    Bilinear equals torchvision's fill=None; its fill=0 weights border pixels twice.
    """
    height, width = x.shape[2:]
    radians = angle.deg2rad()[:, None, None]
    cos, sin = radians.cos(), radians.sin()
    across, down = (_pixel_centres(side, x.device) for side in (width, height))
    down = down[:, None]
    # F.affine_grid's numbers, in a quarter of its time on a CPU.
    grid_x = cos * across - sin * height / width * down
    grid_y = sin * width / height * across + cos * down
    grid = torch.stack([grid_x, grid_y], dim=3)
    return F.grid_sample(x, grid, interpolation, padding_mode="zeros", align_corners=False)


@lru_cache
def _pixel_centres(side: int, device: torch.device) -> Tensor:
    """(side,): where grid_sample has them, from -1 to 1 at the edges."""
    return _put(torch.linspace(-1, 1, side) * (side - 1) / side, device)


@lru_cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values on the device, copied there once: a copy for each batch would cost it a launch."""
    return _put(torch.tensor(values, dtype=torch.float32), device)


def _put(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for it: a GPU still has the step before to do."""
    return tensor.to(device, non_blocking=True)
