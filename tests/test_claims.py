"""Rules for verdicts: opposite results give opposite verdicts, and what cannot be told is not told."""

import json
import re
from pathlib import Path

import pytest
import yaml

from labreport import rules
from labreport.claims import CLAIMS, FEW_LABELS, SWEEPS, judge, ledger_frame
from labreport.rules import Evidence

ROOT = Path(__file__).parents[1]
NOTEBOOK = "01_mnist_study"
IDS = [
    *(f"R1.{i}" for i in range(1, 7)),
    *(f"R2.{i}" for i in range(1, 11)),
    *(f"R3.{i}" for i in range(1, 4)),
    *(f"R4.{i}" for i in range(1, 3)),
    *(f"R5.{i}" for i in range(1, 5)),
]


def entry(values, figure=""):
    return {"values": dict(enumerate(values)), "unit": "fraction", "what": "", "figure": figure}


def content(measures=None, series=None, name="mnist", stand_in_for="", reduced="", figure=""):
    return {
        "data": [{"name": name, "stand_in_for": stand_in_for}],
        "reduced": reduced,
        "measures": {key: entry(values, figure) for key, values in (measures or {}).items()},
        "series": {key: entry(values, figure) for key, values in (series or {}).items()},
    }


def find(rule, **kwargs):
    return rule.find(Evidence({NOTEBOOK: content(**kwargs)}, (NOTEBOOK,), "mnist"))


def around(centre, spread=0.001):
    return [centre - spread, centre, centre + spread]


def verdict_on_pair(rule, difference, spread=0.0):
    """Verdict on a - b where the differences of three seeds are `difference` and that ± spread."""
    b = [0.5, 0.6, 0.7]
    a = [value + gap for value, gap in zip(b, around(difference, spread), strict=True)]
    return find(rule("m.a", "m.b"), measures={"m.a": a, "m.b": b}).verdict


# ---- rules on measures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "verdict"), [(0.97, "holds"), (0.94, "holds"), (0.9399, "does not hold"), (0.5, "does not hold")]
)
def test_a_figure_comes_back_within_one_point_or_above(mean, verdict):
    assert find(rules.comes_back("m.a", 0.95), measures={"m.a": around(mean)}).verdict == verdict


@pytest.mark.parametrize(("mean", "verdict"), [(0.5, "holds"), (0.71, "holds"), (0.72, "does not hold")])
def test_an_upper_bound_comes_back_within_one_point_or_below(mean, verdict):
    assert find(rules.at_most("m.a", 0.70), measures={"m.a": around(mean)}).verdict == verdict


# with three seeds d - s, d, d + s the 95 % interval is d ± 2.48 s
@pytest.mark.parametrize(
    ("difference", "spread", "verdict"),
    [
        (0.02, 0.001, "holds"),
        (0.005, 0.001, "holds"),
        (-0.02, 0.001, "does not hold"),
        (0.0, 0.001, "does not hold"),
        (0.02, 0.01, "undecided"),
        (-0.02, 0.01, "undecided"),
    ],
)
def test_better_needs_an_interval_above_zero(difference, spread, verdict):
    assert verdict_on_pair(rules.better, difference, spread) == verdict


@pytest.mark.parametrize(
    ("difference", "spread", "verdict"),
    [
        (0.0, 0.001, "holds"),
        (0.006, 0.001, "holds"),
        (0.02, 0.001, "does not hold"),
        (-0.02, 0.001, "does not hold"),
        (0.009, 0.001, "undecided"),
        (0.0, 0.01, "undecided"),
    ],
)
def test_as_well_as_needs_an_interval_within_one_point(difference, spread, verdict):
    assert verdict_on_pair(rules.as_well_as, difference, spread) == verdict


@pytest.mark.parametrize(
    ("difference", "spread", "verdict"),
    [
        (-0.02, 0.001, "holds"),
        (0.02, 0.001, "does not hold"),
        (-0.005, 0.001, "does not hold"),
        (-0.011, 0.001, "undecided"),
    ],
)
def test_clearly_worse_needs_an_interval_below_minus_one_point(difference, spread, verdict):
    assert verdict_on_pair(rules.clearly_worse, difference, spread) == verdict


@pytest.mark.parametrize(
    ("difference", "spread", "verdict"),
    [(5.0, 0.1, "holds"), (0.005, 0.001, "holds"), (-5.0, 0.1, "does not hold"), (0.001, 0.002, "undecided")],
)
def test_takes_longer_is_about_seconds_and_knows_no_margin(difference, spread, verdict):
    assert verdict_on_pair(rules.takes_longer, difference, spread) == verdict


