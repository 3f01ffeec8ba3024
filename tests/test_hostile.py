"""Files made to do harm: each is refused in one clear line, before anything is executed, allocated or written."""

import base64
import gzip
import io
import json
import os
import pickle
import re
import resource
import signal
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cut import cut_after
from PIL import Image
from safetensors.torch import save
from test_data import save_image, write_archive, write_folder
from toy_project import make_project, sealed, write_profile

from labreport.cli import main
from labreport.notebook.study import Lab
from labreport.run.stored_report import read_stored_report
from labreport.store import pretrain
from labreport.store.files import file_sha256, read_json, write_json
from labreport.store.packed import LARGEST_PACKED, unpack_arrays
from labreport.store.recorded import dataset_from_record
from labreport.store.runs import Run, find_run, read_history
from simclr_core.config import PretrainConfig
from simclr_core.data import cifar10, load_dataset
from simclr_core.data.files import read_checksummed, write_checksummed
from simclr_core.errors import DataNotFound, StoreError, UserError

ROOM = 1 << 30  # bytes that a test may allocate beside what it has
NESTED = "[" * 100_000


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def zipped_pickle(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch) -> None:
    for name in ("SIMCLR_DATA", "SIMCLR_CACHE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Allocating more than ROOM fails at once."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def short_time() -> Iterator[None]:
    """What waits for a pipe is interrupted."""

    def interrupt(*_):
        raise TimeoutError("it waits for ever")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def run(tiny_config, tiny_data) -> Run:
    """A finished run in runs/, encoder-0001 kept."""
    return pretrain(tiny_config, tiny_data, "runs", keep_epochs=(1,))


def forge(run: Run, name: str, content: bytes) -> None:
    """Another content, and its right checksum in provenance.json."""
    (run.path / name).write_bytes(content)
    rewrite(run, lambda record: record["files"].update({name: file_sha256(run.path / name)}))


def rewrite(run: Run, change) -> None:
    """Change provenance.json; its own checksum is right."""
    record = read_json(run.path / "provenance.json")
    change(record)
    write_json(run.path / "provenance.json", record)


def one_line(error: BaseException) -> str:
    assert str(error) and "\n" not in str(error)
    return str(error)


def told(capsys) -> str:
    """The one line that a refused command leaves."""
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "a fault of this program" not in said
    return said


# ---- run folders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [pickle.dumps, zipped_pickle], ids=["pickle", "torch"])
def test_a_pickle_in_place_of_weights_is_refused_and_not_executed(form, run, tiny_data, tmp_path):
    for name in ("encoder.safetensors", "encoder-0001.safetensors", "projection_head.safetensors"):
        forge(run, name, form(Evil(tmp_path / "executed")))
    assert find_run(run.config, tiny_data, "runs")  # its checksums are right
    for load in (run.load_encoder, lambda: run.load_encoder(1), run.load_projection_head):
        with pytest.raises(StoreError, match=r"safetensors holds no weights of") as caught:
            load()
        one_line(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("form", [pickle.dumps, zipped_pickle], ids=["pickle", "torch"])
def test_a_pickle_in_place_of_a_checkpoint_is_set_aside_and_not_executed(
    form, run, tiny_config, tiny_data, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        cut_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_config, tiny_data, "cut")
    checkpoint = Path("cut", run.name, "checkpoint.pt")
    write_checksummed(checkpoint, form({"history": [], "encoder": Evil(tmp_path / "executed")}))
    assert pretrain(tiny_config, tiny_data, "cut").losses == run.losses
    assert re.search(r"checkpoint.pt is damaged \(\w+\); set aside", capsys.readouterr().err)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "state", [[], {}, {"history": 3}, {"kept": 3}, {"training": 3}, {"training": {"encoder": {}}}], ids=str
)
def test_a_checkpoint_of_something_else_is_named(state, tiny_config, tiny_data, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        cut_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_config, tiny_data, "cut", keep_epochs=(1,))
    (checkpoint,) = Path("cut").glob("*/checkpoint.pt")
    real = torch.load(io.BytesIO(read_checksummed(checkpoint)), weights_only=True)
    write_checksummed(checkpoint, zipped_pickle({**real, **state} if state else state))
    if "training" in state:
        with pytest.raises(StoreError, match="checkpoint.pt is no checkpoint of this run") as caught:
            pretrain(tiny_config, tiny_data, "cut", keep_epochs=(1,))
        one_line(caught.value)
    else:
        assert len(pretrain(tiny_config, tiny_data, "cut", keep_epochs=(1,)).losses) == 3
        assert "checkpoint.pt is damaged (" in capsys.readouterr().err


def header_of(shape: list, end: int) -> bytes:
    """A safetensors file of one tensor whose data are not there."""
    header = json.dumps({"conv1.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(64)


@pytest.mark.parametrize(
    "content",
    [header_of([1 << 58], 1 << 60), header_of([1 << 62, 1 << 62], 64), struct.pack("<Q", 1 << 60) + b"{}",
     header_of([4, 4], 64), save({"conv1.weight": torch.ones(3)}), b""],
    ids=["exabytes", "overflow", "header of exabytes", "other shape", "other weights", "empty"],
)  # fmt: skip
def test_weights_of_an_enormous_or_wrong_shape_are_refused_before_allocating(content, run, little_memory):
    forge(run, "encoder.safetensors", content)
    with pytest.raises(StoreError, match="holds no weights of"):
        run.load_encoder()


def test_a_record_of_enormous_images_is_refused_before_allocating(run, little_memory):
    rewrite(run, lambda record: record["data"].update(image_shape=[1000, 1000, 1]))  # a linear layer of 2 GB
    with pytest.raises(StoreError, match="not the shapes of this network"):
        run.load_encoder()


@pytest.mark.parametrize(
    "change",
    [{"image_shape": [10**9, 10**9, 3]}, {"image_shape": [12, 12]}, {"image_shape": "big"}, {"train": 10**30},
     {"test": -1}, {"train": True}, {"class_names": "abcd"}, {"class_names": ["a", 5]}, {"class_names": ["a\nb"]},
     {"mean": [float("inf")]}, {"std": []}, {"name": 5}, {"source": None}, {"fingerprint": ["x"]}],
    ids=str,
)  # fmt: skip
def test_a_record_that_describes_no_data_is_refused(change, run, tiny_data, monkeypatch):
    record = run.record
    record["data"] |= change
    if change == {"mean": [float("inf")]}:  # no JSON of ours holds it
        with pytest.raises(StoreError, match="the record of the data"):
            dataset_from_record(record["data"])
        return
    write_json(run.path / "provenance.json", record)
    assert find_run(run.config, tiny_data, "runs") is None
    monkeypatch.setenv("SIMCLR_RUNS", "runs")
    monkeypatch.setenv("LABREPORT_FROM", "1")
    with pytest.raises(UserError, match="the record of the data") as caught:
        Lab("01", {}).dataset("tiny")
    one_line(caught.value)


def test_a_file_named_outside_of_the_run_is_not_read(run, tiny_data, capsys):
    Path("outside").write_text("secret")
    for name in ("../../outside", "/etc/hostname", "sub/../../../outside"):
        rewrite(run, lambda record, name=name: record["files"].update({name: "0" * 64}))
        assert find_run(run.config, tiny_data, "runs") is None
    assert pretrain(run.config, tiny_data, "runs").name == run.name
    assert "which is not in this run's folder; set aside as" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../../outside", "..", "/outside", "a\nb", "a/b", "", "-"])
def test_a_data_set_whose_name_is_a_path_gives_no_run_folder(name):
    with pytest.raises(UserError, match="is no name") as caught:
        PretrainConfig(name, (0, 100), batch_size=32)
    one_line(caught.value)


@pytest.mark.parametrize(
    "values", [{"width": 1e9}, {"width": float("nan")}, {"head_hidden": 1 << 40}, {"head_dim": 10**12}], ids=str
)
def test_an_enormous_network_is_refused_before_it_is_built(values):
    with pytest.raises(UserError, match=f"^{next(iter(values))} must be"):
        PretrainConfig("tiny", (0, 100), encoder="resnet18", batch_size=32, **values)


def packed(content: bytes, shape: object) -> dict:
    return {"shape": shape, "uint8": base64.b64encode(zlib.compress(content)).decode()}


@pytest.mark.parametrize(
    "content",
    [packed(bytes(1 << 29), [2, 2]), packed(b"1234", [1 << 60]), packed(b"", [LARGEST_PACKED + 1]),
     packed(b"1234", [2, 3]), packed(b"1234", [-1]), packed(b"1234", [-2, -2]), packed(b"1234", "22"),
     packed(b"1234", [2.0, 2]), {"shape": [4], "uint8": "?"}, {"shape": [4], "uint8": base64.b64encode(b"x").decode()}],
)  # fmt: skip
def test_pictures_that_are_not_what_they_say_are_refused_before_unpacking(content, little_memory):
    with pytest.raises(StoreError, match="pictures in a stored evaluation are damaged") as caught:
        unpack_arrays({"pictures": content})
    one_line(caught.value)


@pytest.mark.parametrize("text", ["epoch,loss\n1,much\n", "epoch\ninf\n", "a\n1\n", "epoch\n1,2,3\n", "epoch\n\0\n"])
def test_a_history_of_something_else_is_named(text, tmp_path):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(StoreError, match="history.csv is damaged") as caught:
        read_history(tmp_path / "history.csv")
    one_line(caught.value)


def test_json_nested_beyond_measure_is_named(tmp_path):
    (tmp_path / "x.json").write_text(NESTED)
    with pytest.raises(StoreError, match=r"x.json is damaged or cannot be read \(RecursionError\)"):
        read_json(tmp_path / "x.json")


def test_pipes_and_devices_in_a_store_are_not_waited_for(run, tiny_data, short_time, little_memory):
    os.mkfifo("runs/x.json")
    Path("runs/endless.csv").symlink_to("/dev/zero")
    assert read_stored_report(Path("runs")).fingerprint()
    (run.path / "config.json").unlink()
    os.mkfifo(run.path / "config.json")
    assert find_run(run.config, tiny_data, "runs") is None


# ---- --from DIR -------------------------------------------------------------------------------------------


@pytest.fixture
def report(tmp_path, run) -> Path:
    """A report's folder: results.json and runs/, beside a toy checkout in work/."""
    make_project(tmp_path / "work")
    made = {"commit": "c" * 40, "dirty": False, "device": "a GPU", "versions": {"torch": "2"}}
    folder = tmp_path / "work/elsewhere"
    folder.mkdir()
    Path("runs").rename(folder / "runs")
    notebooks = {"01_first": {"parameters": {"epochs": 8}}}
    (folder / "results.json").write_text(sealed({"notebooks": notebooks, "finished": True, "profile": "tiny",
                                                  "provenance": made}))  # fmt: skip
    return folder


def everything(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "../../x"}, "unknown profile '../../x'"),
        ({"profile": 5}, "results.json is damaged"),
        ({"profile": "tin\ny"}, r"unknown profile 'tin\ny'"),
        ({"notebooks": {"../../x": {"parameters": {}}}}, "unknown notebook '../../x'"),
        ({"notebooks": {"01_first": {"parameters": {"epochs": "../../x"}}}}, "01_first.epochs is '../../x'"),
        ({"notebooks": {"01_first": {"parameters": {"__builtins__": 1}}}}, "unknown parameter of 01_first"),
        ({"notebooks": {"01_first": {"parameters": 5}}}, "results.json is damaged"),
        ({"notebooks": [1]}, "results.json is damaged"),
        ({"provenance": {}}, "results.json is damaged"),
        ({"provenance": {"commit": 5, "dirty": 0, "device": "", "versions": {}}}, "results.json is damaged"),
        ({"provenance": {"commit": "", "dirty": 0, "device": "\ud800", "versions": {}}}, "results.json is damaged"),
        ({"provenance": {"commit": "", "dirty": 0, "device": "", "versions": []}}, "results.json is damaged"),
    ],
    ids=str,
)
def test_a_results_file_that_names_something_else_is_refused(change, message, report, tmp_path, capsys):
    path = report / "results.json"
    content = json.loads(path.read_text()) | change
    del content["sha256"]
    path.write_text(sealed(content))
    before = everything(tmp_path)
    assert main(["--from", "elsewhere"], tmp_path / "work") == 2
    assert message in told(capsys)
    assert everything(tmp_path) == before


