"""A training that torchrun starts; with KILL_AT the second process kills itself after that step of the first attempt.

torchrun --nproc-per-node 2 --max-restarts 1 tests/train/parallel/elastic.py OUT STEPS
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from openarctic.train.config import TrainConfig
from openarctic.train.objectives import LanguageModelling
from openarctic.train.parallel import ParallelConfig, ParallelModel, join
from openarctic.train.trainer import Progress, train
from tests.train.parallel.test_training import SharedStream
from tests.train.worlds import tiny_hybrid


def main() -> None:
    """Train."""
    out, steps = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    with join(ParallelConfig(expert=2, timeout_s=240)) as processes:
        is_victim = processes.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"

        def on_step(progress: Progress, record: dict[str, object]) -> None:
            if is_victim and progress.step == int(os.environ.get("KILL_AT", "-1")):
                os.kill(os.getpid(), signal.SIGKILL)

        model = tiny_hybrid()
        config = TrainConfig(steps=steps, lr=3e-3, warmup_steps=2, schedule="constant", checkpoint_steps=3)
        source, spread = SharedStream(processes), ParallelModel(model, processes)
        train(model, LanguageModelling(), source, config, out, on_step=on_step, processes=processes, spread=spread)


if __name__ == "__main__":
    main()
