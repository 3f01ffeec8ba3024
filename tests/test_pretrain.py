import io
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from cut import cut_after

from simclr_core import pretrain as pretrain_module
from simclr_core.augment import make_views, view_recipe
from simclr_core.data import dataset_from_record, load_dataset
from simclr_core.errors import DataNotFound, StoreError, UserError
from simclr_core.loss import nt_xent_loss
from simclr_core.pretrain import (
    PretrainConfig,
    _Training,
    batches,
    estimate_seconds,
    generator,
    pretrain,
    pretrain_flops,
)
from simclr_core.runs import Run, find_run, read_checksummed, run_name


def weights(run):
    return run.load_encoder().state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_run_is_stored_found_again_and_announces_its_epochs(tiny_config, tiny_data, tmp_path):
    events = []
    run = pretrain(tiny_config, tiny_data, tmp_path, progress=events.append)
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert [event["epoch"] for event in events] == [1, 2, 3] and events[-1]["seconds_left"] == 0
    assert run.name.startswith("tiny-mnist_cnn-r2_two_views-mlp_no_bn-")
    again = pretrain(tiny_config, tiny_data, tmp_path, progress=events.append)
    assert len(events) == 3 and again.history == run.history
    assert sorted(p.name for p in run.path.iterdir()) == [
        "config.json", "encoder.safetensors", "history.csv", "projection_head.safetensors", "provenance.json",
    ]  # fmt: skip


def test_loss_falls_while_training(tiny_config, tiny_data, tmp_path):
    losses = pretrain(replace(tiny_config, epochs=8), tiny_data, tmp_path).losses
    assert losses[-1] < losses[0] - 0.05


def test_same_seed_gives_the_same_run_and_another_seed_another(tiny_config, tiny_data, tmp_path):
    first = pretrain(tiny_config, tiny_data, tmp_path / "a")
    second = pretrain(tiny_config, tiny_data, tmp_path / "b")
    other = pretrain(replace(tiny_config, seed=1), tiny_data, tmp_path / "a")
    assert first.losses == second.losses and equal(weights(first), weights(second))
    assert first.losses != other.losses


def interrupted_after(epoch):
    """A progress callback that stops the training as a crash would, after the checkpoint of that epoch."""

    def progress(event):
        if event["epoch"] == epoch:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd", "schedule": "cosine", "warmup_epochs": 1.0},
                                     {"optimizer": "lars", "head": "mlp_bn", "batch_norm": "per_view"},
                                     {"optimizer": "muon", "weight_decay": 0.01},
                                     {"micro_batch": 8, "optimizer": "adamw"}])  # fmt: skip
def test_resumed_run_equals_the_undisturbed_one_to_the_bit(changes, tiny_config, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_module, "CHECKPOINT_SECONDS", 0.0)
    config = replace(tiny_config, epochs=4, **changes)
    whole = pretrain(config, tiny_data, tmp_path / "whole", keep_epochs=(1, 3))
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tiny_data, tmp_path / "cut", keep_epochs=(1, 3), progress=interrupted_after(2))
    assert find_run(config, tiny_data.fingerprint, tmp_path / "cut") is None
    seen = []
    resumed = pretrain(config, tiny_data, tmp_path / "cut", keep_epochs=(1, 3), progress=seen.append)
    assert [event["epoch"] for event in seen] == [3, 4]
    assert resumed.losses == whole.losses and equal(weights(resumed), weights(whole))
    for epoch in (1, 3):
        assert equal(resumed.load_encoder(epoch).state_dict(), whole.load_encoder(epoch).state_dict())


