import gzip
import hashlib
import io
import os
import shutil
import struct
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms.v2 import functional

from labreport.store.recorded import dataset_from_record
from simclr_core.data import Split, cifar10, load_dataset, mnist, search_folders
from simclr_core.data import folder as folder_module
from simclr_core.errors import DataNotFound, UserError


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIMCLR_DATA", raising=False)
    monkeypatch.delenv("SIMCLR_CACHE", raising=False)


def write_idx(folder: Path, monkeypatch) -> None:
    """Four small files in MNIST's own format; the module's MD5 and sizes are set to theirs."""
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in mnist.MD5:
        n = 30 if name.startswith("train") else 10
        if "images" in name:
            body = struct.pack(">IIII", 2051, n, 28, 28) + rng.integers(0, 256, n * 784, np.uint8).tobytes()
        else:
            body = struct.pack(">II", 2049, n) + (np.arange(n, dtype=np.uint8) % 10).tobytes()
        (raw / name).write_bytes(body)
        monkeypatch.setitem(mnist.MD5, name, hashlib.md5(body).hexdigest())


def save_image(path: Path, array, mode=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array, np.uint8))
    (image.convert(mode) if mode else image).save(path)


def write_folder(root: Path, per_class: int = 2) -> Path:
    for split in ("train", "test"):
        for k, label in enumerate(("apfel", "苹果")):
            for i in range(per_class):
                save_image(root / split / label / f"{i}.png", np.full((40, 50, 3), 50 + 100 * k + i))
    return root


def test_mnist_is_read_from_torchvisions_layout_as_nhwc_bytes(tmp_path, monkeypatch):
    write_idx(tmp_path / "here", monkeypatch)
    data = load_dataset("mnist", tmp_path / "here")
    assert data.train.images.shape == (30, 28, 28, 1) and data.train.images.dtype == torch.uint8
    assert data.test.labels.tolist() == list(range(10))
    assert (data.mean, data.std) == ((0.1307,), (0.3081,))


def test_folders_are_searched_in_the_stated_order(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMCLR_DATA", "from-variable")
    assert search_folders("given") == [Path("given"), Path("from-variable"), Path("data")]
    write_idx(tmp_path / "data", monkeypatch)
    (tmp_path / "given").mkdir()
    assert len(load_dataset("mnist", "given").train) == 30  # found in data/, the last resort


def test_truncated_mnist_file_is_named_with_its_size(tmp_path, monkeypatch):
    write_idx(tmp_path / "data", monkeypatch)
    path = tmp_path / "data/MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte is damaged: its MD5 is not .* \(1,000 bytes\)"):
        load_dataset("mnist")


def test_changed_mnist_file_is_refused_by_its_md5(tmp_path, monkeypatch):
    write_idx(tmp_path / "data", monkeypatch)
    path = tmp_path / "data/MNIST/raw/t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x05")
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte is damaged: its MD5"):
        load_dataset("mnist")


def test_missing_data_says_where_it_looked_and_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "given").mkdir()
    monkeypatch.setenv("SIMCLR_DATA", "elsewhere")
    for name in ("mnist", "cifar10"):
        with pytest.raises(DataNotFound, match=rf"{name} not found: looked in given, elsewhere, data .*--data DIR"):
            load_dataset(name, "given", download=False)


def test_failing_download_is_one_line(tmp_path, monkeypatch):
    import torchvision.datasets

    def refuse(root, train=True, download=False):
        raise OSError("network is unreachable")

    monkeypatch.setattr(torchvision.datasets, "MNIST", refuse)
    with pytest.raises(DataNotFound, match="the download failed .network is unreachable") as caught:
        load_dataset("mnist")
    assert "\n" not in str(caught.value)


TWO_DOWNLOADS = """
import sys, time
from pathlib import Path
import torchvision.datasets
from simclr_core.data import Split, load_dataset, mnist

def fetch(root, train=True, download=False):
    raw = Path(root, "MNIST/raw")
    raw.mkdir(parents=True)
    with open(sys.argv[1], "a") as file:
        file.write("fetched\\n")
    print("begun", flush=True)
    (raw / "train-images-idx3-ubyte").write_text("half of it")
    while not Path("go on").exists():
        time.sleep(0.05)
    (raw / "train-images-idx3-ubyte").write_text("the whole")

torchvision.datasets.MNIST = fetch
mnist._check = lambda path, md5: None
mnist._read_idx = lambda raw, prefix: Split((raw / "train-images-idx3-ubyte").read_text(), None)
print(load_dataset("mnist").train.images, flush=True)
"""


