"""What 99_summary says of the whole report: abstract, results and limits."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from labreport.project import project_root
from labreport.science.evidence import FAILS, HOLDS, NOT_RUN, NOT_TESTED, UNDECIDED, reduction
from labreport.science.ledger import Verdict, count_verdicts
from labreport.science.statistics import (
    count_seeds,
    every_seed,
    in_words,
    paired_difference,
    summarise,
)
from labreport.text import literal, literal_markdown

Results = Mapping[str, dict]

# Measures of the results table, in its order: key, its name ({} from the notebook's parameters).
HEADLINES = {
    "mnist.r2.hidden.1part": "R2's recipe, one hidden layer, a tenth of the labels",
    "mnist.r2.linear.1part": "R2's recipe, linear classifier, a tenth of the labels",
    "mnist.r2.hidden.2parts": "R2's recipe, one hidden layer, a fifth of the labels",
    "mnist.r2_no_flip.good.1part":
        "R2's views twice without flip, our classifier, a tenth of the labels",
    "mnist.ours.good.1part": "our recipe and classifier, a tenth of the labels",
    "mnist.random.hidden.1part": "untrained encoder, one hidden layer, a tenth of the labels",
    "mnist.random.good.1part": "untrained encoder, our classifier, a tenth of the labels",
    "mnist.supervised.1part": "supervised, one hidden layer, a tenth of the labels",
    "clusters.kmeans.pixels.accuracy": "k-means on pixels, no labels",
    "clusters.gmm.pixels.accuracy": "Gaussian mixture on pixels, no labels",
    "clusters.kmeans.h_r2.accuracy": "k-means on h (R2's recipe), no labels",
    "clusters.gmm.h_r2.accuracy": "Gaussian mixture on h (R2's recipe), no labels",
    "clusters.kmeans.h.accuracy": "k-means on h (our recipe), no labels",
    "clusters.gmm.h.accuracy": "Gaussian mixture on h (our recipe), no labels",
    "cifar.r2.batch128.classifier50":
        "R2's CIFAR-10 recipe, smaller batch, linear, {labels:,} labels",
    "cifar.r2.batch512.classifier50":
        "R2's CIFAR-10 recipe, larger batch, linear, {labels:,} labels",
    "cifar.r2.random.classifier50": "untrained ResNet, linear, {labels:,} labels",
    "cifar.r2.supervised.no_pre_training":
        "supervised ResNet, {finetune_epochs} epochs, {labels:,} labels",
    "cifar.aug.basic.linear": "R1's recipe, basic augmentation, linear, {images:,} labels",
    "cifar.aug.strong.linear": "R1's recipe, strong augmentation, linear, {images:,} labels",
    "cifar.head.none.linear": "R1's recipe, no projection head, linear, {images:,} labels",
    "cifar.aug.random.linear": "untrained ResNet, linear, {images:,} labels",
    "cifar.aug.supervised.whole_network":
        "supervised ResNet, {supervised_epochs} epochs, {images:,} labels",
    "cifar.few_labels.finetune.1percent": "fine-tuned on 1 % of the labels (strong)",
    "cifar.few_labels.supervised.1percent": "supervised on 1 % of the labels",
    "cifar.kmeans.mlp_bn.accuracy": "k-means on h of unit length (strong), no labels",
    "own.pretrained.linear": "your own images, linear classifier",
    "cifar.recipe.knn10": "published 100-epoch recipe, kNN",
    "cifar.recipe.linear": "published 100-epoch recipe, linear classifier",
}  # fmt: skip
_PLURAL = {HOLDS: "hold", FAILS: "do not hold", UNDECIDED: "are undecided",
           NOT_TESTED: "are not tested", NOT_RUN: "could not be run here"}  # fmt: skip
_SINGLE = {HOLDS: "holds", FAILS: "does not hold", UNDECIDED: "is undecided",
           NOT_TESTED: "is not tested", NOT_RUN: "could not be run here"}  # fmt: skip


def results_folder(given: str) -> Path:
    """The folder asked for, else the report being made ($LABREPORT_OUTPUT), else smoke's."""
    if given:
        return Path(given)
    return Path(os.environ.get("LABREPORT_OUTPUT") or project_root() / "reports/smoke") / "results"


def measured(results: Results) -> dict[str, dict]:
    """Every measure by its key, with its setting and its notebook's data and parameters added."""
    return {
        key: {**entry, "reduced": reduction(content, entry), "data": content["data"],
              "parameters": content["parameters"]}
        for content in results.values() for key, entry in content["measures"].items()
    }  # fmt: skip


def abstract(results: Results, verdicts: Sequence[Verdict]) -> str:
    """A paragraph for the title page, computed from the results."""
    entries = measured(results)
    told = [
        "This report was computed by the notebooks beside it: every number, figure and sentence "
        "about a number follows from stored runs of SimCLR."
    ]
    if "mnist.r2.hidden.1part" in entries:
        told.append(_on_mnist(entries))
    if "cifar.aug.strong.linear" in entries:
        told.append(_on_cifar(entries))
    if "clusters.gmm.pixels.accuracy" in entries:
        told.append(_on_clusters(entries))
    told.append(f"Of {len(verdicts)} claims in five sources, {_counts(verdicts, 'scaled')} at the "
                f"largest scale run here; as stated, {_counts(verdicts, 'stated')}.")  # fmt: skip
    return " ".join(told)


