from dataclasses import replace

import pytest
import torch

from simclr_core import evaluate
from simclr_core.errors import UserError
from simclr_core.evaluate import (
    ProbeConfig,
    balanced_rows,
    encode,
    fine_tune,
    fit_probe,
    frozen,
    knn,
    knn_accuracy,
    picture_views,
)
from simclr_core.pretrain import pretrain
from simclr_core.runs import unpack_array

PROBE = ProbeConfig(labels=(60, 120), epochs=30, batch_size=20, lr=0.01)


@pytest.fixture
def run(tiny_config, tiny_data, tmp_path):
    return pretrain(tiny_config, tiny_data, tmp_path, keep_epochs=(1,))


@pytest.mark.parametrize("changes", [{}, {"hidden": 16}, {"standardise": True, "schedule": "cosine"},
                                     {"on": "z"}])  # fmt: skip
def test_probe_learns_an_easy_task_and_records_every_epoch(run, tiny_data, changes):
    result = fit_probe(run, tiny_data, replace(PROBE, **changes))
    assert result["accuracy"] > 0.9 and result["accuracy"] == result["accuracies"][-1]
    assert len(result["accuracies"]) == len(result["losses"]) == len(result["train_accuracies"]) == 30
    assert result["losses"][-1] < result["losses"][0]


def test_confusion_counts_true_classes_in_rows_and_agrees_with_the_accuracy(run, tiny_data):
    result = fit_probe(run, tiny_data, replace(PROBE, epochs=1))
    confusion = torch.tensor(result["confusion"])
    assert confusion.sum(1).tolist() == torch.bincount(tiny_data.test.labels).tolist()
    assert confusion.trace().item() / 40 == pytest.approx(result["accuracy"])


def test_probe_scores_on_the_split_asked_for(run, tiny_data, monkeypatch):
    seen = []
    real = evaluate._predict
    monkeypatch.setattr(evaluate, "_predict", lambda m, x, p: seen.append(len(x)) or real(m, x, p))
    fit_probe(run, tiny_data, replace(PROBE, epochs=1))
    fit_probe(run, tiny_data, replace(PROBE, epochs=1, labels=(0, 50), scored_on=(50, 75)))
    assert seen == [40, 25]


def test_probe_of_a_kept_epoch_uses_that_epochs_encoder(run, tiny_data):
    first, last = (fit_probe(run, tiny_data, replace(PROBE, epochs=1, epoch=e))["losses"] for e in (1, None))
    assert first != last
    assert fit_probe(run, tiny_data, replace(PROBE, epochs=1, epoch=3))["losses"] == last


def test_encoder_is_bit_identical_after_a_probe_and_the_check_can_fail(run, tiny_data):
    before = {k: v.clone() for k, v in run.load_encoder().state_dict().items()}
    fit_probe(run, tiny_data, PROBE)
    after = run.load_encoder().state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    with frozen(module) as embed:
        embed(torch.randn(8, 4))
    with pytest.raises(RuntimeError, match="the encoder changed"):
        with frozen(module) as embed:
            embed.train()(torch.randn(8, 4))  # BN statistics move, as in R2's classifier phase


def test_features_do_not_depend_on_how_they_are_batched(run, tiny_data, monkeypatch):
    encoder = run.load_encoder()
    whole = encode(encoder, tiny_data.test.images, tiny_data)
    monkeypatch.setattr(evaluate, "ENCODE_BATCH", 7)
    torch.testing.assert_close(encode(encoder, tiny_data.test.images, tiny_data), whole)


def test_a_runs_evaluations_encode_its_images_once_and_a_retrained_runs_again(run, tiny_config, tiny_data, tmp_path,
                                                                             monkeypatch):  # fmt: skip
    encoded = []
    real = evaluate.encode
    monkeypatch.setattr(evaluate, "encode", lambda f, x, *rest: encoded.append(len(x)) or real(f, x, *rest))
    first = fit_probe(run, tiny_data, PROBE)
    fit_probe(run, tiny_data, replace(PROBE, on="z"))
    knn(run, tiny_data, PROBE.labels, k=3)
    assert encoded == [60, 40]
    assert first["seconds"] > 0
    fit_probe(run, tiny_data, replace(PROBE, epoch=1))
    other = pretrain(replace(tiny_config, seed=1), tiny_data, tmp_path)
    fit_probe(other, tiny_data, PROBE)
    assert encoded == [60, 40] * 3


def test_z_from_stored_h_is_the_heads_output(run, tiny_data):
    z, _ = evaluate.features(run, tiny_data, (0, 50), "z")
    both = torch.nn.Sequential(run.load_encoder(), run.load_projection_head())
    torch.testing.assert_close(z, encode(both, tiny_data.train.images[:50], tiny_data))


