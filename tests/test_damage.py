"""Damage to the files of a run store and of the data cache: the same numbers to the bit, or one line naming the file.

A finished run with evaluations, one that was cut off within its last epoch, and cached images are made once. Each case
copies them, damages one file by a seed, and asks twice for the data, the run, its weights and its evaluations. Nothing
else is allowed: no other exception, no other number. All 532 cases: pytest tests/test_damage.py -s, which ends with a
table of what became of them; the default without -m "not slow" is the same, with it 56.
"""

import hashlib
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cut import cut_after
from PIL import Image
from safetensors.torch import save

from labreport import measure
from labreport.measure import fit_probe, knn, picture_views
from labreport.store import pretrain
from labreport.store.runs import Run
from simclr_core.config import PretrainConfig
from simclr_core.data import Dataset, Split, load_dataset
from simclr_core.errors import UserError
from simclr_core.evaluate import ProbeConfig

FILES = {  # kind -> where it lies below the template; one of several is chosen by the seed
    "history": "finished/*/history.csv",
    "config": "finished/*/config.json",
    "provenance": "finished/*/provenance.json",
    "encoder": "finished/*/encoder.safetensors",
    "projection_head": "finished/*/projection_head.safetensors",
    "kept_encoder": "finished/*/encoder-0001.safetensors",
    "probe": "finished/*/probe-*.json",
    "knn": "finished/*/knn-*.json",
    "views": "finished/*/views-*.json",
    "checkpoint": "unfinished/*/checkpoint.pt",
    "unfinished_history": "unfinished/*/history.csv",
    "unfinished_config": "unfinished/*/config.json",
    "unfinished_kept_encoder": "unfinished/*/encoder-0001.safetensors",
    "cached_data": "cache/*.decoded",
}
TIMES = ("seconds", "images_per_second")  # the only things that may differ from one training to the next
SEEDS = 9
STEPS_BEFORE_THE_CUT = 5  # of two an epoch: within the third


# ---- damage -----------------------------------------------------------------------------------------------


def _position(content: bytes, draw: random.Random) -> int:
    """Anywhere, or (every other time) near the front, where headers are."""
    return draw.randrange(min(len(content), draw.choice([1_024, len(content)])))


def flip_bit(content: bytes, draw: random.Random) -> bytes:
    at = _position(content, draw)
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def change_bytes(content: bytes, draw: random.Random) -> bytes:
    """One to eight bytes, each for any other."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        changed[_position(content, draw)] ^= draw.randint(1, 255)
    return bytes(changed)


def zero_block(content: bytes, draw: random.Random) -> bytes:
    """512 bytes read as zeros: a lost sector."""
    start = _position(content, draw) // 512 * 512
    lost = content[start : start + 512]
    return content[:start] + bytes(len(lost)) + content[start + len(lost) :]


def truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: _position(content, draw)]


RANDOM_DAMAGE = {"bit": flip_bit, "bytes": change_bytes, "block": zero_block, "truncated": truncate}


def damage_file(path: Path, kind: str, damage: str, seed: int) -> None:
    if damage == "directory":
        path.unlink()
        path.mkdir()
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(RANDOM_DAMAGE[damage](path.read_bytes(), random.Random(f"{kind} {damage} {seed}")))


# ---- what is asked ----------------------------------------------------------------------------------------


def make_data() -> Dataset:
    """40 training and 20 test images of 12 x 12 grey pixels in 4 classes; the class is the bright quadrant."""
    draw = np.random.default_rng(7)

    def split(n: int) -> Split:
        images = draw.integers(0, 80, (n, 12, 12, 1), np.uint8)
        for k in range(n):
            row, column = 6 * (k % 4 // 2), 6 * (k % 2)
            images[k, row : row + 6, column : column + 6] += 150
        return Split(torch.from_numpy(images), torch.arange(n) % 4)

    return Dataset("tiny", split(40), split(20), tuple("abcd"), (0.3,), (0.25,), "made for the tests")


def make_folder(root: Path) -> None:
    """An image folder of 8 training and 4 test images in 2 classes, whose decoded form is cached."""
    draw = np.random.default_rng(7)
    for split, n in (("train", 8), ("test", 4)):
        for k in range(n):
            path = root / split / "ab"[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 255, (32, 32, 3), np.uint8)).save(path)


DATA = make_data()
CONFIG = PretrainConfig("tiny", (0, 40), augmentation="r2_two_views", batch_size=20, epochs=3)


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in TIMES}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def _describe(data: Dataset) -> dict:
    tensors = [getattr(getattr(data, split), part) for split in ("train", "test") for part in ("images", "labels")]
    return {**data.record(), "tensors": [(str(tensor.dtype), tensor.tolist()) for tensor in tensors]}


def digest(module: torch.nn.Module) -> str:
    return hashlib.sha256(save(module.state_dict())).hexdigest()


def _questions(run: Run) -> dict[str, Callable[[], object]]:
    probe = ProbeConfig(labels=(0, 40), epochs=3, batch_size=20, lr=0.01)
    return {
        "history": lambda: run.history,
        "data as recorded": lambda: run.record["data"],
        "weights": lambda: digest(run.load_encoder()),
        "weights of epoch 1": lambda: digest(run.load_encoder(1)),
        "projection head": lambda: digest(run.load_projection_head()),
        "probe": lambda: fit_probe(run, DATA, probe),
        "probe of epoch 1": lambda: fit_probe(run, DATA, replace(probe, epoch=1)),
        "probe on z": lambda: fit_probe(run, DATA, replace(probe, on="z")),
        "kNN": lambda: knn(run, DATA, (0, 40), k=3),
        "pictures": lambda: picture_views(run, DATA, images=2, pairs=1),
    }


def ask(home: Path, folder: str, images: Path) -> dict[str, object]:
    """question -> its answer without times, or the UserError that it was refused with."""
    answers: dict[str, object] = {}

    def put(question: str, answer: Callable[[], object]) -> None:
        try:
            answers[question] = _without_times(answer())
        except UserError as error:
            answers[question] = error

    measure._held.clear()  # as in a new process
    if folder == "cache":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SIMCLR_CACHE", str(home / "cache"))
            patch.chdir(images.parent)  # the path is in the cache's header, which is to be the same everywhere
            put("images", lambda: _describe(load_dataset(f"folder:{images.name}")))
        return answers
    try:
        run = pretrain(CONFIG, DATA, home / folder, keep_epochs=(1,))
    except UserError as error:
        return {"run": error}
    for question, answer in _questions(run).items():
        put(question, answer)
    return answers


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """finished/ and unfinished/ (run stores), cache/, and the image folder images/."""
    home = tmp_path_factory.mktemp("damage")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    make_folder(home / "images")
    ask(home, "cache", home / "images")
    ask(home, "finished", home / "images")
    with pytest.MonkeyPatch.context() as patch:
        cut_after(patch, STEPS_BEFORE_THE_CUT)
        with pytest.raises(KeyboardInterrupt):
            ask(home, "unfinished", home / "images")
    return home


@pytest.fixture(scope="module")
def undamaged(template) -> dict[str, object]:
    """Every question's right answer."""
    answers = {**ask(template, "cache", template / "images"), **ask(template, "finished", template / "images")}
    assert not [answer for answer in answers.values() if isinstance(answer, UserError)]
    return answers