CHILD = """
import sys, torch
from simclr_core import pretrain as p
from simclr_core.data import load_dataset
torch.set_num_threads(1)
p.CHECKPOINT_SECONDS = 0.0
config = p.PretrainConfig(dataset="digits", images=(0, 600), augmentation="digits", batch_size=64, epochs=6)
p.pretrain(config, load_dataset("digits"), sys.argv[1], progress=lambda e: print(e["epoch"], flush=True))
"""


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6])  # of four steps an epoch
def test_a_run_cut_off_within_an_epoch_goes_on_at_the_next_step(steps, tiny_config, tiny_data, tmp_path, monkeypatch):
    whole = pretrain(tiny_config, tiny_data, tmp_path / "whole")
    left = cut_after(monkeypatch, steps)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny_config, tiny_data, tmp_path / "cut")
    left[0] = 100
    resumed = pretrain(tiny_config, tiny_data, tmp_path / "cut")
    assert 100 - left[0] == 3 * 4 - steps  # none is taken twice
    assert resumed.losses == whole.losses and equal(weights(resumed), weights(whole))


@pytest.mark.slow
def test_kill_9_in_the_middle_then_the_same_command_gives_the_same_run(tmp_path):
    def start(store):
        return subprocess.Popen([sys.executable, "-c", CHILD, str(store)], stdout=subprocess.PIPE, text=True)

    child = start(tmp_path / "killed")
    assert child.stdout.readline() == "1\n" and child.stdout.readline() == "2\n"
    time.sleep(0.05)  # somewhere in epoch 3
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    child = start(tmp_path / "killed")
    first = child.communicate()[0].split()
    assert child.returncode == 0 and "resumed" in " ".join(first)
    start(tmp_path / "whole").communicate()
    config = PretrainConfig(dataset="digits", images=(0, 600), augmentation="digits", batch_size=64, epochs=6)
    fingerprint = load_dataset("digits").fingerprint
    killed, whole = (find_run(config, fingerprint, tmp_path / name) for name in ("killed", "whole"))
    assert killed.losses == whole.losses and equal(weights(killed), weights(whole))


def test_what_stops_a_run_after_an_epoch_costs_it_nothing(tiny_config, tiny_data, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny_config, tiny_data, tmp_path, progress=interrupted_after(2))  # within CHECKPOINT_SECONDS
    pretrain(tiny_config, tiny_data, tmp_path)
    assert "resumed after epoch 2 of 3" in capsys.readouterr().out


def test_kill_while_a_finished_run_is_trained_again_for_kept_epochs_loses_nothing(tiny_config, tiny_data, tmp_path,
                                                                                  monkeypatch):  # fmt: skip
    monkeypatch.setattr(pretrain_module, "CHECKPOINT_SECONDS", 0.0)
    plain = pretrain(tiny_config, tiny_data, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(1,), progress=interrupted_after(2))
    assert find_run(tiny_config, tiny_data.fingerprint, tmp_path) is not None
    seen = []
    again = pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(1,), progress=seen.append)
    assert [event["epoch"] for event in seen] == [3] and not list(tmp_path.glob("*.damaged"))
    assert "encoder-0001.safetensors" in again.record["files"]
    assert plain.path == again.path and not list((tmp_path / ".again").iterdir())


def not_called():
    raise AssertionError("this evaluation is stored")


def test_evaluations_stay_valid_while_and_after_another_notebook_has_more_encoders_kept(tiny_config, tiny_data,
                                                                                        tmp_path):  # fmt: skip
    """As two notebooks side by side: one evaluates a run that the other trains again for kept epochs."""
    run = pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(2,))
    before, losses = weights(run), run.history
    run.evaluation("probe", {"made": "before"}, tiny_data, lambda: {"accuracy": 0.5})

    def evaluate_meanwhile(event):
        assert equal(weights(run), before) and run.history == losses
        run.evaluation("probe", {"made": event["epoch"]}, tiny_data, lambda: {"accuracy": 0.25})
        run.evaluation("probe", {"made": "before"}, tiny_data, not_called)

    again = pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(1,), progress=evaluate_meanwhile)
    assert {"encoder-0001.safetensors", "encoder-0002.safetensors"} < set(again.record["files"])
    assert equal(again.load_encoder(1).state_dict(), pretrain(tiny_config, tiny_data, tmp_path / "b", (1,))
                 .load_encoder(1).state_dict())  # fmt: skip
    for made in ("before", 1, 2, 3):
        run.evaluation("probe", {"made": made}, tiny_data, not_called)


