"""SimCLR pre-training: config in, finished run in the store out; exact to resume.

Shape letters: N images a step, 2N views, C channels, S image side, H_dim width of h, D width of z.
"""

import io
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from simclr_core.augment import VIEW_RECIPES, make_views, view_recipe
from simclr_core.data import Dataset, feed, shuffled
from simclr_core.distributed import ALONE, Processes, Share
from simclr_core.errors import StoreError, UserError, enough_memory
from simclr_core.loss import nt_xent_loss
from simclr_core.model import ENCODERS, HEADS, build_encoder, build_projection_head
from simclr_core.optim import OPTIMIZERS, SCHEDULES, build_optimizer, lr_factor
from simclr_core.runs import (
    Run,
    adopt_run,
    check_types,
    config_record,
    file_sha256,
    find_run,
    finish_run,
    kept_name,
    read_checksummed,
    run_name,
    save_weights,
    set_aside,
    write_checksummed,
    write_history,
    write_json,
    writer_lock,
)

CHECKPOINT_SECONDS = 30.0  # ours: at most this much work (and one step) is lost to a kill; no effect on numbers
torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: a GPU's convolutions would else be in TF32, silently
TRIAL_FLOP = 1e11
PURPOSES = {"weights": 0, "order": 1, "views": 2, "labels": 3}  # one independent random stream each


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that defines a pre-training run beside the data themselves. Every field is part of its identity."""

    dataset: str  # name for the run folder; the images' fingerprint is added to the identity
    images: tuple[int, int]  # range of training images, first and one past the last; labels are not read
    encoder: str = "mnist_cnn"  # pixels, mnist_cnn, resnet18, resnet34, resnet50, vit
    width: float = 1.0  # ResNet and ViT width factor; 1 = 64 channels in the first stage, or a head
    stem: str = "cifar"  # ResNet: cifar (3x3, stride 1) or imagenet (7x7, stride 2)
    init: str = "random"  # random, or imagenet (ResNet at width 1)
    objective: str = "nt_xent"  # nt_xent, or none: the encoder as initialised, the baseline
    augmentation: str = "r2"  # a name in simclr_core.augment
    strength: float = 0.5  # s of colour distortion (SimCLR paper, appendix A; 0.5 for CIFAR-10, B.9)
    head: str = "mlp_no_bn"  # mlp_bn, mlp_no_bn, linear, none
    head_hidden: int = 64  # hidden width of an MLP head
    head_dim: int = 32  # D, width of z (head none: H_dim)
    temperature: float = 0.5  # tau, > 0
    batch_size: int = 256  # N images a step, hence 2N views
    epochs: int = 10
    optimizer: str = "adam"  # adam, adamw, sgd, lars, muon
    lr: float = 0.001  # peak learning rate, as it is (not scaled by the batch)
    weight_decay: float = 0.0
    momentum: float = 0.9  # sgd, lars and muon
    schedule: str = "constant"  # constant, cosine (to 0); stepped every step
    warmup_epochs: float = 0.0  # linear warm-up before the schedule
    micro_batch: int = 0  # images whose activations are held at once (gradient caching); 0: the whole batch
    batch_norm: str = "joint"  # BN statistics over both views (joint) or each view alone (per_view)
    precision: str = "fp32"  # fp32, bf16 (autocast; the loss always fp32)
    device: str = "cpu"  # cpu, cuda
    seed: int = 0  # weights, order and views

    def __post_init__(self) -> None:
        check_types(self)
        object.__setattr__(self, "images", tuple(self.images))
        if not re.fullmatch(r"\w[\w.-]*", self.dataset.partition(":")[0]):  # it begins the run folder's name
            raise UserError(f"dataset {self.dataset!r} is no name; expected one such as mnist, or folder:<path>")
        for field, known in (
            ("encoder", ENCODERS), ("stem", ("cifar", "imagenet")), ("init", ("random", "imagenet")),
            ("objective", ("nt_xent", "none")), ("augmentation", tuple(VIEW_RECIPES)), ("head", HEADS),
            ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("batch_norm", ("joint", "per_view")),
            ("precision", ("fp32", "bf16")), ("device", ("cpu", "cuda")),
        ):  # fmt: skip
            if getattr(self, field) not in known:
                raise UserError(f"{field} {getattr(self, field)!r} is unknown; known are {', '.join(known)}")
        least_values = {"batch_size": 2, "epochs": 1, "head_hidden": 1, "head_dim": 1, "seed": 0, "micro_batch": 0}
        for field, least in least_values.items():
            if getattr(self, field) < least:
                raise UserError(f"{field} must be at least {least}, got {getattr(self, field)}")
        for field, most in {"width": 16, "head_hidden": 1 << 16, "head_dim": 1 << 16}.items():  # beyond any memory
            if getattr(self, field) > most:
                raise UserError(f"{field} must be at most {most}, got {getattr(self, field)}")
        for field in ("temperature", "lr", "width"):
            if not 0 < getattr(self, field) < math.inf:
                raise UserError(f"{field} must be positive and finite, got {getattr(self, field)}")
        for field in ("weight_decay", "warmup_epochs", "strength", "momentum"):
            if not 0 <= getattr(self, field) < math.inf:
                raise UserError(f"{field} must be 0 or more and finite, got {getattr(self, field)}")
        if self.micro_batch == 1:
            raise UserError("micro_batch must be 0 (off) or at least 2 images, got 1")
        if (self.encoder, self.head, self.objective) == ("pixels", "none", "nt_xent"):
            raise UserError("encoder 'pixels' with head 'none' has nothing to train; take objective 'none', or a head")
        start, stop = self.images
        if not 0 <= start < stop:
            raise UserError(f"images must be a range (first, one past the last), got {self.images}")
        if self.objective == "nt_xent" and self.batch_size > stop - start:
            raise UserError(f"batch_size {self.batch_size} is larger than the {stop - start} images of the data; "
                            "make the batch smaller or use more images")  # fmt: skip

    def identity(self) -> dict:
        """What the run's hash covers. An untrained encoder does not depend on how it would have been trained."""
        fields = config_record(self)
        if self.objective == "none":
            kept = ("dataset", "encoder", "width", "stem", "init", "objective", "precision", "device", "seed")
            fields = {key: fields[key] for key in kept}
        return fields

    def method(self) -> dict | None:
        """What the augmentation's name stands for, also covered by the hash: a changed recipe is another run."""
        if self.objective == "none":
            return None
        return asdict(view_recipe(self.augmentation, self.strength))

    def label(self) -> str:
        """Readable part of the run folder's name."""
        dataset = self.dataset.split(":")[0]
        if self.objective == "none":
            return f"{dataset}-{self.encoder}-untrained"
        return f"{dataset}-{self.encoder}-{self.augmentation}-{self.head}"

    def build_encoder(self, data_record: dict) -> nn.Module:
        """The encoder for images of data_record["image_shape"] (S, S, C), with its initial weights."""
        side, _, channels = data_record["image_shape"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.seed, "weights"))
            return build_encoder(self.encoder, channels, side, self.width, self.stem, self.init)

    def build_projection_head(self, data_record: dict) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.seed, "weights", 1))
            h_dim = replace(self, init="random").build_encoder(data_record).h_dim
            return build_projection_head(self.head, h_dim, self.head_hidden, self.head_dim)


