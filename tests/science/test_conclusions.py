"""Every conclusion sentence: opposite numbers, opposite sentence."""

import pytest

from labreport.science import conclusions

LOW, HIGH = {0: 0.40, 1: 0.42, 2: 0.41}, {0: 0.60, 1: 0.61, 2: 0.62}
GEOMETRY = {
    "alignment": {0: [0.9, 0.3]},
    "uniformity": {0: [-1.0, -3.0]},
    "effective_rank": {0: [4.0, 40.0]},
}
TURNED = {key: {seed: row[::-1] for seed, row in rows.items()} for key, rows in GEOMETRY.items()}


def moved(by, values=LOW):
    return {seed: value + by for seed, value in values.items()}


def costly(*accuracies):
    return dict(zip("abc", accuracies, strict=True)), {"parameters": {"a": 1, "b": 2, "c": 3}}


ORDERED = [moved(0.05 * k) for k in range(5)]
NAMES = "SimCLR", "supervised", "at batch {:,g}"
OPPOSITES = [
    ("best_temperatures",
     ({64: {0.1: HIGH, 0.5: LOW}, 256: {0.1: HIGH, 0.5: LOW}}, "batch", "at batch {:g}"),
     "does not depend on the batch here: 0.1 at batch 64, 0.1 at batch 256",
     ({64: {0.1: LOW, 0.5: HIGH}, 256: {0.1: HIGH, 0.5: LOW}}, "batch", "at batch {:g}"),
     "temperature depends on the batch here: 0.5 at batch 64, 0.1 at batch 256"),
    ("against", (HIGH, LOW, "A", "B"), "A (61.0 ± 1.0 %) is ahead of B (41.0 ± 1.0 %): +20.0 po",
     (LOW, HIGH, "A", "B"), "A (41.0 ± 1.0 %) is behind B (61.0 ± 1.0 %): −20.0 points"),
    ("change_of_lead", ({64: LOW, 1024: HIGH}, {64: LOW, 1024: LOW}, *NAMES),
     "at batch 1,024; the lead grows", ({64: HIGH, 1024: LOW}, {64: LOW, 1024: LOW}, *NAMES),
     "at batch 1,024; the lead shrinks"),
    ("smaller", (LOW, HIGH, "within", "between", "distance"), "within is smaller than between",
     (HIGH, LOW, "within", "between", "distance"), "within is no smaller than between"),
    ("order_of_encoders", costly(LOW, moved(0.1), HIGH), "**c** (61.0 ± 1.0 %). Over the 3 "
     "encoders, accuracy rises with parameters (rank correlation +1.00)",
     costly(HIGH, moved(0.1), LOW), "**a** (61.0 ± 1.0 %). Over the 3 encoders, accuracy falls "
     "with parameters (rank correlation −1.00)"),
    ("tracking", (ORDERED, ORDERED, "1 %"), "1 % follows the order",
     (ORDERED, ORDERED[::-1], "1 %"), "1 % runs against the order"),
    ("tracking", (ORDERED, ORDERED, "1 %"), "(rank correlation +1.00, p 0.017)",
     (ORDERED, [ORDERED[k] for k in (2, 4, 0, 3, 1)], "1 %"), "hardly follows the order"),
    ("geometry_over_training", (GEOMETRY,), "come closer together (alignment 0.90 to 0.30), the "
     "images spread out (uniformity −1.00 to −3.00), h uses more directions (effective rank 4.0 to "
     "40.0)", (TURNED,), "move apart (alignment 0.30 to 0.90), the images crowd together "
     "(uniformity −3.00 to −1.00), h uses fewer directions"),
    ("most_confused", ([[8, 2, 0], [1, 9, 0], [0, 0, 10]], ["cat", "dog", "ship"]),
     "takes cat and dog for each other: 20 % of cat for dog, 10 % the other way",
     ([[10, 0, 0], [0, 6, 4], [0, 0, 10]], ["cat", "dog", "ship"]), "takes dog and ship for each"),
    ("most_confused", ([[8, 2], [1, 9]], ["cat", "dog"]), "for each other",
     ([[9, 0], [0, 9]], ["cat", "dog"]), "takes no class for another"),
    ("against_published", ({"ARI": HIGH, "NMI": HIGH}, {"ARI": 0.5, "NMI": 0.6}, "SCAN"),
     "Of SCAN's figures it reaches: ARI, NMI.",
     ({"ARI": LOW, "NMI": LOW}, {"ARI": 0.5, "NMI": 0.6}, "SCAN"), "it reaches: none."),
    ("above_commonest", (HIGH, 0.5), "images, more than always naming the commonest class (50.0 %)",
     (LOW, 0.5), "images, no more than always naming the commonest class (50.0 %)"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "numbers", "sentence", "opposite", "turned"), OPPOSITES)
def test_opposite_numbers_give_the_opposite_sentence(function, numbers, sentence, opposite, turned):
    write = getattr(conclusions, function)
    assert sentence in write(*numbers) and turned not in write(*numbers)
    assert turned in write(*opposite) and sentence not in write(*opposite)


@pytest.mark.parametrize(("seeds", "says"), [(1, True), (2, True), (3, False)])
def test_fewer_than_three_seeds_are_no_verdict(seeds, says):
    assert ("no difference is a verdict" in conclusions.caution(seeds)) is says


def test_a_sweep_with_one_value_claims_nothing():
    one = {64: {0.1: LOW}}
    assert "Only one batch was run" in conclusions.best_temperatures(one, "batch", "at {}")
    assert "says nothing" in conclusions.change_of_lead({64: LOW}, {64: HIGH}, *NAMES)


def test_other_test_images_widen_the_interval_over_seeds():
    right = dict.fromkeys(range(3), 0.95)
    confusions = {seed: [[950, 50], [50, 950]] for seed in right}
    told = conclusions.other_images({0: 0.946, 1: 0.95, 2: 0.954}, confusions)
    assert told.startswith("The interval over 3 seeds, ±1.0 points, covers seeds alone.")
    assert "by ±1.0 points as well: ±1.4 together, 1.4 times as wide." in told
    for flat in (right, {0: 0.95}):  # no interval to widen
        assert conclusions.other_images(flat, confusions).endswith("±1.0 points as well.")


def test_every_conclusion_has_its_opposite_above():
    public = {name for name, value in vars(conclusions).items() if not name.startswith("_")
              and getattr(value, "__module__", "") == conclusions.__name__}  # fmt: skip
    assert public - {row[0] for row in OPPOSITES} == {"caution", "other_images"}
