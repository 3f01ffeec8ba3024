"""Data that stay on the disk: the same pixels, numbers and mistakes as data in memory, whoever decodes them."""

import gc
import io
import multiprocessing
import os
import random
import shutil
import signal
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ranks import on_processes, results

from labreport.measure import cluster, fine_tune, fit_probe, knn, measure_geometry, neighbours, picture_views
from labreport.run.cost import estimate_seconds
from labreport.store import pretrain, train
from labreport.store.command import LOST, main
from labreport.store.train import build_training
from simclr_core import train as loop
from simclr_core.cluster import ClusterConfig
from simclr_core.config import PretrainConfig
from simclr_core.data import feed, load_dataset, read_image, shuffled
from simclr_core.errors import DataNotFound, UserError
from simclr_core.evaluate import ProbeConfig
from simclr_core.scale import listing, streaming
from simclr_core.scale.processes import Processes
from simclr_core.seeds import generator
from simclr_core.train import Training

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # Python 3.12 on workers' fork
CLASSES = ("apfel", "b<i>rne", "苹果")


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIMCLR_DATA", raising=False)
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIMCLR_DECODERS", "1")
    yield
    assert not multiprocessing.active_children(), "a worker is left"


def encoded(k: int, form: str = "png") -> bytes:
    """A small picture of a size and colours of its own."""
    pixels = np.random.default_rng(k).integers(0, 120, (14 + k % 5, 12 + k % 7, 3), dtype=np.uint8)
    pixels[..., k % 3] += 100
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form)
    return content.getvalue()


def write_folder(root: Path, train: int = 24, test: int = 9) -> Path:
    """Images named by their number; the class is the number modulo 3."""
    for split, start, count in (("train", 0, train), ("test", 1000, test)):
        for k in range(count):
            path = root / split / CLASSES[k % 3] / f"{k:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(start + k))
    return root


def write_shard(path: Path, samples: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_shards(root: Path, train: int = 24, test: int = 9, each: int = 4) -> Path:
    """The images of write_folder, in the order of their numbers."""
    for split, start, count in (("train", 0, train), ("test", 1000, test)):
        for first in range(0, count, each):
            samples = {}
            for k in range(first, min(first + each, count)):
                samples |= {f"{k:05}.png": encoded(start + k), f"{k:05}.cls": CLASSES[k % 3].encode()}
            write_shard(root / split / f"{first:05}.tar", samples)
    return root


def config(name: str, **changes) -> PretrainConfig:
    fields = {"images": (0, 20), "encoder": "resnet18", "width": 0.0625, "augmentation": "strong", "batch_size": 8,
              "epochs": 2}  # fmt: skip
    return PretrainConfig(name, **fields | changes)


def weights(run) -> bytes:
    return (run.path / "encoder.safetensors").read_bytes()


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error) and "Traceback" not in str(error)
    return str(error)


# ---- the same as in memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_folder, write_shards])
def test_pixels_labels_classes_and_statistics_are_those_in_memory(write):
    held = load_dataset(f"folder:{write_folder(Path('folder'))}@16")
    streamed = load_dataset(f"stream:{write(Path('streamed'))}@16")

    for split in ("train", "test"):
        in_memory, on_disk = getattr(held, split), getattr(streamed, split)
        assert torch.equal(on_disk.images[:], in_memory.images)
        assert torch.equal(on_disk.labels, in_memory.labels)
    assert streamed.train.images.shape == (24, 16, 16, 3)
    for field in ("class_names", "mean", "std"):
        assert getattr(streamed, field) == getattr(held, field), field


def test_rows_of_any_kind_are_read_as_of_a_tensor():
    held = load_dataset(f"folder:{write_folder(Path('folder'))}").train.images
    images = load_dataset("stream:folder").train.images

    for rows in (slice(3, 11), slice(None), [5, 2, 5], torch.tensor([[1, 2], [3, 23]]), np.array([4]), slice(0, 0)):
        assert torch.equal(images[rows], held[rows]), rows
    part = images.part(4, 20)
    assert len(part) == 16 and torch.equal(part.part(2, 5)[[0, 2]], held[[6, 8]])
    with feed(part, [torch.tensor([3, 1]), torch.tensor([0])]) as batches:
        assert [torch.equal(batch, held[rows]) for batch, rows in zip(batches, ([7, 5], [4]), strict=True)] == [
            True
        ] * 2