def resolve_device(name: str) -> str:
    """cpu or cuda; "auto" is the GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def resolve_precision(name: str, device: str) -> str:
    """fp32 or bf16; "auto" is bf16 where the device computes in it natively (a CPU: AVX-512 BF16 or AMX)."""
    if name != "auto":
        return name
    if device == "cuda":
        return "bf16"
    abilities = torch.cpu.get_capabilities()
    return "bf16" if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else "fp32"


def stream_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A seed for one purpose and index (an epoch), independent of the others."""
    return int(np.random.SeedSequence([seed, PURPOSES[purpose], index]).generate_state(1, np.uint64)[0] >> 1)


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(seed, purpose, index))


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Cut an order into batches; the last one is what is left, and a single left-over image joins the one before."""
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def pretrain(
    config: PretrainConfig,
    data: Dataset,
    store: str | Path,
    keep_epochs: Sequence[int] = (),
    progress: Callable[[dict], None] | None = None,
    processes: Processes = ALONE,
) -> Run:
    """Return the stored run if it is finished, resume it if it was cut off, train it otherwise.

    Resuming gives the same numbers as not having stopped, to the bit on a CPU with the same number of threads:
    everything random follows from (seed, epoch, step).
    Args:
        keep_epochs: epochs whose encoder is kept beside the last one; not part of the run's identity.
        progress: called after each epoch with run, epoch, epochs, loss, seconds_left.
        processes: that share the work (simclr_core.command); not part of the run's identity either.
    Raises: UserError for images outside the data, a device that is not there, a loss that is not finite,
        or a store that cannot be written.
    """
    if config.images[1] > len(data.train):
        raise UserError(f"images {config.images} reach past the {len(data.train):,} training images of {data.name}")
    if outside := [epoch for epoch in keep_epochs if not 1 <= epoch <= config.epochs]:
        raise UserError(f"keep_epochs {outside} lie outside the {config.epochs} epochs of the run")
    run = Run(Path(store) / run_name(config, data.fingerprint), config)
    stored = find_run(config, data.fingerprint, store)
    if stored and (data.recorded or _keeps(stored, keep_epochs)):  # first: a store that is only read needs no lock
        return stored
    with writer_lock(Path(store), run.name), _memory_for(config):
        stored = find_run(config, data.fingerprint, store, mend=True)
        if stored and _keeps(stored, keep_epochs):
            return stored
        if config.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device 'cuda' was asked for but there is no CUDA GPU here; use device 'cpu'")
        _ = data.train.images  # a data set without its images says so before anything is written
        if stored:
            _train_again(stored, data, keep_epochs, progress, processes)
            return stored
        write_json(run.path / "config.json", config.identity())
        worked = [processes.record()]
        if config.objective == "none":
            save_weights(run.path / "encoder.safetensors", config.build_encoder(data.record()))
            write_history(run.path / "history.csv", [])
        else:
            training = _Training(run, data, keep_epochs, progress, processes)
            training.train()
            worked = training.worked
        finish_run(run, data.record(), torch.get_num_threads(), worked)
    return run


def _keeps(run: Run, epochs: Sequence[int]) -> bool:
    """True if the kept encoders asked for are there, or cannot be made here (the run came without weights)."""
    if run.config.objective == "none":
        return True
    wanted = [kept_name(epoch) for epoch in epochs if epoch < run.config.epochs]
    return not (run.path / "encoder.safetensors").is_file() or all((run.path / w).is_file() for w in wanted)


def _memory_for(config: PretrainConfig):
    """Memory that runs out is told with the batch and what to change; checkpoints of an unfinished run stay."""
    held = config.micro_batch or config.batch_size
    return enough_memory(
        f"pre-training {config.label()} on {config.device} with batch_size {config.batch_size}, the activations of "
        f"{held} images at once",
        f"try micro_batch {max(2, held // 4)} (same loss and gradient, batch normalisation apart), a smaller "
        f"batch_size, or a smaller width than {config.width:g}",
    )


def _train_again(run: Run, data: Dataset, keep_epochs: Sequence[int], progress, processes: Processes) -> None:
    """Train a finished run once more, beside it, for the encoders of more epochs; it stays finished meanwhile."""
    kept = {epoch for epoch in range(1, run.config.epochs) if (run.path / kept_name(epoch)).is_file()}
    again = Run(run.path.parent / ".again" / run.name, run.config)
    training = _Training(again, data, kept | set(keep_epochs), progress, processes)
    training.train()
    adopt_run(run, again, data.record(), torch.get_num_threads(), training.worked)


class _Training:
    """The state of one pre-training run and its loop."""

    def __init__(self, run: Run, data: Dataset, keep_epochs: Sequence[int], progress,
                 processes: Processes = ALONE):  # fmt: skip
        config = self.config = run.config
        self.processes, self.worked = processes, [processes.record()]
        self.run, self.progress, self.keep_epochs = run, progress, set(keep_epochs)
        self.recipe = view_recipe(config.augmentation, config.strength)
        self.mean, self.std = data.mean, data.std
        self.images = data.train.part(*config.images).images.to(config.device)  # uint8 (N_all, S, S, C)
        record = data.record()
        encoder = config.build_encoder(record).to(config.device, memory_format=torch.channels_last)
        self.encoder = processes.synchronise(encoder, config.device)
        self.head = processes.synchronise(config.build_projection_head(record).to(config.device), config.device)
        self.optimizer = build_optimizer(config.optimizer, (self.encoder, self.head), config.lr,
                                         config.weight_decay, config.momentum)  # fmt: skip
        sizes = [len(part) for part in batches(torch.arange(len(self.images)), config.batch_size)]
        self.steps_per_epoch = len(sizes)
        self.shares = {n: self._share(n) for n in set(sizes)}
        self.history: list[dict] = []
        self.kept: dict[str, str] = {}  # file of a kept encoder -> its SHA-256
        self._begin_epoch()
        self.saved_at = time.monotonic()

    def _begin_epoch(self) -> None:
        self.steps_done, self.seconds = 0, 0.0  # of the epoch under way
        self.total = torch.zeros((), device=self.config.device, dtype=torch.float64)  # sum of losses over its images

    def _share(self, n: int) -> Share:
        """This process's share (alone: all) of a batch of n images, chunk by chunk."""
        return self.processes.share(batches(torch.arange(n), self.config.micro_batch or n))

    def train(self) -> None:
        self._resume()
        for path in self.run.path.glob("encoder-*.safetensors"):  # of an attempt before, which this does not go on with
            if path.name not in self.kept:
                path.unlink()
        if self.processes.count > 1:
            self.processes.tell((self.config, self.run.name, self._state()))
        self._train_epochs()
        weights = (p for network in (self.encoder, self.head) for p in network.parameters())
        if not all(p.isfinite().all() for p in weights):  # since the last step, whose loss nobody has computed
            raise UserError(f"{self.run.name}: weights are not finite after the last step; lower lr from "
                            f"{self.config.lr:g} or raise temperature")  # fmt: skip
        save_weights(self.run.path / "encoder.safetensors", self.encoder)
        save_weights(self.run.path / "projection_head.safetensors", self.head)
        write_history(self.run.path / "history.csv", self.history)

    def join(self, state: bytes) -> None:
        """Train with the process that leads, from its state on; that one does the writing."""
        self._restore(torch.load(io.BytesIO(state), map_location=self.config.device, weights_only=True))
        self.saved_at = math.inf
        self._train_epochs()

    def _train_epochs(self) -> None:
        self.encoder.train(), self.head.train()
        self.processes.meet()  # before any clock starts
        for epoch in range(len(self.history) + 1, self.config.epochs + 1):
            loss = self._train_epoch(epoch)
            lr, seconds = self.optimizer.param_groups[0]["lr"], self.seconds
            rate = round(len(self.images) / seconds, 1)
            self.history.append({"epoch": epoch, "loss": loss, "lr": lr, "seconds": round(seconds, 3),
                                 "images_per_second": rate})  # fmt: skip
            self._begin_epoch()
            if epoch < self.config.epochs:
                if epoch in self.keep_epochs:
                    self.kept[kept_name(epoch)] = save_weights(self.run.path / kept_name(epoch), self.encoder)
                if self._checkpoint_is_due():
                    self._checkpoint()
            try:
                self._report(epoch, loss)
            except BaseException:  # whoever stops the run here loses nothing
                self._checkpoint()
                raise

    def _train_epoch(self, epoch: int) -> float:
        """What is left of one pass over the images in a fresh order; returns the mean loss over the views, in nats."""
        config, started = self.config, time.perf_counter() - self.seconds
        order = shuffled(self.images, generator(config.seed, "order", epoch))
        warmup = round(config.warmup_epochs * self.steps_per_epoch)
        left = [(index, self.shares[len(index)]) for index in batches(order, config.batch_size)[self.steps_done :]]
        with feed(self.images, [index[share.rows] for index, share in left]) as fed:
            for k, ((_, share), images) in enumerate(zip(left, fed, strict=True), self.steps_done):
                step = (epoch - 1) * self.steps_per_epoch + k
                factor = lr_factor(config.schedule, step, config.epochs * self.steps_per_epoch, warmup)
                for group in self.optimizer.param_groups:
                    group["lr"] = config.lr * factor
                views = generator(config.seed, "views", step)
                x_i, x_j = make_views(images, self.recipe, self.mean, self.std, views, share.rows, share.n)
                self.total += self.step(x_i, x_j, share) * share.n
                self.steps_done = k + 1
                if self.steps_done < self.steps_per_epoch and self._checkpoint_is_due():
                    self._finite_loss()  # waits for the device
                    self.seconds = time.perf_counter() - started
                    self._checkpoint()
        loss = self._finite_loss() / len(self.images)  # with the checkpoints, the only wait for the device
        self.seconds = time.perf_counter() - started
        return loss

    def _finite_loss(self) -> float:
        """The sum of the epoch's losses so far. Raises: UserError if it is not finite."""
        total = self.total.item()
        if not math.isfinite(total):
            lr = self.optimizer.param_groups[0]["lr"]
            raise UserError(
                f"{self.run.name}: the loss is {total} by step {self.steps_done} of epoch {len(self.history) + 1} at "
                f"learning rate {lr:g}; lower lr or raise temperature (the last good checkpoint, if any, is kept in "
                f"{self.run.path})"
            )
        return total

    def step(self, x_i: Tensor, x_j: Tensor, share: Share | None = None) -> Tensor:
        """One optimiser step on two views, each (N, C, S, S), of this process's share; returns the loss, detached."""
        share = share or self._share(len(x_i))
        self.optimizer.zero_grad(set_to_none=True)
        if 0 < self.config.micro_batch < share.n:
            loss = self._cached_backward(x_i, x_j, share)
        else:
            loss = nt_xent_loss(*share.gather(*self.project(x_i, x_j)), self.config.temperature)
            loss.backward()
        self.processes.sum_gradients(self.encoder, self.head)
        self.optimizer.step()
        return loss.detach()

    def _cached_backward(self, x_i: Tensor, x_j: Tensor, share: Share) -> Tensor:
        """The loss over the whole batch and its gradient, with the activations of micro_batch images at a time.

        z of every chunk without activations; loss and its gradient by z; each chunk once more, backward from there.
        Exact but for batch normalisation, whose statistics are each chunk's own. Source: Gao et al. 2021, arXiv
        2101.06983.
        """
        sizes = share.sizes
        chunks = list(zip(x_i.split(sizes), x_j.split(sizes), strict=True))
        with torch.no_grad(), _still_statistics(self.encoder, self.head):
            z = [self.project(*chunk) for chunk in chunks]
        z_i, z_j = (torch.cat(part).requires_grad_() for part in zip(*z, strict=True))
        loss = nt_xent_loss(*share.gather(z_i, z_j), self.config.temperature)
        loss.backward()
        for chunk, *gradients in zip(chunks, z_i.grad.split(sizes), z_j.grad.split(sizes), strict=True):
            torch.autograd.backward(self.project(*chunk), gradients)
        return loss

    def project(self, x_i: Tensor, x_j: Tensor) -> tuple[Tensor, Tensor]:
        """z of both views, each (N, D)."""
        with torch.autocast(self.config.device, torch.bfloat16, enabled=self.config.precision == "bf16"):
            if self.config.batch_norm == "per_view":
                return self.head(self.encoder(x_i)), self.head(self.encoder(x_j))
            z = self.head(self.encoder(torch.cat([x_i, x_j])))  # (2N, D)
            return tuple(z.chunk(2))

    def _checkpoint_is_due(self) -> bool:
        return time.monotonic() - self.saved_at > CHECKPOINT_SECONDS

    def _checkpoint(self) -> None:
        self.saved_at = time.monotonic()
        write_checksummed(self.run.path / "checkpoint.pt", self._state())
        write_history(self.run.path / "history.csv", self.history)

    def _state(self) -> bytes:
        """All that resuming needs."""
        buffer = io.BytesIO()
        torch.save({"encoder": self.encoder.state_dict(), "head": self.head.state_dict(),
                    "optimizer": self.optimizer.state_dict(), "history": self.history, "kept": self.kept,
                    "steps_done": self.steps_done, "total": self.total, "seconds": self.seconds,
                    "worked": self.worked}, buffer)  # fmt: skip
        return buffer.getvalue()

    def _restore(self, state: dict) -> None:
        self.kept = state["kept"]
        self.encoder.load_state_dict(state["encoder"])
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history, self.total = state["history"], state["total"]
        self.steps_done, self.seconds = state["steps_done"], state["seconds"]
        before = state.get("worked", [])
        self.worked = before + [record for record in self.worked if record not in before[-1:]]

    def _kept_until(self, epoch: int) -> list[str]:
        return [kept_name(kept) for kept in sorted(self.keep_epochs) if kept <= min(epoch, self.config.epochs - 1)]

    def _is_whole(self, name: str, kept: dict[str, str]) -> bool:
        path = self.run.path / name
        if path.exists() and not (path.is_file() and file_sha256(path) == kept.get(name)):
            set_aside(path, f"{path} is damaged, or not of this training")
        return path.exists()

    def _resume(self) -> None:
        """Go on from the checkpoint, if there is a good one that kept the encoders now asked for."""
        path = self.run.path / "checkpoint.pt"
        if not path.exists():
            return
        try:
            content = io.BytesIO(read_checksummed(path))
            state = torch.load(content, map_location=self.config.device, weights_only=True)
        except Exception as error:  # torch.load raises many kinds on what is no checkpoint
            set_aside(path, f"{path} is damaged ({type(error).__name__})")
            return
        try:
            done = len(state["history"])
            if missing := [name for name in self._kept_until(done) if not self._is_whole(name, state["kept"])]:
                print(f"{self.run.name}: {', '.join(missing)} must be made (again); training starts anew")
                return
            self._restore(state)
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise StoreError(f"{path} is no checkpoint of this run ({type(error).__name__}); remove it") from error
        print(f"{self.run.name}: resumed after epoch {done} of {self.config.epochs} and {self.steps_done} steps")

    def _report(self, epoch: int, loss: float) -> None:
        if self.progress is None:
            return
        recent = [row["seconds"] for row in self.history[-5:]]
        left = (self.config.epochs - epoch) * sum(recent) / len(recent)
        self.progress({"run": self.run.name, "epoch": epoch, "epochs": self.config.epochs, "loss": loss,
                       "seconds_left": left})  # fmt: skip


