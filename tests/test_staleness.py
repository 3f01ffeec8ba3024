"""An edit that moves numbers is noticed at the next call; one that does not keeps every run.

Each call is a process of its own on a copied tree, forked from this one with the method unloaded.
A few edits in each run, all with LABREPORT_LONG=1.
"""

import ast
import hashlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted_bugs import ROOT, Bug, bug, plant

LONG = bool(os.environ.get("LABREPORT_LONG"))
MOVING = [  # the first three in each run
    ("tiled_loss", "the tile's second half is missing"),
    ("train", "a ragged batch counts as a whole one"),
    ("evaluate", "kNN without normalisation"),
    ("data/made", "the range of the digits' pixels"),
    ("tiled_loss", "half of the gradient"),
    ("loss", "the positive is the next image's view"),
    ("loss", "temperature ignored"),
    ("augment", "the views' range of pixels"),
    ("augment", "views normalised in the wrong order"),
    ("augment", "every probability turned round"),
    ("model", "heads without ReLU"),
    ("model", "MNIST's encoder without its second ReLU"),
    ("optim", "SGD without momentum"),
    ("optim", "the last quarter of the schedule"),
    ("seeds", "the ragged batch joined"),
    ("train", "BN always over both views"),
    ("train", "the head in eval mode"),
    ("train", "the schedule ignored"),
    ("config", "temperature fixed"),
    ("config", "momentum fixed"),
    ("evaluate", "standardised by the test features"),
    ("evaluate", "labels shifted"),
    ("evaluate", "fine-tuning's strength"),
    ("cluster", "the worst naming"),
    ("geometry", "alpha 1"),
    ("geometry", "the map of h as it is"),
    ("measure", "the epoch ignored"),
]
DECODING = ["the decoder's resize", "the decoder's crop", "the decoder's colours"]
# What adopt must refuse, beside the first of the others.
REFUSED = [which for which in MOVING if which[0] != "data/made"][:15]
REFACTORINGS = {  # file of the method, old text, new text
    "a local variable renamed": ("loss", "logits", "scaled"),
    "a function split in two": (
        "train",
        "            z = self.head(self.encoder(torch.cat([x_i, x_j])))  # (2N, D)\n",
        "            return self._of_both(x_i, x_j)\n\n"
        "    def _of_both(self, x_i: Tensor, x_j: Tensor) -> tuple[Tensor, Tensor]:\n"
        "            z = self.head(self.encoder(torch.cat([x_i, x_j])))  # (2N, D)\n",
    ),
    "two lines in another order": (
        "train",
        "        self.encoder.train()\n        self.head.train()\n",
        "        self.head.train()\n        self.encoder.train()\n",
    ),
    "an early return": (
        "loss",
        "        return nt_xent_tiled(z, temperature) if tiled "
        "else nt_xent_plain(z, temperature)\n",
        "        if tiled:\n            return nt_xent_tiled(z, temperature)\n"
        "        return nt_xent_plain(z, temperature)\n",
    ),
    "a loop for a comprehension": (
        "train",
        '        self.peaks = [group["lr"] for group in self.optimizer.param_groups]\n',
        "        self.peaks = []\n        for group in self.optimizer.param_groups:\n"
        '            self.peaks.append(group["lr"])\n',
    ),
}


# ---- processes on a copied tree -----------------------------------------------------------------