def start_download(folder):
    environment = {name: value for name, value in os.environ.items() if name not in ("SIMCLR_DATA", "SIMCLR_CACHE")}
    command = [sys.executable, "-c", TWO_DOWNLOADS, str(folder / "fetched")]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)  # fmt: skip


def test_two_processes_download_once_and_nobody_reads_half_a_file(tmp_path):
    first = start_download(tmp_path)
    assert first.stdout.readline() == "begun\n"
    second = start_download(tmp_path)
    assert "mnist: another process is downloading it; waiting for it" in second.stderr.readline()
    (tmp_path / "go on").touch()
    assert first.communicate()[0] == second.communicate()[0] == "the whole\n"
    assert (tmp_path / "fetched").read_text() == "fetched\n"


def test_a_killed_download_is_begun_again(tmp_path):
    killed = start_download(tmp_path)
    assert killed.stdout.readline() == "begun\n"
    killed.kill()
    killed.communicate()
    (tmp_path / "go on").touch()
    said, errors = start_download(tmp_path).communicate()
    assert said == "begun\nthe whole\n", errors
    assert "waiting" not in errors
    assert sorted(path.name for path in (tmp_path / "data").iterdir() if path.suffix != ".lock") == ["MNIST"]


def test_unknown_data_set_and_missing_folder_are_refused():
    with pytest.raises(UserError, match="unknown data set 'minst'"):
        load_dataset("minst")
    with pytest.raises(UserError, match="data folder 'nowhere' does not exist"):
        load_dataset("mnist", "nowhere")


def test_digits_and_shapes_need_no_files_and_never_change():
    digits, shapes = load_dataset("digits"), load_dataset("shapes")
    assert digits.train.images.shape == (1500, 28, 28, 1) and len(digits.test) == 297
    assert shapes.train.images.shape == (2000, 32, 32, 3) and len(shapes.test) == 500
    assert torch.bincount(shapes.train.labels).tolist() == [200] * 10
    assert shapes.fingerprint == load_dataset("shapes").fingerprint
    for data, pinned in (digits, (77.8014, 78.0384)), (shapes, (127.7640, 127.3692)):
        means = [split.images.double().mean().item() for split in (data.train, data.test)]
        assert means == pytest.approx(pinned, abs=0.01)


def test_digits_are_enlarged_bilinearly_between_the_pixels_centres_and_rounded():
    centres = (np.arange(28) + 0.5) * 8 / 28 - 0.5
    weights = np.maximum(0, 1 - np.abs(centres.clip(0, 7)[:, None] - np.arange(8)))
    large = weights @ load_digits().images / 16 * 255 @ weights.T
    digits = load_dataset("digits")
    found = torch.cat([digits.train.images, digits.test.images])[..., 0].numpy()
    assert np.abs(found - large).max() < 0.501
    assert digits.train.labels.tolist() == load_digits().target[:1500].tolist()


def test_fingerprint_covers_pixels_labels_splits_mean_and_std(tiny_data):
    pixels = tiny_data.train.images.clone()
    pixels[3, 2, 1, 0] ^= 1
    labels = tiny_data.train.labels.flip(0)
    changes = [{}, {"train": Split(pixels, tiny_data.train.labels)},
               {"train": Split(tiny_data.train.images, labels)},
               {"train": tiny_data.test, "test": tiny_data.train},
               {"mean": (0.31,)}, {"std": (0.26,)}, {"mean": tiny_data.std, "std": tiny_data.mean}]  # fmt: skip
    assert len({replace(tiny_data, **change).fingerprint for change in changes}) == len(changes)
    whole, float_ = (replace(tiny_data, std=(one,)).fingerprint for one in (1, 1.0))
    assert whole == float_


EVERY_DECODER = """
from simclr_core.data import load_dataset
for name in ("folder:mine@8", "stream:mine@8", "cifar10"):
    data = load_dataset(name)
    print(data.fingerprint, data.train.images[:].sum().item(),
          data.mean[0] if ":" in name else "")
"""


def decoded_by(code: Path) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIMCLR")}
    command = [sys.executable, "-c", EVERY_DECODER]
    done = subprocess.run(command, env={**environment, "PYTHONPATH": str(code)}, text=True,
                          stdout=subprocess.PIPE, check=True)  # fmt: skip
    return done.stdout.splitlines()