@pytest.mark.parametrize(("other", "verdict"), [(0.55, "holds"), (0.75, "does not hold")])
def test_gains_more_compares_two_gains(other, verdict):
    measures = {"m.a1": around(0.7), "m.a0": around(0.6), "m.b1": around(other), "m.b0": around(0.5)}
    assert find(rules.gains_more("m.a1", "m.a0", "m.b1", "m.b0"), measures=measures).verdict == verdict


@pytest.mark.parametrize(("mean", "verdict"), [(0.8, "holds"), (-0.8, "does not hold"), (0.0001, "undecided")])
def test_above_zero_is_about_the_quantity_itself(mean, verdict):
    assert find(rules.above_zero("m.a"), measures={"m.a": around(mean)}).verdict == verdict


def test_differences_are_paired_by_seed():
    results = content({"m.a": [], "m.b": []})
    results["measures"]["m.a"]["values"] = {"0": 0.5, "1": 0.6, "2": 0.7}  # string seeds: raw JSON
    results["measures"]["m.b"]["values"] = {2: 0.69, 1: 0.59, 0: 0.49}
    found = rules.better("m.a", "m.b").find(Evidence({NOTEBOOK: results}, (NOTEBOOK,), "mnist"))
    assert found.verdict == "holds"
    assert found.measured == "a − b: +1.0 points (95 % interval +1.0 to +1.0, 3 seeds)"


# ---- rules on curves --------------------------------------------------------------------------------------

FALLING = [5 - 0.1 * epoch for epoch in range(12)]


def bumpy(height):
    """Falls, then rises for good by `height` of its lowest value, and still ends below its start."""
    return [6.0, *[5.0] * 10, *[5.0 * (1 + height)] * 5]


@pytest.mark.parametrize(
    ("curve", "verdict"),
    [
        (FALLING, "holds"),
        (FALLING[::-1], "does not hold"),
        ([3.0] * 12, "does not hold"),
        (bumpy(0.009), "holds"),
        (bumpy(0.011), "does not hold"),
        ([*FALLING[:6], 4.9, *FALLING[7:]], "holds"),
    ],
)
def test_falls_steadily_looks_at_the_five_epoch_mean(curve, verdict):
    assert find(rules.falls_steadily("m.loss"), series={"m.loss": [curve] * 3}).verdict == verdict


def test_a_slow_rise_over_many_epochs_is_a_rise():
    creeping = [6.0, *[5 * 1.004**epoch for epoch in range(20)]]
    assert find(rules.falls_steadily("m.loss"), series={"m.loss": [creeping] * 3}).verdict == "does not hold"


@pytest.mark.parametrize(
    ("last", "verdict"),
    [(0.997, "holds"), (1.003, "holds"), (0.99, "does not hold"), (1.01, "does not hold")],
)
def test_levelled_off_compares_the_last_three_epochs_with_the_three_before(last, verdict):
    curve = [9.0, 5.0, 5.0, 5.0, *[5.0 * last] * 3, 1.0]
    assert find(rules.levelled_off("m.loss", 7), series={"m.loss": [curve] * 3}).verdict == verdict


def test_negation_turns_a_verdict_round():
    moving = find(rules.negate(rules.levelled_off("m.loss", 10)), series={"m.loss": [FALLING] * 3})
    still = find(rules.negate(rules.levelled_off("m.loss", 10)), series={"m.loss": [[3.0] * 12] * 3})
    assert (moving.verdict, still.verdict) == ("holds", "does not hold")


def test_seeds_that_disagree_about_a_curve_leave_it_undecided():
    curves = [FALLING, FALLING, FALLING[::-1]]
    assert find(rules.falls_steadily("m.loss"), series={"m.loss": curves}).verdict == "undecided"


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (rules.falls_steadily("m.loss"), "loss has 5 epochs, the rule needs 6"),
        (rules.levelled_off("m.loss", 28), "loss ends at epoch 5, the claim is about epoch 28"),
        (rules.levelled_off("m.loss", 5), "loss has 5 epochs, the rule needs 6"),
    ],
)
def test_a_curve_that_is_too_short_tests_nothing(rule, reason):
    found = find(rule, series={"m.loss": [FALLING[:5]] * 3})
    assert (found.verdict, found.reason) == ("not tested", reason)


# ---- composition ------------------------------------------------------------------------------------------

PARTS = {"holds": around(0.95), "does not hold": around(0.5), "undecided": [0.95], "not tested": None}


