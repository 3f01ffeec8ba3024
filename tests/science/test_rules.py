"""Rules for verdicts: they agree with their sources; opposite results give opposite verdicts."""

import pytest
from scipy.stats import ttest_1samp

from labreport.science import rules, sources
from labreport.science.evidence import Evidence, all_of, any_of, negate


def content(measures=None, series=None, name="mnist", stand_in_for="", reduced="", figure="", **kw):
    def entries(given):
        same = {"unit": "fraction", "what": "", "figure": figure}
        given = (given or {}).items()
        return {key: {"values": dict(enumerate(values)), **same} for key, values in given}

    return {
        "data": [{"name": name, "stand_in_for": stand_in_for}], "reduced": reduced,
        "parameters": kw, "measures": entries(measures), "series": entries(series),
    }  # fmt: skip


def find(rule, in_full=False, adjusted=None, **kwargs):
    return rule.find(Evidence({"01": content(**kwargs)}, "mnist", in_full, adjusted or {}))


def around(centre, spread=0.001):
    return [centre - spread, centre, centre + spread]


def on_pair(rule, difference, spread=0.0):
    """Verdict on a - b where the differences of three seeds are `difference` and that ± spread."""
    b = [0.5, 0.6, 0.7]
    a = [value + gap for value, gap in zip(b, around(difference, spread), strict=True)]
    return find(rule("m.a", "m.b"), measures={"m.a": a, "m.b": b}).verdict


# ---- the sources' own printed curves ----------------------------------------------------------


def on_r2s_curve(rule, key):
    return find(rule, series={key: [sources.R2_MNIST[key.split(".")[1]]] * 3})


@pytest.mark.parametrize(
    ("key", "epoch", "measured"),
    [
        ("m.loss", "level_epoch", "12.5 % of its mean fall per epoch from epoch 8; level from 7 ("),
        ("m.classifier_loss", "classifier_level_epoch", "epoch 27; level from 7, far before 28"),
    ],
)
def test_r2s_curves_level_off_where_r2_says(key, epoch, measured):
    curve, at = (sources.R2_MNIST[name] for name in (key.split(".")[1], epoch))
    found = on_r2s_curve(rules.levelled_off(key, at, len(curve)), key)
    assert found.verdict == "holds" and measured in found.measured


def test_r2s_pre_training_loss_falls_steadily_and_its_classifier_has_converged():
    assert on_r2s_curve(rules.falls_steadily("m.loss"), "m.loss").verdict == "holds"
    rule = rules.has_not_converged("m.classifier_loss", 30)
    assert on_r2s_curve(rule, "m.classifier_loss").verdict == "does not hold"


def test_r2s_figures_are_those_of_its_curves():
    first, *_, last = sources.R2_MNIST["loss"]
    assert round(first, 2) == sources.R2_MNIST["loss_first"]
    assert round(last, 2) == sources.R2_MNIST["loss_last"]
    assert [len(sources.R2_MNIST[key]) for key in ("loss", "classifier_loss")] == [10, 30]


# ---- on measures ------------------------------------------------------------------------------


# with three seeds d - s, d, d + s the 95 % interval is d ± 2.48 s
@pytest.mark.parametrize(
    ("mean", "spread", "verdict"),
    [
        (0.97, 0.001, "holds"),
        (0.943, 0.001, "holds"),
        (0.942, 0.001, "undecided"),
        (0.97, 0.02, "undecided"),
        (0.93, 0.001, "does not hold"),
    ],
)
def test_a_figure_comes_back_if_the_interval_lies_above_it_less_a_point(mean, spread, verdict):
    found = find(rules.comes_back("m.a", 0.95), measures={"m.a": around(mean, spread)})
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("mean", "verdict"), [(0.5, "holds"), (0.71, "undecided"), (0.72, "does not hold")]
)
def test_an_upper_bound_comes_back_if_the_interval_lies_below_it_plus_a_point(mean, verdict):
    assert find(rules.at_most("m.a", 0.70), measures={"m.a": around(mean)}).verdict == verdict


