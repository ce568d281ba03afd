"""The one training loop: steps, schedule, log, guard, checkpoints, exact resume.

A run goes on from any checkpoint as if it had never stopped: on a CPU, equal to the bit, because everything that a step depends
on is saved: weights, moments, the source's position, the guard's window, random states. Ctrl-C and SIGTERM finish the step under
way and save. What a batch is and what is learned from it is an `Objective`; where batches come from, a `Source`.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from openarctic.config import write_text
from openarctic.errors import UserError
from openarctic.machine import return_free_memory
from openarctic.model import ArcticForCausalLM
from openarctic.model.recompute import recompute_selectively
from openarctic.train import checkpoint as checkpoints
from openarctic.train.balance import ExpertBalance
from openarctic.train.boxes import local_part
from openarctic.train.checkpoint import Checkpoint
from openarctic.train.config import TrainConfig, check_unchanged, fixed_fields, resolved
from openarctic.train.guard import Drawn, Guard
from openarctic.train.objectives import Objective, device_of
from openarctic.train.optimizer import build_optimizers, set_rate
from openarctic.train.processes import ALONE, Processes, SpreadModel, UndividedModel
from openarctic.train.random_state import random_state, seed_everything, set_random_state
from openarctic.train.room import keep_few_kernels
from openarctic.train.runlog import RunLog, read_events
from openarctic.train.schedule import learning_rate
from openarctic.train.tensorboard import TensorBoard
from openarctic.train.throughput import gemm_flops, memory_bytes, step_flops

TRIM_SECONDS = 2.0


class Source(Protocol):
    """A stream of batches that remembers where it stands."""

    def next_batch(self) -> Any:
        """The next batch. Raises StopIteration at the end."""

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON keeps it; the same in every process."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where a state was taken."""


@dataclass(slots=True)
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    examples: int = 0
    batches: int = 0  # drawn from the source, skipped ones among them
    seconds: float = 0.0  # of training, summed over resumed runs


# Called after every step with where the run stands and the step's record.
OnStep = Callable[[Progress, dict[str, Any]], None]
Say = Callable[[str], None]


def train(
    model: ArcticForCausalLM,
    objective: Objective,
    source: Source,
    config: TrainConfig,
    out: Path,
    *,
    recipe: Any = None,
    resume: str | int = "auto",
    validation: Mapping[str, Sequence[Any]] | None = None,
    on_step: OnStep | None = None,
    say: Say | None = None,
    processes: Processes = ALONE,
    spread: SpreadModel | None = None,
) -> Progress:
    """Train the parameters that require a gradient until `config` or the source ends the run.

    Writes `config.json` (`recipe`, the whole config that `config` is part of), `log.jsonl`, `events.jsonl` and
    `checkpoints/step-N/` under `out`. `resume` is auto (from the newest whole checkpoint, if any), never, or a step.
    `validation` has batches by domain, whose losses are logged every `validate_every` steps. `on_step` gets each step's record
    and also `share` (of the run that is done) and `eta_seconds`; `say` gets lines for people. Where several `processes` train
    together, `spread` is how they share the model, and each has a source of its own part.

    Raises UserError for a run without an end or without a step, a changed config, a folder in use and losses that stay bad,
    CorruptError when no checkpoint is whole; KeyboardInterrupt or SystemExit(143), after saving, for Ctrl-C or SIGTERM.
    """
    if not config.steps and not config.minutes:
        raise UserError("the training has no end", "set steps or minutes")
    out.mkdir(parents=True, exist_ok=True)
    with _claimed(out, processes), RunLog(out) as log:
        if config.warmup_steps >= (config.steps or math.inf) and say:
            say(f"note: the warm-up of {config.warmup_steps} steps is as long as the run of {config.steps}, or longer")
        run = _Run(model, objective, source, config, out, log, recipe or config, say or (lambda line: None), processes)
        run.spread = spread or run.spread
        run.begin(resume)
        run.validation = validation or {}
        return run.go(on_step)