def compose(combine, *verdicts):
    measures = {f"m.{i}": PARTS[verdict] for i, verdict in enumerate(verdicts) if PARTS[verdict]}
    parts = [rules.comes_back(f"m.{i}", 0.95) for i in range(len(verdicts))]
    return find(combine(*parts), measures=measures)


@pytest.mark.parametrize(
    ("verdicts", "all_of", "any_of"),
    [
        (("holds", "holds"), "holds", "holds"),
        (("holds", "does not hold"), "does not hold", "holds"),
        (("does not hold", "does not hold"), "does not hold", "does not hold"),
        (("holds", "undecided"), "undecided", "holds"),
        (("does not hold", "undecided"), "does not hold", "undecided"),
        (("holds", "not tested"), "not tested", "holds"),
        (("does not hold", "not tested"), "does not hold", "not tested"),
        (("undecided", "not tested"), "not tested", "not tested"),
    ],
)
def test_parts_combine_as_in_logic(verdicts, all_of, any_of):
    for order in (verdicts, verdicts[::-1]):
        assert compose(rules.all_of, *order).verdict == all_of
        assert compose(rules.any_of, *order).verdict == any_of


def test_a_composite_shows_first_the_parts_that_decide_and_counts_the_rest():
    measured = compose(rules.all_of, "holds", "holds", "holds", "does not hold").measured
    assert measured.startswith("3 50.0 ± 0.1 % (3 seeds), reported 95.0 %: does not hold; 0 95.0")
    assert measured.endswith("reported 95.0 %: holds; and 1 more")


def test_a_composite_whose_parts_agree_does_not_say_so_of_each():
    assert compose(rules.all_of, "holds", "holds").measured.endswith("; 1 95.0 ± 0.1 % (3 seeds), reported 95.0 %")


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (rules.comes_back("mnist.r2.hidden.1part", 0.9), "R2's recipe, one hidden layer, a tenth of the labels: at"),
        (rules.better("cifar.r2.batch512.classifier30", "cifar.r2.batch128.classifier30"), "batch 512 − batch 128 ab"),
        (rules.better("cifar.batch.64.linear", "cifar.batch.256.linear"), "of batch 64 − batch 256 above"),
        (rules.better("cifar.temperature.t0_05.linear", "cifar.temperature.t1.linear"), "ature 0.05 − temperature 1 a"),
        (rules.takes_longer("mnist.seconds.pretrain", "clusters.gmm.pixels.seconds"), "ing − Gaussian mixture, on pi"),
        (
            rules.gains_more(*(f"cifar.gain.{kind}.epochs{n}" for kind in ("simclr", "supervised") for n in (100, 10))),
            "SimCLR (100 epochs − 10 epochs) − supervised (100 epochs − 10 epochs) above 0",
        ),
    ],
)
def test_keys_are_said_in_words(rule, says):
    assert says in rule.says


# ---- what is not told -------------------------------------------------------------------------------------

R2_1 = {"mnist.r2.hidden.1part": around(0.952)}


def verdict_on(claim_id, results):
    return next(verdict for verdict in judge(results) if verdict.claim.id == claim_id)


@pytest.mark.parametrize(("value", "direction"), [(0.99, "towards the claim"), (0.10, "against the claim")])
@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_leave_a_claim_undecided_whatever_the_gap(value, direction, seeds):
    verdict = verdict_on("R2.1", {NOTEBOOK: content({"mnist.r2.hidden.1part": [value] * seeds})})
    assert verdict.verdict == "undecided"
    assert verdict.points_to == direction
    assert verdict.reason == f"{seeds} seed{'s' if seeds > 1 else ''}, 3 needed"
    assert f"{100 * value:.1f}" in verdict.measured


@pytest.mark.parametrize(("gap", "direction"), [(0.03, "towards the claim"), (0.0, "against the claim")])
def test_one_seed_points_somewhere_by_its_bare_difference(gap, direction):
    measures = {"cifar.head.linear.linear": [0.6], "cifar.head.none.linear": [0.6]}
    measures["cifar.head.mlp_bn.linear"] = [0.6 + gap]
    verdict = verdict_on("R1.5", {"04_head_ablation": content(measures, name="cifar10")})
    assert (verdict.verdict, verdict.points_to) == ("undecided", direction)


