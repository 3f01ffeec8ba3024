"""The claims: each is there once, is measured by a notebook, and can be turned round."""

import json
import re
from pathlib import Path

import pytest
import yaml
from test_rules import around, content

from labreport.science import CLAIMS, judge
from labreport.science.rules import rank_test
from labreport.science.sources import R2_CIFAR10, R2_MNIST

ROOT = Path(__file__).parents[2]
PER_SOURCE = {"R1": 6, "R2": 11, "R3": 3, "R4": 2, "R5": 4}
IDS = [f"{source}.{i}" for source, n in PER_SOURCE.items() for i in range(1, n + 1)]
KEYS = {key for claim in CLAIMS for key in claim.keys}
_HIDDEN = "mnist.r2.hidden.1part"


def test_every_claim_of_the_protocols_is_there_exactly_once():
    assert [claim.id for claim in CLAIMS] == IDS


def test_every_claim_is_fully_described():
    for claim in CLAIMS:
        assert claim.text.endswith(".") and claim.quantity and claim.keys and claim.rule.says
        assert claim.source == claim.id[:2] and set(claim.datasets) <= {"mnist", "cifar10"}


# claim -> (results that bear it out, that contradict it): means of keys; its other keys are 0.7
TURNED_ROUND = {
    "R1.2": ({}, {"cifar.aug.color.linear": 0.75}),
    "R1.3": ({}, {"cifar.aug.strong.linear": 0.75}),
    "R1.4": ({"cifar.head.mlp_bn.linear": 0.75}, {"cifar.head.none.linear": 0.75}),
    "R1.5": (
        {"cifar.head.linear.linear": 0.6, "cifar.head.none.linear": 0.6},
        {"cifar.head.linear.linear": 0.6},
    ),
    "R1.6": (
        {"cifar.aug.gray.linear": 0.6, "cifar.head.none.linear": 0.6},
        {"cifar.aug.gray.linear": 0.6},
    ),
    "R2.1": ({_HIDDEN: 0.946}, {_HIDDEN: 0.935}),
    "R2.2": ({"mnist.r2.hidden.2parts": 0.965}, {"mnist.r2.hidden.2parts": 0.955}),
    "R2.11": ({_HIDDEN: 0.75}, {"mnist.supervised.1part": 0.75, _HIDDEN: 0.72}),
    "R2.3": ({}, {"mnist.r2.hidden.epoch6": 0.6}),
    "R2.4": ({_HIDDEN: 0.96}, {_HIDDEN: 0.96, "clusters.gmm.pixels.accuracy": 0.8}),
    "R2.5": ({"mnist.seconds.pretrain": 90.0}, {"mnist.seconds.classifier": 90.0}),
    "R2.6": (
        {"cifar.r2.batch512.classifier30": 0.75, "cifar.r2.batch512.classifier50": 0.75},
        {},
    ),
    "R2.7": (
        {"cifar.r2.resnet34.classifier50": 0.75},
        {"cifar.r2.resnet50.classifier50": 0.6},
    ),
    "R3.1": ({"cifar.compose.crop_jitter.linear": 0.75}, {"cifar.compose.crop.linear": 0.75}),
    "R3.2": ({"cifar.head.mlp_bn.linear": 0.75}, {"cifar.head.linear.linear": 0.75}),
    "R3.3": ({"cifar.gain.simclr.batch1024": 0.8, "cifar.gain.simclr.epochs100": 0.8}, {}),
    "R4.2": ({"cifar.few_labels.finetune.1percent": 0.5}, {}),
    "R5.1": (
        {"cifar.compose.crop_jitter.linear": 0.75},
        {"cifar.compose.flip_blur.linear": 0.75},
    ),
    "R5.2": ({"cifar.head.mlp_bn.probe.h": 0.75}, {"cifar.head.mlp_bn.probe.z": 0.75}),
    "R5.3": ({"cifar.temperature.t0_2.linear": 0.75}, {"cifar.temperature.t1.linear": 0.75}),
    "R5.4": ({"cifar.batch.256.linear": 0.75}, {"cifar.batch.64.linear": 0.6}),
}
FALLING, FLAT = [5 - 0.05 * epoch for epoch in range(60)], [3.0] * 60
LEVEL = [1 + 4 * 0.5**epoch for epoch in range(60)]
ENCODERS = [0.1, 0.2, 0.3, 0.4, 0.5]
TURNED_ROUND_CURVES = {
    "R1.1": (FALLING, FLAT),
    "R2.8": (FALLING, FLAT),
    "R2.9": (LEVEL, FALLING),
    "R2.10": (FALLING, LEVEL),
}
WORDS = ("holds", "does not hold")


