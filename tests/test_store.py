"""`pretrain`: stored, found again, resumed to the bit, never mistaken for another."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from cut import cut_after

from labreport.measure import fit_probe
from labreport.store import find_run, pretrain
from labreport.store import train as books
from labreport.store.files import read_json, write_json
from labreport.store.identity import run_name
from labreport.store.recorded import dataset_from_record
from simclr_core.augment import ViewRecipe, make_views
from simclr_core.config import Own, PretrainConfig
from simclr_core.data import load_dataset
from simclr_core.data.files import read_checksummed
from simclr_core.errors import DataNotFound, StoreError, UserError
from simclr_core.evaluate import ProbeConfig
from simclr_core.loss import nt_xent_loss


def weights(run, epoch=None) -> dict:
    return run.load_encoder(epoch).state_dict()


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def same_numbers(run, other, *epochs) -> bool:
    heads = (one.load_projection_head().state_dict() for one in (run, other))
    kept = all(equal(weights(run, epoch), weights(other, epoch)) for epoch in (None, *epochs))
    return run.losses == other.losses and kept and equal(*heads)


def stop_after(epoch: int):
    """A progress callback that stops the training after that epoch."""

    def progress(event):
        if event["epoch"] == epoch:
            raise KeyboardInterrupt

    return progress


@pytest.fixture
def eager(monkeypatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr(books, "CHECKPOINT_SECONDS", 0.0)


def test_run_is_stored_found_again_and_announces_its_epochs(tiny_config, tiny_data, tmp_path):
    events = []
    run = pretrain(tiny_config, tiny_data, tmp_path, progress=events.append)
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert [event["epoch"] for event in events] == [1, 2, 3] and events[-1]["seconds_left"] == 0
    assert run.losses[-1] < run.losses[0] - 0.05
    assert run.name.startswith("tiny-mnist_cnn-r2_two_views-mlp_no_bn-")
    again = pretrain(tiny_config, tiny_data, tmp_path, progress=events.append)
    assert len(events) == 3 and again.history == run.history
    assert sorted(p.name for p in run.path.iterdir()) == [
        "config.json", "encoder.safetensors", "history.csv", "projection_head.safetensors",
        "provenance.json",
    ]  # fmt: skip


# ---- resumed ------------------------------------------------------------------------------------


CHANGES = [
    {"optimizer": "sgd", "schedule": "cosine", "warmup_epochs": 1.0},
    {"optimizer": "lars", "head": "mlp_bn", "batch_norm": "per_view"},
    {"optimizer": "adamw", "micro_batch": 8},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: changes["optimizer"])
@pytest.mark.parametrize("steps", [1, 4, 6, 7])  # of four steps an epoch
def test_a_run_cut_off_goes_on_at_the_next_step_to_the_same_bits(
    steps, changes, tiny_config, tiny_data, tmp_path, monkeypatch
):
    config = replace(tiny_config, **changes)
    whole = pretrain(config, tiny_data, tmp_path / "whole", keep_epochs=(1, 2))
    left = cut_after(monkeypatch, steps)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tiny_data, tmp_path / "cut", keep_epochs=(1, 2))
    assert find_run(config, tiny_data, tmp_path / "cut") is None
    left[0] = 100
    resumed = pretrain(config, tiny_data, tmp_path / "cut", keep_epochs=(1, 2))
    assert 100 - left[0] == 3 * 4 - steps  # none is taken twice
    assert same_numbers(resumed, whole, 1, 2)


CHILD = """
import sys, torch
from labreport.store import pretrain, train
from simclr_core.config import PretrainConfig
from simclr_core.data import load_dataset
torch.set_num_threads(1)
train.CHECKPOINT_SECONDS = 0.0
config = PretrainConfig("digits", (0, 600), augmentation="digits", batch_size=64, epochs=6)
pretrain(config, load_dataset("digits"), sys.argv[1],
         progress=lambda e: print(e["epoch"], flush=True))
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_then_the_same_command_gives_the_same_run(tmp_path):
    def start(store):
        words = [sys.executable, "-c", CHILD, str(store)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    child = start(tmp_path / "killed")
    assert child.stdout.readline() == "1\n" and child.stdout.readline() == "2\n"
    time.sleep(0.05)  # somewhere in epoch 3
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    child = start(tmp_path / "killed")
    assert "resumed" in child.communicate()[0] and child.returncode == 0
    start(tmp_path / "whole").communicate()
    config = PretrainConfig("digits", (0, 600), augmentation="digits", batch_size=64, epochs=6)
    data = load_dataset("digits")
    assert same_numbers(*(find_run(config, data, tmp_path / name) for name in ("killed", "whole")))


def test_who_stops_a_run_after_an_epoch_loses_nothing(tiny_config, tiny_data, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):  # within CHECKPOINT_SECONDS
        pretrain(tiny_config, tiny_data, tmp_path, progress=stop_after(2))
    pretrain(tiny_config, tiny_data, tmp_path)
    assert "resumed after epoch 2 of 3" in capsys.readouterr().out


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", ["rubbish", "another run's", "other code's"])
def test_a_checkpoint_of_no_use_is_set_aside_and_training_starts_anew(
    kind, tiny_config, tiny_data, tmp_path, monkeypatch, capsys
):
    config = replace(tiny_config, seed=1) if kind == "another run's" else tiny_config
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if kind == "other code's":
            patch.setattr(books, "training_code", lambda *_: {"simclr_core.loss": "0" * 12})
        pretrain(config, tiny_data, tmp_path, progress=stop_after(2))
    (path,) = tmp_path.glob("*/checkpoint.pt")
    folder = tmp_path / run_name(tiny_config, tiny_data)
    folder.mkdir(exist_ok=True)
    path = path.rename(folder / path.name)
    if kind == "rubbish":
        path.write_bytes(b"rubbish")
    run = pretrain(tiny_config, tiny_data, tmp_path)
    said = "is damaged" if kind == "rubbish" else "is of tiny-mnist_cnn"
    assert f"checkpoint.pt {said}" in capsys.readouterr().err
    assert (folder / "checkpoint.pt.damaged").is_file()
    assert same_numbers(run, pretrain(tiny_config, tiny_data, tmp_path / "clean"))


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    tiny_config, tiny_data, tmp_path, monkeypatch
):
    left = cut_after(monkeypatch, 6)
    with monkeypatch.context() as patch:
        patch.setattr(PretrainConfig, "training", _with_a_loss_that_ends(6))
        said = "tiny-.*: the loss is nan by step 3 of epoch 2 at learning rate 0.001"
        left[0] = 100
        with pytest.raises(UserError, match=said):
            pretrain(tiny_config, tiny_data, tmp_path)
    (path,) = tmp_path.glob("*/checkpoint.pt")
    state = books.load_state(read_checksummed(path), "cpu")
    assert state["training"]["steps_done"] == 6
    assert same_numbers(*(pretrain(tiny_config, tiny_data, tmp_path / n) for n in ("", "clean")))