@contextmanager
def _still_statistics(*modules: nn.Module) -> Iterator[None]:
    """Batch normalisation by the batch's own statistics, without moving the running ones."""
    norms = [m for module in modules for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def pretrain_flops(config: PretrainConfig, data: Dataset) -> float:
    """Floating-point operations of the whole run: forward and backward (twice the forward) of two views an image,
    and one forward more with gradient caching.

    Views, loss and optimiser are left out (below 1 % for a ResNet).
    """
    if config.objective == "none":
        return 0.0
    side, _, channels = data.record()["image_shape"]
    forward = _forward_flops(config.encoder, channels, side, config.width, config.stem)
    passes = 4.0 if 0 < config.micro_batch < config.batch_size else 3.0
    return passes * 2 * forward * (config.images[1] - config.images[0]) * config.epochs


@cache
def _forward_flops(encoder: str, channels: int, side: int, width: float, stem: str) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_encoder(encoder, channels, side, width, stem)(torch.empty(1, channels, side, side))
    return counter.get_total_flops()


def estimate_seconds(config: PretrainConfig, data: Dataset, steps: int = 2) -> float:
    """Seconds the run would take here, from the best of `steps` steps, after one more, of a batch that is smaller where
    one step takes long (TRIAL_FLOP: about a second of a CPU core)."""
    if config.objective == "none":
        return 0.0
    images = config.images[1] - config.images[0]
    one_image = pretrain_flops(config, data) / images / config.epochs
    few = config.batch_size
    if config.device == "cpu" and one_image:
        few = min(few, max(2, int(TRIAL_FLOP / one_image)))
    trial, seconds = replace(config, batch_size=few, images=(0, few)), []
    with _memory_for(trial):
        training = _Training(Run(Path("estimate"), trial), data, (), None)
        held = training.images[:]  # streamed ones are decoded beside the steps, not between them
        for k in range(steps + 1):
            started = time.perf_counter()
            views = generator(0, "views", k)
            training.step(*make_views(held, training.recipe, training.mean, training.std, views)).item()
            seconds.append(time.perf_counter() - started)
    return min(seconds[1:]) / few * images * config.epochs


if __name__ == "__main__":
    from simclr_core.command import main

    sys.exit(main())