class _Run:
    """A run under way."""

    def __init__(
        self,
        model: ArcticForCausalLM,
        objective: Objective,
        source: Source,
        config: TrainConfig,
        out: Path,
        log: RunLog,
        recipe: Any,
        say: Say,
        processes: Processes,
    ) -> None:
        self.model, self.objective, self.source, self.config = model, objective, source, config
        self.out, self.log, self.recipe, self.say, self.processes = out, log, recipe, say, processes
        self.spread: SpreadModel = UndividedModel(model)
        self.validation: Mapping[str, Sequence[Any]] = {}
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self.trained:
            raise UserError("no parameter learns", "the recipe freezes the whole model")
        keep_few_kernels()
        recompute_selectively(model, config.recompute)
        self.optimizers = build_optimizers(model, config)
        self.progress, self.guard, self.balance = Progress(), Guard(config), ExpertBalance()
        self.drawn: list[Drawn] = []  # since the last checkpoint
        self.device = device_of(model)
        self.flops = step_flops(model)
        self.peak_flops = gemm_flops(torch.bfloat16 if config.precision == "bf16" else torch.float32, self.device)
        self.saved_seconds = 0.0
        self.validated_step = 0
        self.routing = model.routing
        self.moe_layers = [i for i in range(model.config.num_hidden_layers) if model.config.shape.is_moe_layer(i)]
        self.trimmed_seconds = 0.0  # of training, when free memory was last handed back
        self.is_stopped = False
        self.last = 0.0
        self.tensorboard: TensorBoard | None = None

    # Beginning, saving, going back

    def begin(self, resume: str | int) -> None:
        """From a checkpoint, or from the start: then its first checkpoint is the state before any step."""
        found = self._checkpoint_to_resume(resume)
        if found:
            check_unchanged(found.manifest["config"], self.recipe, found.folder)
            self._restore(found)
            self.guard.recall(found.step, read_events(self.out))
            self.say(f"going on from step {found.step}")
        else:
            seed_everything(self.config.seed + self.processes.rank)
        self.processes.gather(None)  # until all have read
        if self.processes.rank == 0:
            checkpoints.set_aside_after(self.out, self.progress.step)
            self.log.take_back(self.progress.step)
            write_text(self.out / "config.json", json.dumps(resolved(self.recipe), indent=2) + "\n")
        self.saved_seconds = self.progress.seconds
        if self.config.tensorboard and self.processes.rank == 0:
            self.tensorboard = TensorBoard(self.out, self.progress.step)
        if found:
            self._event("resumed", step=self.progress.step)
        else:
            self.save()

    def _checkpoint_to_resume(self, resume: str | int) -> Checkpoint | None:
        if resume == "never":
            if steps := checkpoints.saved_steps(self.out):
                told = f"{self.out} holds a run already, saved at step {steps[-1]}"
                raise UserError(told, "give another folder, or resume it (auto)")
            return None
        if resume == "auto":
            return checkpoints.latest_checkpoint(self.out, self._warn)
        return checkpoints.open_checkpoint(self.out, int(resume))

    def save(self) -> None:
        """Write a checkpoint of where the run stands, and remove old ones."""
        tensors: dict[str, Tensor] = {f"model.{name}": p for name, p in self.trained.items()}
        tensors |= {f"model.{name}": buffer for name, buffer in self._buffers()}
        for name, _, state in self._moments():
            tensors |= {f"optimizer.{name}.{key}": value for key, value in state.items()}
        common = {
            "config": fixed_fields(self.recipe),
            "progress": asdict(self.progress),
            "source": self.source.state_dict(),
            "guard": self.guard.state_dict(),
            "idle_experts": self.balance.idle_LE,
        }
        own = {"random": random_state()}
        checkpoints.save_checkpoint(self.out, self.progress.step, tensors, common, own, self.processes)
        if self.processes.rank == 0:
            checkpoints.remove_old(self.out, self.config.keep_last, self.config.keep_every)
        self.saved_seconds = self.progress.seconds
        self.drawn.clear()

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        """What the model keeps beside parameters, such as biases of routers."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        return ((name, value) for name, value in self.model.state_dict().items() if name not in parameters)

    def _moments(self) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """(name, parameter, its optimiser's state)."""
        names = {id(p): name for name, p in self.trained.items()}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    yield names[id(parameter)], parameter, optimizer.state.setdefault(parameter, {})

    def _restore(self, saved: Checkpoint, is_rollback: bool = False) -> None:
        """Put everything back to where a checkpoint was written."""
        self._choose_with_biases(any(name.endswith(".choice_bias") for name in saved.names))
        own = {f"model.{n}": p for n, p in self.trained.items()} | {f"model.{n}": b for n, b in self._buffers()}
        known = set().union(*self.processes.gather(set(own)))  # experts may be spread over processes
        # Biases of loss-free balancing come and go with its rate, which may change.
        extra = [n for n in saved.names if n.startswith("model.") and n not in known and not n.endswith(".choice_bias")]
        if extra:
            raise UserError(f"{saved.folder} has {len(extra)} tensors that this run does not train, such as {extra[0]}")
        for name, tensor in own.items():
            if name in saved.names or not name.endswith(".choice_bias"):
                saved.read_into(name, tensor)
        for name, parameter, state in self._moments():
            state.clear()
            prefix = f"optimizer.{name}."
            for key in [n.removeprefix(prefix) for n in saved.names if n.startswith(prefix)]:
                is_whole = saved.shape(prefix + key) != tuple(parameter.shape)
                state[key] = saved.read(prefix + key).to(self.device) if is_whole else torch.zeros_like(parameter)
                if not is_whole:
                    saved.read_into(prefix + key, state[key])
        manifest = saved.manifest
        seconds = self.progress.seconds if is_rollback else manifest["progress"]["seconds"]
        self.progress = Progress(**{**manifest["progress"], "seconds": seconds})
        self.source.load_state_dict(manifest["source"])
        self.guard.load_state_dict(manifest["guard"], keep_verdicts=is_rollback)
        self.balance.idle_LE = manifest["idle_experts"]
        if len(saved.own) == self.processes.count:
            set_random_state(saved.own[self.processes.rank]["random"])
        else:  # by another number of processes: chances that none of them had
            seed_everything(self.config.seed + self.processes.rank + 1_000_003 * (saved.step + 1))
        self.drawn.clear()

    def _choose_with_biases(self, are_wanted: bool) -> None:
        """Routers have the biases of loss-free balancing, where the run balances so, but for its last stretch: exported files
        have no place for them, so the model must learn to do without."""
        routing = self.routing if are_wanted else replace(self.routing, bias_update_rate=0.0)
        if routing != self.model.routing:
            self.model.set_routing(routing)

    def _roll_back(self, why: str) -> None:
        """Return to the last good checkpoint; the batches that did the harm will be skipped."""
        saved = checkpoints.latest_checkpoint(self.out, self._warn)
        assert saved is not None  # a run begins with one
        step = self.drawn[-1].step
        skipped = self.guard.roll_back(why, saved.step, self.drawn)
        self._event("rollback", step=step, why=why, to=saved.step, skipped_batches=skipped, number=self.guard.rollbacks)
        self.say(f"step {step}: {why}; back to step {saved.step}, skipping batches {', '.join(map(str, skipped))}")
        self._restore(saved, is_rollback=True)
        self.processes.gather(None)
        if self.processes.rank == 0:
            checkpoints.set_aside_after(self.out, saved.step)
            self.log.take_back(saved.step)

    # Stepping

    def go(self, on_step: OnStep | None) -> Progress:
        """Step until the end, or until someone asks to stop."""
        self.model.train()
        with _Stop() as stop:
            self.last = time.monotonic()
            while self._share() < 1 and (batches := self._next_batches()):
                record = self._step(batches, stop.signal is not None)
                if record is None:
                    continue
                if on_step:
                    on_step(self.progress, {**record, "share": self._share(), "eta_seconds": self._eta()})
                if self.is_stopped:
                    break
            if self._share() < 1 and not self.is_stopped:
                self._end_short()
            self.save()
        if self.tensorboard:
            self.tensorboard.close()
        stop.raise_asked(by_others=self.is_stopped)
        return self.progress

    def _end_short(self) -> None:
        """The source has ended before the run: validate, and say so. Raises UserError where nothing was trained."""
        step, wanted = self.progress.step, self.config.steps
        if not step:
            drawn = self.progress.batches
            if drawn:
                raise UserError(
                    f"no step was made: all {drawn} batches were skipped after bad losses",
                    "lower the learning rate or look at the data; events.jsonl names the batches",
                )
            raise UserError("there is no batch to train on", "give more data, or hold less of it out")
        if self.validation and self.config.validate_every and self.validated_step != step:
            found = {"validation": self._validate()}
            if self.processes.rank == 0:
                self.log.add_to_last(found)
                if self.tensorboard:
                    self.tensorboard.step({"step": step, **found})
        if wanted:
            self.say(f"the batches ended after {step:,} of {wanted:,} steps, {len(self.guard.skipped)} batches were skipped")

    def _share(self) -> float:
        """Of the run that is done."""
        by_time = self.progress.seconds / (60 * self.config.minutes) if self.config.minutes else 0.0
        return max(by_time, self.progress.step / self.config.steps if self.config.steps else 0.0)

    def _eta(self) -> float:
        share = self._share()
        return self.progress.seconds * (1 - share) / share if 0 < share < 1 else 0.0

    def _next_batches(self) -> list[Any]:
        """What `_draw` gives; but the source's end counts only once weights are sound, as they are about to be saved."""
        while not (batches := self._draw()):
            self.drawn.pop()  # a step that will not be
            if not self.drawn or self._is_sound():
                break
            self._undo("the update left a weight that is not finite")
        return batches

    def _draw(self) -> list[Any]:
        """The batches of a step; fewer where the source ends, none at its end."""
        batches: list[Any] = []
        ordinals: list[int] = []
        with contextlib.suppress(StopIteration):
            while len(batches) < self.config.accumulate:
                batch = self.source.next_batch()
                ordinal = self.progress.batches
                self.progress.batches += 1
                if ordinal not in self.guard.skipped:
                    self.objective.check(self.model, batch)
                    batches.append(batch)
                    ordinals.append(ordinal)
        self.drawn.append(Drawn(self.progress.step + 1, tuple(ordinals)))
        return batches

    def _step(self, batches: Sequence[Any], wants_stop: bool) -> dict[str, Any] | None:
        """One update, its record in the log, and a checkpoint where one is due; None when the guard undid it."""
        share = self._share()
        rate = learning_rate(self.config, self.progress.step, share)
        self._choose_with_biases(share < 1 - self.config.unbiased_share)
        sums = self._backward(batches)
        now = time.monotonic()
        # The first process's clock and anybody's wish to stop count for all.
        sums |= {"stop": float(wants_stop), "seconds": (now - self.last) * (self.processes.rank == 0)}
        self.last = now
        sums = self._over_processes(sums)
        norm = float(self.spread.clip_gradients(self.config.clip_norm))
        if why := self.guard.trouble(sums["cross_entropy"], norm):
            self._undo(why)
            return None
        set_rate(self.optimizers, rate)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.model.update_router_biases(self.processes.sum)
        self._advance(sums)
        self._trim()
        self.is_stopped = sums["stop"] > 0
        is_due = self._is_due()
        if (is_due or self.is_stopped or self._share() >= 1) and not self._is_sound():
            self._undo("the update left a weight that is not finite")
            return None
        record = self._record(sums, norm, rate)
        if self.processes.rank == 0:
            self.log.step(record)
            if self.tensorboard:
                self.tensorboard.step(record)
        if is_due:
            self.save()
            self.last = time.monotonic()
        return record

    def _undo(self, why: str) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.model.update_router_biases(self.processes.sum)  # so that they forget the step; the checkpoint has their biases
        self.balance.clear()
        self._roll_back(why)
        self.last = time.monotonic()

    def _backward(self, batches: Sequence[Any]) -> dict[str, float]:
        """Gradients of the mean loss over all targets of the step, in all processes; this process's share of its numbers."""
        sizes = [self.objective.size(batch) for batch in batches]
        mine = torch.tensor([sum(size.targets for size in sizes)], dtype=torch.float64, device=self.device)
        targets = max(1.0, self.processes.sum(mine).item())
        # What routers add is a mean over tokens, of which every batch of every process has as many.
        part = 1 / (len(batches) * self.processes.count)
        sums = dict.fromkeys(("cross_entropy", "aux_loss", "z_loss", "correct"), 0.0)
        for number, (batch, size) in enumerate(zip(batches, sizes, strict=True), 1):
            with self.spread.accumulating(number == len(batches)):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                    loss = self.objective(self.spread.module, batch)
                cross_entropy = loss.cross_entropy * (size.targets / targets)
                routers = self.config.aux_loss_coef * loss.aux_loss + self.model.routing.z_loss_coef * loss.z_loss
                (cross_entropy + routers * part).backward()
            self.balance.add(loss.routes)
            sums["cross_entropy"] += cross_entropy.item()
            sums["aux_loss"] += loss.aux_loss.item() * part
            sums["z_loss"] += loss.z_loss.item() * part
            sums["correct"] += loss.correct.item() / targets
        self.spread.finish_backward()
        sums["tokens"] = float(sum(size.tokens for size in sizes))
        sums["examples"] = float(sum(size.examples for size in sizes))
        sums["flops"] = sum(self.flops.of(size) for size in sizes)
        return sums

    def _over_processes(self, sums: dict[str, float]) -> dict[str, float]:
        values = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.device)
        return dict(zip(sums, self.processes.sum(values).tolist(), strict=True))

    def _advance(self, sums: dict[str, float]) -> None:
        self.progress.step += 1
        self.progress.tokens += round(sums["tokens"])
        self.progress.examples += round(sums["examples"])
        self.progress.seconds += sums["seconds"]

    def _trim(self) -> None:
        """Now and then, so that it costs small models nothing; its time is the next step's."""
        if self.device.type == "cpu" and self.progress.seconds - self.trimmed_seconds > TRIM_SECONDS:
            return_free_memory()
            self.trimmed_seconds = self.progress.seconds

    def _is_due(self) -> bool:
        """Whether a checkpoint is."""
        if self.config.checkpoint_steps and self.progress.step % self.config.checkpoint_steps == 0:
            return True
        return self.progress.seconds - self.saved_seconds > 60 * self.config.checkpoint_minutes

    def _is_sound(self) -> bool:
        """Whether all weights are finite, in all processes."""
        bad = sum(not bool(torch.isfinite(local_part(p).detach().sum())) for p in self.trained.values())
        return self.processes.sum(torch.tensor([bad], dtype=torch.float64, device=self.device)).item() == 0

    def _record(self, sums: dict[str, float], norm: float, rate: float) -> dict[str, Any]:
        """The step's object in the log."""
        seconds = max(sums["seconds"], 1e-9)
        record = {
            "step": self.progress.step,
            "tokens": self.progress.tokens,
            "examples": self.progress.examples,
            "seconds": round(self.progress.seconds, 3),
            "loss": round(sums["cross_entropy"], 6),
            "aux_loss": round(sums["aux_loss"], 5),
            "accuracy": round(sums["correct"], 4),
            "lr": self.config.lr * rate,
            "grad_norm": round(norm, 5),
            "tokens_per_s": round(sums["tokens"] / seconds, 1),
            "peak_share": round(sums["flops"] / seconds / (self.peak_flops * self.processes.count), 4),
            "memory_bytes": memory_bytes(self.device),
            "z_loss": round(sums["z_loss"], 5),
            **self.balance.summary(self.processes, self.device),
        }
        if record["expert_load"]:
            record["moe_layers"] = self.moe_layers
        every = self.config.validate_every
        if self.validation and every and (self.progress.step % every == 0 or self._share() >= 1):
            record["validation"] = self._validate()
        return record

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Mean cross-entropy of every domain; random states and the clock stay as they are."""
        before = random_state()
        self.model.eval()
        losses = {name: self._mean_loss(batches) for name, batches in self.validation.items()}
        self.model.train()
        self.validated_step = self.progress.step
        set_random_state(before)
        self.last = time.monotonic()
        return losses

    def _mean_loss(self, batches: Sequence[Any]) -> float:
        total, targets = 0.0, 0
        for batch in batches:
            count = self.objective.size(batch).targets
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                total += self.objective(self.spread.module, batch).cross_entropy.item() * count
            targets += count
        return round(total / max(1, targets), 6)

    def _event(self, kind: str, **told: Any) -> None:
        if self.processes.rank == 0:
            self.log.event(kind, **told)

    def _warn(self, text: str) -> None:
        self._event("warning", text=text)
        self.say(text)


class _Stop:
    """Remembers the first Ctrl-C or SIGTERM, so that the step under way ends whole and is saved; a second stops at once.

    But for a SIGTERM soon after the first: SLURM sends it to every process, and torchrun passes its own on.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)
    SAME_SECONDS = 5.0

    def __enter__(self) -> _Stop:
        self.signal: int | None = None
        self._asked = 0.0  # when, by the monotonic clock
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._asked = number, now
            signal.signal(signal.SIGINT, signal.default_int_handler)
        elif now - self._asked >= self.SAME_SECONDS:
            raise SystemExit(128 + number)

    def raise_asked(self, by_others: bool) -> None:
        """What a program ends with that was asked to stop, or is one of several of which another was."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if by_others and self.signal is None:
            raise SystemExit(128 + signal.SIGTERM)
        if self.signal is not None:
            raise SystemExit(128 + self.signal)


@contextlib.contextmanager
def _claimed(out: Path, processes: Processes) -> Iterator[None]:
    """Hold the run's folder: two runs in one would destroy each other. A killed process lets go."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    with (out / "lock").open("w") as file:
        if processes.rank == 0:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"another process is training in {out}", "wait for it, or give another folder") from error
        yield
