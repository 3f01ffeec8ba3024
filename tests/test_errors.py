"""Memory that runs out: one line with the batch size and what to try."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from cut import cut_after

from labreport import measure
from labreport.measure import fine_tune, fit_probe, knn
from labreport.run.cost import estimate_seconds
from labreport.store import pretrain
from simclr_core import evaluate
from simclr_core.errors import UserError, enough_memory
from simclr_core.evaluate import ProbeConfig

CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
GPU = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has 1 …")
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize(
    "error", [CPU, GPU, CUBLAS, MemoryError()], ids=["cpu", "cuda", "cublas", "python"]
)
def test_memory_that_runs_out_in_pre_training_is_one_line_and_keeps_the_checkpoint(
    error, tiny_config, tiny_data, tmp_path, monkeypatch
):
    left = cut_after(monkeypatch, 6, error)
    with pytest.raises(UserError) as raised:
        pretrain(tiny_config, tiny_data, tmp_path)
    said = str(raised.value)
    assert "pre-training tiny-mnist_cnn-r2_two_views-mlp_no_bn on cpu with batch_size 32" in said
    assert "try micro_batch 8" in said and "a smaller width than 1" in said and "\n" not in said
    with pytest.raises(
        UserError, match="batch_size 32, the activations of 4 images at once; try micro_batch 2 "
    ):
        pretrain(replace(tiny_config, micro_batch=4), tiny_data, tmp_path)
    with pytest.raises(UserError, match="out of memory pre-training"):
        estimate_seconds(tiny_config, tiny_data)
    left[0] = 100
    pretrain(tiny_config, tiny_data, tmp_path)
    assert left[0] == 100 - (12 - 6)  # resumed at the step that there was no memory for


def test_memory_that_runs_out_in_an_evaluation_names_what_to_make_smaller(
    run, tiny_data, monkeypatch
):
    probe = ProbeConfig(labels=(60, 120), epochs=1, batch_size=20)

    def fail(*_, **__):
        raise GPU

    def refused(message, evaluation, *given, **how):
        with pytest.raises(UserError, match=message):
            evaluation(run, tiny_data, *given, **how)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "_train", fail)
        for evaluation, kind in ((fit_probe, "probe"), (fine_tune, "finetune")):
            refused(
                f"in {kind} of {run.name} with batch_size 20; try a smaller batch_s",
                evaluation,
                probe,
            )
        patch.setattr(evaluate, "knn_accuracy", fail)
        refused(f"in knn of {run.name}; try fewer labelled images", knn, (60, 120), k=3)
        patch.setattr(evaluate, "normalise", fail)
        measure._held.clear()
        refused(
            "encoding images 1000 at a time on cpu; try a smaller .*ENCODE_BATCH", fit_probe, probe
        )
    assert fit_probe(run, tiny_data, probe)["accuracies"]  # nothing half made was stored


def test_other_errors_pass_as_they_are():
    for error in (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        KeyError("memory"),
        UserError("bad lr"),
    ):
        with pytest.raises(type(error)) as raised, enough_memory("here", "nothing"):
            raise error
        assert raised.value is error


LIMITED = """
import re, resource, sys
from dataclasses import replace
import torch
from simclr_core.data import load_dataset
from simclr_core.errors import UserError
from labreport.store import pretrain
from simclr_core.config import PretrainConfig

data = load_dataset("digits")
config = PretrainConfig("digits", (0, 8), augmentation="digits", batch_size=8, epochs=1)
pretrain(config, data, sys.argv[1])
used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20), used + (16 << 20)))
try:
    pretrain(replace(config, images=(0, 1024), batch_size=1024), data, sys.argv[1])
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set and read as Linux has it")
def test_a_process_whose_memory_is_limited_says_so_for_real(tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    assert (
        child.stdout.startswith("out of memory pre-training digits-mnist_cnn")
        and "batch_size 1024" in child.stdout
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_without_room_says_so_for_real(tiny_config, tiny_data, tmp_path):
    torch.cuda.set_per_process_memory_fraction(1e-5)
    try:
        with pytest.raises(
            UserError, match="out of memory pre-training .* on cuda with batch_size 32"
        ):
            pretrain(replace(tiny_config, device="cuda", encoder="resnet18"), tiny_data, tmp_path)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
