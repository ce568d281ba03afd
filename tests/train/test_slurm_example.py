"""The SLURM example, with srun and scontrol that only pretend: before its time is over a job is stopped, and requeued."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("bash") is None or os.name == "nt", reason="needs bash")

SCRIPT = Path(__file__).parents[2] / "examples" / "train_slurm.sh"
SRUN = (
    "#!/usr/bin/env bash\ntrap 'echo saved; exit 143' TERM\necho begun\nfor i in $(seq $STEPS); do sleep 0.05; done\nexit $CODE\n"
)
SCONTROL = "#!/usr/bin/env bash\necho $1\n"


def start(folder: Path, steps: int, code: int) -> subprocess.Popen[str]:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "a", "SLURM_NNODES": "1", "SLURM_JOB_ID": "7", "STEPS": str(steps), "CODE": str(code)}
    environment = {**os.environ, **slurm, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.Popen(["bash", SCRIPT, "data", "out", "model"], env=environment, stdout=subprocess.PIPE, text=True)


def test_a_job_whose_time_is_nearly_over_saves_and_is_requeued(tmp_path: Path) -> None:
    job = start(tmp_path, 600, 0)
    assert job.stdout is not None and job.stdout.readline() == "begun\n"
    time.sleep(0.2)  # until the script has set its trap
    job.send_signal(signal.SIGUSR1)
    assert job.communicate(timeout=20)[0].split() == ["saved", "requeue"]


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_that_ends_by_itself_is_not_requeued(tmp_path: Path, code: int) -> None:
    job = start(tmp_path, 1, code)
    assert job.communicate(timeout=20)[0].split() == ["begun"] and job.returncode == code