def in_tree(tree: Path, call: Callable, *given) -> tuple[object, list[str]]:
    """What a call returns (JSON types) in a process that imports the tree's code; its stderr."""
    out, err = tree / "out.json", tree / "err.txt"
    child = os.fork()
    if not child:
        with open(err, "w") as sys.stderr:
            try:
                sys.dont_write_bytecode = True
                for name in list(sys.modules):
                    if name.partition(".")[0] in ("simclr_core", "labreport"):
                        del sys.modules[name]
                sys.path[:0] = [str(tree), str(tree / "reports")]
                os.environ["SIMCLR_CACHE"] = str(tree / "cache")
                out.write_text(json.dumps(call(*given), default=_digest))
                status = 0
            except BaseException:
                traceback.print_exc()
                status = 1
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = err.read_text()
    assert not status, said
    return json.loads(out.read_text()), said.splitlines()


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def calls(store: Path) -> dict:
    """Two runs and every kind of evaluation, as any notebook asks for them: their numbers."""
    from labreport import measure
    from labreport.store import pretrain
    from simclr_core.cluster import ClusterConfig
    from simclr_core.config import PretrainConfig
    from simclr_core.data import load_dataset
    from simclr_core.evaluate import ProbeConfig

    data = load_dataset("digits")
    common = {"augmentation": "r2_two_views", "head_hidden": 8, "head_dim": 8, "temperature": 0.3}
    tiled = PretrainConfig("digits", (0, 260), batch_size=256, epochs=1, **common)
    common |= {"optimizer": "sgd", "lr": 0.05, "momentum": 0.8, "schedule": "cosine"}
    plain = PretrainConfig("digits", (0, 70), batch_size=32, epochs=2, head="mlp_bn",
                           batch_norm="per_view", **common)  # fmt: skip
    first, run = pretrain(tiled, data, store), pretrain(plain, data, store, [1])
    probe = ProbeConfig((0, 60), epochs=2, standardise=True)
    tuned = ProbeConfig((0, 20), scored_on=(20, 40), epochs=1, augmentation="color")
    found = {
        "tiled": first.losses,
        "losses": run.losses,
        "weights": [r.record["files"]["encoder.safetensors"] for r in (first, run)],
        "probe": measure.fit_probe(run, data, probe),
        "finetune": measure.fine_tune(run, data, tuned),
        "knn": measure.knn(run, data, (0, 200), 3, epoch=1),
        "cluster": measure.cluster(run, data, ClusterConfig("kmeans", (0, 100), restarts=1)),
        "geometry": measure.measure_geometry(run, data, 100),
        "map": measure.map_in_the_plane(run, data, 20, "pca"),
        "neighbours": measure.neighbours(run, data, (0, 60), 2),
        "views": measure.picture_views(run, data, 2, 1),
    }
    for result in found.values():
        if isinstance(result, dict):
            result.pop("seconds", None)
    return found


def calls_after_an_edit(store: Path, tree: Path, which: tuple, looked: bool) -> dict | str:
    """The same in a process that has imported what is edited now; had it looked at digests?"""
    import labreport.measure  # noqa: F401
    from simclr_core.data.source import code_digests
    from simclr_core.errors import UserError

    if looked:
        code_digests("simclr_core.config")
    plant(bug(*which), tree)
    try:
        return calls(store)
    except UserError as error:
        return str(error)


def adopted(store: Path) -> int | str:
    """How many runs `adopt` accepts, or why none."""
    from labreport.tools.adopt import adopt
    from simclr_core.errors import UserError

    try:
        return adopt(store, say=lambda line: None)
    except UserError as error:
        return str(error)


def decoded(folder: Path) -> str:
    from simclr_core.data import load_dataset

    return load_dataset(f"folder:{folder}@8").fingerprint


def digests() -> list[int]:
    """Files that the digests of a run and of all evaluations read: the first time, and again."""
    from labreport.store.identity import EVALUATED_BY, evaluation_code, training_code
    from simclr_core.config import PretrainConfig
    from simclr_core.data import load_dataset

    data, read, counts = load_dataset("digits"), [], []
    read_text = Path.read_text
    Path.read_text = lambda path, *a, **k: read.append(path) or read_text(path, *a, **k)
    for _ in range(2):
        training_code(PretrainConfig("digits", (0, 300), micro_batch=8), data)
        for kind in EVALUATED_BY:
            evaluation_code(kind)
        assert len(set(read)) == len(read)
        counts.append(len(read))
        read.clear()
    return counts


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> tuple[Path, dict]:
    """A folder with the code and a store that it made; the numbers in it."""
    folder = tmp_path_factory.mktemp("original")
    for name in ("simclr_core", "reports/labreport"):
        ignored = shutil.ignore_patterns("__pycache__", "fonts", "templates")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    found, said = in_tree(folder, calls, folder / "runs")
    assert not said
    return folder, found


@pytest.fixture
def tree(original, tmp_path) -> Path:
    return shutil.copytree(original[0], tmp_path / "tree")


def files(store: Path) -> dict[str, bytes]:
    kept = (p for p in store.rglob("*") if p.is_file() and p.parent.name != ".locks")
    return {str(p.relative_to(store)): p.read_bytes() for p in kept}


def module_of(planted: Bug) -> str:
    at = "labreport" if planted.module == "measure" else "simclr_core"
    return f"{at}.{planted.module.replace('/', '.')}"


# ---- what is noticed ----------------------------------------------------------------------------


def test_at_least_twenty_edits_that_move_numbers_are_tried():
    assert len(MOVING) + len(DECODING) >= 20 and len(REFUSED) == 15