def _with_a_loss_that_ends(steps: int):
    real = PretrainConfig.training

    def training(config, *given):
        made = real(config, *given)
        loss, made.loss = (
            made.loss,
            lambda *z: loss(*z) * (1 if made.steps_done < steps else torch.nan),
        )
        return made

    return training


# ---- kept epochs --------------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
def test_a_finished_run_is_trained_again_in_place_for_kept_epochs_even_if_killed_meanwhile(
    tiny_config, tiny_data, tmp_path
):
    """To the same numbers; evaluations stay, and what was kept before is kept again."""
    run, probe = pretrain(tiny_config, tiny_data, tmp_path, (2,)), ProbeConfig((0, 50), epochs=1)
    found, before = fit_probe(run, tiny_data, probe), weights(run)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny_config, tiny_data, tmp_path, (1,), stop_after(2))
    seen = []
    again = pretrain(tiny_config, tiny_data, tmp_path, (1,), seen.append)
    assert [event["epoch"] for event in seen] == [3] and not list(tmp_path.glob("*.damaged*"))
    assert equal(weights(again), before) and fit_probe(again, tiny_data, probe) == found
    assert same_numbers(again, pretrain(tiny_config, tiny_data, tmp_path / "b", (1,)), 1)
    (again.path / "encoder-0001.safetensors").unlink()
    (
        again.path / "encoder.safetensors"
    ).unlink()  # a run that came without weights is taken as it is
    assert pretrain(tiny_config, tiny_data, tmp_path, (1,)).losses == run.losses


