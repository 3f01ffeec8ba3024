"""The ledger: two verdicts a claim, their scale, and what the comparisons amount to."""

import pytest
from test_rules import around, content

from labreport.science import judge, ledger_frame
from labreport.science.ledger import comparisons_sentence, count_verdicts

KEY = "mnist.r2.hidden.1part"
R2_1 = {KEY: around(0.952)}
FEW = "few_labels.finetune.1percent", "few_labels.linear.100percent"


def verdict_on(claim_id, results):
    return next(verdict for verdict in judge(results) if verdict.claim.id == claim_id)


def row(claim_id, results):
    return ledger_frame(judge(results)).set_index("claim").loc[[claim_id]].iloc[0]


def few_labels(family, name, gap, **kwargs):
    tuned, linear = (f"{family}.{key}" for key in FEW)
    return content({tuned: around(0.8 - gap), linear: around(0.8)}, name=name, **kwargs)


@pytest.mark.parametrize(("value", "way"), [(0.99, "towards"), (0.1, "against")])
@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_are_undecided_and_point_somewhere(value, way, seeds):
    told = row("R2.1", {"01": content({KEY: [value] * seeds})})
    plural = "s" if seeds > 1 else ""
    assert told["as stated"] == f"undecided: {seeds} seed{plural}, 3 needed; points {way} the claim"
    assert f"{100 * value:.1f}" in told["effect, 95 % interval"]


def test_three_seeds_that_settle_nothing_are_inconclusive():
    assert row("R2.1", {"01": content({KEY: around(0.952, 0.02)})})["at scale"] == (
        "undecided: inconclusive"
    )


def test_a_reduced_protocol_has_a_verdict_at_scale_alone_and_names_the_scale():
    results = {"01": content(R2_1, reduced="2,000 images", images=2000, epochs=4, width=0.25)}
    told = row("R2.1", results)
    assert (told["as stated"], told["at scale"]) == ("not run here", "holds")
    assert told["the scale"] == "mnist, 2,000 images, width 0.25, 4 epochs, 3 seeds"
    told = row("R2.1", {"01": content(R2_1)})
    assert (told["as stated"], told["at scale"]) == ("holds", "holds")
    assert told["the scale"] == "mnist, in full, 3 seeds"


def test_what_nobody_measured_is_not_tested_and_named():
    told = row("R2.2", {"01": content(R2_1)})
    what = "R2's recipe, one hidden layer, a fifth of the labels"
    assert told["as stated"] == "not run here"
    assert told["at scale"] == f"not tested: nobody measured {what}"


def test_r3_to_r5_are_judged_on_mnist_where_nothing_else_was_run_and_beside_it_where_it_was():
    mnist, cifar = few_labels("mnist", "mnist", 0.1), few_labels("cifar", "cifar10", 0.0)
    told = row("R4.2", {"08": mnist})
    assert told["at scale"] == "holds" and told["the scale"].startswith("mnist, in full")
    rows = ledger_frame(judge({"08": mnist, "09": cifar})).query("claim == 'R4.2'")
    assert rows["at scale"].tolist() == ["does not hold", "holds"]
    assert rows["the source says"].tolist()[1] == "on mnist"
    assert told["as stated"] == "not run here"  # ImageNet


def test_r2_4_shows_a_linear_classifier_without_a_verdict():
    results = {"01": content({"mnist.r2.linear.1part": around(0.9)})}
    rows = ledger_frame(judge(results)).query("claim == 'R2.4'")
    assert rows["the source says"].tolist()[1] == "with a linear classifier"
    assert rows.iloc[1]["effect, 95 % interval"].startswith("R2's recipe, linear")
    assert rows.iloc[1]["at scale"] == rows.iloc[1]["as stated"] == "–"


def test_holms_correction_stands_beside_the_plain_verdict_and_says_how_many_it_corrects_for():
    close = around(0.946)
    one = verdict_on("R2.1", {"01": content({KEY: close})})
    assert (one.scaled.verdict, one.corrected) == ("holds", "holds")
    wide = {f"mnist.r2.hidden.epoch{n}": around(0.94, 0.02) for n in (6, 8)}
    wide["mnist.r2.hidden.epoch10"] = around(0.94, -0.02)
    clear = {"mnist.r2.hidden.2parts": around(0.99, 1e-5)}
    verdicts = judge({"01": content({KEY: close, **wide, **clear})})
    plain, corrected = ({v.claim.id: word for v in verdicts for word in [getattr(v, part)]}
                        for part in ("scaled", "corrected"))  # fmt: skip
    assert plain["R2.1"].verdict == plain["R2.2"].verdict == corrected["R2.2"] == "holds"
    assert corrected["R2.1"] == "undecided"
    assert comparisons_sentence(verdicts) == (
        "The ledger rests on 5 comparisons; Holm's correction for their number changes R2.1."
    )


def test_a_figure_of_its_measures_is_shown():
    results = {"01": content(R2_1, figure="fig-mnist-accuracy")}
    assert row("R2.1", results)["shown in"] == "@fig-mnist-accuracy"
    assert row("R2.1", {})["shown in"] == "–"


def test_verdicts_are_counted_both_ways_and_none_left_out():
    verdicts = judge({"01": content(R2_1, reduced="2,000 images")})
    assert count_verdicts(verdicts) == {"holds": 1, "does not hold": 0, "undecided": 0,
                                        "not tested": 25}  # fmt: skip
    assert count_verdicts(verdicts, "stated")["not run here"] == 26