def test_evaluations_of_other_weights_are_deleted_and_not_written_afterwards(tiny_config, tiny_data, tmp_path,
                                                                             monkeypatch, capsys):  # fmt: skip
    """Where training gives other bits the second time (a GPU, another torch), stood for by another seed."""
    run = pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(2,))
    old = weights(run)
    run.evaluation("probe", {"k": 1}, tiny_data, lambda: {"accuracy": 0.5})
    real = pretrain_module.stream_seed
    monkeypatch.setattr(pretrain_module, "stream_seed", lambda seed, *rest: real(seed + 1, *rest))

    def compute():
        pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(1,))
        return {"accuracy": 0.25}

    run.evaluation("probe", {"k": 2}, tiny_data, compute)  # begun with the weights before, ended after
    assert "other weights; evaluations are made anew" in capsys.readouterr().err
    assert not equal(weights(run), old) and not list(run.path.glob("probe-*.json"))
    other = pretrain(tiny_config, tiny_data, tmp_path / "other", keep_epochs=(1, 2))
    assert run.losses == other.losses
    for epoch in (1, 2, None):
        assert equal(run.load_encoder(epoch).state_dict(), other.load_encoder(epoch).state_dict())


def test_untrained_run_is_not_made_again_for_kept_epochs(tiny_config, tiny_data, tmp_path):
    config = replace(tiny_config, objective="none")
    path = pretrain(config, tiny_data, tmp_path).path / "provenance.json"
    written = path.stat().st_mtime_ns
    pretrain(config, tiny_data, tmp_path, keep_epochs=(1,))
    assert path.stat().st_mtime_ns == written


def test_untrained_runs_of_two_precisions_are_kept_apart(tiny_config):
    """Fine-tuning one gives the supervised baseline, which depends on the precision."""
    names = {run_name(replace(tiny_config, objective="none", precision=p), "f") for p in ("fp32", "bf16")}
    assert len(names) == 2


def test_kept_epochs_are_added_to_a_run_stored_without_them(tiny_config, tiny_data, tmp_path):
    plain = pretrain(tiny_config, tiny_data, tmp_path)
    before = weights(plain)
    kept = pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(2,))
    assert (kept.path / "encoder-0002.safetensors").is_file() and equal(weights(kept), before)
    (kept.path / "encoder-0002.safetensors").unlink()
    (kept.path / "encoder.safetensors").unlink()  # a run that came without weights is taken as it is
    assert pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(2,)).losses == plain.losses


def test_recorded_run_is_found_without_images_and_a_missing_one_is_not_trained(tiny_config, tiny_data, tmp_path):
    run = pretrain(tiny_config, tiny_data, tmp_path)
    recorded = dataset_from_record(run.record["data"])
    assert pretrain(tiny_config, recorded, tmp_path).losses == run.losses
    assert recorded.record() == tiny_data.record()
    missing = replace(tiny_config, seed=5)
    with pytest.raises(DataNotFound, match="stored runs only"):
        pretrain(missing, recorded, tmp_path)
    assert not (tmp_path / run_name(missing, recorded.fingerprint)).exists()


def test_damaged_checkpoint_is_set_aside_and_training_starts_anew(tiny_config, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_module, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny_config, tiny_data, tmp_path, progress=interrupted_after(1))
    folder = tmp_path / run_name(tiny_config, tiny_data.fingerprint)
    (folder / "checkpoint.pt").write_bytes(b"rubbish")
    run = pretrain(tiny_config, tiny_data, tmp_path)
    assert (folder / "checkpoint.pt.damaged").is_file()
    assert run.losses == pretrain(tiny_config, tiny_data, tmp_path / "clean").losses