@pytest.mark.parametrize(
    ("rule", "difference", "spread", "verdict"),
    [
        (rules.better, 0.02, 0.001, "holds"),
        (rules.better, -0.02, 0.001, "does not hold"),
        (rules.better, 0.0, 0.001, "does not hold"),  # no gain
        (rules.better, 0.02, 0.01, "undecided"),
        (rules.as_well_as, 0.006, 0.001, "holds"),
        (rules.as_well_as, 0.02, 0.001, "does not hold"),
        (rules.as_well_as, -0.02, 0.001, "does not hold"),
        (rules.as_well_as, 0.009, 0.001, "undecided"),
        (rules.clearly_worse, -0.02, 0.001, "holds"),
        (rules.clearly_worse, -0.005, 0.001, "does not hold"),
        (rules.clearly_worse, 0.02, 0.001, "does not hold"),
        (rules.clearly_worse, -0.011, 0.001, "undecided"),
        (rules.takes_longer, 0.005, 0.001, "holds"),
        (rules.takes_longer, -5.0, 0.1, "does not hold"),
        (rules.takes_longer, 0.001, 0.002, "undecided"),  # seconds: no margin
    ],
)
def test_a_difference_is_judged_by_its_interval(rule, difference, spread, verdict):
    assert on_pair(rule, difference, spread) == verdict


@pytest.mark.parametrize(("other", "verdict"), [(0.55, "holds"), (0.75, "does not hold")])
def test_gains_more_compares_two_gains(other, verdict):
    measures = {"m.a1": [0.7] * 3, "m.a0": [0.6] * 3, "m.b1": [other] * 3, "m.b0": [0.5] * 3}
    rule = rules.gains_more("m.a1", "m.a0", "m.b1", "m.b0")
    assert find(rule, measures=measures).verdict == verdict


def test_differences_are_paired_by_seed():
    results = content({"m.a": [], "m.b": []})
    results["measures"]["m.a"]["values"] = {"0": 0.5, "1": 0.6, "2": 0.7}  # as in raw JSON
    results["measures"]["m.b"]["values"] = {2: 0.69, 1: 0.59, 0: 0.49}
    found = rules.better("m.a", "m.b").find(Evidence({"01": results}, "mnist"))
    assert found.measured == "a − b: +1.0 points (95 % interval +1.0 to +1.0, 3 seeds)"


@pytest.mark.parametrize(("p", "verdict"), [(0.04, "holds"), (0.06, "undecided")])
def test_a_comparison_that_does_not_survive_holms_correction_is_undecided(p, verdict):
    rule = rules.better("m.a", "m.b")
    measures = {"m.a": around(0.6), "m.b": around(0.5)}
    assert find(rule, adjusted={rule.says: p}, measures=measures).verdict == verdict


def test_the_p_of_a_verdict_is_the_level_at_which_its_interval_would_just_reach_the_bound():
    rule = rules.clearly_worse("m.a", "m.b")
    found = find(rule, measures={"m.a": [0.45, 0.46, 0.47], "m.b": [0.5] * 3})
    p = ttest_1samp([-0.05, -0.04, -0.03], -0.01).pvalue
    assert p < 0.05 and found.p == {rule.says: pytest.approx(p)}


def test_the_p_of_lying_within_a_region_is_that_of_its_nearer_end():
    rule, gaps = rules.as_well_as("m.a", "m.b"), [0.005, 0.006, 0.007]
    found = find(rule, measures={"m.a": [0.5 + gap for gap in gaps], "m.b": [0.5] * 3})
    assert found.p == {rule.says: pytest.approx(ttest_1samp(gaps, 0.01).pvalue)}


# ---- on curves --------------------------------------------------------------------------------

FALLING = [5 - 0.1 * epoch for epoch in range(12)]


