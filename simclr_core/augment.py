"""Views: random augmentations of a batch of images, each image with its own draw.

`draw_parameters` draws what happens to each view, `apply_recipe` carries it out as a few batched operations
on the images' device, `make_views` does both. Every operation gives what torchvision.transforms.v2.functional
gives for that image as a float tensor in [0, 1]; in this order: crop and resize, flip, colour jitter,
grayscale, blur, rotation.

Shapes: N images or views, H height, W width, C channels (1 or 3). Images are uint8 (N, H, W, C), x is float32
(N, C, H, W); mean and std are one value a channel, on the [0, 1] scale.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from itertools import combinations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from simclr_core.errors import UserError

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # torchvision's numbering of the jitter operations
LUMA = {1: (1.0,), 3: (0.2989, 0.587, 0.114)}  # channels: weights in grey; ITU-R BT.601 as torchvision has it
BLOCK_PIXELS = 1 << 16  # worked on at once on a CPU: temporaries stay in its cache, 1.4 to 2 times faster


@dataclass(frozen=True)
class ViewRecipe:
    """What may happen to an image on its way to a view; by default nothing does.

    Raises: ValueError naming the field, the bad value and what is expected.
    """

    crop_scale: tuple[float, float] | None = None  # area of the crop, fraction of the image's; None: no crop
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # its width / height
    crop_p: float = 1.0
    flip_p: float = 0.0  # left to right
    # Brightness, contrast, saturation: largest deviation from 1; hue: from 0, in turns. Order drawn per view.
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.0
    grayscale_p: float = 0.0
    blur_p: float = 0.0
    blur_kernel: int = 3  # pixels, odd
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels
    rotation_degrees: float = 0.0  # uniform in +-
    rotation_interpolation: str = "nearest"  # torchvision's default; or "bilinear"
    first_view: str = "augmented"  # or "identity": view 1 is the image itself
    normalise_twice: bool = False  # augment the normalised image, normalise it again: R2's literal form

    def __post_init__(self) -> None:
        for name in ("crop_p", "flip_p", "jitter_p", "grayscale_p", "blur_p"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a probability, 0 to 1")
        turned = self.rotation_interpolation
        strengths = len(self.jitter) == 4 and min(self.jitter) >= 0 and self.jitter[HUE] <= 0.5
        for name, valid, expected in (
            ("crop_scale", self.crop_scale is None or _rising(self.crop_scale, 1.0), "0 < low <= high <= 1"),
            ("crop_ratio", _rising(self.crop_ratio), "0 < low <= high"),
            ("jitter", strengths, "four values >= 0, the last (hue) at most 0.5"),
            ("jitter_p", not (self.jitter_p and self.normalise_twice), "0 with normalise_twice"),
            ("blur_kernel", self.blur_kernel > 0 and self.blur_kernel % 2 == 1, "an odd number of pixels"),
            ("blur_sigma", _rising(self.blur_sigma), "0 < low <= high, in pixels"),
            ("rotation_degrees", 0 <= self.rotation_degrees <= 180, "0 to 180"),
            ("rotation_interpolation", turned in ("nearest", "bilinear"), "nearest or bilinear"),
            ("first_view", self.first_view in ("augmented", "identity"), "augmented or identity"),
        ):
            _require(valid, name, getattr(self, name), expected)


def _rising(bounds: tuple[float, float], limit: float = sys.float_info.max) -> bool:
    return len(bounds) == 2 and 0 < bounds[0] <= bounds[1] <= limit


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise UserError(f"{name} is {value!r}; expected {expected}")


# At strength 1. Sources: the SimCLR paper, appendices A and B.9; crop from 0.2: dkobak/simclr-cifar10.
_BASIC = ViewRecipe(crop_scale=(0.2, 1.0), flip_p=0.5)
_COLOR = replace(_BASIC, jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8)
# R2's flip precedes its crop: the same distribution, since a crop's place is uniform.
_R2 = ViewRecipe((0.8, 1.0), crop_p=0.5, flip_p=0.5, blur_p=0.3, blur_kernel=5, rotation_degrees=15.0)
VIEW_RECIPES = {
    "basic": _BASIC,
    "color": _COLOR,
    "gray": replace(_BASIC, grayscale_p=0.2),
    "strong": replace(_COLOR, grayscale_p=0.2, blur_p=0.5),  # deviates from the paper: no blur on CIFAR-10
    "best": replace(_COLOR, grayscale_p=0.1),  # dkobak/simclr-cifar10 too
    "r2": replace(_R2, first_view="identity"),
    "r2_literal": replace(_R2, first_view="identity", normalise_twice=True),
    "r2_two_views": _R2,
    "r2_no_flip": replace(_R2, flip_p=0.0),
    "digits": ViewRecipe((0.4, 1.0), rotation_degrees=15.0, rotation_interpolation="bilinear"),  # ours
}


# Each transform alone, and each pair ("crop_jitter"): the composition study (after the paper's figure 5).
TRANSFORMS = {
    "crop": {"crop_scale": (0.2, 1.0)},
    "flip": {"flip_p": 0.5},
    "jitter": {"jitter": (0.8, 0.8, 0.8, 0.2), "jitter_p": 0.8},
    "grayscale": {"grayscale_p": 0.2},
    "blur": {"blur_p": 0.5},
}
VIEW_RECIPES |= {name: ViewRecipe(**effect) for name, effect in TRANSFORMS.items()}
VIEW_RECIPES |= {f"{a}_{b}": ViewRecipe(**TRANSFORMS[a], **TRANSFORMS[b]) for a, b in combinations(TRANSFORMS, 2)}


def view_recipe(name: str, strength: float = 0.5) -> ViewRecipe:
    """The recipe called `name`, its jitter times `strength` (the paper's s; 0.5 on CIFAR-10).

    Raises: ValueError for an unknown name, with the nearest known one, and for a strength not in 0 to 2.5.
    """
    if name not in VIEW_RECIPES:
        near = get_close_matches(name, VIEW_RECIPES, n=1, cutoff=0.0)[0]
        _require(False, "view recipe", name, f"one of {', '.join(VIEW_RECIPES)}; did you mean {near!r}?")
    _require(0 <= strength <= 2.5, "strength", strength, "0 to 2.5, where the hue's deviation is 0.5")
    recipe = VIEW_RECIPES[name]
    return replace(recipe, jitter=tuple(strength * deviation for deviation in recipe.jitter))


@dataclass(frozen=True)
class ViewParameters:
    """The draws of N views, one row each; indexing selects views."""

    box: Tensor  # (N, 4) top, left, height, width of the crop in pixels; the whole image where not cropped
    flipped: Tensor  # (N,) bool
    jittered: Tensor  # (N,) bool
    factors: Tensor  # (N, 4) brightness, contrast, saturation, hue (turns); no effect where not jittered
    order: Tensor  # (N, 4) BRIGHTNESS to HUE in the order applied
    grayscale: Tensor  # (N,) bool
    blur_sigma: Tensor  # (N,) pixels; 0: no blur
    angle: Tensor  # (N,) degrees, anticlockwise

    def __len__(self) -> int:
        return len(self.flipped)

    def __getitem__(self, rows: slice | Tensor) -> ViewParameters:
        return ViewParameters(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: torch.device) -> ViewParameters:
        return ViewParameters(*(_put(getattr(self, field.name), device) for field in fields(self)))


def _put(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for it: a GPU still has the step before to do."""
    return tensor.to(device, non_blocking=True)


def draw_parameters(recipe: ViewRecipe, n: int, height: int, width: int, generator: Generator) -> ViewParameters:
    """Draws for n views of height x width pixels; from a CPU generator, so the same on every device."""

    def happens(p: float) -> Tensor:
        return torch.rand(n, generator=generator) < p

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n).uniform_(low, high, generator=generator)

    box = torch.tensor([0.0, 0.0, height, width]).expand(n, 4)
    if recipe.crop_scale:
        box = torch.where(happens(recipe.crop_p)[:, None], _draw_boxes(recipe, n, height, width, generator), box)
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


