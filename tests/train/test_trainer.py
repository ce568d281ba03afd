"""The loop: it learns, it saves, it goes on to the bit where it stopped, and it undoes what went wrong."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from openarctic.data import Batch  # noqa: E402
from openarctic.errors import MissingError, UserError  # noqa: E402
from openarctic.model.routing import RoutingConfig  # noqa: E402
from openarctic.train.checkpoint import latest_checkpoint, open_checkpoint, saved_steps  # noqa: E402
from openarctic.train.config import fixed_fields  # noqa: E402
from openarctic.train.objectives import LanguageModelling, Loss  # noqa: E402
from openarctic.train.pretrain import PretrainRecipe  # noqa: E402
from openarctic.train.runlog import read_events, read_log  # noqa: E402
from openarctic.train.trainer import train  # noqa: E402

from .worlds import RESTLESS, Stream, config, documents, run, tiny_hybrid  # noqa: E402

MEASURED = ("seconds", "tokens_per_s", "peak_share", "memory_bytes")


def equal(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def computed(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in MEASURED} for record in read_log(out)]


class StopsAt(Stream):
    """A stream that sends this process a signal while it gives a batch."""

    def __init__(self, number: int, kind: int = signal.SIGINT) -> None:
        super().__init__()
        self.stops_at, self.kind = number, kind

    def next_batch(self) -> Batch:
        if self.number == self.stops_at:
            os.kill(os.getpid(), self.kind)
        return super().next_batch()


def test_the_loss_falls_and_every_step_is_logged(tmp_path: Path) -> None:
    _, progress = run(tmp_path, config(steps=30))
    log = read_log(tmp_path)
    assert [record["step"] for record in log] == list(range(1, 31))
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    assert log[-1]["tokens"] == progress.tokens == 30 * 48
    assert {"loss", "aux_loss", "lr", "grad_norm", "tokens_per_s", "expert_load"} <= set(log[0])
    assert log[0]["moe_layers"] == [0, 1]
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 30
    assert read_events(tmp_path) == []


@pytest.mark.parametrize(
    "changes",
    [{"accumulate": 3}, {"optimizer": "muon"}, {"precision": "bf16", "schedule": "cosine"}],
    ids=["accumulated", "muon", "bf16"],
)
def test_resumed_equals_uninterrupted(tmp_path: Path, changes: dict[str, Any]) -> None:
    kind = signal.SIGTERM if "optimizer" in changes else signal.SIGINT
    settings = config(**changes)
    whole, _ = run(tmp_path / "whole", settings, routing=RESTLESS)
    with pytest.raises(KeyboardInterrupt if kind == signal.SIGINT else SystemExit):
        run(tmp_path / "cut", settings, StopsAt(3 * settings.accumulate - 1, kind), routing=RESTLESS)
    assert saved_steps(tmp_path / "cut")[-1] == 3  # the step under way was finished and saved
    resumed, progress = run(tmp_path / "cut", settings, model=tiny_hybrid(seed=5), routing=RESTLESS)
    assert progress.step == 8 and equal(whole, resumed)
    assert computed(tmp_path / "whole") == computed(tmp_path / "cut")


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, 2), (5.0, 3)])
def test_a_second_sigterm_stops_at_once_unless_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, steps: int
) -> None:
    monkeypatch.setattr("openarctic.train.trainer._Stop.SAME_SECONDS", seconds)

    class StopsTwice(StopsAt):
        def next_batch(self) -> Batch:
            if self.number == self.stops_at:
                os.kill(os.getpid(), self.kind)
            return super().next_batch()

    with pytest.raises(SystemExit) as caught:
        run(tmp_path, config(checkpoint_steps=1), StopsTwice(2, signal.SIGTERM))
    assert caught.value.code == 143 and saved_steps(tmp_path)[-1] == steps


def test_an_earlier_step_can_be_resumed_and_later_checkpoints_are_set_aside(tmp_path: Path) -> None:
    whole, _ = run(tmp_path, config(keep_last=9))
    assert saved_steps(tmp_path) == [0, 2, 4, 6, 8]
    again, _ = run(tmp_path, config(keep_last=9, steps=5), resume=4)
    assert saved_steps(tmp_path) == [0, 2, 4, 5]
    assert sorted(p.name for p in (tmp_path / "checkpoints" / "set-aside").iterdir()) == ["step-6", "step-8"]
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2, 3, 4, 5]
    assert not equal(whole, again)


def test_accumulated_equals_one_large_batch(tmp_path: Path) -> None:
    # What balances experts is computed a batch at a time, so it is left out here.
    small, _ = run(tmp_path / "small", config(steps=3, accumulate=4, aux_loss_coef=0.0), model=tiny_hybrid().double())

    class Large(Stream):
        def next_batch(self) -> Batch:
            parts = [Stream.next_batch(self) for _ in range(4)]
            names = ("input_ids", "labels", "document_ids", "position_ids", "domains")
            import numpy as np

            return Batch(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    large, _ = run(tmp_path / "large", config(steps=3, aux_loss_coef=0.0), Large(), tiny_hybrid().double())
    for a, b in zip(small.parameters(), large.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)
    for a, b in zip(read_log(tmp_path / "small"), read_log(tmp_path / "large"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-6) and a["tokens"] == b["tokens"]


def test_tied_embeddings_are_saved_once_and_stay_tied(tmp_path: Path) -> None:
    model, _ = run(tmp_path, config(steps=4), model=tiny_hybrid(tie_word_embeddings=True))
    found = latest_checkpoint(tmp_path)
    assert found is not None and "model.model.embed_tokens.weight" in found.names and "model.lm_head.weight" not in found.names
    resumed, _ = run(tmp_path, config(steps=4), model=tiny_hybrid(seed=1, tie_word_embeddings=True))
    assert equal(model, resumed) and resumed.lm_head.weight is resumed.model.embed_tokens.weight


def test_a_changed_config_is_refused_by_field(tmp_path: Path) -> None:
    run(tmp_path, config(steps=2))
    before = saved_steps(tmp_path)
    with pytest.raises(UserError, match=r"lr \(0.003 -> 0.1\), schedule \(wsd -> cosine\)"):
        run(tmp_path, config(steps=2, lr=0.1, schedule="cosine"))
    assert saved_steps(tmp_path) == before
    _, progress = run(tmp_path, config(steps=4, checkpoint_steps=3, keep_last=4))  # these may change
    assert progress.step == 4


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    run(tmp_path, config(steps=2))
    with pytest.raises(UserError, match=r"embed_tokens\.weight has shape") as caught:
        run(tmp_path, config(steps=4), model=tiny_hybrid(vocab_size=40))
    assert "vocabulary" in str(caught.value.hint)


def test_never_does_not_write_over_a_run(tmp_path: Path) -> None:
    run(tmp_path, config(steps=2))
    with pytest.raises(UserError, match="holds a run already"):
        run(tmp_path, config(steps=2), resume="never")


def test_a_run_without_an_end_and_a_frozen_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no end"):
        run(tmp_path, config(steps=None))
    with pytest.raises(UserError, match="no parameter learns"):
        run(tmp_path, config(), model=tiny_hybrid().requires_grad_(False))


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    def second(*_: Any) -> None:
        with pytest.raises(UserError, match="another process is training"):
            run(tmp_path, config(steps=1))

    run(tmp_path, config(steps=1), on_step=second)


def test_damage_falls_back_to_the_checkpoint_before(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", config())
    run(tmp_path / "hurt", config(steps=6))
    (tmp_path / "hurt" / "checkpoints" / "step-6" / "state-00001-of-00001.safetensors").write_bytes(b"no")
    told: list[str] = []
    resumed, _ = run(tmp_path / "hurt", config(), say=told.append)
    assert "step-6" in told[0] and told[1] == "going on from step 4"
    assert [r["step"] for r in read_log(tmp_path / "hurt")] == list(range(1, 9))
    assert [e["event"] for e in read_events(tmp_path / "hurt")] == ["warning", "resumed"]
    assert equal(whole, resumed)  # up to step 4 both schedules are at their peak


def test_validation_by_domain_changes_nothing(tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "plain", config())
    held = {"even": [documents(100), documents(102)], "odd": [documents(101)]}
    watched, _ = run(tmp_path / "watched", config(validate_every=4), validation=held)
    assert equal(plain, watched)
    found = [record["validation"] for record in read_log(tmp_path / "watched") if "validation" in record]
    assert len(found) == 2 and set(found[0]) == {"even", "odd"} and found[1]["odd"] < found[0]["odd"]


def test_recomputation_gives_the_same_bits(tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "plain", config(steps=3), routing=RESTLESS)
    again, _ = run(tmp_path / "again", config(steps=3, recompute=True), routing=RESTLESS)
    assert equal(plain, again)


def test_tensorboard_shows_the_log_or_is_told_to_be_missing(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(MissingError, match="TensorBoard is not installed"):
            run(tmp_path, config(tensorboard=True))
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, config(steps=4, tensorboard=True))
    run(tmp_path, config(steps=6, tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(event.step, round(event.value, 4)) for event in events.Scalars("loss")]
    assert shown == [(record["step"], round(record["loss"], 4)) for record in read_log(tmp_path)]
    assert "busiest_expert/layer 1" in events.Tags()["scalars"]


class Failing(LanguageModelling):
    """Gives NaN for batches that begin with given ids."""

    def __init__(self, *numbers: int) -> None:
        self.bad = [documents(number).input_ids.tobytes() for number in numbers]

    def __call__(self, model: Any, batch: Any) -> Loss:
        loss = super().__call__(model, batch)
        if batch.input_ids.tobytes() in self.bad:
            return Loss(loss.cross_entropy * math.nan, loss.aux_loss, loss.z_loss, loss.correct, loss.routes)
        return loss


class Without(Stream):
    """A stream that never had some batches."""

    def __init__(self, *left_out: int) -> None:
        super().__init__()
        self.left_out = left_out

    def next_batch(self) -> Batch:
        while self.number in self.left_out:
            self.number += 1
        return super().next_batch()


def test_a_nan_is_undone_and_its_batch_skipped(tmp_path: Path) -> None:
    wanted, _ = run(tmp_path / "clean", config(), Without(4), routing=RESTLESS)
    model = tiny_hybrid()
    model.set_routing(RESTLESS)
    train(model, Failing(4), Stream(), config(), tmp_path / "hurt")
    assert equal(wanted, model)
    assert [(r["step"], r["loss"]) for r in read_log(tmp_path / "hurt")] == [
        (r["step"], r["loss"]) for r in read_log(tmp_path / "clean")
    ]
    (event,) = read_events(tmp_path / "hurt")
    assert event["event"] == "rollback" and event["to"] == 4 and event["skipped_batches"] == [4] and "nan" in event["why"]


def test_a_resumed_guard_is_the_same_guard(tmp_path: Path) -> None:
    settings = config(spike_sigmas=4.0, steps=24, lr=1e-2, spike_window=8)
    spoiled = frozenset({21})
    whole, _ = run(tmp_path / "whole", settings, Stream(spoiled))
    (event,) = read_events(tmp_path / "whole")
    assert event["event"] == "rollback" and event["skipped_batches"] == [21] and "jumped" in event["why"]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", settings, StopsAt(19))
    resumed, _ = run(tmp_path / "cut", settings, Stream(spoiled))
    assert equal(whole, resumed) and computed(tmp_path / "whole") == computed(tmp_path / "cut")


def test_losses_that_stay_bad_end_the_run_and_keep_its_checkpoints(tmp_path: Path) -> None:
    bad = range(4, 40)
    with pytest.raises(UserError, match="after 2 rollbacks") as caught:
        train(tiny_hybrid(), Failing(*bad), Stream(), config(max_rollbacks=2), tmp_path)
    assert "events.jsonl" in str(caught.value.hint)
    assert saved_steps(tmp_path)[-1] == 4
    assert [event["skipped_batches"] for event in read_events(tmp_path)] == [[4], [5]]


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    model = tiny_hybrid()

    def spoil(progress: Any, record: Any) -> None:
        if progress.step == 3:
            with torch.no_grad():
                model.model.layers[0].self_attn.q_proj.weight[0, 0] = math.inf

    with pytest.raises(UserError, match="rollbacks"):
        train(model, LanguageModelling(), Stream(), config(max_rollbacks=1), tmp_path, on_step=spoil)
    found = latest_checkpoint(tmp_path)
    assert found is not None and found.step == 2
    assert all(torch.isfinite(found.read(name)).all() for name in found.names)


class Ending(Stream):
    """A stream of so many batches."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def next_batch(self) -> Batch:
        if self.number >= self.count:
            raise StopIteration
        return super().next_batch()