def bumpy(height):
    """Falls, then rises for good by `height` of its lowest value, and ends below its start."""
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
        ([6.0, *[5 * 1.004**epoch for epoch in range(20)]], "does not hold"),  # creeps up
    ],
)
def test_falls_steadily_looks_at_the_five_epoch_mean(curve, verdict):
    assert find(rules.falls_steadily("m.loss"), series={"m.loss": [curve] * 3}).verdict == verdict


@pytest.mark.parametrize(
    ("tail", "level", "moving"),
    [(0.14, "holds", "does not hold"), (0.16, "does not hold", "holds")],
)
def test_fifteen_percent_of_the_mean_fall_tells_level_from_moving(tail, level, moving):
    start, end = 11 - tail * 5, 1 + tail * 5  # falls by 10 in 10 epochs, the last 5 by `tail` each
    curve = [11, start - 1, start - 3, 3, 2, end, *(end - tail * k for k in range(1, 6))]
    series = {"m.loss": [curve] * 3}
    assert find(rules.levelled_off("m.loss", 7, 11), series=series).verdict == level
    assert find(rules.has_not_converged("m.loss", 11), series=series).verdict == moving


def test_a_loss_that_never_falls_has_neither_levelled_off_nor_still_falls():
    flat = {"m.loss": [[3.0] * 12] * 3}
    for rule in (rules.levelled_off("m.loss", 9, 12), rules.has_not_converged("m.loss", 12)):
        assert find(rule, series=flat).verdict == "does not hold"


def test_convergence_of_a_shorter_run_is_judged_at_its_own_end():
    found = find(rules.has_not_converged("m.loss", 30), series={"m.loss": [FALLING] * 3})
    assert found.verdict == "holds" and "after 12 epochs" in found.measured


def test_seeds_that_disagree_about_a_curve_leave_it_undecided():
    curves = [FALLING, FALLING, FALLING[::-1]]
    assert find(rules.falls_steadily("m.loss"), series={"m.loss": curves}).verdict == "undecided"


@pytest.mark.parametrize(
    ("rule", "needed"),
    [
        (rules.falls_steadily("m.loss"), 6),
        (rules.levelled_off("m.loss", 28, 30), 28),
        (rules.has_not_converged("m.loss", 30), 6),
    ],
)
def test_a_curve_that_is_too_short_tests_nothing(rule, needed):
    found = find(rule, series={"m.loss": [FALLING[:5]] * 3})
    reason = f"loss has 5 epochs, the rule needs {needed}"
    assert (found.verdict, found.reason) == ("not tested", reason)


# ---- on encoders ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "verdict"),
    [
        ([1, 2, 3, 4, 5], "holds"),
        ([5, 4, 3, 2, 1], "does not hold"),
        ([2, 1, 4, 3, 5], "undecided"),
    ],
)
def test_tracking_counts_encoders_not_seeds(order, verdict):
    series = {"m.linear": [[0.1, 0.2, 0.3, 0.4, 0.5]], "m.tuned": [order]}  # one seed
    found = find(rules.tracks("m.linear", "m.tuned"), series=series)
    assert found.verdict == verdict and "over 5 encoders" in found.measured


def test_four_encoders_in_order_prove_nothing():
    series = {"m.linear": [[1, 2, 3, 4]] * 9, "m.tuned": [[1, 2, 3, 4]] * 9}
    found = find(rules.tracks("m.linear", "m.tuned"), series=series)
    assert found.verdict == "undecided" and "p 0.083" in found.measured  # 2 of 24 orders


# ---- composition ------------------------------------------------------------------------------

PARTS = {"holds": around(0.95), "does not hold": around(0.5), "undecided": [0.95]}


def compose(combine, *verdicts):
    measures = {f"m.{i}": PARTS[word] for i, word in enumerate(verdicts) if word in PARTS}
    parts = [rules.comes_back(f"m.{i}", 0.95) for i in range(len(verdicts))]
    return find(combine(*parts), measures=measures)


