"""What 99_summary says of the whole report: abstract, results, limits and appendix, all from the results JSON."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from labreport.claims import Verdict
from labreport.environment import read_lock, unlocked
from labreport.project import project_root
from labreport.rules import FAILS, HOLDS, NOT_TESTED, UNDECIDED
from labreport.statistics import count_seeds, in_words, paired_difference, summarise
from labreport.text import literal, literal_markdown
from simclr_core.errors import StoreError
from simclr_core.runs import read_history, read_json

Results = Mapping[str, dict]

# Measures of the results table, in its order: key, what it is called there ({} from the notebook's parameters).
HEADLINES = (
    ("mnist.r2.hidden.1part", "R2's recipe, one hidden layer, a tenth of the labels"),
    ("mnist.r2.linear.1part", "R2's recipe, linear classifier, a tenth of the labels"),
    ("mnist.r2.hidden.2parts", "R2's recipe, one hidden layer, a fifth of the labels"),
    ("mnist.r2_no_flip.good.1part", "R2's views twice without flip, our classifier, a tenth of the labels"),
    ("mnist.ours.good.1part", "our recipe and classifier, a tenth of the labels"),
    ("mnist.random.hidden.1part", "untrained encoder, one hidden layer, a tenth of the labels"),
    ("mnist.random.good.1part", "untrained encoder, our classifier, a tenth of the labels"),
    ("mnist.supervised.1part", "supervised, one hidden layer, a tenth of the labels"),
    ("clusters.kmeans.pixels.accuracy", "k-means on pixels, no labels"),
    ("clusters.gmm.pixels.accuracy", "Gaussian mixture on pixels, no labels"),
    ("clusters.kmeans.h_r2.accuracy", "k-means on h (R2's recipe), no labels"),
    ("clusters.gmm.h_r2.accuracy", "Gaussian mixture on h (R2's recipe), no labels"),
    ("clusters.kmeans.h.accuracy", "k-means on h (our recipe), no labels"),
    ("clusters.gmm.h.accuracy", "Gaussian mixture on h (our recipe), no labels"),
    ("cifar.r2.batch128.classifier50", "R2's CIFAR-10 recipe, smaller batch, linear, {labels:,} labels"),
    ("cifar.r2.batch512.classifier50", "R2's CIFAR-10 recipe, larger batch, linear, {labels:,} labels"),
    ("cifar.r2.random.classifier50", "untrained ResNet, linear, {labels:,} labels"),
    ("cifar.r2.supervised.no_pre_training", "supervised ResNet, {finetune_epochs} epochs, {labels:,} labels"),
    ("cifar.aug.basic.linear", "R1's recipe, basic augmentation, linear, {images:,} labels"),
    ("cifar.aug.strong.linear", "R1's recipe, strong augmentation, linear, {images:,} labels"),
    ("cifar.head.none.linear", "R1's recipe, no projection head, linear, {images:,} labels"),
    ("cifar.aug.random.linear", "untrained ResNet, linear, {images:,} labels"),
    ("cifar.aug.supervised.whole_network", "supervised ResNet, {supervised_epochs} epochs, {images:,} labels"),
    ("cifar.few_labels.finetune.1percent", "fine-tuned on 1 % of the labels (strong)"),
    ("cifar.few_labels.supervised.1percent", "supervised on 1 % of the labels"),
    ("cifar.kmeans.mlp_bn.accuracy", "k-means on h of unit length (strong), no labels"),
    ("own.pretrained.linear", "your own images, linear classifier"),
    ("cifar.recipe.knn10", "published 100-epoch recipe, kNN"),
    ("cifar.recipe.linear", "published 100-epoch recipe, linear classifier"),
)


def results_folder(given: str) -> Path:
    """The folder asked for, else the report being made ($LABREPORT_OUTPUT), else the smoke report's."""
    if given:
        return Path(given)
    return Path(os.environ.get("LABREPORT_OUTPUT") or project_root() / "reports/smoke") / "results"


def measured(results: Results) -> dict[str, dict]:
    """Every measure of every notebook by its key, with the notebook's data set, setting and parameters added."""
    return {
        key: {
            **entry,
            "notebook": name,
            "reduced": content.get("reduced", ""),
            "data": content.get("data", []),
            "parameters": content.get("parameters", {}),
        }
        for name, content in results.items()
        for key, entry in content["measures"].items()
    }


def count_verdicts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Number of claims per verdict, in a fixed order, none left out."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    return {word: counts[word] for word in (HOLDS, FAILS, UNDECIDED, NOT_TESTED)}


