"""Run folders: names, checks, locks; and the files beneath (simclr_core.data.files)."""

import json
import pickle
import subprocess
import sys
import threading
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from labreport.measure import fit_probe
from labreport.store import Run, evaluation, find_run, pretrain
from labreport.store.files import read_json, write_json
from labreport.store.identity import run_name
from labreport.store.packed import pack_arrays, unpack_arrays
from labreport.store.provenance import cpu_name, provenance
from labreport.store.runs import writer_lock
from simclr_core.augment import VIEW_RECIPES
from simclr_core.config import PretrainConfig
from simclr_core.data.files import set_aside, write_atomically
from simclr_core.errors import StoreError
from simclr_core.evaluate import ProbeConfig

OTHER = {
    "dataset": "b", "images": (0, 99), "encoder": "resnet18", "width": 0.5, "stem": "imagenet",
    "init": "imagenet", "objective": "none", "augmentation": "r2", "strength": 1.0,
    "head": "linear", "head_hidden": 7, "head_dim": 7, "temperature": 0.1, "batch_size": 31,
    "epochs": 4, "optimizer": "sgd", "lr": 0.1, "weight_decay": 0.1, "momentum": 0.8,
    "schedule": "cosine", "warmup_epochs": 1.0, "micro_batch": 8, "batch_norm": "per_view",
    "precision": "bf16", "device": "cuda", "seed": 1,
}  # fmt: skip


def test_a_name_depends_on_every_field_and_on_pixels_labels_mean_and_std(
    tiny_config, tiny_data, monkeypatch
):
    assert OTHER.keys() == {field.name for field in fields(PretrainConfig)} - {"own"}
    names = {run_name(replace(tiny_config, **{k: v}), tiny_data) for k, v in OTHER.items()}
    train = tiny_data.train
    for change in (
        {"mean": (0.31,)}, {"std": (0.26,)}, {"train": replace(train, images=train.images + 1)},
        {"test": replace(tiny_data.test, labels=tiny_data.test.labels.roll(1))},
    ):  # fmt: skip
        names.add(run_name(tiny_config, replace(tiny_data, **change)))
    none = replace(tiny_config, objective="none")  # fine-tuned, it depends on the precision
    names.add(run_name(replace(none, precision="bf16"), tiny_data))
    first = run_name(tiny_config, tiny_data)
    monkeypatch.setitem(VIEW_RECIPES, "r2_two_views", replace(VIEW_RECIPES["r2"], flip_p=0.4))
    names |= {first, run_name(tiny_config, tiny_data)}
    assert len(names) == len(OTHER) + 7


def test_one_and_one_point_zero_are_one_run(tiny_config, tiny_data):
    one = {"width": 1, "lr": 1, "epochs": 4.0, "images": [0, 100.0], "warmup_epochs": 2}
    same = {"width": 1.0, "lr": 1.0, "epochs": 4, "images": (0, 100), "warmup_epochs": 2.0}
    first, second = (run_name(replace(tiny_config, **given), tiny_data) for given in (one, same))
    assert first == second


@pytest.mark.parametrize("file", ["config.json", "history.csv", "encoder.safetensors",
                                  "encoder-0001.safetensors", "provenance.json"])  # fmt: skip
