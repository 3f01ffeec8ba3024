"""The configuration, and the training loop by itself: no store, no process."""

import io
import json
from dataclasses import replace

import pytest
import torch

from simclr_core.config import PretrainConfig
from simclr_core.errors import UserError
from simclr_core.evaluate import ProbeConfig
from simclr_core.precision import resolve_precision
from simclr_core.seeds import batches, generator


def weights(training) -> dict:
    networks = torch.nn.ModuleList([training.encoder, training.head])
    return {name: tensor.clone() for name, tensor in networks.state_dict().items()}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# ---- the configuration --------------------------------------------------------------------------

COUNTS = ["batch_size", "epochs", "head_hidden", "head_dim"]
WRONG = [
    *[({name: 0}, f"{name} must be at least {2 if name == 'batch_size' else 1}, got 0")
      for name in COUNTS],
    *[({name: 1.5}, f"{name} is 1.5, expected integer")
      for name in [*COUNTS, "micro_batch", "seed"]],
    *[({name: value}, f"{name} must be positive and finite, got {value}")
      for name in ("width", "temperature", "lr") for value in (0.0, -0.5, float("nan"))],
    *[({name: value}, f"{name} must be 0 or more and finite, got {value}")
      for name in ("strength", "weight_decay", "momentum", "warmup_epochs") for value in (-1.0,)],
    *[({name: float("inf")}, f"{name} must be positive and finite, got inf")
      for name in ("lr", "temperature")],
    *[({name: "wild"}, f"{name} 'wild' is unknown; known are ")
      for name in ("encoder", "augmentation", "head", "optimizer", "schedule")],
    *[({name: "wild"}, f"{name} is 'wild', expected '")
      for name in ("stem", "init", "objective", "batch_norm", "precision", "device")],
    *[({name: "3"}, f"{name} is '3', expected ") for name in ("epochs", "lr", "seed", "width")],
    ({"epochs": True}, "epochs is True, expected integer"),
    ({"lr": None}, "lr is None, expected number"),
    ({"width": 17}, "width must be at most 16"),
    ({"head_dim": 1 << 40}, "head_dim must be at most 65536, got 1099511627776"),
    ({"micro_batch": -4}, "micro_batch must be at least 0, got -4"),
    ({"micro_batch": 1}, "micro_batch must be 0 (off) or at least 2 images, got 1"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
    ({"images": (5, 5)}, "images must be a range (first, one past the last), got (5, 5)"),
    ({"images": (0, 9, 9)}, "images is (0, 9, 9), expected a range"),
    ({"images": 9}, "images is 9, expected a range"),
    ({"dataset": "../x"}, "dataset '../x' is no name"),
    ({"dataset": 5}, "dataset is 5, expected string"),
    ({"batch_size": 101}, "batch_size 101 is larger than the 100 images"),
    ({"warmup_epochs": 3.5}, "warmup_epochs 3.5 is longer than the 3 epochs"),
    ({"encoder": "pixels", "head": "none"}, "encoder 'pixels' with head 'none' has nothing"),
]  # fmt: skip
PROBE = ProbeConfig((0, 60))
WRONG_PROBES = [
    *[({name: 0}, f"{name} must be at least 1, got 0") for name in ("epochs", "batch_size")],
    *[({name: -1}, f"{name} must be at least 0, got -1")
      for name in ("per_class", "draw", "hidden", "seed")],
    *[({name: "wild"}, f"{name} 'wild' is unknown; known are ")
      for name in ("on", "optimizer", "schedule", "augmentation")],
    *[({name: 1}, f"{name} is 1, expected boolean") for name in ("standardise", "moving_bn")],
    ({"lr": -1}, "lr must be positive and finite, got -1"),
    ({"weight_decay": -1}, "weight_decay must be 0 or more and finite, got -1"),
    ({"labels": (0, 1, 2)}, "labels is (0, 1, 2), expected a range"),
    ({"epoch": "last"}, "epoch is 'last', expected integer"),
    ({"moving_bn": True, "on": "z"}, "moving_bn trains on h as it is"),
    ({"moving_bn": True, "standardise": True}, "moving_bn trains on h as it is"),
    ({"draw": 1}, "draw 1 chooses among lists of per_class images"),
    ({"scored_on": (59, 80)}, "scored_on (59, 80) shares images with labels (0, 60)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("made", "changes", "message"),
    [("tiny", *case) for case in WRONG] + [("probe", *case) for case in WRONG_PROBES],
    ids=str,
)
def test_a_wrong_value_is_one_line_naming_field_and_value(made, changes, message, tiny_config):
    with pytest.raises(UserError) as caught:
        replace(tiny_config if made == "tiny" else PROBE, **changes)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_whole_numbers_and_lists_are_taken_for_what_they_stand_for(tiny_config):
    same = replace(tiny_config, width=1, lr=1, images=[0, 100.0], epochs=3.0)
    assert same == replace(tiny_config, lr=1.0) and json.dumps(same.record()) == json.dumps(
        replace(tiny_config, lr=1.0).record()
    )


@pytest.mark.parametrize("config", [PretrainConfig("tiny", (3, 400), lr=0.1, seed=4),
                                    ProbeConfig((3, 60), scored_on=(60, 90), epoch=2)])  # fmt: skip
def test_a_record_survives_json(config):
    assert type(config)(**json.loads(json.dumps(config.record()))) == config


def test_auto_is_bf16_only_where_the_device_computes_in_it_natively(monkeypatch):
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation: not including_emulation
    )
    assert (
        resolve_precision("auto", "cuda") == "bf16" and resolve_precision("fp32", "cuda") == "fp32"
    )
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation: including_emulation
    )
    assert resolve_precision("auto", "cuda") == "fp32"  # only emulated
    for abilities, found in (({}, "fp32"), ({"amx_bf16": True}, "bf16")):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda abilities=abilities: abilities)
        assert resolve_precision("auto", "cpu") == found