@pytest.fixture(scope="module")
def tally():
    """(kind, outcome) -> cases; printed at the end."""
    counts: Counter = Counter()
    yield counts
    outcomes = sorted({outcome for _, outcome in counts})
    print(f"\n{'':24}" + "".join(f"{outcome:>22}" for outcome in outcomes))
    for kind in FILES:
        print(f"{kind:24}" + "".join(f"{counts[kind, outcome]:22}" for outcome in outcomes))
    print(f"{'all':24}" + "".join(f"{sum(counts[kind, outcome] for kind in FILES):22}" for outcome in outcomes))


@pytest.fixture
def home(template, tmp_path) -> Iterator[Path]:
    """A copy of the template, which may be damaged; removed afterwards, or 532 of them would fill the disk."""
    for folder in ("finished", "unfinished", "cache"):
        shutil.copytree(template / folder, tmp_path / folder)
    yield tmp_path
    shutil.rmtree(tmp_path)


def check_answers(home: Path, images: Path, path: Path, undamaged: dict[str, object], capsys) -> str:
    """Ask twice after the damage to `path`; returns what became of it, in a word or three."""
    folder = path.relative_to(home).parts[0]
    refused = False
    capsys.readouterr()
    for _ in range(2):
        for question, answer in ask(home, folder, images).items():
            if isinstance(answer, UserError):
                refused = True
                assert path.name in str(answer) and "\n" not in str(answer), f"{question}: {answer}"
            else:
                assert answer == undamaged[question], f"another answer on {question}"
    said = capsys.readouterr()
    if set_aside := list(home.rglob("*.damaged*")):
        assert path.name in said.out + said.err, f"{set_aside} without a word"
    return "refused" if refused else "set aside, made anew" if set_aside else "as if undamaged"


# ---- the cases --------------------------------------------------------------------------------------------


def _cases():
    for kind in FILES:
        for damage in ("empty", "directory", *RANDOM_DAMAGE):
            for seed in range(SEEDS if damage in RANDOM_DAMAGE else 1):
                slow = [pytest.mark.slow] if seed or damage in ("bytes", "block") else []
                yield pytest.param(kind, damage, seed, id=f"{kind}-{damage}-{seed}", marks=slow)


def chosen(home: Path, kind: str, seed: int) -> Path:
    files = sorted(home.glob(FILES[kind]))
    return files[seed % len(files)]


@pytest.mark.parametrize(("kind", "damage", "seed"), list(_cases()))
def test_damage_gives_the_same_numbers_or_one_line_naming_the_file(
    kind, damage, seed, home, template, undamaged, tally, capsys
):
    path = chosen(home, kind, seed)
    damage_file(path, kind, damage, seed)
    tally[kind, check_answers(home, template / "images", path, undamaged, capsys)] += 1



def test_undamaged_the_unfinished_run_ends_as_the_finished_one(home, template, undamaged):
    answers = ask(home, "unfinished", template / "images")
    assert answers == {question: undamaged[question] for question in answers}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_cannot_be_read_is_named_or_not_needed(kind, home, template, undamaged, capsys):
    path = chosen(home, kind, 0)
    path.chmod(0)
    check_answers(home, template / "images", path, undamaged, capsys)
