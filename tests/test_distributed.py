"""Two and four processes give what one gives: loss, gradient, normalisation, weights, stored run."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from ranks import on_processes, results

from labreport.store import Run, find_run, pretrain
from labreport.store import train as books
from labreport.store.command import LOST, main, read_config
from simclr_core.config import PretrainConfig
from simclr_core.data import Dataset, Split, load_dataset
from simclr_core.errors import UserError
from simclr_core.scale.processes import ALONE, Processes
from simclr_core.scale.training import ScaledTraining
from simclr_core.seeds import generator
from simclr_core.train import Training

CNN = PretrainConfig(dataset="made", images=(0, 32), augmentation="r2_two_views", batch_size=32)
RESNET = replace(CNN, encoder="resnet18", width=0.0625, head="mlp_bn", augmentation="best")


def made(channels: int, side: int = 16) -> Dataset:
    images = torch.randint(0, 256, (300, side, side, channels), generator=torch.Generator().manual_seed(3))
    split = Split(images.to(torch.uint8), torch.arange(300) % 2)
    return Dataset("made", split, split, ("a", "b"), (0.5,) * channels, (0.25,) * channels, "made for the tests")


def scaled(config: PretrainConfig, processes: Processes = ALONE) -> ScaledTraining:
    data = made(1 if config.encoder == "mnist_cnn" else 3)
    kind = partial(ScaledTraining, processes=processes, micro_batch=config.micro_batch)
    return config.training(data, kind)


def one_step(config: PretrainConfig, precision: torch.dtype, processes: Processes = ALONE) -> dict:
    """Loss, gradients, statistics and views of the first step, by the parts of the loop."""
    training = scaled(config, processes)
    networks = {"encoder": training.encoder.to(precision), "head": training.head.to(precision)}
    with training.feed([torch.arange(config.batch_size)]) as fed:
        x = training.views(next(fed), generator=generator(config.seed, "views", 0))
        loss = training.step(*(view.to(precision) for view in x))  # Adam leaves the gradients
    parts = networks.items()
    return {
        "loss": loss,
        "gradients": {f"{k}.{n}": p.grad for k, net in parts for n, p in net.named_parameters()},
        "statistics": {f"{k}.{n}": b for k, net in parts for n, b in net.named_buffers()},
        "views": (training.share.rows, torch.stack(x, 1)),
    }


def relative_errors(ours: dict, theirs: dict) -> dict[str, float]:
    assert ours.keys() == theirs.keys()
    pairs = {key: (ours[key].double(), theirs[key].double()) for key in theirs}
    return {key: ((a - b).norm() / b.norm().clamp_min(1e-9)).item() for key, (a, b) in pairs.items()}


STEPS = {
    "BN-free": (2, CNN),
    "BN-free, tiled loss": (2, replace(CNN, images=(0, 300), batch_size=300)),
    "view 1 the image": (2, replace(CNN, augmentation="r2")),
    "joint": (2, RESNET),
    "joint, four": (4, RESNET),
    "per view": (2, replace(RESNET, batch_norm="per_view")),
    "per view, four": (4, replace(RESNET, batch_norm="per_view")),
    "uneven": (2, replace(RESNET, images=(0, 13), batch_size=13)),
    "uneven, four": (4, replace(CNN, images=(0, 13), batch_size=13)),
    "two processes without an image": (4, replace(RESNET, images=(0, 2), batch_size=2)),
    "gradient caching": (2, replace(CNN, micro_batch=8)),
    "gradient caching, uneven": (2, replace(CNN, images=(0, 29), batch_size=29, micro_batch=7)),
    "gradient caching by chunks with BN": (2, replace(RESNET, micro_batch=8)),
    "by uneven chunks with BN": (2, replace(RESNET, images=(0, 29), batch_size=29, micro_batch=7)),
    "by chunks with BN, per view": (2, replace(RESNET, micro_batch=6, batch_norm="per_view")),
}


IN_FLOAT32 = ("BN-free", "joint, four", "per view", "gradient caching, uneven")  # also in float32


def steps_on(count: int) -> dict[str, dict]:
    """Every step of STEPS for that many processes, as one of them sees it."""
    processes, done = Processes.start(), {}
    for name, (wanted, config) in STEPS.items():
        if wanted == count:
            done[name] = one_step(config, torch.float64, processes)
            if name in IN_FLOAT32:
                done[f"{name}, float32"] = one_step(config, torch.float32, processes)
    if count == 2:
        done["without sync"] = one_step(RESNET, torch.float64, replace(processes, batch_norm_sync=False))
    return done


@pytest.fixture(scope="module")
def several() -> dict[str, list[dict]]:
    """The steps by name, each as seen by every rank."""
    torch.set_num_threads(1)
    seen = [results(count, steps_on, count) for count in (2, 4)]
    return {name: [rank[name] for rank in ranks] for ranks in seen for name in ranks[0]}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_on_several_processes_is_that_of_one(name, several):
    count, config = STEPS[name]
    alone = one_step(config, torch.float64)

    assert len(several[name]) == count
    for rank in several[name]:
        assert rank["loss"].item() == pytest.approx(alone["loss"].item(), abs=1e-12)
        for kind in ("gradients", "statistics"):
            assert max(relative_errors(rank[kind], alone[kind]).values(), default=0) <= 1e-9, kind
    rows = torch.cat([rank["views"][0] for rank in several[name]])
    assert rows.sort().values.tolist() == list(range(config.batch_size))
    torch.testing.assert_close(torch.cat([rank["views"][1] for rank in several[name]]), alone["views"][1][rows])


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_in_float32_a_step_on_several_processes_is_that_of_one_to_1e_5(name, several):
    """Of one in float64 where there is batch normalisation: torch's own, over channels_last images on a CPU, adds up
    one by one in float32 and is off by 3e-5 at 64 images of 16 x 16 pixels. The largest gradients are about 1."""
    config = STEPS[name][1]
    alone = one_step(config, torch.float64 if config.encoder == "resnet18" else torch.float32)

    for rank in several[f"{name}, float32"]:
        assert rank["loss"].item() == pytest.approx(alone["loss"].item(), abs=1e-5)
        for key, gradient in alone["gradients"].items():
            torch.testing.assert_close(rank["gradients"][key], gradient.float(), atol=1e-5, rtol=0)


def test_without_sync_each_process_normalises_by_its_own_images(several):
    alone, (first, second) = one_step(RESNET, torch.float64), several["without sync"]
    assert abs(first["loss"] - alone["loss"]) > 1e-4 and first["loss"] == second["loss"]
    assert relative_errors(first["statistics"], second["statistics"])["encoder.bn1.running_mean"] > 1e-3
    assert max(relative_errors(first["gradients"], second["gradients"]).values()) == 0


def test_without_sync_a_process_with_a_single_image_is_refused_before_a_step():
    config = replace(RESNET, images=(0, 6), batch_size=6)
    scaled(config, Processes(0, 3, False)).share_of(6)
    with pytest.raises(UserError, match="4 processes .* need two images each at every step, one would get 1"):
        scaled(config, Processes(0, 4, False)).share_of(6)


# ---- whole runs -------------------------------------------------------------------------------------------

# SGD: Adam would make whole steps of a gradient that is zero but for rounding (a bias before batch normalisation).
RUN = PretrainConfig(dataset="digits", images=(0, 141), augmentation="digits", head="mlp_bn", batch_size=32, epochs=2,
                     optimizer="sgd", lr=0.05)  # fmt: skip


def config_file(folder: Path, config: PretrainConfig = RUN) -> str:
    path = folder / "run.json"
    path.write_text(json.dumps(config.record()))
    return str(path)


def command(arguments: list[str], dies: tuple[int, int] | None = None, checkpoint_seconds: float = 0.0) -> dict | int:
    """The command as one rank runs it; returns the network's state at its end. `dies`: rank and step of a SIGKILL."""
    steps, trained, real = [0], [], Training.step

    def step(training, *views):
        if (int(os.environ.get("RANK", 0)), steps[0]) == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        steps[0] += 1
        trained[:] = [training]
        return real(training, *views)

    books.CHECKPOINT_SECONDS = checkpoint_seconds
    Training.step = step
    status = main(arguments)
    return status or ({"steps": steps[0], **trained[0].encoder.state_dict()} if trained else {"steps": 0})