# ---- seeds and batches --------------------------------------------------------------------------


def test_last_batch_of_any_size_is_used_and_a_single_image_joins_the_batch_before():
    assert [len(b) for b in batches(torch.arange(10), 4)] == [4, 4, 2]
    assert [len(b) for b in batches(torch.arange(9), 4)] == [4, 5]
    assert torch.cat(batches(torch.arange(9), 4)).tolist() == list(range(9))


def test_every_purpose_and_epoch_has_a_stream_of_its_own():
    draws = [torch.rand(3, generator=generator(0, purpose, epoch)).tolist()
             for purpose in ("order", "views") for epoch in (1, 2)]  # fmt: skip
    assert len({tuple(draw) for draw in draws}) == 4


def test_every_epoch_sees_every_image_once_in_another_order(tiny_config, tiny_data):
    training, seen = replace(tiny_config, epochs=2).training(tiny_data), []
    real = training.views
    training.views = lambda images, generator: (
        seen.extend(bytes(x.numpy()) for x in images) or real(images, generator=generator)
    )
    list(training)
    first, second = seen[:100], seen[100:]
    assert first != second and sorted(first) == sorted(second) and len(set(first)) == 100


# ---- the loop -----------------------------------------------------------------------------------


def test_overfits_one_small_batch(tiny_data):
    """Close to the loss's floor (the simplex's) on 8 images that are seen many times."""
    config = PretrainConfig(
        "tiny", (0, 8), augmentation="digits", batch_size=8, epochs=150, lr=0.003
    )
    training = config.training(tiny_data)
    rows = list(training)
    assert rows == training.history and [row["epoch"] for row in rows] == list(range(1, 151))
    assert rows[0]["loss"] > 2.5 and rows[-1]["loss"] < 1.6  # log(15) = 2.71 first, floor 1.36


