"""Every conclusion sentence: opposite numbers, opposite sentence."""

import pytest

from labreport import conclusions

LOW, HIGH = {0: 0.40, 1: 0.42, 2: 0.41}, {0: 0.60, 1: 0.61, 2: 0.62}
GEOMETRY = {"alignment": {0: [0.9, 0.3]}, "uniformity": {0: [-1.0, -3.0]}, "effective_rank": {0: [4.0, 40.0]}}
TURNED = {key: {seed: row[::-1] for seed, row in rows.items()} for key, rows in GEOMETRY.items()}


def moved(by, values=LOW):
    return {seed: value + by for seed, value in values.items()}


OPPOSITES = [
    ("best_temperatures", ({64: {0.1: HIGH, 0.5: LOW}, 256: {0.1: HIGH, 0.5: LOW}}, "batch", "at batch {:g}"),
     "does not depend on the batch here: 0.1 throughout",
     ({64: {0.1: LOW, 0.5: HIGH}, 256: {0.1: HIGH, 0.5: LOW}}, "batch", "at batch {:g}"),
     "depends on the batch here: 0.5 at batch 64, 0.1 at batch 256"),
    ("batch_and_length", ({64: {10: LOW, 100: HIGH}, 256: {10: HIGH, 100: HIGH}},),
     "the larger batch loses ground, as the paper finds",
     ({64: {10: LOW, 100: LOW}, 256: {10: LOW, 100: HIGH}},),
     "the larger batch gains ground, other than the paper finds"),
    ("gains", ({64: LOW, 1024: HIGH}, {64: LOW, 1024: LOW}, "images"), "SimCLR gains more.",
     ({64: LOW, 1024: LOW}, {64: LOW, 1024: HIGH}, "batch"), "SimCLR gains no more."),
    ("order_of_encoders", ({"a": LOW, "b": moved(0.1), "c": HIGH}, {"parameters": {"a": 1, "b": 2, "c": 3}}),
     "**c** (61.0 ± 1.0 %). Over the 3 encoders, accuracy rises with parameters (rank correlation +1.00)",
     ({"a": HIGH, "b": moved(0.1), "c": LOW}, {"parameters": {"a": 1, "b": 2, "c": 3}}),
     "**a** (61.0 ± 1.0 %). Over the 3 encoders, accuracy falls with parameters (rank correlation −1.00)"),
    ("worth_of_pretraining", ({50: HIGH, 5000: HIGH}, {50: LOW, 5000: HIGH}),
     "pre-training is worth more where labels are few", ({50: LOW, 5000: HIGH}, {50: HIGH, 5000: LOW}),
     "pre-training is worth no more where labels are few"),
    ("worth_of_pretraining", ({50: HIGH, 5000: LOW}, {50: LOW, 5000: HIGH}),
     "is ahead from 50 labels (+20.0 points (95 % interval +17.5 to +22.5, 3 seeds)) and is behind from 5,000",
     ({50: LOW, 5000: HIGH}, {50: HIGH, 5000: LOW}), "is behind from 50 labels"),
    ("few_against_all", (LOW, HIGH, "1 %"), "few is behind, −20.0 points", (HIGH, LOW, "1 %"),
     "few is ahead, +20.0 points"),
    ("tracking", ({0: 0.9}, 4, "1 %"), "1 % follows the order", ({0: -0.9}, 4, "1 %"), "runs against the order"),
    ("tracking", ({0: 0.9}, 4, "1 %"), "1 % follows the order", ({0: 0.1}, 4, "1 %"), "hardly follows the order"),
    ("geometry_over_training", (GEOMETRY,), "come closer together (alignment 0.90 to 0.30), the images spread out "
     "(uniformity −1.00 to −3.00), and h uses more directions (effective rank 4.0 to 40.0)", (TURNED,),
     "move apart (alignment 0.30 to 0.90), the images crowd together (uniformity −3.00 to −1.00), and h uses fewer "
     "directions"),
    ("classes_apart", (LOW, HIGH, "SimCLR"), "one class lie closer together than", (HIGH, LOW, "SimCLR"),
     "one class lie no closer together than"),
    ("before_and_behind", (HIGH, LOW), "z uses fewer directions than h", (LOW, HIGH), "z uses no fewer directions"),
    ("most_confused", ([[8, 2, 0], [1, 9, 0], [0, 0, 10]], ["cat", "dog", "ship"]),
     "takes cat and dog for each other: 20 % of cat for dog, 10 % the other way",
     ([[10, 0, 0], [0, 6, 4], [0, 0, 10]], ["cat", "dog", "ship"]), "takes dog and ship for each other"),
    ("most_confused", ([[8, 2], [1, 9]], ["cat", "dog"]), "for each other", ([[9, 0], [0, 9]], ["cat", "dog"]),
     "takes no class for another"),
    ("against_published", ({"accuracy": HIGH, "NMI": HIGH}, {"accuracy": 0.5, "NMI": 0.6}, "SCAN"),
     "reaches all of SCAN's", ({"accuracy": LOW, "NMI": LOW}, {"accuracy": 0.5, "NMI": 0.6}, "SCAN"),
     "reaches none of SCAN's"),
    ("own_images", (HIGH, LOW, 0.5), "above always naming the commonest class (50.0 %); against an untrained "
     "encoder it is ahead", (LOW, HIGH, 0.5), "not above always naming the commonest class (50.0 %); against an "
     "untrained encoder it is behind"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "arguments", "sentence", "opposite", "opposite_sentence"), OPPOSITES)
def test_opposite_numbers_give_the_opposite_sentence(function, arguments, sentence, opposite, opposite_sentence):
    write = getattr(conclusions, function)
    assert sentence in write(*arguments) and opposite_sentence not in write(*arguments)
    assert opposite_sentence in write(*opposite) and sentence not in write(*opposite)


def test_one_published_figure_reached_is_named():
    reached = conclusions.against_published({"accuracy": HIGH, "NMI": LOW}, {"accuracy": 0.5, "NMI": 0.6}, "SCAN")
    assert "reaches accuracy of SCAN's figures" in reached


@pytest.mark.parametrize(("seeds", "says"), [(1, True), (2, True), (3, False)])
def test_fewer_than_three_seeds_are_no_verdict(seeds, says):
    assert ("no difference is a verdict" in conclusions.caution(seeds)) is says


def test_a_sweep_with_one_value_claims_nothing():
    assert "Only one batch was run" in conclusions.best_temperatures({64: {0.1: LOW}}, "batch", "at {}")
    assert "says nothing" in conclusions.batch_and_length({64: {10: LOW, 100: LOW}})
    assert "says nothing" in conclusions.batch_and_length({64: {10: LOW}, 128: {10: LOW}})


def test_every_conclusion_has_its_opposite_above():
    public = {name for name, value in vars(conclusions).items()
              if getattr(value, "__module__", "") == conclusions.__name__ and not name.startswith("_")}  # fmt: skip
    assert public - {row[0] for row in OPPOSITES} == {"caution", "best_setting", "rank_correlation"}


def test_rank_correlation_of_what_does_not_vary_is_zero():
    assert conclusions.rank_correlation([1, 2, 3], [3, 5, 9]) == 1 and conclusions.rank_correlation([1, 1], [1, 2]) == 0