@pytest.mark.parametrize(
    ("verdicts", "all_say", "any_say"),
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
def test_parts_combine_as_in_logic(verdicts, all_say, any_say):
    for order in (verdicts, verdicts[::-1]):
        assert compose(all_of, *order).verdict == all_say
        assert compose(any_of, *order).verdict == any_say


def test_negation_turns_a_verdict_round_and_keeps_its_comparison():
    measures = {"m.a": around(0.6), "m.b": around(0.5)}
    rule = rules.better("m.a", "m.b")
    plain, turned = (find(each, measures=measures) for each in (rule, negate(rule)))
    assert (plain.verdict, turned.verdict) == ("holds", "does not hold") and plain.p == turned.p


def test_a_composite_shows_first_the_parts_that_decide_and_counts_the_rest():
    measured = compose(all_of, "holds", "holds", "holds", "does not hold").measured
    assert measured.startswith("3 50.0 % (95 % interval 49.8 to 50.2, 3 seeds), reported 95 %: do")
    assert measured.endswith("reported 95 %: holds; and 1 more")
    assert compose(all_of, "holds", "holds").measured.endswith("reported 95 %")  # they agree


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (rules.comes_back("mnist.r2.hidden.1part", 0.9527), "the labels: at least 95.27 %,"),
        (rules.better("c.r2.batch512.classifier30", "c.r2.batch128.classifier30"),
         "batch 512 − batch 128 ab"),
        (rules.better("c.batch.64.linear", "c.batch.256.linear"), "batch 64 − batch 256 above"),
        (rules.better("c.temperature.t0_05.linear", "c.temperature.t1.linear"),
         "temperature 0.05 − temperature 1 above"),
        (rules.takes_longer("mnist.seconds.pretrain", "clusters.gmm.pixels.seconds"),
         "pre-training − Gaussian mixture, on pixels"),
        (rules.gains_more(*(f"c.gain.{kind}.epochs{n}" for kind in ("simclr", "supervised")
                            for n in (100, 10))),
         "SimCLR (100 epochs − 10 epochs) − supervised (100 epochs − 10 epochs) above 0"),
    ],
)  # fmt: skip
def test_keys_are_said_in_words(rule, says):
    assert says in rule.says


# ---- what is not told -------------------------------------------------------------------------

RULE, VALUE = rules.comes_back("mnist.a", 0.95), {"mnist.a": around(0.97)}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "digits", "stand_in_for": "mnist"}, "digits stands in for mnist"),
        ({"name": "digits"}, "measured on digits, not on mnist"),
    ],
)
def test_other_data_test_nothing(changes, reason):
    found = find(RULE, measures=VALUE, **changes)
    assert (found.verdict, found.reason) == ("not tested", reason)


def test_reduced_protocols_speak_at_scale_only():
    assert find(RULE, measures=VALUE, reduced="2,000 images").verdict == "holds"
    found = find(RULE, True, measures=VALUE, reduced="2,000 images")
    assert (found.verdict, found.reason) == ("not tested", "reduced here: 2,000 images")


def test_a_measures_own_reduction_and_setting_stand_before_its_notebooks():
    results = content(VALUE, reduced="2,000 images", epochs=3)
    evidence = Evidence({"01": results}, "mnist", in_full=True)
    assert RULE.find(evidence).verdict == "not tested"
    assert evidence.scale(RULE.keys) == "3 epochs, 3 seeds"
    results["measures"]["mnist.a"] |= {"reduced": "", "setting": {"images": 60000, "pflop": 1.25}}
    assert RULE.find(evidence).verdict == "holds"
    assert evidence.scale(RULE.keys) == "in full, 60,000 images, 1.2 PFLOP, 3 seeds"


def test_of_two_measurements_the_larger_speaks():
    small, large = (content({"mnist.a": around(mean)}, images=n, epochs=2)
                    for mean, n in ((0.5, 1000), (0.97, 5000)))  # fmt: skip
    for results in ({"01": small, "02": large}, {"01": large, "02": small}):
        assert RULE.find(Evidence(results, "mnist")).verdict == "holds"