def test_fine_tuning_sees_new_views_each_epoch_when_asked(run, tiny_data, monkeypatch):
    seen = []
    real = evaluate.apply_recipe
    monkeypatch.setattr(evaluate, "apply_recipe", lambda *args: seen.append(real(*args)) or seen[-1])
    config = replace(PROBE, labels=(60, 80), epochs=2, augmentation="basic")
    fine_tune(run, tiny_data, config)
    assert [len(x) for x in seen] == [20, 20] and not torch.equal(seen[0].sort(0)[0], seen[1].sort(0)[0])
    first = [x.clone() for x in seen]
    seen.clear()
    evaluate._fine_tune(run, tiny_data, config)
    assert all(torch.equal(a, b) for a, b in zip(first, seen, strict=True))  # by the seed, the same again
    with pytest.raises(UserError, match="augmentation is for fine-tuning"):
        fit_probe(run, tiny_data, config)


def test_fine_tuning_moves_the_whole_network_but_not_the_stored_encoder(run, tiny_data):
    before = run.load_encoder().fc.weight.clone()
    result = fine_tune(run, tiny_data, replace(PROBE, epochs=5))
    assert result["accuracy"] > 0.9 and result["accuracies"] == [result["accuracy"]] and len(result["losses"]) == 5
    assert torch.equal(run.load_encoder().fc.weight, before)
    assert result["losses"] != fit_probe(run, tiny_data, replace(PROBE, epochs=5))["losses"]


def test_moving_bn_trains_the_classifier_alone_on_features_that_move(tiny_config, tiny_data, tmp_path, monkeypatch):
    config = replace(tiny_config, encoder="resnet18", width=0.0625, epochs=1)
    run = pretrain(config, tiny_data, tmp_path)
    encoders = []
    real = evaluate._train_classifier
    monkeypatch.setattr(evaluate, "_train_classifier", lambda f, *rest: encoders.append(f) or real(f, *rest))
    fit_probe(run, tiny_data, replace(PROBE, epochs=1, moving_bn=True))
    stored, used = run.load_encoder().state_dict(), encoders[0].state_dict()
    assert torch.equal(stored["layer1.0.conv1.weight"], used["layer1.0.conv1.weight"])
    assert not torch.equal(stored["bn1.running_mean"], used["bn1.running_mean"])


def test_evaluations_are_stored_by_their_configuration(run, tiny_data, monkeypatch):
    first = fit_probe(run, tiny_data, PROBE)
    monkeypatch.setattr(evaluate, "_fit_probe", None)  # a second computation would fail
    assert fit_probe(run, tiny_data, PROBE) == first
    with pytest.raises(TypeError):
        fit_probe(run, tiny_data, replace(PROBE, seed=1))


def test_knn_votes_by_cosine_similarity():
    """By hand: the far point (10, 1) is nearest by angle to class 0, by distance to class 1."""
    h = torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 9.0], [6.0, 6.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert knn_accuracy(h, labels, torch.tensor([[10.0, 1.0]]), torch.tensor([0]), k=1) == 1
    assert knn_accuracy(h, labels, torch.tensor([[10.0, 1.0]]), torch.tensor([0]), k=3) == 1
    assert knn_accuracy(h, labels, torch.tensor([[1.0, 9.0]]), torch.tensor([1]), k=3) == 1
    weighted = torch.tensor([[1.0, 5.0]])  # one very near vote of class 1, then two of class 0 with equal votes
    h3, labels3 = torch.tensor([[1.0, 5.0], [1.0, 0.0], [1.0, 0.1]]), torch.tensor([1, 0, 0])
    assert knn_accuracy(h3, labels3, weighted, torch.tensor([1]), k=3) == 0
    assert knn_accuracy(h3, labels3, weighted, torch.tensor([1]), k=3, temperature=0.1) == 1
    with pytest.raises(UserError, match="k must lie between 1 and the 4"):
        knn_accuracy(h, labels, h, labels, k=5)


def test_knn_scores_the_range_cut_from_train_when_asked(run, tiny_data):
    own = knn(run, tiny_data, (0, 50), k=1, scored_on=(0, 50))
    assert own["accuracy"] == 1  # each image is its own neighbour
    knn(run, tiny_data, (0, 50), k=3, epoch=1)
    assert len(list(run.path.glob("knn-*.json"))) == 2
    assert (
        knn(run, tiny_data, (0, 50), k=1)["accuracy"] == round(knn(run, tiny_data, (0, 50), k=1)["accuracy"] * 40) / 40
    )


def test_pictures_of_views_are_stored_with_the_run(run, tiny_data):
    pictures = picture_views(run, tiny_data, images=3, pairs=2)
    views = unpack_array(pictures["views"])
    assert views.shape == (3, 4, 12, 12, 1)
    assert (unpack_array(pictures["images"]) == tiny_data.train.images[:3].numpy()).all()
    assert len({view.tobytes() for view in views.reshape(12, -1)}) == 12  # each its own draw


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on": "g"}, "probe on 'g' is unknown"),
        ({"epochs": 0}, "epochs and batch_size must be at least 1, got 0"),
        ({"lr": -1}, "lr must be positive, got -1"),
        ({"moving_bn": True, "on": "z"}, "goes neither with standardise"),
        ({"augmentation": "wild"}, "augmentation 'wild' is unknown; known are basic"),
    ],
)
def test_bad_probe_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        replace(PROBE, **changes)