def verdict_given(claim_id, **results):
    claim = next(claim for claim in CLAIMS if claim.id == claim_id)
    verdicts = judge({"01": content(name=claim.datasets[0], **results)})
    return next(verdict.scaled.verdict for verdict in verdicts if verdict.claim is claim)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_opposite_results_give_the_opposite_verdict(claim):
    if claim.id in TURNED_ROUND:
        changes = [dict.fromkeys(claim.keys, 0.7) | means for means in TURNED_ROUND[claim.id]]
        assert all(set(means) == set(claim.keys) for means in changes)
        results = [{"measures": {k: around(v) for k, v in means.items()}} for means in changes]
    elif claim.id == "R4.1":
        linear, tuned = claim.keys
        results = [{"series": {linear: [ENCODERS], tuned: [order]}}
                   for order in (ENCODERS, ENCODERS[::-1])]  # fmt: skip
    else:
        curves = TURNED_ROUND_CURVES[claim.id]
        results = [{"series": {key: [curve] * 3 for key in claim.keys}} for curve in curves]
    assert tuple(verdict_given(claim.id, **each) for each in results) == WORDS


def test_every_reported_figure_is_its_sources():
    says = {claim.id: claim.rule.says for claim in CLAIMS}
    for claim, figures in {
        "R2.1": (R2_MNIST["test_accuracy"],),
        "R2.2": (R2_MNIST["accuracy_two_parts"],),
        "R2.4": (R2_MNIST["classifier_at_least"], R2_MNIST["clustering_at_most"]),
        "R2.6": (R2_CIFAR10["batch128.classifier30"], R2_CIFAR10["batch512.classifier50"]),
        "R2.7": (R2_CIFAR10["resnet34"], R2_CIFAR10["resnet50"]),
    }.items():
        assert all(f" {100 * figure:g} %" in says[claim] for figure in figures), claim


def test_rank_correlation_of_what_does_not_vary_is_zero():
    assert rank_test([1, 2, 3], [3, 5, 9])[0] == 1 and rank_test([1, 1], [1, 2]) == (0, 1)


def test_every_claims_key_is_measured_by_a_notebooks_source():
    """Each key is spelt there, or its spelling with {…} where a loop fills in a part."""
    texts = [cell["source"] for path in (ROOT / "notebooks").glob("*.ipynb")
             for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]  # fmt: skip
    code = "\n".join("".join(text) for text in texts)
    spelt = set(re.findall(r'"((?:[a-z]+\.|\{family\})(?:[^"{} ]|\{[^}]*\})+)"', code))
    patterns = [re.compile(re.sub(r"\\{.*?\\}", "[^ ]+", re.escape(key))) for key in spelt]
    missing = {key for key in KEYS if not any(pattern.fullmatch(key) for pattern in patterns)}
    assert not missing


def test_every_claims_measures_are_recorded_or_known_to_be_for_other_profiles():
    """By the committed report of quick; what only larger profiles measure is named here."""
    elsewhere = ("cifar.compose.", "cifar.r2.resnet34.", "cifar.r2.resnet50.", "cifar.gain.",
                 "cifar.few_labels.", "cifar.temperature.", "cifar.batch.")  # fmt: skip
    report = json.loads((ROOT / "reports/reference-quick/results.json").read_text(encoding="utf-8"))
    contents = report["notebooks"].values()
    recorded = {key for each in contents for key in (*each["measures"], *each["series"])}
    assert not {key for key in KEYS if not key.startswith(elsewhere)} - recorded


def test_extended_runs_what_the_claims_on_sweeps_and_few_labels_need():
    """It holds every batch, length, temperature and fraction that a claim names, unreduced."""
    text = (ROOT / "notebooks/profiles/extended.yaml").read_text(encoding="utf-8")
    sweeps, few = map(yaml.safe_load(text).get, ("06_temperature_batch_epochs", "08_few_labels"))
    assert sweeps["reduced"] == few["reduced"] == ""
    lists = {
        r"cifar\.(?:batch|gain\.\w+)\.(?:batch)?(\d+)(?:\.linear)?": sweeps["batch_sizes"],
        r"cifar\.gain\.\w+\.epochs(\d+)": sweeps["lengths"],
        r"cifar\.temperature\.t([\d_]+)\.linear": sweeps["temperatures"],
        r"cifar\.few_labels\.\w+\.(\d+)percent": [100 * share for share in few["fractions"]],
    }
    found = [(float(match[1].replace("_", ".")), values) for pattern, values in lists.items()
             for key in KEYS if (match := re.fullmatch(pattern, key))]  # fmt: skip
    assert len(found) == 18 and all(value in values for value, values in found)