def test_damaged_run_is_named_set_aside_and_trained_again(file, run, tiny_data, tmp_path, capsys):
    losses = run.losses
    content = bytearray((run.path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (run.path / file).write_bytes(content)
    assert find_run(run.config, tiny_data, tmp_path) is None and run.path.is_dir()
    assert pretrain(run.config, tiny_data, tmp_path).losses == losses
    assert file in (said := capsys.readouterr().err) and "set aside as" in said
    assert (tmp_path / f"{run.name}.damaged").is_dir()


@pytest.mark.parametrize("file", ["config.json", "history.csv", "encoder.safetensors",
                                  "projection_head.safetensors", "provenance.json"])  # fmt: skip
def test_a_whole_file_of_another_run_is_never_taken(file, run, tiny_data, tmp_path, capsys):
    other = pretrain(replace(run.config, seed=1), tiny_data, tmp_path)
    losses = run.losses
    (run.path / file).write_bytes((other.path / file).read_bytes())
    assert find_run(run.config, tiny_data, tmp_path) is None
    assert pretrain(run.config, tiny_data, tmp_path).losses == losses
    assert file in capsys.readouterr().err


def test_evaluation_is_computed_once_and_again_when_damaged_or_another_runs(
    run, tiny_data, tmp_path, capsys
):
    calls = []

    def compute():
        calls.append(1)
        return {"accuracy": 0.5, "pictures": np.arange(4, dtype=np.uint8)}

    def ask(k, of=run):
        return evaluation(of, tiny_data, "probe", {"k": k}, compute)

    assert [ask(k)["accuracy"] for k in (1, 1, 2)] == [0.5] * 3 and len(calls) == 2
    assert ask(1)["pictures"].tolist() == [0, 1, 2, 3]
    path = next(run.path.glob("probe-*.json"))
    path.write_text(path.read_text().replace("0.5", "0.9"))
    assert [ask(k)["accuracy"] for k in (1, 2)] == [0.5] * 2 and len(calls) == 3
    assert "checksum" in capsys.readouterr().err
    other = pretrain(replace(run.config, seed=1), tiny_data, tmp_path)
    (other.path / path.name).write_bytes(path.read_bytes())
    assert ask(read_json(path)["config"]["k"], other)["accuracy"] == 0.5 and len(calls) == 4
    assert f"is of another run than {other.name}'s" in capsys.readouterr().err


def test_an_evaluation_on_other_data_than_the_runs_is_refused(run, tiny_data):
    other = replace(
        tiny_data, train=replace(tiny_data.train, images=tiny_data.train.images.flip(0))
    )
    with pytest.raises(StoreError, match="was made with other data"):
        fit_probe(run, other, ProbeConfig((0, 50)))


def test_weights_that_did_not_come_are_named_and_an_evaluation_makes_them_again(
    run, tiny_config, tiny_data, tmp_path
):
    probe = ProbeConfig((0, 50), epochs=1)
    before = fit_probe(run, tiny_data, probe)
    for path in run.path.glob("*.safetensors"):
        path.unlink()
    found = find_run(tiny_config, tiny_data, tmp_path)
    assert len(found.losses) == 3 and fit_probe(found, tiny_data, probe) == before
    with pytest.raises(StoreError, match=r"encoder.safetensors is not here"):
        found.load_encoder()
    for epoch in (None, 1):
        assert fit_probe(found, tiny_data, replace(probe, seed=1, epoch=epoch))["losses"]
        assert found.load_encoder(epoch)


def test_a_run_of_a_gpu_can_be_told_and_its_encoder_exported_without_one(
    run, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    exported = tmp_path / "encoder.safetensors"
    Run(run.path, replace(run.config, device="cuda")).export_encoder(exported)
    assert exported.is_file() and provenance("cuda")["device"] == cpu_name()


# ---- files --------------------------------------------------------------------------------------


def test_json_refuses_nan_and_changed_content(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"value": float("nan")})
    write_json(path, {"value": 1})
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "value": 2}))
    with pytest.raises(StoreError, match="checksum does not fit"):
        read_json(path)


def test_write_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(source, target):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(StoreError, match="cannot write .*file: Input/output error"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(StoreError, match="cannot write"):
        write_atomically(path / "in a file's place", "text")


def test_pictures_survive_packing_and_the_rest_is_left_alone():
    result = {"a": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "b": {"shape": [1]}, "c": 0.5}
    packed = json.loads(json.dumps(pack_arrays(result)))
    array = unpack_arrays(packed).pop("a")
    assert np.array_equal(array, result["a"]) and packed["b"] == {"shape": [1]}


def test_what_another_process_set_aside_meanwhile_is_no_error(tmp_path, capsys):
    set_aside(tmp_path / "gone", "it is damaged")
    assert capsys.readouterr() == ("", "")


# ---- two at work --------------------------------------------------------------------------------


def test_live_writer_is_waited_for_with_a_line_that_says_so(tmp_path, capsys):
    entered = threading.Event()

    def second():
        with writer_lock(tmp_path, "run"):
            entered.set()

    with writer_lock(tmp_path, "run"):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
    thread.join(5)
    assert entered.is_set() and "another process is at work on this" in capsys.readouterr().err


def test_lock_of_a_dead_process_is_taken_over(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from labreport.store.runs import writer_lock\n"
        "with writer_lock(Path(sys.argv[1]), 'run'): os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == 9
    with writer_lock(tmp_path, "run"):
        pass


TWO_AT_WORK = """
import pickle, sys, time
from labreport.measure import fit_probe
from labreport.store import pretrain
from simclr_core import evaluate
from simclr_core.evaluate import ProbeConfig

config, data = pickle.load(open(sys.argv[2], "rb"))
real = evaluate.fit_probe

def slow_probe(*given):
    print("probing", flush=True)
    time.sleep(2)
    return real(*given)

evaluate.fit_probe = slow_probe
print("ready", flush=True)
sys.stdin.readline()
say = lambda event: print("epoch", event["epoch"], flush=True)
run = pretrain(config, data, sys.argv[1], progress=say)
print("accuracy", fit_probe(run, data, ProbeConfig((0, 100), epochs=2))["accuracies"])
"""


def test_two_processes_on_one_store_train_and_evaluate_once(tiny_config, tiny_data, tmp_path):
    (tmp_path / "given").write_bytes(pickle.dumps((tiny_config, tiny_data)))
    command = [sys.executable, "-c", TWO_AT_WORK, str(tmp_path / "runs"), str(tmp_path / "given")]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    workers = [subprocess.Popen(command, **pipes, text=True) for _ in range(2)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n", worker.stderr.read()
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    said, errors = zip(*(worker.communicate() for worker in workers), strict=True)
    assert [worker.returncode for worker in workers] == [0, 0], errors
    lines = [line for text in said for line in text.splitlines()]
    assert sorted(line for line in lines if "epoch" in line) == ["epoch 1", "epoch 2", "epoch 3"]
    assert lines.count("probing") == 1
    assert len({line for line in lines if line.startswith("accuracy [")}) == 1
    assert "another process is at work on this run; waiting for it" in "".join(errors)
    assert len(list((tmp_path / "runs").glob("*/probe-*.json"))) == 1
