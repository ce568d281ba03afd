"""The timeline's arithmetic: by hand, by bounds, and Arctic's own size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openarctic.errors import UserError
from openarctic.planner import PRESETS, find_gpu, flops_per_token
from openarctic.planner.overlap import (
    Cluster,
    Interference,
    LayerTimes,
    Task,
    calibrate,
    finish_times,
    layer_times,
    predict,
    timeline,
)

ARCTIC = PRESETS["arctic-480b"]
H100 = Cluster(gpu=find_gpu("H100"))
LAYER = LayerTimes(router=1, attention=4, experts=6, residual=5, dispatch=3, combine=3)


def test_two_resources_by_hand() -> None:
    tasks = [
        Task("compute", 2),
        Task("network", 4, (0,)),  # 2 to 6
        Task("compute", 3, (0,)),  # 2 to 5, beside the transfer
        Task("compute", 1, (1,)),  # 6 to 7, having waited for it
    ]
    assert finish_times(tasks) == [2, 6, 5, 7]


def test_both_slow_each_other_down_while_they_work_together() -> None:
    tasks = [Task("compute", 2), Task("network", 4)]
    # At half speed compute ends after 4; the network, at three quarters, has done 3 by then.
    assert finish_times(tasks, Interference(compute=1, network=1 / 3)) == pytest.approx([4, 5])


def test_a_task_cannot_wait_for_a_later_one() -> None:
    with pytest.raises(UserError, match="task 0 waits for task 1"):
        finish_times([Task("compute", 1, (1,)), Task("network", 1)])


def test_a_layer_by_hand() -> None:
    """Forward: router 1, attention to 5 over the dispatch (to 4), experts to 11, the combine to 14 under the residual MLP, which
    ends at 16. Backward: residual MLP 10 over the combine's gradient, experts 12, attention 8 over the dispatch's, router 2."""
    assert timeline(LAYER, 1, chunks=1).overlapped == pytest.approx(16 + 10 + 12 + 8 + 2)
    assert timeline(LAYER, 1, chunks=1).waiting == pytest.approx(3 * 16 + 4 * 3)
    assert timeline(LAYER, 1, chunks=1).hidden_share == 1


def test_chunks_hide_a_transfer_behind_products() -> None:
    slow = replace(LAYER, attention=0, residual=0, router=0)
    # Nothing but experts: one chunk hides nothing. Of two chunks, one is multiplied while the other travels: each way 1.5 is
    # hidden under 3 of products forwards, and under 6 backwards.
    assert timeline(slow, 1, chunks=1).hidden_share == 0
    assert timeline(slow, 1, chunks=2).hidden_share == pytest.approx(4 * 1.5 / 12)


@pytest.mark.parametrize("chunks", [1, 2, 4])
@pytest.mark.parametrize("speed", [0.1, 1.0, 10.0])
def test_no_schedule_is_shorter_than_its_work(chunks: int, speed: float) -> None:
    layer = replace(LAYER, dispatch=3 / speed, combine=2 / speed)
    step = timeline(layer, 5, rest=7, chunks=chunks)
    compute = step.waiting - step.communication
    assert max(compute, step.communication) <= step.overlapped <= step.waiting
    assert step.hidden_share <= 1 + 1e-9
    assert timeline(layer, 5, rest=7, chunks=chunks, interference=Interference(compute=0.3)).overlapped >= step.overlapped


def test_calibration_finds_the_interference_that_a_step_had() -> None:
    slowed = timeline(LAYER, 4, rest=3, interference=Interference(compute=0.25)).overlapped
    assert calibrate(LAYER, 4, slowed, rest=3).compute == pytest.approx(0.25)
    assert calibrate(LAYER, 4, timeline(LAYER, 4).overlapped / 2).compute == pytest.approx(0, abs=1e-9)


def test_a_layers_products_are_those_of_the_planner() -> None:
    layer = layer_times(ARCTIC, H100, tokens=1000, context=4096)
    seconds = (layer.router + layer.attention + layer.experts + layer.residual) * ARCTIC.num_hidden_layers
    head = 2 * ARCTIC.vocab_size * ARCTIC.hidden_size * 1000
    flops = seconds * H100.gpu.bf16_flops * H100.utilisation + head
    assert flops == pytest.approx(1000 * flops_per_token(ARCTIC, 4096).prefill, rel=1e-6)


def test_layers_without_experts_are_computed_all_the_same() -> None:
    every_fifth = replace(ARCTIC, moe_layer_frequency=5)
    step = predict(every_fifth, H100, tokens=1000, context=4096)
    flops = (step.waiting - step.communication - 7 * H100.latency) * H100.gpu.bf16_flops * H100.utilisation
    assert flops == pytest.approx(1000 * flops_per_token(every_fifth, 4096).training, rel=1e-6)


def test_what_travels_is_what_other_gpus_hold() -> None:
    payload = 64e6
    assert replace(H100, expert_parallel=1).exchange_seconds(payload) == 0
    assert replace(H100, expert_parallel=8).exchange_seconds(payload) == pytest.approx(payload * 7 / 8 / 450e9)
    assert replace(H100, expert_parallel=64).exchange_seconds(payload) == pytest.approx(payload * 56 / 64 / 50e9)


def test_arctic_saves_its_communication_at_line_rate_and_39_percent_only_on_a_slower_network() -> None:
    def saving(gigabytes: float) -> float:
        return predict(ARCTIC, replace(H100, network=gigabytes * 1e9), tokens=16384, context=4096).saving

    at_line_rate = predict(ARCTIC, H100, tokens=16384, context=4096)
    assert at_line_rate.hidden_share == pytest.approx(1, abs=0.01)
    assert at_line_rate.saving == pytest.approx(0.204, abs=0.005)
    assert saving(20) == pytest.approx(0.39, abs=0.01)
    assert max(saving(speed / 2) for speed in range(2, 100)) < 0.45


def test_layers_that_cannot_overlap_are_refused() -> None:
    with pytest.raises(UserError, match="read the layer's input"):
        layer_times(replace(ARCTIC, parallel_attn_mlp_res=False), H100, tokens=1, context=1)
    with pytest.raises(UserError, match="48 GPUs cannot share 128 experts"):
        layer_times(ARCTIC, replace(H100, expert_parallel=48), tokens=1, context=1)
    with pytest.raises(UserError, match="0 layers"):
        timeline(LAYER, 0)