def _counts(verdicts: Sequence[Verdict], which: str) -> str:
    counts = count_verdicts(verdicts, which)
    return ", ".join(f"{n} {(_SINGLE if n == 1 else _PLURAL)[word]}" for word, n in counts.items())


def _on_mnist(entries: Mapping) -> str:
    keys = ("r2.hidden.1part", "ours.good.1part", "supervised.1part")
    r2, ours, labels = (summarise(entries[f"mnist.{key}"]["values"]) for key in keys)
    ahead = paired_difference(*(entries[f"mnist.{key}"]["values"] for key in keys[1:]))
    winner = in_words(ahead, "pre-training is ahead", "the labels alone are ahead")
    return (f"{_where(entries['mnist.r2.hidden.1part'])}, the recipe of R2 reaches {r2.percent(2)} "
            f"test accuracy with a classifier on the frozen encoder ({count_seeds(r2.n)}); our "
            f"recipe and classifier, on the same images and labels, {ours.percent(2)}; the same "
            f"network trained on the labels alone, without augmentation and with R2's classifier, "
            f"{labels.percent(2)}. Of these two, {winner}: {ahead.points()}.")  # fmt: skip


def _on_cifar(entries: Mapping) -> str:
    strong, random = (summarise(entries[f"cifar.aug.{key}.linear"]["values"])
                      for key in ("strong", "random"))  # fmt: skip
    told = (f"{_where(entries['cifar.aug.strong.linear'])}, a linear classifier on the frozen "
            f"encoder of R1's recipe reaches {strong.percent()}, on an untrained encoder "
            f"{random.percent()} ({count_seeds(strong.n)})")  # fmt: skip
    if alone := entries.get("cifar.aug.supervised.whole_network"):
        told += (f"; the same network trained on the labels alone for "
                 f"{alone['parameters']['supervised_epochs']} epochs reaches "
                 f"{summarise(alone['values']).percent()}")  # fmt: skip
    return f"{told}."


def _on_clusters(entries: Mapping) -> str:
    places = {"pixels": "pixels", "h_r2": "the representation of R2's recipe", "h": "that of ours"}
    reached = []
    for method, name in (("kmeans", "k-means"), ("gmm", "a Gaussian mixture")):
        found = {on: entries[f"clusters.{method}.{on}.accuracy"]["values"] for on in places}
        each = [f"{summarise(found[on]).percent()} on {words}" for on, words in places.items()]
        reached.append(f"{name} {', '.join(each)}")
    return f"Without labels, {'; '.join(reached)}."


def _where(entry: Mapping) -> str:
    name, reduced = entry["data"][0]["name"], entry["reduced"]
    setting = f", a reduced setting ({literal_markdown(reduced)})" if reduced else ""
    return f"On {literal_markdown(name)}{setting}"


def results_frame(results: Results) -> pd.DataFrame:
    """The main measures: mean ± sd, every seed's value, n, data and setting."""
    entries, rows = measured(results), []
    for key in filter(entries.get, HEADLINES):
        entry, summary = entries[key], summarise(entries[key]["values"])
        name, replaced = (entry["data"][0][k] for k in ("name", "stand_in_for"))
        setting = "reduced" if entry["reduced"] else "in full"
        rows.append((
            HEADLINES[key].format(**entry["parameters"]), summary.text(100, 2), summary.n,
            every_seed(summary), literal(name),
            f"in place of {literal(replaced)}" if replaced else setting,
        ))  # fmt: skip
    columns = ("quantity", "accuracy (%)", "n", "every seed (%)", "data", "setting")
    return pd.DataFrame(rows, columns=columns)


def limits(results: Results, verdicts: Sequence[Verdict]) -> str:
    """What this report cannot say, from what it holds."""
    lines = []
    seeds = min((len(entry["values"]) for entry in measured(results).values()), default=3)
    if seeds < 3:
        lines.append(f"Some quantities rest on {count_seeds(seeds)}: differences between single "
                     "runs are no verdict.")  # fmt: skip
    for name, content in results.items():
        if content["reduced"]:
            cut = literal_markdown(content["reduced"])
            lines.append(f"{name} runs a reduced setting: {cut}.")
        for data in content["data"]:
            if replaced := data["stand_in_for"]:
                used, wanted = map(literal_markdown, (data["name"], replaced))
                lines.append(f"{name} uses {used} in place of {wanted}.")
            if "not the official" in data["source"]:
                lines.append(f"{name}: {literal_markdown(data['source'])}.")
    counts = count_verdicts(verdicts), count_verdicts(verdicts, "stated")
    lines.append(f"{counts[1][NOT_RUN]} of {len(verdicts)} claims could not be run here as stated, "
                 f"{counts[0][NOT_TESTED]} at no size; @tbl-ledger says why.")  # fmt: skip
    if any(c["parameters"].get("precision") in ("auto", "bf16") for c in results.values()):
        lines.append("Networks ran in bf16 where the device computes in it (each section names its "
                     "precision); the loss and the classifiers on features in fp32.")  # fmt: skip
    lines.append("Intervals cover seeds, not other test images. Times were measured on one "
                 "machine, with whatever else it was doing.")  # fmt: skip
    return "\n".join(f"- {line}" for line in lines)