def test_an_edit_to_the_decoder_decodes_anew_and_a_comment_does_not(tmp_path):
    """Of a folder, of streamed images and of an archive: other pixels, another fingerprint."""
    (tmp_path / "data").mkdir()
    write_archive(tmp_path / "data/cifar10-small.tar.gz")
    write_folder(tmp_path / "mine")
    shutil.copytree(Path(cifar10.__file__).parent.parent, tmp_path / "code/simclr_core")
    decoder = tmp_path / "code/simclr_core/data/folder.py"
    before = decoded_by(tmp_path / "code")
    kept = sorted((tmp_path / "data/cache").glob("[!.]*"))

    decoder.write_text(decoder.read_text() + "\n# a remark\n")
    assert decoded_by(tmp_path / "code") == before
    assert sorted((tmp_path / "data/cache").glob("[!.]*")) == kept

    convert = 'return image.convert("RGB")'
    assert convert in decoder.read_text()
    decoder.write_text(decoder.read_text().replace(convert, convert + ".point(lambda v: 255 - v)"))
    for old, new in zip(before, decoded_by(tmp_path / "code"), strict=True):
        assert all(was != now for was, now in zip(old.split(), new.split(), strict=True))


def test_image_folder_is_resized_cropped_and_its_classes_kept_in_any_script(tmp_path):
    folder = load_dataset(f"folder:{write_folder(tmp_path / 'mine')}")
    assert folder.class_names == ("apfel", "苹果")
    assert folder.train.images.shape == (4, 32, 32, 3)
    assert folder.train.labels.tolist() == [0, 1, 0, 1]  # numbered files in the order of their numbers
    assert folder.train.images[1].unique().tolist() == [150]