def test_a_run_and_everything_measured_on_it_give_the_numbers_of_memory():
    """To the bit: an image folder's order is that in memory."""
    write_folder(Path("mine"))
    measured = {}
    for name in ("folder:mine@16", "stream:mine@16"):
        data = load_dataset(name)
        run = pretrain(config(name), data, "runs")
        probe = ProbeConfig((0, 24), epochs=2)
        pictures = [picture_views(run, data, images=3, pairs=1), neighbours(run, data, (0, 24), k=2)]
        measured[name] = [
            weights(run), [row["loss"] for row in run.history],
            fit_probe(run, data, probe)["losses"], fine_tune(run, data, probe)["losses"],
            knn(run, data, (0, 24), k=3)["accuracy"],
            cluster(run, data, ClusterConfig("kmeans", (0, 24), restarts=1))["pictures"],
            measure_geometry(run, data, images=9)["class_distances"], pictures,
        ]  # fmt: skip
        assert estimate_seconds(config(name, seed=1), data) > 0
    in_memory, streamed = measured.values()
    np.testing.assert_equal(streamed, in_memory)


def test_streamed_and_held_runs_have_names_of_their_own_and_are_found_again(capsys):
    write_folder(Path("mine"))
    names = {pretrain(config("x"), load_dataset(f"{kind}:mine"), "runs").name for kind in ("folder", "stream")}
    assert len(names) == 2
    pretrain(config("x"), load_dataset("stream:mine"), "runs", progress=pytest.fail)


@pytest.mark.parametrize("decoders", ["0", "2"])
def test_the_number_of_decoding_processes_moves_no_number(decoders, monkeypatch):
    data = load_dataset(f"stream:{write_shards(Path('mine'))}")
    alone = weights(pretrain(config("x"), data, "one"))
    monkeypatch.setenv("SIMCLR_DECODERS", decoders)
    assert weights(pretrain(config("x"), data, "several")) == alone


def test_a_run_cut_off_within_an_epoch_reads_on_from_there(monkeypatch):
    data = load_dataset(f"stream:{write_shards(Path('mine'))}")
    whole = pretrain(config("x"), data, "whole")
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    step, steps = Training.step, []

    def cut_off(training, *given):
        steps.append(1)
        if len(steps) == 5:  # the second of the second epoch
            raise KeyboardInterrupt
        return step(training, *given)

    monkeypatch.setattr(Training, "step", cut_off)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config("x"), data, "cut")
    fed = []
    monkeypatch.setattr(loop, "feed", lambda images, parts: fed.append(len(parts)) or feed(images, parts))
    assert weights(pretrain(config("x"), data, "cut")) == weights(whole)
    assert fed == [2]  # of the three steps of the second epoch


def train_streamed() -> torch.Tensor:
    data = load_dataset("stream:mine@16")
    training = build_training(config("x"), data, Processes.start())
    for _ in training:
        pass
    return torch.tensor([row["loss"] for row in training.history], dtype=torch.float64)


@pytest.mark.slow
def test_two_processes_read_their_shares_of_the_same_order():
    write_shards(Path("mine"))
    load_dataset("stream:mine@16")
    (alone,), (first, second) = results(1, train_streamed), results(2, train_streamed)
    assert torch.equal(first, second)
    assert torch.allclose(first, alone, atol=1e-4)


# ---- order --------------------------------------------------------------------------------------------------