def test_same_seed_gives_the_same_numbers_and_another_seed_others(tiny_config, tiny_data):
    first, second, other = (
        replace(tiny_config, seed=seed).training(tiny_data) for seed in (0, 0, 1)
    )
    ends = [(list(training), weights(training)) for training in (first, second, other)]
    assert ends[0][0] == ends[1][0] and equal(ends[0][1], ends[1][1]) and ends[0][0] != ends[2][0]


SETTINGS = [
    {"optimizer": "sgd", "schedule": "cosine", "warmup_epochs": 1.5, "momentum": 0.8},
    {"optimizer": "adam", "precision": "bf16", "head": "linear"},
    {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine"},
    {"optimizer": "lars", "head": "mlp_bn", "batch_norm": "per_view", "weight_decay": 0.01},
    {"optimizer": "muon", "schedule": "cosine", "warmup_epochs": 0.5, "weight_decay": 0.01},
]


@pytest.mark.parametrize("changes", SETTINGS, ids=lambda changes: changes["optimizer"])
def test_another_training_takes_over_after_any_step_to_the_bit(changes, tiny_config, tiny_data):
    """Of an epoch of two batches and a ragged one, and of one that has just ended."""
    config = replace(tiny_config, images=(0, 75), epochs=2, **changes)
    whole, states = config.training(tiny_data), []
    for _ in whole:
        buffer = io.BytesIO()
        torch.save(whole.state_dict(), buffer)
        states.append(buffer.getvalue())
    assert whole.steps_per_epoch == 3 and len(states) == 6
    for taken, state in enumerate(states, 1):
        fresh = replace(config).training(tiny_data)
        fresh.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        assert len(list(fresh)) == 6 - taken
        assert fresh.history == whole.history and equal(weights(fresh), weights(whole))


def test_bf16_gives_nearly_the_fp32_loss(tiny_config, tiny_data):
    full, half = ([row["loss"] for row in replace(tiny_config, precision=name).training(tiny_data)
                   if row] for name in ("fp32", "bf16"))  # fmt: skip
    assert full != half and full == pytest.approx(half, abs=0.02)


def test_a_loss_that_is_not_finite_is_told_with_step_epoch_and_learning_rate(
    tiny_config, tiny_data
):
    training = replace(tiny_config, optimizer="sgd", lr=1e30).training(tiny_data)
    said = r"the loss is nan by step {} of epoch 1 at learning rate 1e\+30; lower lr or raise temp"
    steps = iter(training)
    next(steps), next(steps)
    with pytest.raises(UserError, match=said.format(2)):
        training.state_dict()
    with pytest.raises(UserError, match=said.format(4)):
        list(steps)


def test_weights_that_are_not_finite_after_the_last_step_are_told(tiny_config, tiny_data):
    one_step = {
        "images": (0, 32),
        "epochs": 1,
        "optimizer": "sgd",
        "lr": 1e30,
        "weight_decay": 1e30,
    }
    with pytest.raises(UserError, match="weights are not finite after the last step; lower lr"):
        list(replace(tiny_config, **one_step).training(tiny_data))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_first_twenty_losses_on_the_gpu_agree_with_the_cpu(tiny_config, tiny_data):
    config = replace(tiny_config, images=(0, 20), batch_size=20, epochs=20, encoder="resnet18",
                     width=0.25, head="mlp_bn")  # fmt: skip
    cpu, gpu = ([row["loss"] for row in replace(config, device=name).training(tiny_data)]
                for name in ("cpu", "cuda"))  # fmt: skip
    assert gpu == pytest.approx(cpu, abs=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize(
    "changes", [{}, {"augmentation": "strong", "optimizer": "lars"}, {"optimizer": "muon"}]
)
def test_a_step_on_the_gpu_never_waits_for_it(changes, tiny_config, tiny_data):
    training = replace(tiny_config, device="cuda", **changes).training(tiny_data)
    steps = iter(training)
    for _ in range(4):
        next(steps)  # first calls set libraries up; the end of an epoch waits
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps), next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
