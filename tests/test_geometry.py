"""Geometry of h: closed forms, loops in plain Python, and what is stored."""

import math
from dataclasses import replace

import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from labreport.measure import map_in_the_plane, measure_geometry, neighbours
from labreport.store import pretrain
from simclr_core import geometry
from simclr_core.errors import UserError
from simclr_core.evaluate import encode
from simclr_core.geometry import alignment, class_distances, effective_rank, uniformity


def test_alignment_is_the_mean_squared_distance_of_unit_vectors():
    u = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    assert alignment(u, 7 * u) == pytest.approx(0, abs=1e-6)
    assert alignment(u, -u) == pytest.approx(4)
    assert alignment(u, u.flip(0)) == pytest.approx(2)


def test_uniformity_equals_loops_over_pairs_and_is_zero_when_all_is_one_point():
    u = torch.randn(12, 5, dtype=torch.float64)
    unit = [row / row.norm() for row in u]
    pairs = [(a - b).square().sum().item() for i, a in enumerate(unit) for b in unit[:i]]
    assert uniformity(u) == pytest.approx(
        math.log(sum(math.exp(-2 * d) for d in pairs) / len(pairs))
    )
    assert uniformity(torch.ones(6, 3)) == pytest.approx(0, abs=1e-6) and uniformity(u) < 0


def test_effective_rank_counts_equal_directions_and_ignores_scale():
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.outer(torch.randn(9), torch.randn(4))) == pytest.approx(1, abs=1e-5)
    h = torch.randn(20, 6)
    assert effective_rank(100 * h) == pytest.approx(effective_rank(h)) and 1 < effective_rank(h) < 6


def test_effective_rank_is_of_shares_of_the_singular_values_themselves():
    shares = 3 / 4, 1 / 4
    expected = math.exp(-sum(p * math.log(p) for p in shares))
    assert effective_rank(torch.diag(torch.tensor([6.0, 2.0]))) == pytest.approx(expected)


def test_class_distances_equal_loops_over_pairs():
    h, labels = torch.randn(14, 5), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0])
    found = class_distances(h, labels, 3)
    for a in range(3):
        for b in range(3):
            pairs = [1 - torch.cosine_similarity(h[i], h[j], dim=0).item()
                     for i in range(14) for j in range(14)
                     if i != j and labels[i] == a and labels[j] == b]  # fmt: skip
            assert found[a, b].item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)


def test_a_class_with_one_image_has_no_distance_within():
    with pytest.raises(UserError, match="class 2 has 1 test images"):
        class_distances(torch.randn(5, 3), torch.tensor([0, 0, 1, 1, 2]), 3)


def test_geometry_of_separate_classes_shows_it_and_differs_by_epoch_and_on_z(
    run, tiny_data, monkeypatch
):
    asked = {"last": {}, "first": {"epoch": 1}, "z": {"on": "z"}}
    found = {name: measure_geometry(run, tiny_data, 40, **how) for name, how in asked.items()}
    last = found["last"]
    assert last["within"] < last["between"] and last["uniformity"] < 0
    assert 0 <= last["alignment"] <= 4 and last["effective_rank"] >= 1
    matrix = torch.tensor(last["class_distances"])
    assert torch.allclose(matrix, matrix.T)
    assert matrix.diagonal().mean().item() == pytest.approx(last["within"])
    assert len({result["alignment"] for result in found.values()}) == 3
    monkeypatch.setattr(geometry, "measure_geometry", None)  # a second computation fails
    assert measure_geometry(run, tiny_data, 40) == last


def test_an_untrained_encoder_is_measured_with_the_views_it_was_asked_with(
    tiny_config, tiny_data, tmp_path
):
    """Its identity leaves the augmentation out, so the result's must not."""
    none = replace(tiny_config, objective="none")
    runs = (
        pretrain(config, tiny_data, tmp_path)
        for config in (none, replace(none, augmentation="flip"))
    )
    first, second = (measure_geometry(run, tiny_data, 40)["alignment"] for run in runs)
    assert first != second


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_map_gives_each_image_a_place_and_always_the_same(run, tiny_data, method):
    result = map_in_the_plane(run, tiny_data, 40, method)
    assert torch.tensor(result["coordinates"]).shape == (40, 2)
    assert result["labels"] == tiny_data.test.labels.tolist()
    explained = result["explained"]
    assert sorted(explained, reverse=True) == explained and sum(explained) <= 1 + 1e-9
    for path in run.path.glob("map-*.json"):
        path.unlink()
    assert map_in_the_plane(run, tiny_data, 40, method) == result


def test_alignment_is_of_the_views_and_the_rest_of_the_images_as_they_are():
    u, v, h = torch.randn(3, 20, 6)
    labels = torch.arange(20) % 2
    found = geometry.measure_geometry(u, v, h, labels, 2)
    assert found["alignment"] == alignment(u, v)
    assert found["uniformity"] == uniformity(h) and found["effective_rank"] == effective_rank(h)
    assert found["class_distances"] == class_distances(h, labels, 2).tolist()


def test_maps_are_scikit_learns_of_unit_vectors():
    h = torch.randn(120, 7) * torch.arange(1, 121)[:, None]
    x = torch.nn.functional.normalize(h).double().numpy()
    plane = PCA(2, svd_solver="full").fit_transform(x)
    assert geometry.map_in_the_plane(h, "pca")["coordinates"] == plane.round(4).tolist()
    tsne = TSNE(perplexity=30, init="pca", random_state=0)
    found = torch.tensor(geometry.map_in_the_plane(h)["coordinates"], dtype=torch.float64)
    expected = torch.from_numpy(tsne.fit_transform(x)).double()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_neighbours_are_the_most_similar_training_images_to_one_test_image_a_class(run, tiny_data):
    result = neighbours(run, tiny_data, (0, 120), k=5)
    assert result["pictures"].shape == (4, 5, 12, 12, 1) and result["query_labels"] == [0, 1, 2, 3]
    assert (
        result["queries"] == tiny_data.test.images[:4].numpy()
    ).all()  # labels 0, 1, 2, 3, 0, ...
    h, h_test = (encode(run.load_encoder(), split.images, tiny_data.mean, tiny_data.std)
                 for split in (tiny_data.train, tiny_data.test))  # fmt: skip
    similarities = [torch.cosine_similarity(h_test[3], row, dim=0).item() for row in h]
    best = sorted(range(120), key=lambda k: -similarities[k])[:5]
    assert result["similarities"][3] == pytest.approx([similarities[k] for k in best], abs=1e-5)
    assert result["labels"][3] == tiny_data.train.labels[best].tolist()
    assert (result["pictures"][3] == tiny_data.train.images[best].numpy()).all()


@pytest.mark.parametrize(
    ("measure", "given", "message"),
    [
        (measure_geometry, (41,), "images 41 must be 2 to 40"),
        (measure_geometry, (20, "Z"), "on 'Z' is unknown; known are h, z"),
        (measure_geometry, (20, "z", 1), "z after epoch 1 cannot be had"),
        (map_in_the_plane, (40, "umap"), "map 'umap' is unknown; known are pca, tsne"),
        (neighbours, ((0, 121),), r"\(0, 121\) is not a range within the 120 training images"),
    ],
)
def test_what_cannot_be_had_is_said(run, tiny_data, measure, given, message):
    with pytest.raises(UserError, match=message):
        measure(run, tiny_data, *given)