def _draw_boxes(recipe: ViewRecipe, n: int, height: int, width: int, generator: Generator) -> Tensor:
    """(n, 4) as torchvision's RandomResizedCrop draws: the first of ten tries that fits, else the centre."""
    low, high = recipe.crop_ratio
    area = height * width * torch.empty(n, 10).uniform_(*recipe.crop_scale, generator=generator)
    ratio = torch.empty(n, 10).uniform_(math.log(low), math.log(high), generator=generator).exp_()
    sizes = torch.stack([(area / ratio).sqrt_(), (area * ratio).sqrt_()], dim=2).round_()  # (n, 10, 2)
    image = torch.tensor([height, width])
    fits = ((sizes > 0) & (sizes <= image)).all(dim=2)
    first = fits.int().argmax(dim=1)  # the first of equal values
    found = fits.any(dim=1, keepdim=True)
    central = torch.tensor([min(height, round(width / low)), min(width, round(height * high))])
    size = torch.where(found, sizes[torch.arange(n), first], central)  # (n, 2)
    corner = torch.rand(n, 2, generator=generator) * (image - size + 1)
    return torch.cat([torch.where(found, corner, (image - size) / 2).floor_(), size], dim=1)


def make_views(
    images: Tensor,
    recipe: ViewRecipe,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    generator: Generator,
    rows: Tensor | None = None,
    n: int = 0,
) -> tuple[Tensor, Tensor]:
    """Two views x_i, x_j of every image: the halves of one stacked tensor, unless view 1 is the image itself.

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
    return (normalise(images, mean, std), views) if identity else (views[: len(images)], views[len(images) :])


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(images / 255 - mean) / std, the evaluation's only transform: (N, C, H, W), channels_last.

    Raises: ValueError for another dtype or shape.
    """
    _check(images, mean, std)
    mean, std = (_put(torch.tensor(values), images.device) for values in (mean, std))
    return images.to(torch.float32).div_(255).sub_(mean).div_(std).permute(0, 3, 1, 2)