def stored(folder: Path, config: PretrainConfig = RUN) -> Run:
    return find_run(config, load_dataset("digits"), folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Run:
    return pretrain(RUN, load_dataset("digits"), tmp_path_factory.mktemp("alone"))


def assert_near(run: Run, other: Run) -> None:
    assert run.name == other.name and run.losses == pytest.approx(other.losses, abs=1e-4)
    ours, theirs = run.load_encoder().state_dict(), other.load_encoder().state_dict()
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], atol=1e-4, rtol=0)


@pytest.mark.parametrize("count", [2, 4])
def test_a_run_on_several_processes_is_stored_as_the_same_run(count, alone, tmp_path):
    arguments = ["--config", config_file(tmp_path), "--store", str(tmp_path / "store"), "--keep-epochs", "1"]
    ended = on_processes(count, command, arguments)
    assert [end.status for end in ended] == [0] * count
    said = [end.said for end in ended]
    assert said[0].startswith("epoch 1 of 2: loss 3.") and said[1:] == [""] * (count - 1)
    first, *others = (end.result for end in ended)
    assert all(torch.equal(state[key], first[key]) for state in others for key in first if key != "steps")

    run = stored(tmp_path / "store")
    assert_near(run, alone)
    assert run.record["processes"] == [{"count": count, "batch_norm_sync": True}]
    assert alone.record["processes"] == [{"count": 1, "batch_norm_sync": True}]
    assert all(torch.equal(run.load_encoder().state_dict()[key], first[key]) for key in first if key != "steps")
    assert (run.path / "encoder-0001.safetensors").is_file()
    assert not (run.path / "checkpoint.pt").exists() and not list(tmp_path.rglob("*.tmp"))
    again = results(count, command, arguments)
    assert [result["steps"] for result in again] == [0] * count


