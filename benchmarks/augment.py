"""Views per second of simclr_core.augment beside torchvision's per-image pipelines and kornia's batched one.

One thread; SimCLR's colour views (crop, flip, jitter, grayscale) of 512 generated 32x32 images, to normalised
float tensors; then the MNIST recipes, two views of 256 images of 28x28. Run: python benchmarks/augment.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median

import torch
from common import environment, generated_images, interleave, speedup
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

    def run() -> int:
        make_views(images, recipe, (0.1307,), (0.3081,), generator)
        return 1

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="of about 2 seconds")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    images = generated_images(512, 32, 3)
    candidates = {
        OURS: ours(images),
        PIL: torchvision_pil(images),
        "torchvision v2, per image": torchvision_v2(images),
    }
    if find_spec("kornia"):
        candidates[KORNIA] = kornia_batched(images)
    peers = ["torch", "torchvision", "pillow", *(["kornia"] if KORNIA in candidates else [])]
    print(environment(peers))
    seconds = interleave(candidates, rounds, at_least=0.25)
    print(f"colour views, 512 images of 32x32x3, medians of {rounds} interleaved rounds")
    for name, values in seconds.items():
        print(f"  {name:28} {1 / median(values):8,.0f} views/s   {speedup(seconds, name, PIL):5.2f} times PIL")
    digits = generated_images(256, 28, 1)
    mnist = {name: mnist_views(name, digits) for name in ("r2", "digits")}
    for name, values in interleave(mnist, rounds, at_least=0.05).items():
        print(f"  {name:28} {1000 * median(values):8.1f} ms for both views of 256 images of 28x28x1")
    if KORNIA in candidates:
        print(f"times kornia's rate: {speedup(seconds, OURS, KORNIA):.2f}")
    print(f"times torchvision's PIL rate: {speedup(seconds, OURS, PIL):.2f}")


if __name__ == "__main__":
    main()
