"""One model file with its engines running, each in its own process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openarctic.bench.client import LLAMA, OURS, Client, EngineSpec, started
from openarctic.bench.plan import Options
from openarctic.bench.protocol import OnProgress
from openarctic.bench.summary import steps_for
from openarctic.formats import GGUFFile, HybridConfig, config_from_gguf, read_gguf
from openarctic.planner import kv_bytes_per_token

CALIBRATION_STEPS = 8
LOW_STEPS, HIGH_STEPS = 4, 1024


@dataclass(slots=True)
class Session:
    """The clients by name, ours first. `steps` remembers how many steps a repetition takes, for all runs."""

    path: Path
    file: GGUFFile
    config: HybridConfig
    clients: dict[str, Client]
    options: Options
    steps: dict[tuple[str, int, int], int]
    on_progress: OnProgress
    layouts: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """For rows and logs."""
        return self.path.name.removesuffix(".gguf").split("-00001-of-")[0]

    def layout(self, sequences: int, context: int) -> None:
        """Room for so many sequences in every engine, where it is not laid out so already."""
        for name, client in self.clients.items():
            if self.layouts.get(name) != (sequences, context):
                client.ask("layout", sequences=sequences, context=context)
                self.layouts[name] = (sequences, context)

    def steps_of(self, name: str, batch: int, context: int, factor: float = 1.0) -> int:
        """Steps of one repetition: what the slower engine does now in the time that a repetition should take, times `factor`."""
        key = (f"{name} of {self.model}", batch, context)
        if key not in self.steps:
            job = {"context": context, "batch": batch, "steps": CALIBRATION_STEPS, "rewind": CALIBRATION_STEPS}
            slowest = max(client.ask("decode", **job)["seconds"] for client in self.clients.values()) / CALIBRATION_STEPS
            self.steps[key] = steps_for(slowest, factor * self.options.protocol.target_s, LOW_STEPS, HIGH_STEPS)
        return self.steps[key]


def engine_specs(options: Options) -> dict[str, EngineSpec]:
    """Ours, and the peer where one is asked for."""
    specs = {OURS: EngineSpec(OURS, options.threads)}
    if options.against:
        specs[options.against] = EngineSpec(LLAMA, options.threads, options.peer_python)
    return specs


@contextmanager
def opened(
    path: Path, names: Sequence[str], options: Options, steps: dict[tuple[str, int, int], int], on_progress: OnProgress
) -> Iterator[Session]:
    """A session with every engine loaded and room for these workloads. Raises what loading raises there."""
    file = read_gguf(path)
    config = config_from_gguf(file)
    with ExitStack() as stack:
        clients = {name: stack.enter_context(started(spec, path)) for name, spec in engine_specs(options).items()}
        for name, client in clients.items():
            on_progress(f"{name} loads {path.name}")
            client.ask("open", tokens=room(names, options, config), sequences=1, context=256)
        yield Session(path, file, config, clients, options, steps, on_progress)


def room(names: Sequence[str], options: Options, config: HybridConfig) -> int:
    """Tokens of keys and values that the largest of the workloads needs, in whole pages of at most 64."""
    needed = [options.context + options.rewind + 64, options.prompt + 64]
    if "batch" in names:
        needed.append(max(options.batches) * (options.context + options.rewind + 64))
    if "prefix" in names:
        needed.append(options.requests * (options.shared + options.own + 64))
    if "long" in names:
        needed.append(max(lengths(options, config), default=0) + options.rewind + 64)
    return max(needed)


def lengths(options: Options, config: HybridConfig) -> list[int]:
    """The contexts that this model may have."""
    return [n for n in options.lengths if n + options.rewind <= config.max_position_embeddings]


def describe_model(session: Session) -> dict[str, Any]:
    """What the file is."""
    from openarctic.bench.limits import active_bytes, main_type

    return {
        "file_bytes": sum(path.stat().st_size for path in session.file.paths),
        "type": main_type(session.file),
        "active_bytes": active_bytes(session.file, session.config),
        "kv_bytes_per_token": kv_bytes_per_token(session.config),
        "experts": session.config.num_local_experts,
        "layers": session.config.num_hidden_layers,
        "hidden_size": session.config.hidden_size,
    }