def test_a_results_file_nested_beyond_measure_is_refused(report, tmp_path, capsys):
    (report / "results.json").write_text(NESTED)
    assert main(["--from", "elsewhere"], tmp_path / "work") == 2
    assert "results.json is damaged or cannot be read (RecursionError" in told(capsys)


def test_a_data_set_named_as_a_path_in_stored_runs_writes_nothing_outside(report, tmp_path, monkeypatch):
    """What a notebook does with it: no lock and no folder beside the store."""
    (path,) = report.glob("runs/*/provenance.json")
    record = read_json(path)
    record["data"]["name"] = "../../../escaped"
    write_json(path, record)
    monkeypatch.setenv("SIMCLR_RUNS", str(report / "runs"))
    monkeypatch.setenv("LABREPORT_FROM", "1")
    before = everything(tmp_path)
    data = Lab("01", {}).dataset("../../../escaped")
    with pytest.raises(UserError, match="is no name"):
        pretrain(PretrainConfig(data.name, (0, 64), batch_size=32), data, report / "runs")
    assert everything(tmp_path) == before


def test_parameters_are_written_into_a_notebook_as_values_not_as_code():
    """papermill's and the lab's way from a value to source."""
    import ast

    from papermill.translators import PythonTranslator

    hostile = ['"; import os; os.mkdir("x") #', "'''\n\\", "\\\" + open('x')", "{__import__('os')}", "\x00\x1b\u2028"]
    source = PythonTranslator.codify({"a": hostile, "b": hostile[0], "c": {"d": hostile[1]}})
    values = [ast.literal_eval(statement.value) for statement in ast.parse(source).body]
    assert values == [hostile, hostile[0], {"d": hostile[1]}]