def test_untrained_run_has_initial_weights_whatever_the_training_settings(tiny_config, tiny_data, tmp_path):
    untrained = pretrain(replace(tiny_config, objective="none"), tiny_data, tmp_path)
    same = pretrain(replace(tiny_config, objective="none", epochs=9, lr=0.5), tiny_data, tmp_path)
    assert untrained.path == same.path and untrained.history == []
    assert equal(weights(untrained), tiny_config.build_encoder(tiny_data.record()).state_dict())


def test_overfits_one_small_batch(tiny_data, tmp_path):
    """The loss comes close to its floor (the simplex's) on 8 images that are seen many times."""
    config = PretrainConfig(dataset="tiny", images=(0, 8), augmentation="digits", batch_size=8, epochs=150, lr=0.003)
    assert pretrain(config, tiny_data, tmp_path).losses[-1] < 1.6  # log(15) = 2.71 at the start, floor 1.36


def test_last_batch_of_any_size_is_used_and_a_single_image_joins_the_batch_before():
    assert [len(b) for b in batches(torch.arange(10), 4)] == [4, 4, 2]
    assert [len(b) for b in batches(torch.arange(9), 4)] == [4, 5]
    assert torch.cat(batches(torch.arange(9), 4)).tolist() == list(range(9))


def test_every_epoch_has_its_own_order_and_views():
    draws = [torch.rand(3, generator=generator(0, purpose, epoch)).tolist()
             for purpose in ("order", "views") for epoch in (1, 2)]  # fmt: skip
    assert len({tuple(draw) for draw in draws}) == 4


def test_every_epoch_sees_every_image_once_in_another_order(tiny_config, tiny_data, tmp_path, monkeypatch):
    seen = []
    real = pretrain_module.make_views
    note = lambda images, *rest: seen.extend(bytes(x.numpy()) for x in images) or real(images, *rest)  # noqa: E731
    monkeypatch.setattr(pretrain_module, "make_views", note)
    pretrain(replace(tiny_config, epochs=2), tiny_data, tmp_path)
    first, second = seen[:100], seen[100:]
    assert first != second and sorted(first) == sorted(second) and len(set(first)) == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -0.5}, "temperature must be positive and finite, got -0.5"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 101}, "batch_size 101 is larger than the 100 images"),
        ({"encoder": "resnet20"}, "encoder 'resnet20' is unknown; known are pixels"),
        ({"encoder": "pixels", "head": "none"}, "encoder 'pixels' with head 'none' has nothing to train"),
        ({"augmentation": "wild"}, "augmentation 'wild' is unknown"),
        ({"lr": float("nan")}, "lr must be positive and finite, got nan"),
        ({"images": (5, 5)}, "images must be a range"),
        ({"micro_batch": 1}, "micro_batch must be 0 (off) or at least 2 images, got 1"),
        ({"micro_batch": -4}, "micro_batch must be at least 0, got -4"),
    ],
)
def test_bad_configuration_is_named(changes, message, tiny_config):
    with pytest.raises(UserError, match=re.escape(message)):
        replace(tiny_config, **changes)


def test_images_past_the_end_of_the_data_are_refused(tiny_config, tiny_data, tmp_path):
    with pytest.raises(UserError, match=r"\(0, 500\) reach past the 120 training images"):
        pretrain(replace(tiny_config, images=(0, 500)), tiny_data, tmp_path)


def test_epochs_to_keep_beyond_the_run_are_refused_before_training(tiny_config, tiny_data, tmp_path):
    with pytest.raises(UserError, match=r"keep_epochs \[4\] lie outside the 3 epochs"):
        pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(2, 4))
    assert not list(tmp_path.iterdir())


def test_loss_that_is_not_finite_stops_the_run_with_epoch_and_learning_rate(tiny_config, tiny_data, tmp_path):
    with pytest.raises(UserError, match=r"the loss is nan by step 4 of epoch 1 at learning rate 1e\+30"):
        pretrain(replace(tiny_config, optimizer="sgd", lr=1e30), tiny_data, tmp_path)


