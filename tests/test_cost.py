from dataclasses import replace

from labreport.run.cost import estimate_seconds, pretrain_flops
from simclr_core.config import PretrainConfig


def test_flops_of_the_mnist_encoder_equal_the_hand_computed_ones(tiny_data):
    config = PretrainConfig("tiny", (0, 10), batch_size=5, epochs=2)
    one_image = 2 * (12 * 12 * 9 * 32 + 6 * 6 * 9 * 32 * 64 + 64 * 9 * 128)  # two a multiply-add
    assert pretrain_flops(config, tiny_data) == 3 * 2 * one_image * 10 * 2
    assert pretrain_flops(replace(config, objective="none"), tiny_data) == 0


def test_gradient_caching_costs_one_more_forward(tiny_config, tiny_data):
    whole = pretrain_flops(tiny_config, tiny_data)
    assert pretrain_flops(replace(tiny_config, micro_batch=8), tiny_data) == whole * 4 / 3


def test_time_is_estimated_for_chunks_and_for_a_network_that_has_only_a_head(
    tiny_config, tiny_data
):
    for changes in ({"encoder": "pixels", "head": "linear"}, {"micro_batch": 8}):
        assert estimate_seconds(replace(tiny_config, **changes), tiny_data) > 0
    assert estimate_seconds(replace(tiny_config, objective="none"), tiny_data) == 0