def abstract(results: Results, verdicts: Sequence[Verdict]) -> str:
    """A paragraph for the title page, computed from the results."""
    entries, counts = measured(results), count_verdicts(verdicts)
    sentences = [
        "This report was computed by the notebooks beside it: every number, figure and sentence about a number "
        "follows from stored runs of SimCLR."
    ]
    if "mnist.r2.hidden.1part" in entries:
        entry = entries["mnist.r2.hidden.1part"]
        name = literal_markdown(entry["data"][0]["name"])
        values = [entries[f"mnist.{key}"]["values"] for key in ("ours.good.1part", "supervised.1part")]
        (ours, supervised), ahead = map(summarise, values), paired_difference(*values)
        r2 = summarise(entry["values"])
        setting = f", a reduced setting ({literal_markdown(entry['reduced'])})" if entry["reduced"] else ""
        sentences.append(
            f"On {name}{setting}, the recipe of R2 reaches {r2.percent(2)} test accuracy with a classifier on the "
            f"frozen encoder ({count_seeds(r2.n)}); our recipe and classifier, on the same images and labels, "
            f"{ours.percent(2)}; the same network trained on the labels alone, without augmentation and with R2's "
            f"classifier, {supervised.percent(2)}. The difference of these two is {ahead.points()}, which "
            f"{in_words(ahead, 'favours pre-training', 'favours the labels alone')}."
        )
    if "cifar.aug.strong.linear" in entries:
        strong = entries["cifar.aug.strong.linear"]
        setting = f", a reduced setting ({literal_markdown(strong['reduced'])})" if strong["reduced"] else ""
        pretrained, untrained = (summarise(entries[f"cifar.aug.{k}.linear"]["values"]) for k in ("strong", "random"))
        name = literal_markdown(strong["data"][0]["name"])
        sentences.append(
            f"On {name}{setting}, a linear classifier on the frozen encoder of R1's recipe "
            f"reaches {pretrained.percent()}, on an untrained encoder {untrained.percent()} "
            f"({count_seeds(pretrained.n)})"
        )
        if supervised := entries.get("cifar.aug.supervised.whole_network"):
            epochs, reached = supervised["parameters"]["supervised_epochs"], summarise(supervised["values"])
            sentences[-1] += (
                f"; the same network trained on the labels alone for {epochs} epochs reaches {reached.percent()}"
            )
        sentences[-1] += "."
    if "clusters.gmm.pixels.accuracy" in entries:
        reached = []
        for method, name in (("kmeans", "k-means"), ("gmm", "a Gaussian mixture")):
            places = {"pixels": "pixels", "h_r2": "the representation of R2's recipe", "h": "that of ours"}
            on = {p: summarise(entries[f"clusters.{method}.{p}.accuracy"]["values"]).percent() for p in places}
            reached.append(f"{name} " + ", ".join(f"{on[p]} on {words}" for p, words in places.items()))
        sentences.append(f"Without labels, {'; '.join(reached)}.")
    plural = {HOLDS: "hold", FAILS: "do not hold", UNDECIDED: "are undecided", NOT_TESTED: "are not tested"}
    single = plural | {HOLDS: "holds", FAILS: "does not hold", UNDECIDED: "is undecided", NOT_TESTED: "is not tested"}
    parts = ", ".join(f"{count} {(single if count == 1 else plural)[word]}" for word, count in counts.items())
    sentences.append(f"Of {len(verdicts)} claims in five sources, {parts}.")
    return " ".join(sentences)