def test_weights_that_are_not_finite_after_the_last_step_are_not_stored(tiny_config, tiny_data, tmp_path):
    config = replace(tiny_config, images=(0, 32), epochs=1, optimizer="sgd", lr=1e30, weight_decay=1e30)  # one step
    with pytest.raises(UserError, match=r"weights are not finite after the last step; lower lr from 1e\+30"):
        pretrain(config, tiny_data, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tiny_config, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_module, "CHECKPOINT_SECONDS", 0.0)
    real, left = _Training.step, [6]

    def step(training, *views):
        left[0] -= 1
        return real(training, *views) * (float("nan") if left[0] < 0 else 1)

    monkeypatch.setattr(_Training, "step", step)
    with pytest.raises(UserError, match=r"the loss is nan by step 3 of epoch 2 at learning rate 0.001"):
        pretrain(tiny_config, tiny_data, tmp_path)
    (path,) = tmp_path.glob("*/checkpoint.pt")
    assert torch.load(io.BytesIO(read_checksummed(path)), weights_only=True)["steps_done"] == 2


def test_full_disk_is_one_line_and_leaves_no_half_written_file(tiny_config, tiny_data, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*config.json: No space left on device; free some space"):
        pretrain(tiny_config, tiny_data, tmp_path)
    monkeypatch.undo()
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert len(pretrain(tiny_config, tiny_data, tmp_path).history) == 3


def test_store_that_cannot_be_written_is_one_line(tiny_config, tiny_data, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"run store .*runs cannot be written"):
        pretrain(tiny_config, tiny_data, tmp_path / "runs")


def test_flops_of_the_mnist_encoder_equal_the_hand_computed_ones(tiny_data):
    config = PretrainConfig(dataset="tiny", images=(0, 10), batch_size=5, epochs=2)
    one_image = 2 * (12 * 12 * 9 * 32 + 6 * 6 * 9 * 32 * 64 + 64 * 9 * 128)  # two per multiply-add, 12 x 12 pixels
    assert pretrain_flops(config, tiny_data) == 3 * 2 * one_image * 10 * 2


def test_bf16_gives_nearly_the_fp32_loss(tiny_config, tiny_data, tmp_path):
    full = pretrain(tiny_config, tiny_data, tmp_path).losses
    half = pretrain(replace(tiny_config, precision="bf16"), tiny_data, tmp_path).losses
    assert full != half and full == pytest.approx(half, abs=0.02)


def test_one_step_is_adams_step_on_the_loss_of_the_stacked_views(tiny_config, tiny_data, tmp_path):
    """The training step, written out apart from the code: encoder, head, loss, gradient, Adam's first step."""
    training = _Training(Run(tmp_path, tiny_config), tiny_data, (), None)
    recipe = view_recipe("r2_two_views")
    x = make_views(tiny_data.train.images[:8], recipe, tiny_data.mean, tiny_data.std, generator(0, "views"))
    before = training.encoder.fc.weight.detach().clone()
    z_i, z_j = (training.head(training.encoder(view)) for view in x)
    gradient = torch.autograd.grad(nt_xent_loss(z_i, z_j, 0.5), training.encoder.fc.weight)[0]
    training.step(*x)
    expected = before - 0.001 * gradient / (gradient.abs() + 1e-8)  # bias-corrected moments are g and g^2
    torch.testing.assert_close(training.encoder.fc.weight.detach(), expected, atol=2e-5, rtol=0)


def _gradients_of_one_step(config, data, path):
    training = _Training(Run(path, config), data, (), None)
    x = make_views(data.train.images[: config.batch_size], training.recipe, data.mean, data.std, generator(0, "views"))
    loss = training.step(*x)  # Adam leaves the gradients where they are
    return loss, [p.grad for module in (training.encoder, training.head) for p in module.parameters()], training


@pytest.mark.parametrize("micro_batch", [2, 7, 10, 31])  # of 32 images: a chunk left over, one image left over
def test_gradient_caching_gives_the_whole_batchs_loss_and_gradient(micro_batch, tiny_config, tiny_data, tmp_path):
    loss, gradients, _ = _gradients_of_one_step(tiny_config, tiny_data, tmp_path)
    cached = _gradients_of_one_step(replace(tiny_config, micro_batch=micro_batch), tiny_data, tmp_path)
    torch.testing.assert_close(cached[0], loss)
    for ours, whole in zip(cached[1], gradients, strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-6, rtol=1e-4)


def test_gradient_caching_holds_the_activations_of_one_chunk_and_moves_statistics_once(tiny_config, tiny_data,
                                                                                       tmp_path):  # fmt: skip
    config = replace(tiny_config, encoder="resnet18", width=0.0625, head="mlp_bn", micro_batch=8)
    training = _Training(Run(tmp_path, config), tiny_data, (), None)
    with_gradient, moved = [], []
    norm = training.encoder.bn1
    before = norm.running_mean.clone()

    def watch(module, inputs, _):
        if torch.is_grad_enabled():
            with_gradient.append(len(inputs[0]))
        moved.append(not torch.equal(module.running_mean, before))

    norm.register_forward_hook(watch)
    x = make_views(tiny_data.train.images[:32], training.recipe, tiny_data.mean, tiny_data.std, generator(0, "views"))
    training.step(*x)
    assert with_gradient == [16] * 4  # both views of eight images at a time
    assert moved == [False] * 4 + [True] * 4 and norm.momentum == 0.1


def test_gradient_caching_costs_one_more_forward(tiny_config, tiny_data):
    assert (
        pretrain_flops(replace(tiny_config, micro_batch=8), tiny_data) == pretrain_flops(tiny_config, tiny_data) * 4 / 3
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_first_twenty_losses_on_the_gpu_agree_with_the_cpu(tiny_config, tiny_data, tmp_path):
    config = replace(
        tiny_config, images=(0, 20), batch_size=20, epochs=20, encoder="resnet18", width=0.25, head="mlp_bn"
    )
    cpu = pretrain(config, tiny_data, tmp_path).losses
    gpu = pretrain(replace(config, device="cuda"), tiny_data, tmp_path).losses
    assert gpu == pytest.approx(cpu, abs=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize(
    "changes", [{}, {"augmentation": "strong", "optimizer": "lars"}, {"optimizer": "muon"}, {"micro_batch": 16}]
)
def test_a_step_on_the_gpu_never_waits_for_it(changes, tiny_config, tiny_data, tmp_path):
    training = _Training(Run(tmp_path, replace(tiny_config, device="cuda", **changes)), tiny_data, (), None)
    training._train_epoch(1)  # first calls set libraries up
    training._begin_epoch()
    training._finite_loss = lambda: 1.0  # the wait at the end of the epoch
    torch.cuda.set_sync_debug_mode("error")
    try:
        training._train_epoch(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_kept_encoders_of_an_attempt_that_was_given_up_are_not_taken_over(tiny_config, tiny_data, tmp_path):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_Training, "_checkpoint", lambda training: None)  # ended before the first one
        pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(1,), progress=interrupted_after(2))
    (left,) = tmp_path.glob("*/encoder-0001.safetensors")
    left.write_bytes(b"of another machine")

    run = pretrain(tiny_config, tiny_data, tmp_path)

    assert not left.exists() and left.name not in run.record["files"]


def test_a_stored_run_is_read_without_the_kept_encoders_that_its_data_could_not_give_again(
    tiny_config, tiny_data, tmp_path
):
    run = pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(1,))
    (run.path / "encoder-0001.safetensors").unlink()

    assert pretrain(tiny_config, dataset_from_record(tiny_data.record()), tmp_path, keep_epochs=(1,)).name == run.name


def test_time_is_estimated_for_a_network_that_has_only_a_head(tiny_config, tiny_data):
    assert estimate_seconds(replace(tiny_config, encoder="pixels", head="linear"), tiny_data) > 0