@pytest.mark.parametrize("dying", [0, 1])
def test_a_run_whose_process_is_killed_ends_quietly_and_goes_on_with_another_number(dying, alone, tmp_path):
    arguments = ["--config", config_file(tmp_path), "--store", str(tmp_path / "store"), "--no-batch-norm-sync"]
    ended = on_processes(2, command, arguments[:-1], (dying, 7))  # in the second epoch of five steps
    assert [end.status for end in ended] == ([-signal.SIGKILL, LOST] if dying == 0 else [LOST, -signal.SIGKILL])
    assert "error" not in "".join(end.said for end in ended).lower()
    assert stored(tmp_path / "store") is None

    count = 4 if dying == 0 else 1
    resumed = on_processes(count, command, arguments[:-1])
    assert [end.status for end in resumed] == [0] * count, resumed[0].said
    assert "resumed after epoch 1 of 2 and" in resumed[0].said
    assert resumed[0].result["steps"] <= 4  # of ten in all, and none was lost but the one under way
    run = stored(tmp_path / "store")
    assert_near(run, alone)
    assert [part["count"] for part in run.record["processes"]] == [2, count]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_two_gpus_give_what_one_gives(tmp_path):
    config = replace(RUN, device="cuda")
    one = pretrain(config, load_dataset("digits"), tmp_path / "one")
    arguments = ["--config", config_file(tmp_path, config), "--store", str(tmp_path / "two")]
    results(2, command, arguments)
    assert stored(tmp_path / "two", config).losses == pytest.approx(one.losses, abs=1e-3)


def test_a_run_without_sync_says_so_in_its_provenance(alone, tmp_path):
    arguments = ["--config", config_file(tmp_path), "--store", str(tmp_path / "store"), "--no-batch-norm-sync"]
    results(2, command, arguments)
    run = stored(tmp_path / "store")
    assert run.record["processes"] == [{"count": 2, "batch_norm_sync": False}]
    assert run.name == alone.name and run.losses != pytest.approx(alone.losses, abs=1e-4)


# ---- the command ------------------------------------------------------------------------------------------