def test_kept_encoders_of_an_attempt_that_was_given_up_are_not_taken_over(
    tiny_config, tiny_data, tmp_path
):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(books.Book, "checkpoint", lambda book: None)  # ended before the first one
        pretrain(tiny_config, tiny_data, tmp_path, (1,), stop_after(2))
    (left,) = tmp_path.glob("*/encoder-0001.safetensors")
    left.write_bytes(b"of another machine")
    run = pretrain(tiny_config, tiny_data, tmp_path)
    assert not left.exists() and left.name not in run.record["files"]


def test_epochs_to_keep_beyond_the_run_are_refused_before_training(
    tiny_config, tiny_data, tmp_path
):
    with pytest.raises(UserError, match=r"keep_epochs \[4\] lie outside the 3 epochs"):
        pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(2, 4))
    assert not list(tmp_path.iterdir())


# ---- is it this run, and current? ---------------------------------------------------------------


def test_a_run_by_other_code_is_named_set_aside_and_trained_anew(run, tiny_data, tmp_path, capsys):
    record = run.record
    record["code"]["simclr_core.loss"] = "0" * 12
    write_json(run.path / "provenance.json", record)
    assert find_run(run.config, tiny_data, tmp_path) is None
    recorded = dataset_from_record(tiny_data.record())
    assert find_run(run.config, recorded, tmp_path)  # a report's stored runs: shown as they are
    assert pretrain(run.config, tiny_data, tmp_path).losses == run.losses
    assert f"{run.name}: simclr_core.loss changed since it was trained" in capsys.readouterr().err
    assert (tmp_path / f"{run.name}.damaged").is_dir()


def test_evaluations_by_other_code_or_of_other_weights_are_made_anew(run, tiny_data, capsys):
    probe = ProbeConfig((0, 50), epochs=1)
    found = fit_probe(run, tiny_data, probe)["accuracy"]
    (path,) = run.path.glob("probe-*.json")
    for key, file, said in (
        ("code", "simclr_core.evaluate", "simclr_core.evaluate changed since"),
        ("weights", "encoder.safetensors", "is of another weights than"),
    ):
        content = read_json(path)
        content[key][file] = "0" * 64
        content["result"]["accuracy"] = 7
        write_json(path, content)
        assert fit_probe(run, tiny_data, probe)["accuracy"] == found
        assert said in capsys.readouterr().err


def test_recorded_run_is_found_without_images_and_a_missing_one_is_not_trained(
    run, tiny_config, tiny_data, tmp_path
):
    recorded = dataset_from_record(run.record["data"])
    assert recorded.record() == tiny_data.record()
    (run.path / "encoder-0001.safetensors").unlink()  # could not be made again
    assert pretrain(tiny_config, recorded, tmp_path, keep_epochs=(1,)).losses == run.losses
    missing = replace(tiny_config, seed=5)
    with pytest.raises(DataNotFound, match="stored runs only"):
        pretrain(missing, recorded, tmp_path)
    assert not (tmp_path / run_name(missing, recorded)).exists()


def test_untrained_run_has_initial_weights_whatever_the_training_settings(
    tiny_config, tiny_data, tmp_path
):
    none = replace(tiny_config, objective="none")
    untrained = pretrain(none, tiny_data, tmp_path)
    written = (untrained.path / "provenance.json").stat().st_mtime_ns
    same = pretrain(replace(none, epochs=9, lr=0.5), tiny_data, tmp_path, keep_epochs=(1,))
    assert untrained.path == same.path and untrained.history == []
    assert (untrained.path / "provenance.json").stat().st_mtime_ns == written
    assert equal(weights(untrained), tiny_config.build_encoder((12, 12, 1)).state_dict())


# ---- refused ------------------------------------------------------------------------------------


def test_images_past_the_end_of_the_data_are_refused(tiny_config, tiny_data, tmp_path):
    with pytest.raises(UserError, match=r"\(0, 500\) reach past the 120 training images"):
        pretrain(replace(tiny_config, images=(0, 500)), tiny_data, tmp_path)