def test_three_seeds_that_leave_it_open_say_so():
    measures = {f"mnist.r2.hidden.epoch{epoch}": around(0.95, 0.02) for epoch in (6, 8)}
    measures["mnist.r2.hidden.epoch10"] = [0.95, 0.97, 0.93]
    verdict = verdict_on("R2.3", {NOTEBOOK: content(measures)})
    assert (verdict.verdict, verdict.reason, verdict.points_to) == (
        "undecided",
        "the seeds leave it open",
        "",
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "digits", "stand_in_for": "mnist"}, "digits stands in for mnist"),
        ({"name": "digits"}, "measured on digits, the claim is about mnist"),
        ({"reduced": "2,000 images"}, "reduced protocol: 2,000 images"),
    ],
)
def test_other_data_and_reduced_protocols_test_nothing(changes, reason):
    verdict = verdict_on("R2.1", {NOTEBOOK: content(R2_1, **changes)})
    assert (verdict.verdict, verdict.reason, verdict.points_to) == ("not tested", reason, "")
    assert "95.2" in verdict.measured


def test_an_absent_notebook_is_named():
    assert verdict_on("R2.1", {}).reason == "this report has no 01_mnist_study"
    assert verdict_on("R2.6", {NOTEBOOK: content(R2_1)}).reason == "this report has no 02_cifar_study"


def test_a_key_that_its_notebook_did_not_write_is_named():
    verdict = verdict_on("R2.2", {NOTEBOOK: content(R2_1)})
    assert verdict.reason == ("01_mnist_study did not measure R2's recipe, one hidden layer, a fifth of the labels")


# ---- the ledger -------------------------------------------------------------------------------------------


def test_every_claim_of_the_protocols_is_there_exactly_once():
    assert [claim.id for claim in CLAIMS] == IDS


def test_every_claim_is_fully_described():
    for claim in CLAIMS:
        assert claim.text.endswith(".") and claim.quantity and claim.notebooks and claim.keys
        assert claim.source == claim.id[:2]
        assert claim.dataset in ("mnist", "cifar10")
        assert claim.rule.says


# claim -> (results that bear it out, that contradict it): means of keys; the claim's other keys are 0.7
TURNED_ROUND = {
    "R1.2": ({}, {"cifar.aug.color.linear": 0.75}),
    "R1.3": ({}, {"cifar.aug.strong.linear": 0.75}),
    "R1.4": ({"cifar.head.mlp_bn.linear": 0.75}, {"cifar.head.none.linear": 0.75}),
    "R1.5": (
        {"cifar.head.linear.linear": 0.6, "cifar.head.none.linear": 0.6},
        {"cifar.head.linear.linear": 0.6},
    ),
    "R1.6": ({"cifar.aug.gray.linear": 0.6, "cifar.head.none.linear": 0.6}, {"cifar.aug.gray.linear": 0.6}),
    "R2.1": ({"mnist.r2.hidden.1part": 0.945}, {"mnist.r2.hidden.1part": 0.935}),
    "R2.2": ({"mnist.r2.hidden.2parts": 0.965}, {"mnist.r2.hidden.2parts": 0.955}),
    "R2.3": ({}, {"mnist.r2.hidden.epoch6": 0.6}),
    "R2.4": (
        {"mnist.r2.linear.1part": 0.96},
        {"mnist.r2.linear.1part": 0.96, "clusters.gmm.pixels.accuracy": 0.8},
    ),
    "R2.5": ({"mnist.seconds.pretrain": 90.0}, {"mnist.seconds.classifier": 90.0}),
    "R2.6": ({"cifar.r2.batch512.classifier30": 0.75, "cifar.r2.batch512.classifier50": 0.75}, {}),
    "R2.7": ({"cifar.r2.resnet34.classifier50": 0.75}, {"cifar.r2.resnet50.classifier50": 0.6}),
    "R3.1": ({"cifar.compose.crop_jitter.linear": 0.75}, {"cifar.compose.crop.linear": 0.75}),
    "R3.2": ({"cifar.head.mlp_bn.linear": 0.75}, {"cifar.head.linear.linear": 0.75}),
    "R3.3": ({"cifar.gain.simclr.batch1024": 0.8, "cifar.gain.simclr.epochs100": 0.8}, {}),
    "R4.1": ({}, {"cifar.few_labels.rank_correlation": -0.7}),
    "R4.2": ({"cifar.few_labels.finetune.1percent": 0.5}, {}),
    "R5.1": ({"cifar.compose.crop_jitter.linear": 0.75}, {"cifar.compose.flip_blur.linear": 0.75}),
    "R5.2": ({"cifar.head.mlp_bn.probe.h": 0.75}, {"cifar.head.mlp_bn.probe.z": 0.75}),
    "R5.3": ({"cifar.temperature.t0_2.linear": 0.75}, {"cifar.temperature.t1.linear": 0.75}),
    "R5.4": ({"cifar.batch.256.linear": 0.75}, {"cifar.batch.64.linear": 0.6}),
}
STILL_FALLING, FLAT = [5 - 0.05 * epoch for epoch in range(60)], [3.0] * 60
TURNED_ROUND_CURVES = {
    "R1.1": (STILL_FALLING, FLAT),
    "R2.8": (STILL_FALLING, FLAT),
    "R2.9": (FLAT, STILL_FALLING),
    "R2.10": (STILL_FALLING, FLAT),
}
WORDS = ("holds", "does not hold")