def test_the_command_alone_trains_the_run_that_pretrain_would(alone, tmp_path, capsys):
    assert main(["--config", config_file(tmp_path), "--store", str(tmp_path / "store")]) == 0
    *epochs, path = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in epochs] == ["epoch 1 of 2", "epoch 2 of 2"]
    run = stored(tmp_path / "store")
    assert str(run.path) == path and run.losses == alone.losses
    assert run.record["files"]["encoder.safetensors"] == alone.record["files"]["encoder.safetensors"]
    assert read_config(run.path / "config.json") == RUN


def test_events_are_one_json_object_a_line(tmp_path, capsys):
    main(["--config", config_file(tmp_path), "--store", str(tmp_path / "store"), "--events"])
    *events, _ = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["epoch"] for line in events] == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "run.json cannot be read as JSON: No such file or directory"),
        ("{", "run.json cannot be read as JSON: Expecting property name"),
        ("[1]", "run.json must hold one JSON object"),
        ('{"dataset": "digits"}', "run.json: images must be given"),
        ('{"dataset": "digits", "images": [0, 9], "epoch": 3}', "run.json: unknown field epoch; known are dataset,"),
        ('{"dataset": "digits", "images": [0, 9], "epochs": "3"}', "run.json: epochs is '3', expected"),
        ('{"dataset": "digits", "images": [0, 9], "lr": -1, "batch_size": 2}', "run.json: lr must be positive"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_one_line_before_any_process_is_started(text, message, tmp_path, capsys):
    if text:
        (tmp_path / "run.json").write_text(text)
    words = ["--config", str(tmp_path / "run.json"), "--store", str(tmp_path / "store")]
    for processes in ("1", "2"):
        assert main([*words, "--processes", processes]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "checkpoint_seconds", "message"),
    [
        ({"dataset": "digitz"}, 0, "unknown data set 'digitz'"),
        ({"images": (0, 2000)}, 0, "images (0, 2000) reach past the 1,500"),
        ({"lr": 1e30}, 0, "the loss is nan by step 2 of epoch 1"),  # seen by the leader alone
        ({"lr": 1e30}, 30, "the loss is nan by step 5 of epoch 1"),  # by all of them
    ],
)
def test_what_a_run_cannot_be_trained_for_is_said_once(changes, checkpoint_seconds, message, tmp_path):
    words = ["--config", config_file(tmp_path, replace(RUN, **changes)), "--store", str(tmp_path / "store")]
    first, second = on_processes(2, command, words, None, checkpoint_seconds)
    assert (first.status, second.status, second.said) == (2, LOST, "")
    assert first.said.startswith("error: ") and message in first.said and first.said.count("\n") == 1


def test_one_process_is_what_stands_alone():
    assert Processes.start() == ALONE and Processes.start(False) == ALONE


@pytest.mark.slow
def test_killing_one_of_the_launched_processes_ends_all_with_one_line_and_the_command_goes_on(tmp_path):
    words = [sys.executable, "-m", "labreport.store", "--config", config_file(tmp_path, replace(RUN, epochs=100)),
             "--store", str(tmp_path / "store"), "--processes", "2"]  # fmt: skip
    launched = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert launched.stdout.readline().startswith("epoch 1 of 100")
    (second,) = (pid for pid in children(launched.pid) if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(second, signal.SIGKILL)
    _, errors = launched.communicate(timeout=60)
    assert launched.returncode == 1
    assert errors == ("error: process 1 of 2 was ended by SIGKILL, and so did the run; the same command goes on from "
                      "its last checkpoint\n")  # fmt: skip


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_nothing_goes_on_when_torchrun_itself_is_killed(tmp_path):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m",
             "labreport.store", "--config", config_file(tmp_path, replace(RUN, epochs=1000)), "--store",
             str(tmp_path)]  # fmt: skip
    launched = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert launched.stdout.readline().startswith("epoch 1 of 1000")
    workers = children(launched.pid)
    assert len(workers) == 2
    launched.kill()
    launched.communicate()  # reads to the end: until every holder of the pipe is gone
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