# ---- profiles ---------------------------------------------------------------------------------------------

LAUGHS = ["&a0 [ha]", *(f"&a{k} [{', '.join(10 * [f'*a{k - 1}'])}]" for k in range(1, 12))]  # 10 ** 11 times


@pytest.mark.parametrize(
    "text",
    ["01_first: !!python/object/apply:os.mkdir [made]", "01_first: !!python/name:os.system", "!!python/none x: {}",
     "01_first: !<tag:yaml.org,2002:python/object/new:os.system> [true]",
     f"laughs: [{', '.join(LAUGHS)}]", f"01_first: {{epochs: [{', '.join(LAUGHS)}]}}",
     "01_first: {lr: &a [0.1], epochs: *a}", "01_first: &a {x: *a}", "01_first: {<<: *b}", NESTED,
     "01_first: {epochs: 2001-99-99}", "01_first: {epochs: !!timestamp x}", "01_first: {epochs: !!int x}",
     "01_first: {epochs: !!bool x}", "01_first: {epochs: 2001-01-01}", "01_first: {epochs: 0x" + 5000 * "f" + "}",
     "01_first: {epochs: !!binary aGE=}", '01_first: {dataset: "\\ud800"}', "01_first: {seeds: [2001-01-01]}",
     "01_first: {? [a] : b}", "report: {stand_ins: {mnist: 5}}", "report: {stand_ins: {5: digits}}",
     "report: {stand_ins: {mnist: 2001-01-01}}", "report: {notebooks: [²]}", "report: {title: !!set {a}}",
     "%YAML 9.9\n---\na", "\x00", "\ufeff01_first: {epochs: .inf}", "01_first: {epochs: .nan, lr: .nan}"],
    ids=lambda text: ascii(text[:40]),
)  # fmt: skip
def test_a_hostile_profile_is_refused_before_it_is_expanded(text, tmp_path, capsys, little_memory):
    make_project(tmp_path / "work")
    write_profile(tmp_path / "work", "hostile", text)
    before = everything(tmp_path)
    assert main(["--profile", "hostile"], tmp_path / "work") == 2
    assert len(told(capsys)) < 1_000
    assert everything(tmp_path) == before


