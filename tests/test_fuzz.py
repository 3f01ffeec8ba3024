"""Arbitrary values, options, profiles and files: what they ask for, or a UserError in one line; never anything else."""

import ast
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from papermill.translators import PythonTranslator
from PIL import Image
from toy_project import make_project, sealed, write_profile

from labreport import session
from labreport.cli import parse
from labreport.project import Project
from labreport.run.profiles import choose_parameters, load_profile
from labreport.run.stand_ins import data_environment
from labreport.store.identity import run_name
from labreport.store.packed import unpack_arrays
from labreport.store.recorded import dataset_from_record
from simclr_core.cluster import ClusterConfig
from simclr_core.config import PretrainConfig
from simclr_core.data import load, load_dataset
from simclr_core.errors import DataNotFound, UserError
from simclr_core.evaluate import ProbeConfig

BEYOND = settings(derandomize=True, database=None, deadline=None, max_examples=150,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
FEW = settings(BEYOND, max_examples=60)

numbers = st.integers() | st.integers(-2, 300) | st.floats() | st.floats(0, 2)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner,
                                                                                         max_size=3))  # fmt: skip
words = st.sampled_from([  # what programs of this kind stumble over
    "01_first", "01", "1", "²", "0", "-1", "1e999", "nan", "null", "[0]", "[[", '{"a": 1}', "true", "tiny", "epochs",
    "report", "../..", "/", "\0", "\n", "\x1b[2J", "\ud800", "folder:", "folder:.", "digits", "mnist", "cifar10", "=",
    ".", ",", "1" * 5000, "<b>", "*a", "&a", "!!int x", "2001-99-99", "'", '"', "\\", "#", "%", "~", "- ", ": ", "? ",
    "|",
])  # fmt: skip


