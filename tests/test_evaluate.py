"""Probe, fine-tuning and kNN, as functions and on stored runs (test_wiring.py: the oracle)."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from labreport import measure
from labreport.measure import fine_tune, fit_probe, knn, picture_views
from labreport.store import pretrain
from simclr_core import evaluate
from simclr_core.errors import UserError
from simclr_core.evaluate import ProbeConfig, balanced_rows, encode, frozen, knn_accuracy

PROBE = ProbeConfig(labels=(60, 120), epochs=30, batch_size=20, lr=0.01)
ONE = replace(PROBE, epochs=1)


@pytest.mark.parametrize("changes", [{}, {"hidden": 16}, {"on": "z"},
                                     {"standardise": True, "schedule": "cosine"}])  # fmt: skip
def test_probe_learns_an_easy_task_and_records_every_epoch(run, tiny_data, changes):
    result = fit_probe(run, tiny_data, replace(PROBE, **changes))
    assert result["accuracy"] > 0.9 and result["accuracy"] == result["accuracies"][-1]
    assert {len(result[k]) for k in ("accuracies", "losses", "train_accuracies")} == {30}
    assert result["losses"][-1] < result["losses"][0]
    confusion = torch.tensor(result["confusion"])  # true classes in rows
    assert confusion.sum(1).tolist() == torch.bincount(tiny_data.test.labels).tolist()
    assert confusion.trace().item() / 40 == result["accuracy"]


def test_encoder_is_bit_identical_after_a_probe_and_the_check_can_fail(run, tiny_data):
    encoder = run.load_encoder()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    encode(encoder, tiny_data.test.images, tiny_data.mean, tiny_data.std)
    fit_probe(run, tiny_data, ONE)
    for after in (encoder.state_dict(), run.load_encoder().state_dict()):
        assert all(torch.equal(before[k], after[k]) for k in before)
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with frozen(module) as embed:
        embed(torch.randn(8, 4))
    with pytest.raises(RuntimeError, match="the encoder changed"):
        with frozen(module) as embed:
            embed.train()(torch.randn(8, 4))  # BN statistics move, as in R2's classifier phase


def test_features_do_not_depend_on_how_they_are_batched(run, tiny_data, monkeypatch):
    given = run.load_encoder(), tiny_data.test.images, tiny_data.mean, tiny_data.std
    whole = encode(*given)
    monkeypatch.setattr(evaluate, "ENCODE_BATCH", 7)
    torch.testing.assert_close(encode(*given), whole)


def test_images_are_encoded_once_for_all_evaluations_of_the_same_weights(
    run, tiny_config, tiny_data, tmp_path, monkeypatch
):
    encoded, real = [], evaluate.encode
    monkeypatch.setattr(
        evaluate, "encode", lambda f, x, *a: encoded.append(len(x)) or real(f, x, *a)
    )
    first = fit_probe(run, tiny_data, ONE)
    fit_probe(run, tiny_data, replace(ONE, on="z"))
    knn(run, tiny_data, PROBE.labels, k=3)
    assert encoded == [60, 40] and first["seconds"] > 0
    fit_probe(run, tiny_data, replace(ONE, epoch=1))
    fit_probe(pretrain(replace(tiny_config, seed=1), tiny_data, tmp_path), tiny_data, ONE)
    assert encoded == [60, 40] * 3
    assert fit_probe(run, tiny_data, replace(ONE, epoch=3))["losses"] == first["losses"]


def test_fine_tuning_moves_the_whole_network_but_not_the_stored_encoder(run, tiny_data):
    before = run.load_encoder().fc.weight.clone()
    result = fine_tune(run, tiny_data, replace(PROBE, epochs=5))
    assert result["accuracy"] > 0.9 and result["accuracies"] == [result["accuracy"]]
    assert len(result["losses"]) == 5 and torch.equal(run.load_encoder().fc.weight, before)


def test_moving_bn_trains_the_classifier_alone_on_features_that_move(tiny_data):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(144, 6), nn.BatchNorm1d(6))
    encoder.h_dim, before = 6, {k: v.clone() for k, v in encoder.state_dict().items()}
    train, test = ((split.images, split.labels) for split in (tiny_data.train, tiny_data.test))
    config = replace(ONE, moving_bn=True)
    evaluate.fine_tune(encoder, train, test, 4, config, tiny_data.mean, tiny_data.std)
    moved = {k for k, v in encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"2.running_mean", "2.running_var", "2.num_batches_tracked"}


def test_evaluations_are_stored_by_configuration_and_recipe(run, tiny_data, monkeypatch):
    first = fit_probe(run, tiny_data, ONE)
    tuned = fine_tune(run, tiny_data, replace(ONE, augmentation="basic"))
    for name in ("fit_probe", "fine_tune"):
        monkeypatch.setattr(evaluate, name, None)  # a second computation fails
    assert fit_probe(run, tiny_data, ONE) == first
    assert fine_tune(run, tiny_data, replace(ONE, augmentation="basic")) == tuned
    with pytest.raises(TypeError):
        fit_probe(run, tiny_data, replace(ONE, seed=1))
    recipes = evaluate.VIEW_RECIPES
    monkeypatch.setitem(recipes, "basic", replace(recipes["basic"], flip_p=0.4))
    with pytest.raises(TypeError):
        fine_tune(run, tiny_data, replace(ONE, augmentation="basic"))


# ---- kNN ----------------------------------------------------------------------------------------


def test_knn_votes_by_cosine_similarity():
    """By hand: the far point (10, 1) is nearest by angle to class 0, by distance to class 1."""
    h = torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 9.0], [6.0, 6.0]]), torch.tensor([0, 0, 1, 1])
    far, near = torch.tensor([[10.0, 1.0]]), torch.tensor([[1.0, 9.0]])
    for k in (1, 3):
        assert knn_accuracy(h, (far, torch.tensor([0])), k=k) == 1
    assert knn_accuracy(h, (near, torch.tensor([1])), k=3) == 1
    # one very near vote of class 1, two of class 0: they win where votes are equal
    h = torch.tensor([[1.0, 5.0], [1.0, 0.0], [1.0, 0.1]]), torch.tensor([1, 0, 0])
    asked = torch.tensor([[1.0, 5.0]]), torch.tensor([1])
    assert knn_accuracy(h, asked, k=3) == 0
    assert knn_accuracy(h, asked, k=3, temperature=0.1) == 1
    with pytest.raises(UserError, match="k must lie between 1 and the 3"):
        knn_accuracy(h, asked, k=5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, 0.01, float("nan")])
def test_a_temperature_at_which_votes_would_overflow_is_refused(temperature):
    h = torch.eye(4), torch.arange(4)
    with pytest.raises(UserError, match="temperature must be at least 1 / 80"):
        knn_accuracy(h, h, k=2, temperature=temperature)
    assert knn_accuracy(h, h, k=2, temperature=1 / 80) == 1


def test_knn_scores_the_range_asked_for_and_a_kept_epoch(run, tiny_data):
    assert (
        knn(run, tiny_data, (0, 50), k=1, scored_on=(0, 50))["accuracy"] == 1
    )  # its own neighbour
    knn(run, tiny_data, (0, 50), k=3, epoch=1)
    assert len(list(run.path.glob("knn-*.json"))) == 2


# ---- labels -------------------------------------------------------------------------------------


def test_few_labels_are_balanced_fixed_and_nested_and_differ_by_draw(tiny_data):
    labels = tiny_data.train.labels
    few, more, other = (balanced_rows(labels, n, draw) for n, draw in ((3, 0), (5, 0), (3, 1)))
    assert torch.bincount(labels[few]).tolist() == [3] * 4
    assert torch.equal(few, balanced_rows(labels, 3, 0)) and set(few.tolist()) < set(more.tolist())
    assert not torch.equal(few, other)
    with pytest.raises(
        UserError, match="per_class 31 is more than the 30 labelled images of class 0"
    ):
        balanced_rows(labels, 31, 0)


@pytest.mark.parametrize("tuned", [False, True])
def test_only_the_chosen_labels_are_read(run, tiny_data, monkeypatch, tuned):
    """With every other label wrong nothing changes; with one chosen label wrong something does."""
    config = replace(PROBE, epochs=2, labels=(0, 120), per_class=4, draw=2)
    labels, chosen = tiny_data.train.labels, balanced_rows(tiny_data.train.labels, 4, 2)
    monkeypatch.setattr(evaluate, "balanced_rows", lambda *_: chosen)

    def losses(labels):
        if tuned:
            given = (tiny_data.train.images, labels), (tiny_data.test.images, tiny_data.test.labels)
            statistics = tiny_data.mean, tiny_data.std
            return evaluate.fine_tune(run.load_encoder(), *given, 4, config, *statistics)["losses"]
        x = tiny_data.train.images.flatten(1) / 255
        return evaluate.fit_probe((x, labels), (x, labels), 4, config)["losses"]

    wrong = ((labels + 1) % 4).index_copy(0, chosen, labels[chosen])
    assert losses(wrong) == losses(labels)
    wrong[chosen[0]] = (wrong[chosen[0]] + 1) % 4
    assert losses(wrong) != losses(labels)


# ---- refused (each field's own check: test_train.py) ------------------------------------------


@pytest.mark.parametrize(
    ("evaluation", "changes", "message"),
    [
        (fit_probe, {"labels": (0, 500)}, r"scored_on \(0, 500\) is not a range within the 120"),
        (fit_probe, {"augmentation": "basic"}, "augmentation is for fine-tuning"),
        (fit_probe, {"labels": (0, 1), "standardise": True}, "standardise needs two"),
        (fit_probe, {"optimizer": "sgd", "lr": 1e38}, r"is (nan|inf) in epoch \d+; lower its lr"),
        (fine_tune, {"moving_bn": True}, "moving_bn is a probe's"),
        (fine_tune, {"on": "z"}, "fine-tuning and moving_bn train on images"),
        (fine_tune, {"standardise": True}, "fine-tuning and moving_bn train on images"),
    ],
)  # fmt: skip
def test_what_an_evaluation_cannot_do_is_refused(evaluation, changes, message, run, tiny_data):
    with pytest.raises(UserError, match=message):
        evaluation(run, tiny_data, replace(PROBE, **changes))
    assert not list(run.path.glob("*-*.json"))


# ---- on stored runs -----------------------------------------------------------------------------


def test_z_from_stored_h_is_the_heads_output(run, tiny_data):
    z, _ = measure.features(run, tiny_data, (0, 50), "z")
    both = nn.Sequential(run.load_encoder(), run.load_projection_head())
    images = tiny_data.train.images[:50]
    torch.testing.assert_close(z, encode(both, images, tiny_data.mean, tiny_data.std))


def test_pictures_of_views_are_stored_with_the_run(run, tiny_data):
    pictures = picture_views(run, tiny_data, images=3, pairs=2)
    assert pictures["views"].shape == (3, 4, 12, 12, 1)
    assert (pictures["images"] == tiny_data.train.images[:3].numpy()).all()
    assert len({view.tobytes() for view in pictures["views"].reshape(12, -1)}) == 12  # own draws