def test_weights_that_are_not_finite_are_not_stored(tiny_config, tiny_data, tmp_path):
    one_step = {
        "images": (0, 32),
        "epochs": 1,
        "optimizer": "sgd",
        "lr": 1e30,
        "weight_decay": 1e30,
    }
    with pytest.raises(UserError, match=r"^tiny-.*: weights are not finite after the last step"):
        pretrain(replace(tiny_config, **one_step), tiny_data, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_full_disk_is_one_line_and_leaves_no_half_written_file(
    tiny_config, tiny_data, tmp_path, monkeypatch
):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said = r"cannot write .*config.json: No space left on device; free some space"
    with pytest.raises(StoreError, match=said):
        pretrain(tiny_config, tiny_data, tmp_path)
    monkeypatch.undo()
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert len(pretrain(tiny_config, tiny_data, tmp_path).history) == 3


def test_store_that_cannot_be_written_is_one_line(tiny_config, tiny_data, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"run store .*runs cannot be written"):
        pretrain(tiny_config, tiny_data, tmp_path / "runs")


# ---- parts that the caller wrote ----------------------------------------------------------------

WIDTH = 24
TAU = 0.3
SHIFT = 0.1


def scaled(x):
    return 2 * x


def scaled_otherwise(x):
    return 3 * x


class Encoder(torch.nn.Sequential):
    h_dim = WIDTH

    def __init__(self, channels, side):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(channels * side**2, WIDTH))


def head(h_dim):
    return torch.nn.Linear(h_dim, 8)


def views(images, mean, std, generator, flip_p=0.5):
    x_i, x_j = make_views(images, ViewRecipe(flip_p=flip_p), mean, std, generator)
    return [scaled(x) + SHIFT for x in (x_i, x_j.flip(3))]


def loss(z_i, z_j):
    return scaled(nt_xent_loss(z_i, z_j, TAU))


class Loss:
    def __init__(self, tau):
        self.tau = tau

    def __call__(self, z_i, z_j):
        return nt_xent_loss(z_i, z_j, self.tau)


OWN = Own(encoder=Encoder, head=head, views=views, loss=loss)


def test_own_encoder_head_views_and_loss_are_stored_resumed_and_evaluated(
    tiny_config, tiny_data, tmp_path, monkeypatch
):
    config = replace(tiny_config, own=OWN)
    whole = pretrain(config, tiny_data, tmp_path / "whole", keep_epochs=(1,))
    left = cut_after(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tiny_data, tmp_path / "cut", keep_epochs=(1,))
    left[0] = 100
    assert same_numbers(pretrain(config, tiny_data, tmp_path / "cut", keep_epochs=(1,)), whole, 1)
    assert 100 - left[0] == 6 and find_run(config, tiny_data, tmp_path / "cut")
    assert isinstance(whole.load_encoder(), Encoder) and whole.losses[0] > 5  # twice NT-Xent
    probe = ProbeConfig((0, 100), epochs=20, lr=0.01, on="z")
    assert fit_probe(whole, tiny_data, probe)["accuracy"] > 0.5


def test_the_source_of_own_parts_of_their_helpers_and_constants_is_part_of_the_name(
    tiny_config, tiny_data, monkeypatch
):
    def name(**parts):
        return run_name(replace(tiny_config, own=replace(OWN, **parts)), tiny_data)

    first, module = name(), sys.modules[__name__]
    changes = {"head": None, "encoder": None, "loss": scaled, "views": ViewRecipe(flip_p=0.5)}
    names = {name(**{part.strip(): value}) for part, value in changes.items()}
    for constant, value in {
        "TAU": 0.4,
        "WIDTH": 25,
        "SHIFT": 0.2,
        "scaled": scaled_otherwise,
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, constant, value)
            names.add(name())
    names |= {name(loss=Loss(0.1)), name(loss=Loss(0.2)), name(loss=partial(loss, p=2))}
    assert len(names | {first, run_name(tiny_config, tiny_data)}) == len(changes) + 4 + 3 + 2
    assert name() == first


def test_a_part_whose_source_cannot_be_read_is_refused(tiny_config, tiny_data, tmp_path):
    own = Own(head=eval("lambda h_dim: None"))
    with pytest.raises(UserError, match="the source of <lambda> cannot be read, and it is part"):
        pretrain(replace(tiny_config, own=own), tiny_data, tmp_path)


def test_an_own_recipe_of_todays_numbers_is_another_run_when_they_change(tiny_config, tiny_data):
    names = {run_name(replace(tiny_config, own=Own(views=ViewRecipe(flip_p=p))), tiny_data)
             for p in (0.5, 0.25, 0.5)}  # fmt: skip
    assert len(names) == 2
    assert re.fullmatch(r"tiny-mnist_cnn-.*-mlp_no_bn-[0-9a-f]{12}", names.pop())