@pytest.mark.parametrize("which", MOVING if LONG else MOVING[:3], ids=str)
def test_an_edit_that_moves_numbers_is_noticed_in_a_line_and_the_numbers_made_anew(
    which, tree, original
):
    planted = bug(*which)
    plant(planted, tree)
    found, said = in_tree(tree, calls, tree / "runs")
    assert found != original[1]
    if which[0] == "data/made":  # the data have become others, with runs of their own
        assert not said and len(list((tree / "runs").glob("digits-*"))) == 4
    else:
        assert said
        for line in said:
            assert f"{module_of(planted)} changed since it was " in line and "set aside" in line
    assert in_tree(tree, calls, tree / "runs") == (found, [])


def test_a_process_goes_on_with_the_code_that_it_has_imported_and_the_next_one_notices(
    tree, original
):
    which = MOVING[0]
    given = calls_after_an_edit, tree / "runs", tree, which
    assert in_tree(tree, *given, True) == (original[1], [])
    shutil.copy(ROOT / "simclr_core/tiled_loss.py", tree / "simclr_core")
    refused, _ = in_tree(tree, *given, False)
    assert "tiled_loss.py was edited after this process began; start it again" in refused
    found, said = in_tree(tree, calls, tree / "runs")
    assert found["tiled"] != original[1]["tiled"]
    assert any("simclr_core.tiled_loss changed since it was trained" in line for line in said)


@pytest.mark.parametrize("what", DECODING if LONG else DECODING[:1])
def test_an_edit_to_the_decoder_makes_the_data_others(what, tree):
    draws = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in "ab":
            (tree / "images" / split / label).mkdir(parents=True)
            pixels = draws.integers(0, 256, (13, 17, 3), np.uint8)
            Image.fromarray(pixels).save(tree / "images" / split / label / "1.png")
    before = in_tree(tree, decoded, tree / "images")
    assert in_tree(tree, decoded, tree / "images") == before
    plant(bug("data/folder", what), tree)
    assert in_tree(tree, decoded, tree / "images")[0] != before[0]


class OtherWords(ast.NodeTransformer):
    """Other docstrings, and other words in what is raised."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        documented = isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        if documented and ast.get_docstring(node):
            node.body[0] = ast.Expr(ast.Constant("Other words."))
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                part.value = "other words"
        return node


def test_comments_docstrings_formatting_and_the_words_of_errors_keep_every_run(tree, original):
    before = files(tree / "runs")
    for path in [*tree.glob("simclr_core/**/*.py"), tree / "reports/labreport/measure.py"]:
        other = OtherWords().visit(ast.parse(path.read_text()))
        text = ast.unparse(other).replace("\n    ", "\n\n    ")  # no line is where it was
        path.write_text(f"# Another first line.\n{text}\n")
    assert in_tree(tree, calls, tree / "runs") == (original[1], [])
    assert files(tree / "runs") == before


# ---- adopt --------------------------------------------------------------------------------------


def refactor(tree: Path, module: str, old: str, new: str) -> None:
    path = tree / "simclr_core" / f"{module}.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


TOGETHER = [[name] for name in REFACTORINGS] if LONG else [list(REFACTORINGS)]


@pytest.mark.parametrize("names", TOGETHER, ids=str)
def test_adopt_accepts_a_refactoring_and_no_run_is_made_again(names, tree, original):
    for name in names:
        refactor(tree, *REFACTORINGS[name])
    made = sorted(files(tree / "runs"))
    assert in_tree(tree, adopted, tree / "runs") == (2, [])
    assert in_tree(tree, calls, tree / "runs") == (original[1], [])
    assert sorted(files(tree / "runs")) == made


@pytest.mark.parametrize("which", REFUSED if LONG else REFUSED[2:3], ids=str)
def test_adopt_refuses_a_bug_and_leaves_the_store_as_it_was(which, tree):
    plant(bug(*which), tree)
    before = files(tree / "runs")
    said, _ = in_tree(tree, adopted, tree / "runs")
    assert "not what today's code gives" in str(said)
    assert files(tree / "runs") == before


# ---- what it costs ------------------------------------------------------------------------------


def test_digests_read_each_file_of_the_method_at_most_once_in_a_process(tree):
    (first, again), _ = in_tree(tree, digests)
    assert 10 < first <= len(list(tree.glob("simclr_core/**/*.py"))) + 1
    assert again == 0