def test_labels_outside_the_data_are_named(run, tiny_data):
    with pytest.raises(UserError, match=r"labels or scored_on \(0, 500\) is not a range within the 120"):
        fit_probe(run, tiny_data, replace(PROBE, labels=(0, 500)))


def test_classifier_that_diverges_is_named_with_epoch_and_rate(run, tiny_data):
    with pytest.raises(UserError, match=r"classifier's loss is (nan|inf) in epoch \d+; lower its lr"):
        fit_probe(run, tiny_data, replace(PROBE, optimizer="sgd", lr=1e38))


def test_evaluation_on_other_data_than_the_runs_is_refused(run, tiny_data):
    from simclr_core.data import Split
    from simclr_core.errors import StoreError

    other = replace(tiny_data, train=Split(tiny_data.train.images.flip(0), tiny_data.train.labels))
    with pytest.raises(StoreError, match="was made with other data"):
        fit_probe(run, other, PROBE)


def test_accuracy_is_the_exact_fraction(run, tiny_data):
    accuracy = fit_probe(run, tiny_data, replace(PROBE, epochs=1))["accuracy"]
    assert accuracy == round(accuracy * 40) / 40


def test_few_labels_are_balanced_fixed_and_nested_and_differ_by_draw(tiny_data):
    labels = tiny_data.train.labels
    few, more, other = (balanced_rows(labels, n, draw) for n, draw in ((3, 0), (5, 0), (3, 1)))
    assert torch.bincount(labels[few]).tolist() == [3] * 4
    assert torch.equal(few, balanced_rows(labels, 3, 0)) and set(few.tolist()) < set(more.tolist())
    assert not torch.equal(few, other)
    with pytest.raises(UserError, match="per_class 31 is more than the 30 labelled images of class 0"):
        balanced_rows(labels, 31, 0)


@pytest.mark.parametrize("evaluation", ["_fit_probe", "_fine_tune"])
def test_only_the_chosen_labels_are_read(run, tiny_data, monkeypatch, evaluation):
    """With every other label wrong nothing changes; with one chosen label wrong something does."""
    evaluation = getattr(evaluate, evaluation)
    config = replace(PROBE, epochs=2, labels=(0, 120), per_class=4, draw=2)
    labels, chosen = tiny_data.train.labels, balanced_rows(tiny_data.train.labels, 4, 2)
    result = evaluation(run, tiny_data, config)
    monkeypatch.setattr(evaluate, "balanced_rows", lambda *_: chosen)
    wrong = ((labels + 1) % 4).index_copy(0, chosen, labels[chosen])
    with_wrong_labels = replace(tiny_data, train=replace(tiny_data.train, labels=wrong))
    assert evaluation(run, with_wrong_labels, config)["losses"] == result["losses"]
    wrong[chosen[0]] = (wrong[chosen[0]] + 1) % 4
    assert evaluation(run, with_wrong_labels, config)["losses"] != result["losses"]


def test_a_result_on_all_labels_keeps_the_name_it_had_before_few_labels_existed():
    assert "per_class" not in PROBE.record() and replace(PROBE, per_class=2).record()["per_class"] == 2
    with pytest.raises(UserError, match="draw 0 with all labels"):
        replace(PROBE, draw=1)


def test_what_fine_tuning_cannot_do_is_refused(run, tiny_data):
    for changes in ({"on": "z"}, {"standardise": True}):
        with pytest.raises(UserError, match="fine-tuning and moving_bn train on images"):
            fine_tune(run, tiny_data, ProbeConfig((0, 50), epochs=1, **changes))


@pytest.mark.parametrize("temperature", [0.0, -1.0, 0.01, float("nan")])
def test_a_temperature_at_which_votes_would_overflow_is_refused(temperature):
    h, labels = torch.eye(4), torch.arange(4)
    with pytest.raises(UserError, match="temperature must be at least 1 / 80"):
        knn_accuracy(h, labels, h, labels, k=2, temperature=temperature)
    assert knn_accuracy(h, labels, h, labels, k=2, temperature=1 / 80) == 1
