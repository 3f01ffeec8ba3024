"""Views per second of simclr_core.augment beside torchvision's and lightly's per-image pipelines and kornia's.

One thread; SimCLR's colour views (crop, flip, jitter, grayscale) of 512 generated 32x32 images, to normalised
float tensors; then the MNIST recipes, two views of 256 images of 28x28. Run: python benchmarks/augment.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from statistics import median

import torch
from common import Result, environment, generated_images, interleave, speedup
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from simclr_core.augment import ViewRecipe, apply_recipe, draw_parameters, make_views, view_recipe

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)  # CIFAR-10's; any would do
RECIPE = ViewRecipe(crop_scale=(0.2, 1.0), flip_p=0.5, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, grayscale_p=0.2)
OURS, PIL, KORNIA = "simclr_core, batched", "torchvision, PIL, per image", "kornia, batched"


def ours(images: Tensor) -> Callable[[], int]:
    generator = torch.Generator().manual_seed(0)

    def run() -> int:
        parameters = draw_parameters(RECIPE, len(images), *images.shape[1:3], generator)
        return len(apply_recipe(images, RECIPE, parameters, MEAN, STD))

    return run


def torchvision_pil(images: Tensor) -> Callable[[], int]:
    pictures = [transforms.functional.to_pil_image(image.numpy()) for image in images]
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(32, RECIPE.crop_scale),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(*RECIPE.jitter)], RECIPE.jitter_p),
            transforms.RandomGrayscale(RECIPE.grayscale_p),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return lambda: len(torch.stack([view(picture) for picture in pictures]))


def torchvision_v2(images: Tensor) -> Callable[[], int]:
    tensors = images.permute(0, 3, 1, 2).contiguous()
    view = v2.Compose(
        [
            v2.RandomResizedCrop(32, RECIPE.crop_scale),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*RECIPE.jitter)], RECIPE.jitter_p),
            v2.RandomGrayscale(RECIPE.grayscale_p),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return lambda: len(torch.stack([view(tensor) for tensor in tensors]))


def lightly_simclr(images: Tensor) -> Callable[[], int]:
    from lightly.transforms.simclr_transform import SimCLRViewTransform  # SimCLRTransform is two of these

    pictures = [transforms.functional.to_pil_image(image.numpy()) for image in images]
    jitter = dict(zip(("cj_bright", "cj_contrast", "cj_sat", "cj_hue"), RECIPE.jitter, strict=True))
    view = SimCLRViewTransform(
        32,
        cj_prob=RECIPE.jitter_p,
        **jitter,
        min_scale=RECIPE.crop_scale[0],
        random_gray_scale=RECIPE.grayscale_p,
        gaussian_blur=0.0,
        normalize={"mean": MEAN, "std": STD},
    )
    return lambda: len(torch.stack([view(picture) for picture in pictures]))


def kornia_batched(images: Tensor) -> Callable[[], int]:
    import kornia.augmentation as K

    tensors = images.permute(0, 3, 1, 2).contiguous()
    view = K.AugmentationSequential(
        K.RandomResizedCrop((32, 32), scale=RECIPE.crop_scale),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(*RECIPE.jitter, p=RECIPE.jitter_p),
        K.RandomGrayscale(p=RECIPE.grayscale_p),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
    return lambda: len(view(tensors.float() / 255))


def mnist_views(name: str, images: Tensor) -> Callable[[], int]:
    generator, recipe = torch.Generator().manual_seed(0), view_recipe(name)
    return lambda: sum(map(len, make_views(images, recipe, (0.1307,), (0.3081,), generator)))


def main(argv: Sequence[str] | None = None) -> Result:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="of about 2 seconds")
    parser.add_argument("--quick", action="store_true", help="one round of 32 images, to try it out")
    args = parser.parse_args(argv)
    rounds, n, at_least = (1, 32, 0) if args.quick else (args.rounds, 512, 0.25)
    torch.set_num_threads(1)
    images = generated_images(n, 32, 3)
    candidates = {
        OURS: ours(images),
        PIL: torchvision_pil(images),
        "torchvision v2, per image": torchvision_v2(images),
    }
    peers = [name for name in ("lightly", "kornia") if find_spec(name)]
    if "lightly" in peers:
        candidates["lightly, PIL, per image"] = lightly_simclr(images)
    if "kornia" in peers:
        candidates[KORNIA] = kornia_batched(images)
    seconds = interleave(candidates, rounds, at_least)
    digits = generated_images(n // 2, 28, 1)
    mnist = interleave({name: mnist_views(name, digits) for name in ("r2", "digits")}, rounds, at_least / 5)
    rows = [
        {"views": name, "views/s": 1 / median(values), "times PIL": speedup(seconds, name, PIL)}
        for name, values in seconds.items()
    ]
    for name, values in mnist.items():
        rows.append({"views": f"simclr_core, MNIST recipe {name}", "views/s": 1 / median(values), "times PIL": ""})
    return Result(
        environment(["torch", "torchvision", "pillow", *peers]),
        f"colour views, {n} images of 32x32x3; MNIST views, both of {n // 2} images of 28x28x1; medians of {rounds} "
        "interleaved rounds",
        rows,
        {f"times {name}": speedup(seconds, OURS, name) for name in (KORNIA, PIL) if name in candidates},
    ).show()


if __name__ == "__main__":
    main()