@pytest.mark.parametrize("size", [(50, 37), (20, 61), (32, 40)])
def test_an_image_is_resized_and_cropped_as_torchvision_does_it(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    image.save(buffer := io.BytesIO(), "png")
    found = folder_module.read_image(buffer.getvalue(), 32, "here")
    expected = functional.center_crop(functional.resize(image, 32), 32)
    assert (found == np.asarray(expected)).all()


def test_mean_and_std_of_a_folder_are_those_of_its_training_images(tmp_path):
    root = write_folder(tmp_path / "mine")
    save_image(root / "train/apfel/9.png", np.full((32, 32, 3), (250, 10, 90)))
    folder = load_dataset(f"folder:{root}")
    pixels = folder.train.images.reshape(-1, 3).double() / 255
    assert folder.mean == pytest.approx(pixels.mean(0).tolist(), abs=1e-4)
    assert folder.std == pytest.approx(pixels.std(0).tolist(), abs=1e-4)


def test_what_is_transparent_becomes_white(tmp_path):
    root = write_folder(tmp_path / "mine")
    Image.new("RGBA", (32, 32), (10, 20, 30, 0)).save(root / "train/apfel/9.png")
    assert load_dataset(f"folder:{root}").train.images[-1].unique().tolist() == [255]


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1"])
def test_other_image_modes_are_read(tmp_path, mode):
    root = write_folder(tmp_path / "mine")
    suffix = {"CMYK": "tif"}.get(mode, "png")
    save_image(root / f"train/apfel/9.{suffix}", np.full((32, 32, 3), 255), mode)
    assert load_dataset(f"folder:{root}").train.images[-1].unique().tolist() == [255]


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    root = write_folder(tmp_path / "mine")
    Image.fromarray(np.full((32, 32), 32768, np.uint16)).save(root / "train/apfel/9.png")
    assert load_dataset(f"folder:{root}").train.images[-1].unique().tolist() == [127]


def test_folder_mistakes_are_named(tmp_path):
    root = write_folder(tmp_path / "mine")
    (root / "train/leer").mkdir()
    with pytest.raises(UserError, match=r"class .*leer is empty"):
        load_dataset(f"folder:{root}")
    (root / "train/leer").rmdir()
    (root / "train/apfel/5.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"train/apfel/5.png cannot be read as an image"):
        load_dataset(f"folder:{root}")
    (root / "train/apfel/5.png").unlink()
    (root / "train/apfel/6.png").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match=r"6.png is a link out of"):
        load_dataset(f"folder:{root}")
    (root / "train/apfel/6.png").unlink()
    shutil.rmtree(root / "test/apfel")
    with pytest.raises(UserError, match=r"differ in their classes \(apfel\)"):
        load_dataset(f"folder:{root}")


def test_huge_image_is_refused_by_its_name(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "mine")
    monkeypatch.setattr(folder_module, "LARGEST_IMAGE", 1999)
    with pytest.raises(UserError, match=r"0.png is 50 x 40 pixels, more than 1,999"):
        load_dataset(f"folder:{root}")


def write_archive(path: Path) -> None:
    """cifar10/{train,test}/<class>/<index>.png in shuffled order; the pixel value is the index."""
    with tarfile.open(path, "w:gz") as tar:
        for split, n in (("train", 20), ("test", 10)):
            for k in np.random.default_rng(0).permutation(n):
                buffer = io.BytesIO()
                Image.fromarray(np.full((32, 32, 3), k, np.uint8)).save(buffer, "png")
                info = tarfile.TarInfo(f"cifar10/{split}/{cifar10.CLASSES[k % 10]}/{k:05}.png")
                info.size = buffer.tell()
                tar.addfile(info, io.BytesIO(buffer.getvalue()))


def test_numbered_files_come_by_their_numbers_not_their_digits():
    files = [("10.png", "a"), ("9.png", "b"), ("0011.png", "a")]
    assert [file for file, _ in folder_module.put_in_order(files)] == ["9.png", "10.png", "0011.png"]


def test_files_without_numbers_are_mixed_over_the_classes_always_alike(tmp_path):
    root = tmp_path / "mine"
    for split in ("train", "test"):
        for label in ("a", "b"):
            for i in range(20):
                save_image(root / split / label / f"photo-{i}.png", np.zeros((8, 8, 3)))
    labels = load_dataset(f"folder:{root}").train.labels
    assert 5 <= labels[:20].sum() <= 15
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert labels.tolist() == (order >= 20).long().tolist()  # class by class on the disk
    shutil.rmtree(tmp_path / "data/cache")
    assert torch.equal(load_dataset(f"folder:{root}").train.labels, labels)


def test_archive_is_read_in_index_order_and_cached(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    write_archive(tmp_path / "data/cifar10-small.tar.gz")
    first = load_dataset("cifar10")
    assert first.train.images[:, 0, 0, 0].tolist() == list(range(20))
    assert first.train.labels.tolist() == [k % 10 for k in range(20)]
    assert first.mean == first.std == (0.5, 0.5, 0.5)
    assert first.test.images.shape[1:] == (32, 32, 3)
    monkeypatch.setattr(cifar10, "decode", None)  # a second decoding would fail
    assert load_dataset("cifar10").fingerprint == first.fingerprint


def test_damaged_cache_is_set_aside_and_built_again(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    write_archive(tmp_path / "data/cifar10-small.tar.gz")
    expected = load_dataset("cifar10").fingerprint
    (cache,) = (tmp_path / "data/cache").glob("*.decoded")
    content = bytearray(cache.read_bytes())
    content[-5] ^= 1
    cache.write_bytes(content)
    assert load_dataset("cifar10").fingerprint == expected
    assert "is damaged (its checksum does not fit); set aside" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "stream"])
def test_a_cache_that_cannot_be_written_is_named(kind, tmp_path, monkeypatch):
    write_folder(tmp_path / "mine")
    Path("file").touch()
    for folder in ("/proc/nowhere", "file", "file/within"):
        monkeypatch.setenv("SIMCLR_CACHE", folder)
        with pytest.raises(UserError, match=f"{folder}, where decoded data are kept, cannot be written to"):
            load_dataset(f"{kind}:{tmp_path / 'mine'}")


def test_damaged_archive_is_named(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cifar10.tar.gz").write_bytes(gzip.compress(b"rubbish"))
    with pytest.raises(UserError, match=r"cifar10.tar.gz"):
        load_dataset("cifar10")


def test_recorded_data_has_sizes_and_fingerprint_but_no_images(tiny_data):
    recorded = dataset_from_record(tiny_data.record())
    assert recorded.fingerprint == tiny_data.fingerprint and len(recorded.train) == 120
    with pytest.raises(DataNotFound, match="stored runs only"):
        recorded.train.images  # noqa: B018


def test_real_archive_restores_the_official_order():
    """Labels of the first 20 training images of CIFAR-10, from the data set's own files."""
    folder = os.environ.get("SIMCLR_TEST_DATA")
    if not folder or not list(Path(folder).glob("cifar*10*")):
        pytest.skip("no real CIFAR-10 here (set SIMCLR_DATA)")
    labels = load_dataset("cifar10", folder).train.labels[:20].tolist()
    assert labels == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3, 4, 7, 7, 2, 9, 9, 9, 3, 2, 6]