# ---- image folders ----------------------------------------------------------------------------------------


def png_of(width: int, height: int) -> bytes:
    """A PNG file that declares a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def thin_png() -> bytes:
    """Three million pixels in a kilobyte or three: 32 x 96 million when its shorter side is 32."""
    buffer = io.BytesIO()
    Image.new("1", (1, 3_000_000)).save(buffer, "png")
    return buffer.getvalue()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"  # Ghostscript would run it


def saved(form: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [(png_of(50_000, 50_000), "DecompressionBombError"), (png_of(10_000, 10_000), "more than 50,000,000"),
     (png_of(0, 8), "cannot be read"), (thin_png(), "too long and thin"), (POSTSCRIPT, "cannot be read"),
     (saved("png")[:-500], "cannot be read"), (saved("jpeg")[:200], "cannot be read"), (b"", "cannot be read"),
     (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be read"), (b"%PDF-1.4", "cannot be read")],
)  # fmt: skip
def test_an_image_that_is_a_bomb_or_none_is_named(content, message, little_memory):
    root = write_folder(Path("mine"))
    Path(root, "train/apfel/9.png").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(f"folder:{root}")
    assert "train/apfel/9.png" in one_line(caught.value)


def test_of_an_animation_the_first_picture_is_read():
    root = write_folder(Path("mine"))
    frames = [Image.new("L", (32, 32), shade) for shade in (40, 200, 90)]
    frames[0].save(root / "train/apfel/9.gif", save_all=True, append_images=frames[1:])
    assert load_dataset(f"folder:{root}").train.images[-1].unique().tolist() == [40]


def test_links_within_the_tree_work_and_those_out_of_it_are_named(tmp_path):
    root = write_folder(Path("mine"))
    (root / "train/apfel/5.png").symlink_to("../苹果/1.png")
    (root / "train/apfel/6.png").symlink_to(root.absolute() / "test/apfel/0.png")
    Path("alias").symlink_to(root)
    assert len(load_dataset("folder:alias").train) == 6
    outside = tmp_path / "outside.png"
    save_image(outside, np.zeros((8, 8, 3)))
    for link, target in {"train/apfel/7.png": outside, "train/apfel/8.png": "../../../../outside.png"}.items():
        (root / link).symlink_to(target)
        with pytest.raises(UserError, match=f"{link} is a link out of mine"):
            load_dataset(f"folder:{root}")
        (root / link).unlink()
    (tmp_path / "class").mkdir()
    save_image(tmp_path / "class/0.png", np.zeros((8, 8, 3)))
    for split in ("train", "test"):
        (root / split / "linked").symlink_to(tmp_path / "class")
    with pytest.raises(UserError, match="linked/0.png is a link out of mine"):
        load_dataset(f"folder:{root}")


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere.png", path), lambda path: os.symlink("9.png", path),
     lambda path: os.symlink("/dev/zero", path)],
    ids=["pipe", "folder", "broken link", "link to itself", "device"],
)  # fmt: skip
def test_what_is_no_file_is_named_and_not_waited_for(make, short_time, little_memory):
    root = write_folder(Path("mine"))
    make(root / "train/apfel/9.png")
    with pytest.raises(UserError, match=r"train/apfel/9.png is (not a file|a link out)"):
        load_dataset(f"folder:{root}")


@pytest.mark.parametrize("name", ["a\nb", "a\x1b]0;title\x07", "a\u2028b", os.fsdecode(b"\xff")], ids=ascii)
def test_names_that_no_line_of_text_can_hold_are_refused(name, tmp_path, capsys):
    for place in (f"{name}/0.png", f"apfel/{name}.png"):
        root = write_folder(tmp_path / place[0])
        for split in ("train", "test"):
            save_image(root / split / place, np.zeros((8, 8, 3)))
        with pytest.raises(UserError, match="control character or is not UTF-8") as caught:
            load_dataset(f"folder:{root}")
        assert one_line(caught.value).isprintable()
    (tmp_path / name).mkdir(exist_ok=True)
    with pytest.raises(UserError, match="control character or is not UTF-8") as caught:
        load_dataset(f"folder:{tmp_path / name}")
    assert one_line(caught.value).isprintable()


def test_numbers_that_are_no_decimals_are_names():
    root = write_folder(Path("mine"))
    save_image(root / "train/apfel/².png", np.zeros((8, 8, 3)))
    assert len(load_dataset(f"folder:{root}").train) == 5


def test_a_tree_without_classes_or_with_one_only_in_test_is_named():
    (Path("mine/train")).mkdir(parents=True)
    (Path("mine/test")).mkdir()
    with pytest.raises(UserError, match="holds no class folder"):
        load_dataset("folder:mine")
    root = write_folder(Path("mine"))
    save_image(root / "test/extra/0.png", np.zeros((8, 8, 3)))
    with pytest.raises(UserError, match=r"differ in their classes \(extra\)"):
        load_dataset("folder:mine")


def test_a_hostile_folder_ends_the_command_in_one_line_and_writes_nothing(tmp_path, capsys):
    make_project(tmp_path / "work")
    root = write_folder(tmp_path / "mine")
    (root / "train/apfel/9.png").write_bytes(png_of(50_000, 50_000))
    before = everything(tmp_path)
    assert main(["--profile", "tiny", "--set", f"1.dataset=folder:{root}"], tmp_path / "work") == 2
    assert "9.png cannot be read" in told(capsys)
    assert [path for path in everything(tmp_path) if "/data" not in path] == before
    assert {path.suffix for path in Path(tmp_path, "work/data/cache").iterdir()} == {".lock"}


# ---- archives ---------------------------------------------------------------------------------------------


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0, **pax: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.pax_headers = kind, target, size, pax
    return info


def archive_of(*members: tarfile.TarInfo) -> Path:
    """The archive of test_data with further members, whose content is left out, in data/."""
    Path("data").mkdir()
    path = Path("data/cifar10-x.tar.gz")
    write_archive(path)
    raw = gzip.decompress(path.read_bytes()).rstrip(b"\0")
    more = b"".join(info.tobuf(tarfile.PAX_FORMAT) for info in members)
    path.write_bytes(gzip.compress(raw + bytes(-len(raw) % 512) + more + bytes(1024)))
    return path


IMAGE = "cifar10/train/cat/99.png"
SPARSE = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(1 << 60), "GNU.sparse.map": "0,0"}


def test_the_archive_of_these_tests_is_read_as_long_as_nothing_is_added():
    archive_of(member("cifar10", tarfile.DIRTYPE), member("notes.txt"))
    assert len(load_dataset("cifar10").train) == 20


@pytest.mark.parametrize(
    ("added", "message"),
    [(member("/cifar10/train/cat/99.png"), "a path out of it"),
     (member("cifar10/train/../../x/cat/9.png"), "a path out of it"),
     (member(IMAGE, tarfile.SYMTYPE, "/etc/passwd"), "a link or a device"),
     (member(IMAGE, tarfile.LNKTYPE, "cifar10/train/airplane/00000.png"), "a link or a device"),
     (member(IMAGE, tarfile.CHRTYPE), "a link or a device"), (member(IMAGE, tarfile.BLKTYPE), "a link or a device"),
     (member(IMAGE, tarfile.FIFOTYPE), "a link or a device"),
     (member(IMAGE, size=1 << 35), "more than 1,073,741,824 bytes"),
     (member(IMAGE, **SPARSE), "more than 1,073,741,824 bytes"),
     (member("cifar10/train/c\nat/99.png"), "control character"),
     (member("cifar10/train/cat/9\x1b.png"), "control character"),
     (member(IMAGE, **{"GNU.sparse.map": "x"}), "is damaged"),
     (member(IMAGE, **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), "is damaged")],
    ids=["absolute", "dots", "symlink", "hard link", "character device", "block device", "pipe", "size", "sparse",
         "newline", "escape", "sparse map", "sparse without map"],
)  # fmt: skip
def test_an_archive_with_what_no_image_archive_holds_is_refused(added, message, tmp_path, little_memory, short_time):
    archive_of(added)
    before = everything(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset("cifar10")
    assert "data/cifar10-x.tar.gz" in one_line(caught.value)
    assert [path for path in everything(tmp_path) if "/data/cache" not in path] == before
    assert {path.suffix for path in Path("data/cache").glob("*")} <= {".lock"}


def test_an_archive_that_unpacks_to_more_than_any_cifar10_is_refused(monkeypatch, little_memory):
    """Zeros behind a small archive, and in a header (which tarfile would read whole)."""
    monkeypatch.setattr(cifar10, "LARGEST_ARCHIVE", 1 << 20)
    path = archive_of()
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(1 << 21)))
    with pytest.raises(UserError, match="holds more than 1,048,576 bytes; this is no archive of CIFAR-10"):
        load_dataset("cifar10")
    path.write_bytes(gzip.compress(member("x", tarfile.XHDTYPE, size=1 << 31).tobuf() + bytes(1 << 21)))
    with pytest.raises(UserError, match="holds more than 1,048,576 bytes"):
        load_dataset("cifar10")


def test_an_archive_of_very_many_members_is_refused(monkeypatch):
    monkeypatch.setattr(cifar10, "MOST_MEMBERS", 35)
    path = archive_of(*(member(f"empty-{k}") for k in range(10)))  # 30 images and these
    with pytest.raises(UserError, match="or 35 members"):
        load_dataset("cifar10")
    assert path.is_file()


def test_an_archive_damaged_anywhere_is_named(short_time):
    """Bytes changed in the compressed stream: zlib, gzip and tarfile each have their own exceptions."""
    content = archive_of().read_bytes()
    for at in range(0, len(content), 97):
        Path("data/cifar10-x.tar.gz").write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            load_dataset("cifar10")
        except UserError as error:
            one_line(error)


def test_a_pipe_in_place_of_an_archive_is_passed_over(short_time):
    Path("data").mkdir()
    os.mkfifo("data/cifar10.tar.gz")
    with pytest.raises(DataNotFound):
        load_dataset("cifar10", download=False)


def test_a_changed_config_is_another_run(run, tiny_data):
    """The forged runs above are found at all: what is refused is not merely unknown."""
    assert find_run(run.config, tiny_data, "runs").name == run.name
    assert find_run(replace(run.config, seed=1), tiny_data, "runs") is None