def test_an_order_of_shards_mixes_a_few_at_a_time_and_follows_from_the_seed(monkeypatch):
    monkeypatch.setattr(streaming, "SHUFFLE_SHARDS", 2)
    images = load_dataset(f"stream:{write_shards(Path('mine'))}").train.images  # six shards of four

    orders = [shuffled(images, generator(0, "order", epoch)) for epoch in (1, 2)]
    assert torch.equal(orders[0], shuffled(images, generator(0, "order", 1)))
    assert not torch.equal(*orders)
    for order in orders:
        assert order.sort().values.tolist() == list(range(24))
        windows = [set((order[start : start + 8] // 4).tolist()) for start in (0, 8, 16)]
        assert [len(window) for window in windows] == [2, 2, 2], "eight images of two shards at a time"
        assert not torch.equal(order[:8], order[:8].sort().values)
    part = shuffled(images.part(6, 14), generator(0, "order"))
    assert part.sort().values.tolist() == list(range(8))


def test_an_order_of_a_folder_is_that_in_memory():
    images = load_dataset(f"stream:{write_folder(Path('mine'))}").train.images
    order = shuffled(images, generator(3, "order", 1))
    assert torch.equal(order, shuffled(images[:], generator(3, "order", 1)))


def test_the_fingerprint_covers_bytes_classes_size_and_shards(monkeypatch):
    def fingerprint(size: int = 32, **changes) -> str:
        shutil.rmtree("mine", ignore_errors=True)
        write_shards(Path("mine"), **changes)
        return load_dataset(f"stream:mine@{size}").fingerprint

    first = fingerprint()
    assert fingerprint() == first, "files written again with the same bytes"
    others = [fingerprint(size=16), fingerprint(train=20), fingerprint(each=8)]
    monkeypatch.setattr(streaming, "SHUFFLE_SHARDS", 3)
    others.append(fingerprint())
    monkeypatch.setattr(streaming, "code_digests", lambda module: {})
    assert len({first, *others, fingerprint()}) == 6
    write_folder(Path("folder"))
    before = load_dataset("stream:folder").fingerprint
    Path("folder/train/apfel/00003.png").write_bytes(encoded(77))
    assert load_dataset("stream:folder").fingerprint != before


# ---- WebDataset's own format --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves the shards it reads to the collector
def test_shards_that_webdataset_writes_are_read_as_webdataset_reads_them():
    wds = pytest.importorskip("webdataset")
    for split, start in (("train", 0), ("test", 50)):
        Path("mine", split).mkdir(parents=True)
        with wds.ShardWriter(f"mine/{split}/%06d.tar", maxcount=5, verbose=0) as writer:
            for k in range(start, start + 13):
                writer.write({"__key__": f"some.folder/pic_{k}", "jpg": encoded(k, "jpeg"), "cls": k % 11,
                              "json": {"taken": k}, "txt": "a caption"})  # fmt: skip
    data = load_dataset("stream:mine@24")
    shards = sorted(map(str, Path("mine/train").iterdir()))
    theirs = [(sample["cls"], np.asarray(sample["jpg"]))
              for sample in wds.WebDataset(shards, shardshuffle=False).decode("pil")]  # fmt: skip

    assert data.class_names == tuple(map(str, range(11))), "in the order of their numbers"
    assert data.train.labels.tolist() == [label for label, _ in theirs]
    for (_, pixels), image in zip(theirs, data.train.images[:], strict=True):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "png")
        assert np.array_equal(read_image(content.getvalue(), 24, ""), image.numpy())
    gc.collect()


def test_a_key_ends_at_the_first_dot_and_hidden_members_are_passed_over():
    write_shards(Path("mine"))
    parts = {"__meta__.json": b"{}", ".hidden.png": b"no", "v1.2/a.png": encoded(0), "v1.2/a.cls": b"apfel",
             "v1.2/._a.png": b"no"}  # fmt: skip
    write_shard(Path("mine/train/more.tar"), parts)
    assert len(load_dataset("stream:mine").train) == 25
    write_shard(Path("mine/train/more.tar"), {"a.left.png": encoded(0), "a.cls": b"apfel"})
    with pytest.raises(UserError, match=r"more.tar: a has left.png, cls; expected one image"):
        load_dataset("stream:mine")


# ---- what goes wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoders", ["0", "1"])
@pytest.mark.parametrize("write", [write_folder, write_shards])
@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 3]), "has changed since"),
     (lambda path: path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDAX")), "has changed since"),
     (lambda path: path.unlink(), "cannot be read: No such file"), (lambda path: path.write_bytes(b""), "has changed")],
    ids=["shortened", "altered", "removed", "emptied"],
)  # fmt: skip
def test_an_image_changed_while_training_is_named(change, message, write, decoders, monkeypatch):
    monkeypatch.setenv("SIMCLR_DECODERS", decoders)
    data = load_dataset(f"stream:{write(Path('mine'))}")
    path = sorted(Path("mine/train").rglob("*.*"))[2]
    change(path)
    with pytest.raises(UserError, match=message) as caught:
        pretrain(config("x"), data, "runs")
    assert str(path) in one_line(caught.value)