def verdict_given(claim_id, **results):
    claim = next(claim for claim in CLAIMS if claim.id == claim_id)
    return verdict_on(claim_id, dict.fromkeys(claim.notebooks, content(name=claim.dataset, **results))).verdict


def test_every_claim_is_turned_round_below():
    assert {*TURNED_ROUND, *TURNED_ROUND_CURVES} == set(IDS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_opposite_results_give_the_opposite_verdict(claim):
    if claim.id in TURNED_ROUND:
        changes = [dict.fromkeys(claim.keys, 0.7) | means for means in TURNED_ROUND[claim.id]]
        assert all(set(means) == set(claim.keys) for means in changes)
        results = [{"measures": {key: around(mean) for key, mean in means.items()}} for means in changes]
    else:
        results = [{"series": {key: [curve] * 3 for key in claim.keys}} for curve in TURNED_ROUND_CURVES[claim.id]]
    assert tuple(verdict_given(claim.id, **each) for each in results) == WORDS


def test_the_first_figure_of_a_claims_measures_is_its_figure():
    assert verdict_on("R2.1", {NOTEBOOK: content(R2_1, figure="fig-mnist-accuracy")}).figures == ("fig-mnist-accuracy",)
    assert verdict_on("R2.1", {}).figures == ()


def test_the_ledger_has_a_row_a_claim_with_words_and_a_reference():
    ledger = ledger_frame(judge({NOTEBOOK: content({"mnist.r2.hidden.1part": [0.952]}, figure="fig-a")}))
    assert ledger["claim"].tolist() == IDS
    row = ledger.set_index("claim").loc["R2.1"]
    assert row["measured"] == ("R2's recipe, one hidden layer, a tenth of the labels 95.2 % (1 seed), reported 95.0 %")
    assert row["verdict"] == "undecided: 1 seed, 3 needed; points towards the claim"
    assert row["shown in"] == "@fig-a"
    assert ledger.set_index("claim").loc["R1.1", "verdict"].startswith("not tested: this report has no 03_")


def test_every_claims_measures_are_recorded_by_a_notebook_or_known_to_be_for_other_profiles():
    """By the committed report of quick; what only full and extended measure is named here."""
    elsewhere = ("cifar.compose.", "cifar.r2.resnet34.", "cifar.r2.resnet50.", "cifar.gain.", "cifar.few_labels.",
                 "cifar.temperature.", "cifar.batch.")  # fmt: skip
    report = json.loads((ROOT / "reports/reference/results.json").read_text(encoding="utf-8"))
    recorded = {key for content in report["notebooks"].values() for key in (*content["measures"], *content["series"])}
    missing = {key for claim in CLAIMS for key in claim.keys if not key.startswith(elsewhere)} - recorded
    assert not missing


def test_extended_runs_what_the_claims_on_sweeps_and_few_labels_need():
    """Its lists hold every batch, length, temperature and fraction that a claim's keys name, in no reduced setting."""
    profile = yaml.safe_load((ROOT / "notebooks/profiles/extended.yaml").read_text(encoding="utf-8"))
    sweeps, few = profile[SWEEPS], profile[FEW_LABELS]
    assert sweeps["reduced"] == few["reduced"] == ""
    needed = [(key, re.search(r"(batch|epochs|\.t|\.)([\d_]+)(percent)?(\.linear)?$", key)) for claim in CLAIMS
              if claim.notebooks[0] in (SWEEPS, FEW_LABELS) for key in claim.keys]  # fmt: skip
    found = 0
    for key, match in needed:
        if match is None:
            assert key == "cifar.few_labels.rank_correlation"
            continue
        kind, number, percent, _ = match.groups()
        value = float(number.replace("_", "."))
        lists = {"epochs": sweeps["lengths"], ".t": sweeps["temperatures"]}
        assert (value / 100 in few["fractions"]) if percent else value in lists.get(kind, sweeps["batch_sizes"]), key
        found += 1
    assert found == 18, needed