@torch.no_grad()
def apply_recipe(
    images: Tensor, recipe: ViewRecipe, parameters: ViewParameters, mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensor:
    """Carries out the draws of `parameters`, one for each image, and normalises.

    Args:
        images: uint8 (N, H, W, C), on any device; not changed.
        parameters: N draws, on the CPU.
    Returns: views, float32 (N, C, H, W), channels_last, on the images' device.
    Raises: ValueError for another dtype, shape or number of draws, or a blur kernel too wide for the images.
    """
    _check(images, mean, std)
    n, height, width, _ = images.shape
    _require(len(parameters) == n, "number of draws", len(parameters), f"{n}, one for each image")
    fits = not recipe.blur_p or recipe.blur_kernel < 2 * min(height, width)
    _require(fits, "blur_kernel", recipe.blur_kernel, f"less than twice the side, images are {height} x {width}")
    # Views that shift their hue at the same step come one after another: one slice of a block.
    place = torch.where(parameters.jittered, parameters.order.argsort(dim=1)[:, HUE], 4)
    place, rank = place.sort(stable=True)
    parameters = parameters[rank]
    coefficients = _put(_colour_coefficients(parameters), images.device)
    parameters, rank = parameters.to(images.device), _put(rank, images.device)
    mean, std = (_put(torch.tensor(values), images.device).view(-1, 1, 1) for values in (mean, std))
    views = torch.empty(images.shape, device=images.device)
    block = max(1, BLOCK_PIXELS // (height * width) if images.device.type == "cpu" else n)
    for rows in (slice(start, start + block) for start in range(0, n, block)):
        x = images.index_select(0, rank[rows]).to(torch.float32).div_(255).permute(0, 3, 1, 2)
        if recipe.normalise_twice:
            x.sub_(mean).div_(std)
        x = _augment(x, recipe, parameters[rows], coefficients[rows], place[rows])
        views.index_copy_(0, rank[rows], x.sub_(mean).div_(std).permute(0, 2, 3, 1).contiguous())
    return views.permute(0, 3, 1, 2)


def _check(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    form = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
    valid = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[3] in LUMA
    _require(valid, "images", form, "uint8 (N, H, W, C) with C = 1 or 3")
    for name, values in (("mean", mean), ("std", std)):
        _require(len(values) == images.shape[3], name, values, f"{images.shape[3]} values, one a channel")
    _require(min(std) > 0, "std", std, "values > 0")


def _augment(x: Tensor, recipe: ViewRecipe, p: ViewParameters, coefficients: Tensor, place: Tensor) -> Tensor:
    """All operations of the recipe on one block; x is overwritten."""
    if recipe.crop_scale or recipe.flip_p:
        x = crop_and_flip(x, p.box, p.flipped)
    if recipe.jitter_p:
        bounds = torch.searchsorted(place, torch.arange(5)).tolist()  # views from bounds[k]: hue at step k
        for step in range(4):
            same = slice(bounds[step], bounds[step + 1])
            if recipe.jitter[HUE] and x.shape[1] == 3 and same.start < same.stop:
                shift_hue_(x[same], p.factors[same, HUE])
            if step < 3:
                adjust_colour_(x[: bounds[4]], coefficients[: bounds[4], step])
    if recipe.grayscale_p:
        adjust_colour_(x, coefficients[:, 3])
    if recipe.blur_p:
        x = blur(x, p.blur_sigma, recipe.blur_kernel)
    if recipe.rotation_degrees:
        x = rotate(x, p.angle, recipe.rotation_interpolation)
    return x


def crop_and_flip(x: Tensor, box: Tensor, flipped: Tensor) -> Tensor:
    """Resizes each image's box (N, 4) to the whole image, bilinear, and mirrors it where `flipped` (N,).

    Equals resized_crop with or without antialias, which acts only where a box is larger than the result: none is.
    (grid_sample would mix in pixels from outside the box.)
    """
    rows = _resize_matrix(box[:, 0], box[:, 2], torch.zeros_like(flipped), x.shape[2])
    columns = _resize_matrix(box[:, 1], box[:, 3], flipped, x.shape[3])
    return _separable(rows, x, columns)


def _resize_matrix(start: Tensor, size: Tensor, mirrored: Tensor, length: int) -> Tensor:
    """(N, length, length): row i holds the weights of the pixels that pixel i of the result is made from."""
    pixels = torch.arange(length, dtype=torch.float32, device=start.device)
    centre = ((pixels + 0.5) * (size[:, None] / length) - 0.5).clamp_min_(0)
    centre = torch.minimum(centre, size[:, None] - 1).add_(start[:, None])  # (N, length)
    centre = torch.where(mirrored[:, None], centre.flip(1), centre)
    return (centre[:, :, None] - pixels).abs_().neg_().add_(1).relu_()


def _separable(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """rows x columnsᵀ for each channel; rows (N, H, H), columns (N, W, W)."""
    n, channels, height, width = x.shape
    x = rows @ x.permute(0, 2, 3, 1).reshape(n, height, width * channels)  # no copy of x if it is channels_last
    x = x.view(n, height, width, channels).permute(0, 3, 1, 2).reshape(n, channels * height, width)
    return (x @ columns.mT).view(n, channels, height, width)


def _colour_coefficients(p: ViewParameters) -> Tensor:
    """(N, 4, 3), `adjust_colour_`'s: the three jitter operations beside hue as ordered, then grayscale."""
    operation = p.order[p.order != HUE].view(-1, 3)
    factor = torch.where(p.jittered[:, None], p.factors.gather(1, operation), 1.0)
    rest = 1 - factor
    jitter = torch.stack([factor, rest * (operation == SATURATION), rest * (operation == CONTRAST)], dim=2)
    on = p.grayscale.float()
    return torch.cat([jitter, torch.stack([1 - on, on, 0 * on], dim=1)[:, None]], dim=1)


def adjust_colour_(x: Tensor, coefficients: Tensor) -> Tensor:
    """x becomes alpha x + beta grey + gamma mean(grey), clamped to [0, 1]; coefficients (N, 3) are the three.

    Brightness by f is (f, 0, 0), saturation (f, 1 - f, 0), contrast (f, 0, 1 - f), grayscale (0, 1, 0).
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
    """Shifts the hue of x (N, 3, H, W), in [0, 1], by `turns` (N,), -0.5 to 0.5, as through HSV and back.

    With m the smallest channel, m + d the largest and h the hue in turns, channel c of a colour is
    m + d clamp(6 |frac(h + 2c/3) - 1/2| - 1, 0, 1), and 6 |h| = 1 + (g + b - r - m) / d, h's sign that of
    g - b. So nothing is chosen pixel by pixel, which would take a CPU longer than all the rest.
    """
    r, g, b = x.unbind(1)  # (N, H, W)
    smallest = torch.minimum(r, g)
    torch.minimum(smallest, b, out=smallest)
    six_d = torch.maximum(r, g)
    torch.maximum(six_d, b, out=six_d).sub_(smallest).mul_(6)
    hue = (g + b).sub_(r).sub_(smallest).div_(six_d.clamp_min(1e-12)).add_(1 / 6).copysign_(g - b)
    hue.add_(turns[:, None, None] + 1)  # at least 0, as frac rounds towards 0
    torch.add(hue[:, None], torch.arange(3, device=x.device).view(3, 1, 1) * (2 / 3), out=x)
    x.frac_().sub_(0.5).abs_().clamp_(1 / 6, 1 / 3)
    return torch.addcmul(smallest.sub_(six_d, alpha=1 / 6)[:, None], x, six_d[:, None], out=x)


def blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur over kernel x kernel pixels, borders reflected; sigma (N,) in pixels, 0: unchanged."""
    rows, columns = (_blur_matrix(sigma, kernel, length) for length in x.shape[2:])
    return _separable(rows, x, columns)


def _blur_matrix(sigma: Tensor, kernel: int, length: int) -> Tensor:
    """(N, length, length): row i holds the weights of the pixels that pixel i of the result is made from."""
    offsets = torch.arange(kernel, device=sigma.device) - kernel // 2
    weights = (-0.5 * (offsets / sigma[:, None].clamp_min(1e-3)) ** 2).softmax(dim=1)  # (N, kernel)
    pixels = torch.arange(length, device=sigma.device)
    source = length - 1 - (length - 1 - (pixels + offsets[:, None]).abs()).abs()  # (kernel, length), reflected
    taps = (source[:, :, None] == pixels).to(torch.float32).flatten(1)  # (kernel, length * length)
    return (weights @ taps).view(-1, length, length)


def rotate(x: Tensor, angle: Tensor, interpolation: str) -> Tensor:
    """Rotates about the centre by `angle` (N,) degrees, anticlockwise; 0 comes in from outside.

    Bilinear equals torchvision's fill=None; its fill=0 fills with 0 too, but weights border pixels twice.
    """
    height, width = x.shape[2:]
    radians = angle.deg2rad()[:, None, None]
    cos, sin = radians.cos(), radians.sin()
    across, down = (torch.linspace(-1, 1, n, device=x.device) * (n - 1) / n for n in (width, height))  # pixel centres
    down = down[:, None]
    # F.affine_grid's numbers, in a quarter of its time on a CPU.
    grid = torch.stack([cos * across - sin * height / width * down, sin * width / height * across + cos * down], dim=3)
    return F.grid_sample(x, grid, mode=interpolation, padding_mode="zeros", align_corners=False)