def results_frame(results: Results) -> pd.DataFrame:
    """The main measures: mean ± sd, every seed's value, n, data and setting."""
    entries = measured(results)
    rows = []
    for key, name in HEADLINES:
        if key in entries:
            entry, summary = entries[key], summarise(entries[key]["values"])
            rows.append({
                "quantity": name.format(**entry["parameters"]), "accuracy (%)": summary.text(100, 2), "n": summary.n,
                "every seed (%)": ", ".join(f"{100 * value:.2f}" for value in summary.values),
                "data": literal(entry["data"][0]["name"]), "setting": _setting(entry),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["quantity", "accuracy (%)", "n", "every seed (%)", "data", "setting"])


def _setting(entry: Mapping) -> str:
    replaced = entry["data"][0]["stand_in_for"]
    return f"in place of {literal(replaced)}" if replaced else "reduced" if entry["reduced"] else "in full"


def limits(results: Results, verdicts: Sequence[Verdict]) -> str:
    """What this report cannot say, from what it holds."""
    lines = []
    seeds = {len(entry["values"]) for entry in measured(results).values()}
    if seeds and min(seeds) < 3:
        lines.append(
            f"Some quantities rest on {count_seeds(min(seeds))}: differences between single runs are no verdict."
        )
    for name, content in results.items():
        if content["reduced"]:
            lines.append(f"{name} runs a reduced setting: {literal_markdown(content['reduced'])}.")
        lines += [
            f"{name} uses {literal_markdown(data['name'])} in place of {literal_markdown(data['stand_in_for'])}."
            for data in content["data"]
            if data["stand_in_for"]
        ]
        sources = [data["source"] for data in content["data"] if "not the official" in data["source"]]
        lines += [f"{name}: {literal_markdown(source)}." for source in sources]
    untested = sum(verdict.verdict == NOT_TESTED for verdict in verdicts)
    if untested:
        lines.append(f"{untested} of {len(verdicts)} claims are not tested by this report; @tbl-ledger says why.")
    if any(content["parameters"].get("precision") in ("auto", "bf16") for content in results.values()):
        lines.append(
            "Networks ran in bf16 where the device computes in it (each section names its precision); the loss and the "
            "classifiers on features ran in fp32."
        )
    spent = [row for row in runs_frame(results)["seconds"] if row != "–"]
    if spent:
        lines.append(f"Pre-training took {sum(map(float, spent)) / 60:.0f} minutes in all, one run after the other "
                     f"({len(spent)} runs, @tbl-runs).")  # fmt: skip
    lines.append("Times were measured on one machine, with whatever else it was doing.")
    return "\n".join(f"- {line}" for line in lines)


def environment_frame(results: Results) -> pd.DataFrame:
    rows = []
    for name, content in results.items():
        origin = content["provenance"]
        rows.append({
            "section": name,
            "device": f"{origin['device']}, {origin['threads']} thread{'s' if origin['threads'] != 1 else ''}",
            "versions": ", ".join(f"{k} {v}" for k, v in origin["versions"].items()),
            "commit": _commit(origin),
            "data": literal("; ".join(f"{d['name']}: {d['source']}; SHA-256 {d['fingerprint'][:16]}…"
                                      for d in content["data"])),
        })  # fmt: skip
    if rows:
        rows.append(
            {"section": "this summary", "device": "–", "versions": locked_versions(), "commit": "–", "data": "–"}
        )
    return pd.DataFrame(rows, columns=["section", "device", "versions", "commit", "data"])


def _commit(origin: dict) -> str:
    """The commit of a provenance, as the tables name it."""
    return origin["commit"][:12] + (" (dirty)" if origin["dirty"] else "")


def locked_versions() -> str:
    """Whether the packages installed here are those of requirements.lock, and which are not."""
    lock = read_lock()
    if not lock:
        return "not compared with requirements.lock, which is not here"
    differing = unlocked(lock)
    return f"not as in requirements.lock: {', '.join(differing)}" if differing else "all as in requirements.lock"


def parameters_frame(results: Results) -> pd.DataFrame:
    """A row for each parameter and value, with the sections that ran with it."""
    sections = defaultdict(list)
    for name, content in results.items():
        for key, value in content["parameters"].items():
            sections[key, literal(str(value))].append(name)
    rows = [(key, value, "all" if len(names) == len(results) else ", ".join(names))
            for (key, value), names in sorted(sections.items(), key=lambda item: item[0][0])]  # fmt: skip
    return pd.DataFrame(rows, columns=["parameter", "value", "sections"])


def runs_frame(results: Results) -> pd.DataFrame:
    """One row a stored run that the report rests on, with the commit that trained it; one that has gone from the
    store is named so."""
    store = Path(os.environ.get("SIMCLR_RUNS") or project_root() / "runs")
    names = sorted({run for content in results.values() for run in content["runs"]})
    rows = [_run_row(store / name) for name in names]
    return pd.DataFrame(rows, columns=["run", "seed", "epochs", "final loss", "seconds", "commit"])


def _run_row(path: Path) -> dict:
    try:
        config, history = read_json(path / "config.json"), read_history(path / "history.csv")
        origin = read_json(path / "provenance.json")
        return {
            "run": path.name,
            "seed": str(config["seed"]),
            "epochs": str(len(history)),
            "final loss": f"{history[-1]['loss']:.4f}" if history else "–",
            "seconds": f"{sum(row['seconds'] for row in history):.1f}",
            "commit": _commit(origin),
        }
    except (StoreError, OSError, ValueError, KeyError, TypeError):
        gone = {"seed": "–", "epochs": "–", "final loss": "not in the store", "seconds": "–", "commit": "–"}
        return {"run": path.name, **gone}