def test_weights_are_sound_where_the_source_ends_the_run(tmp_path: Path) -> None:
    model = tiny_hybrid()
    steps = []

    def spoil_once(progress: Any, record: Any) -> None:
        steps.append(progress.step)
        if steps == [1, 2, 3]:
            with torch.no_grad():
                model.lm_head.weight[0, 0] = math.inf

    progress = train(model, LanguageModelling(), Ending(3), config(), tmp_path, on_step=spoil_once)
    assert progress.step == 2  # the third is undone, and its batch was the last
    assert all(p.isfinite().all() for p in model.parameters())
    (event,) = read_events(tmp_path)
    assert event["event"] == "rollback" and (event["step"], event["to"], event["skipped_batches"]) == (3, 2, [2])


def test_a_run_whose_batches_end_early_says_so_and_is_validated(tmp_path: Path) -> None:
    told: list[str] = []
    held = {"held out": [documents(100)]}
    _, progress = run(tmp_path, config(validate_every=2), Ending(3), validation=held, say=told.append)
    assert progress.step == 3 and told == ["the batches ended after 3 of 8 steps, 0 batches were skipped"]
    assert ["validation" in record for record in read_log(tmp_path)] == [False, True, True]


def test_a_run_that_made_no_step_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all 2 batches were skipped"):
        train(tiny_hybrid(), Failing(0, 1), Ending(2), config(), tmp_path / "bad")
    with pytest.raises(UserError, match="there is no batch to train on"):
        run(tmp_path / "empty", config(), Ending(0))


