"""Encoders f and projection heads g: h = f(x), z = g(h). N images, C channels, S image side."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.models import VisionTransformer, get_model_weights
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from simclr_core.errors import UserError

RESNETS = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}
VIT_PATCH, VIT_LAYERS, VIT_HEADS = 4, 12, 3  # DeiT-Ti (arXiv 2012.12877) but for the patch


class Pixels(nn.Module):
    """h is the image itself, flattened: the baseline that has learnt nothing. h_dim = C S S."""

    def __init__(self, channels: int, image_size: int, *_):
        super().__init__()
        self.h_dim = channels * image_size**2

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)  # (N, C S S)


class MnistCNN(nn.Module):
    """R2's MNIST encoder: two 3x3 convolutions (32, 64 channels), each ReLU, max-pool 2; linear.
    ReLU after the pool is the same function (max and ReLU commute) on a quarter of the values."""

    h_dim = 128

    def __init__(self, channels: int, image_size: int, *_):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc = nn.Linear(64 * (image_size // 4) ** 2, self.h_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2), inplace=True)  # (N, 32, S/2, S/2)
        x = F.relu(F.max_pool2d(self.conv2(x), 2), inplace=True)  # (N, 64, S/4, S/4)
        return self.fc(x.flatten(1))  # (N, 128)


class CifarResNet(ResNet):
    """torchvision's ResNet for small images, without classifier and max-pool.

    conv1 is 3x3 with stride 1 (stem "cifar"; SimCLR paper, appendix B.9), or 7x7 with stride 2
    (stem "imagenet", as R1 has it). `width` scales every layer: 64 width channels first.
    """

    def __init__(self, name: str, channels: int, _: int, width: float = 1.0, stem: str = "cifar"):
        first = round(64 * width)
        if first < 1:
            raise UserError(f"width {width:g} leaves a ResNet no channel; it must be at least 1/64")
        block, layers = RESNETS[name]
        super().__init__(block, layers)
        if width != 1:
            self.inplanes, self.bn1 = first, nn.BatchNorm2d(first)
            for k, depth in enumerate(layers):
                layer = self._make_layer(block, first * 2**k, depth, stride=1 if k == 0 else 2)
                setattr(self, f"layer{k + 1}", layer)
        form = (3, 1, 1) if stem == "cifar" else (7, 2, 3)  # kernel, stride, padding
        self.conv1 = nn.Conv2d(channels, first, *form, bias=False)
        self.maxpool, self.fc = nn.Identity(), nn.Identity()
        self.h_dim = first * 8 * block.expansion
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d)):  # as torchvision does
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


class SmallViT(VisionTransformer):
    """torchvision's ViT in the shape of DeiT-Ti, patches of 4 x 4 pixels; h is the class token.

    Each of the 3 heads is 64 width wide. It wants AdamW, warm-up and weight decay (Chen et al.
    2021, arXiv 2104.02057).
    """

    def __init__(self, channels: int, image_size: int, width: float = 1.0, *_):
        if image_size % VIT_PATCH:
            expected = f"images whose side is a multiple of {VIT_PATCH}, not {image_size}"
            raise UserError(f"encoder vit takes {expected}")
        self.h_dim = VIT_HEADS * max(1, round(64 * width))
        super().__init__(image_size, VIT_PATCH, VIT_LAYERS, VIT_HEADS, self.h_dim, 4 * self.h_dim)
        if channels != 3:
            self.conv_proj = nn.Conv2d(channels, self.h_dim, VIT_PATCH, VIT_PATCH)
        self.heads = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        slow = x.device.type == "cpu"  # torch's own choice takes twice as long there, in bf16
        with sdpa_kernel(SDPBackend.MATH) if slow else nullcontext():
            return super().forward(x)


# Each of (channels, image_size, width, stem) gives a module with attribute h_dim.
ENCODERS: dict[str, Callable[[int, int, float, str], nn.Module]] = {
    "pixels": Pixels,
    "mnist_cnn": MnistCNN,
    **{name: partial(CifarResNet, name) for name in RESNETS},
    "vit": SmallViT,
}


def build_encoder(name: str, channels: int, image_size: int, width: float = 1.0,
                  stem: str = "cifar", init: str = "random") -> nn.Module:  # fmt: skip
    """Maps (N, channels, image_size, image_size) to h (N, h_dim); h_dim is its attribute.

    Args:
        init: "random", or "imagenet": torchvision's weights but for a new conv1 (as R2 does).
    Raises: UserError for an unknown name, or when the ImageNet weights cannot be had.
    """
    if name not in ENCODERS:
        raise UserError(f"unknown encoder {name!r}; known are {', '.join(ENCODERS)}")
    if init == "imagenet" and (name not in RESNETS or width != 1):
        expected = f"a ResNet of width 1 only, not {name} at {width:g}"
        raise UserError(f"ImageNet weights fit {expected}; set init to 'random'")
    encoder = ENCODERS[name](channels, image_size, width, stem)
    if init == "imagenet":
        _load_imagenet_weights(encoder, name)
    return encoder


def _load_imagenet_weights(encoder: CifarResNet, name: str) -> None:
    weights = get_model_weights(name).IMAGENET1K_V1
    folder = Path(torch.hub.get_dir(), "checkpoints")
    cached = folder / Path(weights.url).name  # torch checks a download, not what lies there already
    digest = cached.stem.rpartition("-")[2]  # the beginning of its SHA-256
    if cached.exists() and not sha256(cached.read_bytes()).hexdigest().startswith(digest):
        damaged = "damaged or not torchvision's (its SHA-256 is not in its name)"
        raise UserError(f"{cached} is {damaged}; remove it")
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        way_out = f"fetch {weights.url} on another machine and put the file into {folder}"
        reason = f"ImageNet weights for {name} cannot be downloaded ({error})"
        raise UserError(f"{reason}; {way_out}, or set init to 'random'") from error
    state = {key: value for key, value in state.items() if not key.startswith(("conv1.", "fc."))}
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    assert missing == ["conv1.weight"] and not unexpected, (missing, unexpected)


def _mlp(h_dim: int, hidden: int, z_dim: int, norm: bool) -> nn.Module:
    first = nn.Linear(h_dim, hidden, bias=not norm)  # BN has a bias of its own
    norms = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(first, *norms, nn.ReLU(), nn.Linear(hidden, z_dim))


# Each of (h_dim, hidden, z_dim).
HEADS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "mlp_bn": partial(_mlp, norm=True),
    "mlp_no_bn": partial(_mlp, norm=False),
    "linear": lambda h_dim, _, z_dim: nn.Linear(h_dim, z_dim, bias=False),  # SimCLR, section 4.2
    "none": lambda *_: nn.Identity(),  # z = h
}


def build_projection_head(name: str, h_dim: int, hidden: int, z_dim: int) -> nn.Module:
    """Maps h (N, h_dim) to z (N, z_dim), for "none" (N, h_dim). Raises: UserError, unknown name."""
    if name not in HEADS:
        raise UserError(f"unknown projection head {name!r}; known are {', '.join(HEADS)}")
    return HEADS[name](h_dim, hidden, z_dim)


def count_parameters(module: nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in module.parameters())