@contextmanager
def one_line_or_none() -> Iterator[None]:
    """Only a UserError may come out of the block, and it is one line that a terminal can show."""
    try:
        yield
    except UserError as error:
        assert str(error) and str(error).isprintable() or not set(str(error)) & set("\n\r\x1b\0"), repr(error)
        str(error).encode()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Iterator[Path]:
    """A toy checkout; it is the working folder, and there is no network."""

    def not_found(name, *_):
        raise DataNotFound(f"{name}: no network")

    folder = make_project(tmp_path_factory.mktemp("fuzz"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(load, "download", not_found)
        for name in ("SIMCLR_DATA", "SIMCLR_CACHE"):
            patch.delenv(name, raising=False)
        yield folder


@contextmanager
def nothing_written(root: Path) -> Iterator[None]:
    before = sorted(root.rglob("*"))
    yield
    assert sorted(root.rglob("*")) == before


# ---- configurations -----------------------------------------------------------------------------------------

GIVEN = {
    PretrainConfig: {"dataset": "tiny", "images": (0, 300)},
    ProbeConfig: {"labels": (0, 100)},
    ClusterConfig: {"method": "kmeans", "fit": (0, 100)},
}


@pytest.mark.parametrize("config", GIVEN, ids=lambda config: config.__name__)
@BEYOND
@given(data=st.data())
def test_a_config_of_any_values_is_valid_or_refused(config, data):
    ranges = st.tuples(numbers, numbers) | st.lists(st.integers(), max_size=3)
    changes = data.draw(st.fixed_dictionaries({}, optional={field.name: values | ranges for field in fields(config)}))
    with one_line_or_none():
        made = config(**{**GIVEN[config], **changes})
        assert config(**json.loads(json.dumps(made.record(), allow_nan=False))) == made
        if config is PretrainConfig:
            assert "/" not in run_name(made, SimpleNamespace(fingerprint="f"))


# ---- profiles and options -------------------------------------------------------------------------------------

keys = st.sampled_from(["epochs", "lr", "seeds", "dataset", "title", "notebooks", "stand_ins", "estimate", "x"])
documents = (
    st.lists(words | st.text(max_size=5), max_size=12).map("".join)
    | st.lists(words, max_size=8).map("\n".join)
    | st.dictionaries(st.sampled_from(["report", "01", "01_first", "99", 1, "x"]),
                      values | st.dictionaries(keys, values | words))
    .map(lambda value: yaml.safe_dump(value, allow_unicode=False))
)  # fmt: skip


@BEYOND
@given(document=documents)
@example(document="01_first: {epochs: 2001-99-99}")
@example(document="report: {stand_ins: {mnist: 5}}")
@example(document='01_first: {dataset: "\\ud800"}')
def test_any_document_is_a_profile_or_refused(document, root):
    try:
        write_profile(root, "fuzzed", document)
    except UnicodeEncodeError:
        return
    with one_line_or_none():
        profile = load_profile(Project(root), "fuzzed")
        chosen = choose_parameters(Project(root), profile.sections, profile.notebooks, {}, [])
        check_parameters(chosen)
        json.dumps([profile.title, profile.description, profile.stand_ins, profile.estimate], allow_nan=False)
        (profile.title + profile.description).encode()


def check_parameters(chosen: dict[str, dict]) -> None:
    """They can be stored, and papermill writes them as the literals that they are."""
    for parameters in chosen.values():
        json.dumps(parameters, allow_nan=False)
        source = PythonTranslator.codify(parameters)
        source.encode()
        statements = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
        assert {node.targets[0].id: ast.literal_eval(node.value) for node in statements} == parameters


@BEYOND
@given(parameter=st.sampled_from(["epochs", "lr", "seeds", "dataset", "stand_in_for", "x", ""]),
       text=words | st.text(max_size=20) | values.map(str) | values.map(json.dumps))  # fmt: skip
@example(parameter="dataset", text="\ud800")
@example(parameter="epochs", text="[" * 5000)
@example(parameter="seeds", text="[" + "1" * 4000 + "]")
def test_set_gives_a_value_or_is_refused(parameter, text, root):
    with one_line_or_none():
        check_parameters(choose_parameters(Project(root), {}, ["01_first"], {}, [f"01_first.{parameter}={text}"]))


option = st.sampled_from(["--profile", "--only", "--set", "--seeds", "--data", "--jobs", "--device", "--from",
                          "--fresh", "--list", "--require-real-data", "--", "-", "-x", "--help"])  # fmt: skip
setting = st.tuples(words, st.sampled_from([".epochs=", ".dataset=", ".seeds=", "=", "."]), words).map("".join)
argument = option | words | setting | st.text(max_size=6) | st.tuples(option, words).map("=".join)


@FEW
@given(arguments=st.lists(argument, max_size=6), known=st.booleans())
@example(arguments=["--only", "²"], known=True)
@example(arguments=["--only", "1" * 5000], known=True)
@example(arguments=["--set", "01.seeds=" + "[" * 5000], known=True)
@example(arguments=["--jobs", "1" * 5000], known=True)
@example(arguments=["a\nb", "c"], known=True)
def test_any_arguments_are_a_call_or_refused_and_nothing_is_written(arguments, known, root):
    with nothing_written(root), one_line_or_none():
        try:
            options = parse([*(["--profile", "tiny"] if known else []), *arguments])
        except SystemExit as stop:
            assert stop.code == 0 and "--help" in arguments
            return
        data_environment(options.data, root)
        session.prepare(Project(root), options)


# ---- stored files -----------------------------------------------------------------------------------------------

RECORD = {"name": "x", "source": "y", "fingerprint": "z", "train": 3, "test": 2, "image_shape": [8, 8, 1],
          "class_names": ["a", "b"], "mean": [0.1], "std": [0.2]}  # fmt: skip


@BEYOND
@given(value=values | st.fixed_dictionaries({}, optional=dict.fromkeys(RECORD, values)).map(lambda v: {**RECORD, **v}))
def test_any_record_describes_data_or_is_refused(value):
    with one_line_or_none():
        data = dataset_from_record(value)
        assert len(data.train) >= 0 and data.fingerprint == value["fingerprint"]


@BEYOND
@given(value=values | st.fixed_dictionaries({"shape": values | st.lists(st.integers(-3, 9), max_size=3),
                                             "uint8": values | st.binary(max_size=20).map(bytes.hex)}))  # fmt: skip
def test_any_packed_pictures_are_unpacked_or_refused(value):
    with one_line_or_none():
        unpacked = unpack_arrays({"pictures": value})["pictures"]
        assert unpacked is value or unpacked.shape == tuple(value["shape"])


MADE = {"commit": "c", "dirty": False, "device": "d", "versions": {"torch": "2"}}
RESULTS = {"finished": True, "profile": "tiny", "provenance": MADE,
           "notebooks": {"01_first": {"parameters": {"epochs": 3}}}}  # fmt: skip
changed = {
    "profile": values,
    "provenance": values | st.fixed_dictionaries({}, optional=dict.fromkeys(MADE, values)).map(lambda v: {**MADE, **v}),
    "notebooks": values | st.dictionaries(words, st.fixed_dictionaries({"parameters": values}), max_size=2),
}


@FEW
@given(content=values | st.fixed_dictionaries({}, optional=changed).map(lambda v: {**RESULTS, **v}))
@example(content={**RESULTS, "profile": 5})
@example(content={**RESULTS, "provenance": {**MADE, "versions": 5}})
@example(content={**RESULTS, "notebooks": {"../../x": {"parameters": {}}}})
def test_any_results_file_is_read_or_refused(content, root):
    folder = root / "elsewhere"
    (folder / "runs/x").mkdir(parents=True, exist_ok=True)
    (folder / "runs/x/config.json").touch()
    (folder / "results.json").write_text(sealed(content))
    try:
        with one_line_or_none():
            prepared = session.prepare(Project(root), parse(["--from", str(folder)]))
            assert prepared.profile.name == "tiny" and "".join(prepared.source.provenance["versions"].values()).encode()
    finally:
        shutil.rmtree(folder)


# ---- image folders ----------------------------------------------------------------------------------------------


def _image(form: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, form)
    return buffer.getvalue()


FORMS = "png RGB, png P, jpeg L, bmp RGB, gif P, tiff I;16, webp RGBA, ppm RGB"
IMAGES = [_image(*form.split()) for form in FORMS.split(", ")]


@st.composite
def damaged_images(draw) -> bytes:
    content = bytearray(draw(st.sampled_from(IMAGES)))
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content))) or None])


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=()), min_size=1, max_size=6)
paths = st.builds(
    "{}/{}/{}{}".format,
    st.sampled_from(["train", "train", "test", "."]),
    st.sampled_from(["a", "b", "..", ""]) | names,
    st.sampled_from(["0", "1", "²", "a"]) | names,
    st.sampled_from([".png", ".PNG", ".tif", ".txt", "", "."]),
)
trees = st.dictionaries(paths, damaged_images() | st.sampled_from(IMAGES) | st.binary(max_size=40), max_size=5)


@settings(BEYOND, max_examples=100)
@given(tree=trees, whole=st.booleans())
@example(tree={"train/a/².png": IMAGES[0]}, whole=True)
@example(tree={"train/a/\udcff.png": IMAGES[0]}, whole=True)
@example(tree={"train/a/9.png": IMAGES[0][:20] + b"x" + IMAGES[0][21:]}, whole=True)  # its checksum does not fit
def test_any_tree_is_an_image_folder_or_refused(tree, whole, root):
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMCLR_CACHE", f"{scratch}/cache")
        folder = Path(scratch, "mine")
        usual = {f"{split}/{label}/7.png": IMAGES[0] for split in ("train", "test") for label in "ab"}
        for path, content in {**(usual if whole else {}), **tree}.items():
            try:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
            except (OSError, ValueError):  # no name of this file system, or a folder's
                continue
        with nothing_written(folder), one_line_or_none():
            data = load_dataset(f"folder:{folder}")
            assert data.train.images.shape[1:] == (32, 32, 3) and len(data.train) == len(data.train.labels)
            assert load_dataset(f"folder:{folder}").fingerprint == data.fingerprint
