"""What a pre-training costs: floating-point operations, and seconds here."""

import time
from dataclasses import replace
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from labreport.store.train import build_training, memory_for
from simclr_core.config import PretrainConfig
from simclr_core.data.dataset import Dataset
from simclr_core.model import build_encoder
from simclr_core.seeds import generator

TRIAL_FLOP = 1e11  # of a timed step: about a second of a CPU core


def pretrain_flops(config: PretrainConfig, data: Dataset) -> float:
    """Of the whole run: forward and backward (twice the forward) of two views an image, and one
    forward more with gradient caching. Views, loss and optimiser are left out (below 1 % for a
    ResNet).
    """
    if config.objective == "none":
        return 0.0
    side, _, channels = data.record()["image_shape"]
    forward = _forward_flops(config.encoder, channels, side, config.width, config.stem)
    passes = 4.0 if 0 < config.micro_batch < config.batch_size else 3.0
    return passes * 2 * forward * (config.images[1] - config.images[0]) * config.epochs


@cache
def _forward_flops(encoder: str, channels: int, side: int, width: float, stem: str) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build_encoder(encoder, channels, side, width, stem)
        network(torch.empty(1, channels, side, side))
    return counter.get_total_flops()


def estimate_seconds(config: PretrainConfig, data: Dataset, steps: int = 2) -> float:
    """Seconds the run would take here, from the best of `steps` steps, after one more, of a batch
    that is smaller where one step takes long."""
    if config.objective == "none":
        return 0.0
    images = config.images[1] - config.images[0]
    one_image = pretrain_flops(config, data) / images / config.epochs
    few = config.batch_size
    if config.device == "cpu" and one_image:
        few = min(few, max(2, int(TRIAL_FLOP / one_image)))
    trial = replace(config, batch_size=few, images=(0, few), epochs=steps + 1, warmup_epochs=0.0)
    seconds = []
    with memory_for(trial):
        training = build_training(trial, data)
        held = training.images[:]  # streamed ones are decoded beside the steps, not between them
        for k in range(steps + 1):
            started = time.perf_counter()
            training.step(*training.views(held, generator=generator(0, "views", k))).item()
            seconds.append(time.perf_counter() - started)
    return min(seconds[1:]) / few * images * config.epochs