def test_an_image_that_is_none_is_named_in_either_split():
    for split in ("train", "test"):
        root = write_folder(Path(split))
        path = root / split / CLASSES[0] / "00099.png"
        path.write_bytes(b"not an image")
        with pytest.raises(UserError, match="cannot be read as an image") as caught:
            load_dataset(f"stream:{root}").test.images[:]
        assert str(path) in one_line(caught.value)


def test_a_killed_worker_is_one_line(monkeypatch):
    data = load_dataset(f"stream:{write_folder(Path('mine'))}")
    here, _ = os.getpid(), data.fingerprint

    def killed(*given):
        assert os.getpid() != here
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(streaming, "read_image", killed)
    with pytest.raises(UserError, match=r"a process that decodes images was ended .*SIMCLR_DECODERS") as caught:
        pretrain(config("x"), data, "runs")
    one_line(caught.value)


def test_workers_end_with_what_they_were_for():
    images = load_dataset(f"stream:{write_folder(Path('mine'))}").train.images
    with pytest.raises(ZeroDivisionError), feed(images, [torch.tensor([k]) for k in range(20)]) as batches:
        next(batches)
        assert multiprocessing.active_children()
        raise ZeroDivisionError
    assert not multiprocessing.active_children()


def test_workers_end_even_if_the_error_is_kept(monkeypatch):
    """As Jupyter keeps the last one, with all its frames."""
    data = load_dataset(f"stream:{write_folder(Path('mine'))}")
    monkeypatch.setenv("SIMCLR_DECODERS", "2")
    Path("mine/train/apfel/00003.png").unlink()
    kept = pytest.raises(UserError, pretrain, config("x"), data, "runs")
    assert kept.traceback and not multiprocessing.active_children()


def test_no_shared_memory_is_one_line(monkeypatch):
    images = load_dataset(f"stream:{write_folder(Path('mine'))}").train.images

    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(UserError, match="No space left on device.*take a smaller batch, or fewer") as caught:
        with feed(images, [torch.tensor([0]), torch.tensor([1])]) as batches:
            list(batches)
    one_line(caught.value)


def test_a_long_range_holds_no_shared_memory_but_what_is_under_way(monkeypatch):
    images = load_dataset(f"stream:{write_folder(Path('mine'))}").train.images
    monkeypatch.setattr(streaming, "READ_AT_ONCE", 1)
    files, descriptors = [], Path("/proc/self/fd")
    delivered = streaming.StreamedImages._delivered

    def counted(*given):
        files.append(len(list(descriptors.iterdir())))
        return delivered(*given)

    monkeypatch.setattr(streaming.StreamedImages, "_delivered", counted)
    assert len(images[:]) == 24 and len(files) == 24
    assert files[-1] <= files[2] + 2


def pretrain_streamed() -> int:
    os.environ["SIMCLR_CACHE"] = "cache"  # the processes' server has another test's
    return main(["--config", "run.json"])


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_image_that_one_process_alone_cannot_read_ends_all(rank):
    write_folder(Path("mine"))
    images = load_dataset("stream:mine").train.part(16, 24).images
    Path("run.json").write_text('{"dataset": "stream:mine", "images": [16, 24], "encoder": "resnet18", "width": 0.0625,'
                                ' "batch_size": 8, "epochs": 1}')  # fmt: skip
    image = 16 + shuffled(images, generator(0, "order", 1))[4 * rank].item()
    path = Path(f"mine/train/{CLASSES[image % 3]}/{image:05}.png")
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a disk fails: no file looks changed
    ended = on_processes(2, pretrain_streamed)
    assert [end.status for end in ended] == [[2, LOST], [LOST, 2]][rank], [end.said for end in ended]
    assert f"{path}: the image has changed since" in ended[rank].said


