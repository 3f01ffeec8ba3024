import json
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from simclr_core.errors import StoreError
from simclr_core.pretrain import PretrainConfig, pretrain
from simclr_core.runs import (
    Run,
    cpu_name,
    find_run,
    pack_array,
    provenance,
    read_json,
    run_name,
    set_aside,
    unpack_array,
    write_atomically,
    write_json,
    writer_lock,
)


def test_run_name_depends_on_every_field_of_the_config_and_on_the_data(tiny_config):
    from dataclasses import fields

    other = {"dataset": "b", "images": (0, 99), "encoder": "resnet18", "width": 0.5, "stem": "imagenet",
             "init": "imagenet", "objective": "none", "augmentation": "r2", "strength": 1.0, "head": "linear",
             "head_hidden": 7, "head_dim": 7, "temperature": 0.1, "batch_size": 31, "epochs": 4, "optimizer": "sgd",
             "lr": 0.1, "weight_decay": 0.1, "momentum": 0.8, "schedule": "cosine", "warmup_epochs": 1.0,
             "micro_batch": 8, "batch_norm": "per_view", "precision": "bf16", "device": "cuda", "seed": 1}  # fmt: skip
    assert set(other) == {field.name for field in fields(PretrainConfig)}
    names = {run_name(replace(tiny_config, **{field: value}), "f") for field, value in other.items()}
    assert len(names | {run_name(tiny_config, "f"), run_name(tiny_config, "g")}) == len(other) + 2


@pytest.mark.parametrize("file", ["config.json", "history.csv", "encoder.safetensors", "provenance.json"])
def test_damaged_run_is_named_set_aside_and_trained_again(file, tiny_config, tiny_data, tmp_path, capsys):
    run = pretrain(tiny_config, tiny_data, tmp_path)
    content = bytearray((run.path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (run.path / file).write_bytes(content)
    assert find_run(tiny_config, tiny_data.fingerprint, tmp_path) is None and run.path.is_dir()
    assert find_run(tiny_config, tiny_data.fingerprint, tmp_path, mend=True) is None
    assert file in (message := capsys.readouterr().err) and "set aside as" in message
    assert (tmp_path / f"{run.name}.damaged").is_dir()
    assert pretrain(tiny_config, tiny_data, tmp_path).losses == pretrain(tiny_config, tiny_data, tmp_path / "b").losses


def test_evaluation_is_computed_once_and_again_when_damaged(tiny_config, tiny_data, tmp_path, capsys):
    run, calls = pretrain(tiny_config, tiny_data, tmp_path), []

    def compute():
        calls.append(1)
        return {"accuracy": 0.5}

    for _ in range(2):
        assert run.evaluation("probe", {"k": 1}, tiny_data, compute) == {"accuracy": 0.5}
    assert run.evaluation("probe", {"k": 2}, tiny_data, compute) == {"accuracy": 0.5}
    assert len(calls) == 2
    path = next(run.path.glob("probe-*.json"))
    path.write_text(path.read_text().replace("0.5", "0.9"))
    for k in (1, 2):
        assert run.evaluation("probe", {"k": k}, tiny_data, compute) == {"accuracy": 0.5}
    assert len(calls) == 3 and "checksum" in capsys.readouterr().err


def test_missing_weights_are_named_only_when_needed(tiny_config, tiny_data, tmp_path):
    run = pretrain(tiny_config, tiny_data, tmp_path)
    (run.path / "encoder.safetensors").unlink()
    found = find_run(tiny_config, tiny_data.fingerprint, tmp_path)
    assert len(found.losses) == 3
    with pytest.raises(StoreError, match=r"encoder.safetensors is not here"):
        found.load_encoder()


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


def test_pictures_survive_packing():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(unpack_array(pack_array(array)), array)


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
    assert entered.is_set() and "another process is at work on this run" in capsys.readouterr().err


def test_lock_of_a_dead_process_is_taken_over(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from simclr_core.runs import writer_lock\n"
        "with writer_lock(Path(sys.argv[1]), 'run'): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    with writer_lock(tmp_path, "run"):
        pass


def test_two_processes_on_one_store_train_once(tiny_config, tiny_data, tmp_path):
    events = []
    threads = [threading.Thread(target=pretrain, args=(tiny_config, tiny_data, tmp_path, (), events.append))
               for _ in range(2)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event["epoch"] for event in events] == [1, 2, 3]


TWO_AT_WORK = """
import pickle, sys, time
from simclr_core import evaluate
from simclr_core.evaluate import ProbeConfig, fit_probe
from simclr_core.pretrain import pretrain

config, data = pickle.load(open(sys.argv[2], "rb"))
real = evaluate._fit_probe

def slow_probe(*given):
    print("probing", flush=True)
    time.sleep(2)
    return real(*given)

evaluate._fit_probe = slow_probe
print("ready", flush=True)
sys.stdin.readline()
run = pretrain(config, data, sys.argv[1], progress=lambda event: print("epoch", event["epoch"], flush=True))
print("accuracy", fit_probe(run, data, ProbeConfig((0, 100), epochs=2))["accuracies"])
"""


def test_two_processes_on_one_store_train_and_evaluate_once(tiny_config, tiny_data, tmp_path):
    import pickle

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
    lines = [text.splitlines() for text in said]
    assert sorted(line for each in lines for line in each if "epoch" in line) == ["epoch 1", "epoch 2", "epoch 3"]
    assert sum(each.count("probing") for each in lines) == 1
    assert lines[0][-1] == lines[1][-1] and lines[0][-1].startswith("accuracy [")
    assert "another process is at work on this run; waiting for it" in "".join(errors)
    assert len(list((tmp_path / "runs").glob("*/probe-*.json"))) == 1


def test_run_name_follows_the_recipe_behind_the_augmentations_name(tiny_config, monkeypatch):
    from dataclasses import replace

    from simclr_core.augment import VIEW_RECIPES

    before = run_name(tiny_config, "f")
    monkeypatch.setitem(VIEW_RECIPES, "r2_two_views", replace(VIEW_RECIPES["r2_two_views"], flip_p=0.4))
    assert run_name(tiny_config, "f") != before


def test_what_a_gpu_s_run_says_can_be_told_and_its_encoder_exported_without_one(
    tiny_config, tiny_data, tmp_path, monkeypatch
):
    run = pretrain(tiny_config, tiny_data, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    Run(run.path, replace(run.config, device="cuda")).export_encoder(tmp_path / "encoder.safetensors")

    assert (tmp_path / "encoder.safetensors").is_file()
    assert provenance("cuda")["device"] == cpu_name()


def test_what_another_process_set_aside_meanwhile_is_no_error(tmp_path, capsys):
    set_aside(tmp_path / "gone", "it is damaged")
    assert capsys.readouterr() == ("", "")


def test_a_file_in_the_folder_s_place_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        write_atomically(tmp_path / "file/new", "text")