@pytest.mark.parametrize("name", ["lr", "expert_lr", "weight_decay", "aux_loss_coef", "minutes"])
def test_infinite_rates_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is inf"):
        config(**{name: math.inf})


def test_rollbacks_count_although_the_run_was_killed_before_it_saved(tmp_path: Path) -> None:
    def killed(progress: Any, record: Any) -> None:
        if read_events(tmp_path / "cut"):
            raise ConnectionError

    settings = config(max_rollbacks=1, checkpoint_steps=4)
    with pytest.raises(ConnectionError):
        train(tiny_hybrid(), Failing(4), Stream(), settings, tmp_path / "cut", on_step=killed)
    assert saved_steps(tmp_path / "cut")[-1] == 4
    with pytest.raises(UserError, match="after 1 rollbacks"):
        train(tiny_hybrid(), Failing(4, 6), Stream(), settings, tmp_path / "cut")
    resumed, whole = tiny_hybrid(), tiny_hybrid()
    train(resumed, Failing(4), Stream(), settings, tmp_path / "cut")
    train(whole, Failing(4), Stream(), settings, tmp_path / "whole")
    assert equal(resumed, whole)
    assert sum(event["event"] == "rollback" for event in read_events(tmp_path / "cut")) == 1


def test_the_last_stretch_is_learned_without_biases(tmp_path: Path) -> None:
    settings = config(unbiased_share=0.5, checkpoint_steps=1, keep_last=9)
    balanced = RoutingConfig(bias_update_rate=0.01)
    whole, _ = run(tmp_path / "whole", settings, routing=balanced)
    assert not any(name.endswith("choice_bias") for name in whole.state_dict())
    for step in range(9):
        found = open_checkpoint(tmp_path / "whole", step)
        assert any(name.endswith("choice_bias") for name in found.names) == (step <= 4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", settings, StopsAt(5), routing=balanced)  # past the border
    resumed, _ = run(tmp_path / "cut", settings, model=tiny_hybrid(seed=5), routing=balanced)
    assert equal(whole, resumed)
    # A rollback over the border gets the biases back.
    settings = config(unbiased_share=0.5, checkpoint_steps=3)
    clean, _ = run(tmp_path / "clean", settings, Without(4), routing=balanced)
    hurt = tiny_hybrid()
    hurt.set_routing(balanced)
    train(hurt, Failing(4), Stream(), settings, tmp_path / "hurt")
    assert equal(clean, hurt)


def test_the_rate_of_loss_free_balancing_may_change(tmp_path: Path) -> None:
    assert "routing.bias_update_rate" not in fixed_fields(PretrainRecipe())
    balanced, _ = run(tmp_path, config(steps=4), routing=RoutingConfig(bias_update_rate=0.01))
    assert any(name.endswith("choice_bias") for name in balanced.state_dict())
    without, progress = run(tmp_path, config(steps=6))
    assert progress.step == 6 and not any(name.endswith("choice_bias") for name in without.state_dict())
    again, progress = run(tmp_path, config(steps=8), routing=RoutingConfig(bias_update_rate=0.01))
    biases = [value for name, value in again.state_dict().items() if name.endswith("choice_bias")]
    assert progress.step == 8 and all(0 < bias.abs().max() <= 0.021 for bias in biases)