def test_the_command_names_a_damaged_image_in_one_line(capsys):
    write_folder(Path("mine"))
    Path("run.json").write_text('{"dataset": "stream:mine", "images": [0, 16], "encoder": "resnet18", "batch_size": 8}')
    Path("mine/train/apfel/00000.png").write_bytes(b"no")
    assert main(["--config", "run.json"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "00000.png cannot be read as an image" in said[0]


@pytest.mark.parametrize("name", ["stream:mine@7", "folder:mine@1025", "stream:mine@0"])
def test_a_size_that_cannot_be_is_refused(name):
    write_folder(Path("mine"))
    with pytest.raises(UserError, match="expected @8 to @1024"):
        load_dataset(name)


def test_an_at_sign_elsewhere_is_part_of_the_path():
    write_folder(Path("me@home"))
    assert load_dataset("stream:me@home").train.images.shape == (24, 32, 32, 3)
    assert load_dataset("stream:me@home@8").train.images.shape == (24, 8, 8, 3)


@pytest.mark.parametrize("value", ["-1", "two", "1.5", "²"])
def test_a_bad_number_of_decoders_is_named(value, monkeypatch):
    data = load_dataset(f"stream:{write_folder(Path('mine'))}")
    monkeypatch.setenv("SIMCLR_DECODERS", value)
    with pytest.raises(UserError, match="SIMCLR_DECODERS is .*; expected a whole number"):
        pretrain(config("x"), data, "runs")


def test_decoders_are_the_cores_shared_among_the_trainings_of_a_machine(monkeypatch):
    monkeypatch.delenv("SIMCLR_DECODERS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    assert streaming.decoders() == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert streaming.decoders() == 2


def test_classes_that_are_numbers_are_numbered_as_in_memory():
    for k in range(12):
        for split in ("train", "test"):
            path = Path(f"mine/{split}/{k}/{k}.png")
            path.parent.mkdir(parents=True)
            path.write_bytes(encoded(k))
    held, streamed = (load_dataset(f"{kind}:mine") for kind in ("folder", "stream"))
    assert streamed.class_names == held.class_names
    assert torch.equal(streamed.train.labels, held.train.labels)


def test_shards_that_are_no_files_are_named(tmp_path):
    write_shards(Path("mine"))
    write_shard(tmp_path / "elsewhere.tar", {"a.png": encoded(0), "a.cls": b"apfel"})
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere.tar", path),
                 lambda path: os.symlink(tmp_path / "elsewhere.tar", path)):  # fmt: skip
        path = Path("mine/train/odd.tar")
        make(path)
        with pytest.raises(UserError, match=r"mine/train/odd.tar is not a file, or a link to nothing or out of mine"):
            load_dataset("stream:mine")
        path.rmdir() if path.is_dir() else path.unlink()


def test_folders_and_shards_that_do_not_fit_together_are_named():
    with pytest.raises(DataNotFound, match="nowhere.* does not exist"):
        load_dataset("stream:nowhere")
    write_shards(Path("half"))
    for path in Path("half/test").iterdir():
        path.unlink()
    with pytest.raises(DataNotFound, match=r"half/test holds no \*.tar shards"):
        load_dataset("stream:half")
    write_shards(Path("mine"))
    write_shard(Path("mine/test/x.tar"), {"a.png": encoded(0), "a.cls": b"kiwi"})
    with pytest.raises(UserError, match="test holds classes that train does not: kiwi"):
        load_dataset("stream:mine")


def test_a_damaged_index_is_built_again(capsys):
    write_folder(Path("mine"))
    first = load_dataset("stream:mine")
    (index,) = Path("cache").glob("*.index")
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 1
    index.write_bytes(content)
    again = load_dataset("stream:mine")
    assert again.fingerprint == first.fingerprint
    assert index.name + ".damaged" in capsys.readouterr().err
    assert sorted(path.suffix for path in Path("cache").iterdir()) == [".damaged", ".index", ".lock"]


# ---- hostile shards -----------------------------------------------------------------------------------------


def tar_of(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, target
    return info


def backwards() -> bytes:
    """A member of -512 bytes, which sends tarfile to its own header again (CVE-2025-8194)."""
    header = bytearray(sample(png=encoded(0), cls=b"apfel")[:512])
    header[124:136] = (2**96 - 512).to_bytes(12, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def sample(**parts: bytes) -> bytes:
    write_shard(Path("sample.tar"), {f"k.{suffix}": content for suffix, content in parts.items()})
    return Path("sample.tar").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"", "no uncompressed tar archive"),
        (lambda: random.Random(0).randbytes(5000), "no uncompressed tar archive"),
        (lambda: __import__("gzip").compress(sample(png=encoded(0), cls=b"apfel")), "no uncompressed tar archive"),
        (lambda: sample(png=encoded(0), cls=b"apfel")[:700], "ends within the image|damaged"),
        (lambda: tar_of(), "holds no image"),
        (lambda: tar_of(member("a.png", tarfile.SYMTYPE, target="/etc/passwd")), "a link, a device"),
        (lambda: tar_of(member("a.png", tarfile.LNKTYPE, target="b.png")), "a link, a device"),
        (lambda: tar_of(member("a.png", tarfile.CHRTYPE)), "a link, a device"),
        (lambda: backwards(), "a link, a device|ReadError|HeaderError"),
        (lambda: sample(png=encoded(0)), "expected one image"),
        (lambda: sample(cls=b"0"), "expected one image"),
        (lambda: sample(png=encoded(0), jpg=encoded(1, "jpeg"), cls=b"0"), "expected one image"),
        (lambda: sample(png=encoded(0), cls=b"\xff\xfe"), "not UTF-8"),
        (lambda: sample(png=encoded(0), cls=b" \n"), "class is empty"),
        (lambda: sample(png=encoded(0), cls=b"a\nb"), "control character"),
        (lambda: sample(png=encoded(0), cls=b"9" * 300), "class of 300 bytes"),
        (lambda: tar_of(member("a\n\x1b[2J.png", size=3), member("a\n\x1b[2J.cls", size=3)), "control character"),
    ],
)  # fmt: skip
def test_a_shard_with_what_no_shard_holds_is_named(content, message):
    write_shards(Path("mine"))
    Path("mine/train/bad.tar").write_bytes(content())
    with pytest.raises(UserError, match=message) as caught:
        load_dataset("stream:mine")
    assert "mine/train/bad.tar" in one_line(caught.value) and one_line(caught.value).isprintable()


def test_a_shard_flipped_anywhere_is_named_or_other_data():
    """Never a traceback, never other pixels under the same fingerprint."""
    write_shards(Path("mine"), train=4, test=3)
    whole, path = load_dataset("stream:mine@8"), Path("mine/train/00000.tar")
    content, pixels, draw = path.read_bytes(), whole.train.images[:], random.Random(0)
    for _ in range(60):
        changed = bytearray(content)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            data = load_dataset("stream:mine@8")
            same = torch.equal(data.train.images[:], pixels) and data.class_names == whole.class_names
        except UserError as error:
            one_line(error)
        else:
            assert same or data.fingerprint != whole.fingerprint


def test_an_enormous_image_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(listing, "LARGEST_FILE", 400)
    for write in (write_folder, write_shards):
        with pytest.raises(UserError, match="400"):
            load_dataset(f"stream:{write(Path(write.__name__))}")


def test_of_two_processes_one_builds_the_index_and_the_other_says_that_it_waits(monkeypatch, capfd):
    write_folder(Path("mine"))
    build = listing._build

    def slow(*given):
        with open("built", "a") as file:
            file.write("once\n")
        time.sleep(1)
        return build(*given)

    monkeypatch.setattr(listing, "_build", slow)
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=load_dataset, args=("stream:mine",)) for _ in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0]
    assert Path("built").read_text() == "once\n"
    assert capfd.readouterr().err.count("mine: another process is listing it; waiting for it\n") == 1
