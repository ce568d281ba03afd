"""Checkpoints that survive anything: written beside, synced, renamed when whole; read only when every checksum holds.

`checkpoints/step-N/` holds one safetensors file a process and `manifest.json`, written last: size and SHA-256 of every file,
where each tensor's pieces lie, and the run's small state (progress, data position, random states). A process writes the box that
it holds of a tensor (of a DTensor its shard), and of boxes that several hold the first one writes; so a checkpoint of N
processes is read by M: each asks for its own box, wherever its parts lie. One process is the case N = 1.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openarctic.errors import CapacityError, CorruptError, MissingError, OpenArcticError, UserError
from openarctic.train.boxes import Box, box_of, local_part
from openarctic.train.processes import ALONE, Processes

FORMAT = 2
MANIFEST = "manifest.json"
SET_ASIDE = "set-aside"  # checkpoints of steps that a rollback or `--resume STEP` undid


def checkpoints_folder(out: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return out / "checkpoints"


def saved_steps(out: Path) -> list[int]:
    """Steps of which a finished checkpoint exists, in order."""
    found = checkpoints_folder(out).glob(f"step-*/{MANIFEST}")
    steps = (path.parent.name.removeprefix("step-") for path in found)
    return sorted(int(step) for step in steps if step.isdigit())


def save_checkpoint(
    out: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    common: dict[str, Any],
    own: dict[str, Any],
    processes: Processes = ALONE,
) -> Path:
    """Write the checkpoint of a step unless it exists; `common` is the same in all processes, `own` is this one's.

    Raises CapacityError when the disk is full; what was there before stays whole.
    """
    folder = checkpoints_folder(out) / f"step-{step}"
    partial = folder.with_name(folder.name + ".partial")
    if step in saved_steps(out):
        return folder
    if processes.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    boxes = {name: box_of(tensor) for name, tensor in tensors.items()}
    writers = _writers(processes.gather(boxes))
    mine = {n: local_part(tensors[n]) for n, box in boxes.items() if writers[n, box[0]] == processes.rank}
    file = f"state-{processes.rank + 1:05d}-of-{processes.count:05d}.safetensors"
    with _room(partial):
        entry = _write(partial / file, mine)
        pieces = {
            name: {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(tensors[name].shape), "box": boxes[name]}
            for name, t in mine.items()
        }
        gathered = processes.gather({"file": file, "entry": entry, "pieces": pieces, "own": own})
        if processes.rank == 0:
            _write_manifest(partial, {"format": FORMAT, "step": step, **common}, gathered)
            shutil.rmtree(folder, ignore_errors=True)  # without a manifest, as one that was being removed is
            os.replace(partial, folder)
            _sync(folder.parent)
    processes.gather(None)
    return folder


def _writers(boxes: list[dict[str, Box]]) -> dict[tuple[str, tuple[int, ...]], int]:
    """(name, offset) -> the first process that holds that box."""
    writers: dict[tuple[str, tuple[int, ...]], int] = {}
    for rank, held in enumerate(boxes):
        for name, (offset, _) in held.items():
            writers.setdefault((name, offset), rank)
    return writers


@contextmanager
def _room(partial: Path) -> Iterator[None]:
    """A full disk is told as such, and gets its room back."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        hint = "make room and resume: the checkpoints before are whole"
        raise CapacityError(f"cannot write checkpoint {partial.with_suffix('')}: {error}", hint) from error


def _write(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write and sync a file; its size and checksum."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    _sync(path)
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _write_manifest(folder: Path, manifest: dict[str, Any], gathered: list[dict[str, Any]]) -> None:
    tensors: dict[str, dict[str, Any]] = {}
    for part in gathered:
        for name, piece in part["pieces"].items():
            whole = tensors.setdefault(name, {"dtype": piece["dtype"], "shape": piece["shape"], "pieces": []})
            whole["pieces"].append({"file": part["file"], "offset": piece["box"][0], "size": piece["box"][1]})
    manifest["files"] = {part["file"]: part["entry"] for part in gathered}
    manifest["processes"] = [part["own"] for part in gathered]
    manifest["tensors"] = tensors
    path = folder / MANIFEST
    path.write_text(json.dumps({**manifest, "sha256": _digest(manifest)}))
    _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    """Have the system put a file, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(manifest: dict[str, Any]) -> str:
    """Checksum of a manifest without the entry that holds it; JSON keeps order and every digit."""
    text = json.dumps({key: value for key, value in manifest.items() if key != "sha256"})
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole, checked checkpoint."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        """The step after which it was written."""
        return int(self.manifest["step"])

    @property
    def names(self) -> list[str]:
        """Of its tensors."""
        return list(self.manifest["tensors"])

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a whole tensor."""
        return tuple(self.manifest["tensors"][name]["shape"])

    @property
    def own(self) -> list[dict[str, Any]]:
        """What each of the processes that wrote it said of itself, in order of rank."""
        return list(self.manifest["processes"])

    def read(self, name: str) -> Tensor:
        """A whole tensor."""
        whole = torch.empty(self.shape(name), dtype=getattr(torch, self.manifest["tensors"][name]["dtype"]))
        self.read_into(name, whole)
        return whole

    @torch.no_grad()
    def read_into(self, name: str, tensor: Tensor) -> None:
        """Fill `tensor` (of a DTensor its shard) in place. Raises MissingError or UserError where it is not the saved one."""
        if name not in self.manifest["tensors"]:
            raise MissingError(f"{self.folder} has no tensor {name}", "the model is another one than the checkpoint's")
        saved = self.manifest["tensors"][name]
        if tuple(tensor.shape) != self.shape(name):
            told = f"{name} has shape {tuple(tensor.shape)}, in {self.folder} it has {self.shape(name)}"
            is_vocabulary = "embed_tokens" in name or "lm_head" in name
            raise UserError(
                told, "the vocabulary is another one: resume with the tokenizer of the run" if is_vocabulary else None
            )
        offset, size = box_of(tensor)
        local = local_part(tensor)
        for piece in saved["pieces"]:
            overlap = _overlap((offset, size), (tuple(piece["offset"]), tuple(piece["size"])))
            if overlap is None:
                continue
            start, length = overlap
            source = tuple(slice(s - o, s - o + n) for s, o, n in zip(start, piece["offset"], length, strict=True))
            target = tuple(slice(s - o, s - o + n) for s, o, n in zip(start, offset, length, strict=True))
            with safe_open(self.folder / piece["file"], "pt") as file:
                values = file.get_slice(name)[source] if source else file.get_tensor(name)
            local[target].copy_(values)


def _overlap(a: Box, b: Box) -> Box | None:
    """The box that two boxes share, or None."""
    start = tuple(max(x, y) for x, y in zip(a[0], b[0], strict=True))
    stop = tuple(min(x + m, y + n) for x, m, y, n in zip(a[0], a[1], b[0], b[1], strict=True))
    size = tuple(e - s for s, e in zip(start, stop, strict=True))
    return None if any(n <= 0 for n in size) else (start, size)


def open_checkpoint(out: Path, step: int) -> Checkpoint:
    """The checkpoint of a step, every byte checked. Raises MissingError where there is none, CorruptError for any damage."""
    folder = checkpoints_folder(out) / f"step-{step}"
    if step not in saved_steps(out):
        known = ", ".join(map(str, saved_steps(out))) or "none"
        raise MissingError(f"no checkpoint of step {step} under {out}", f"there are: {known}")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        is_whole = manifest["format"] != FORMAT or manifest["sha256"] == _digest(manifest)
        files = manifest["files"].items() if manifest["format"] == FORMAT else ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"cannot read {folder / MANIFEST}: {type(error).__name__} {error}") from error
    if not is_whole:
        raise CorruptError(f"{folder / MANIFEST} is damaged: its checksum differs")
    if manifest["format"] != FORMAT:
        raise UserError(f"{folder} has format {manifest['format']}, not {FORMAT}", "resume it with the version that wrote it")
    for name, entry in files:
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"] or _sha256(path) != entry["sha256"]:
            told = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
            raise CorruptError(f"{path} is damaged: it {told if size != entry['bytes'] else 'has another checksum'}")
    return Checkpoint(folder, manifest)


def latest_checkpoint(out: Path, warn: Any = None, before: int | None = None) -> Checkpoint | None:
    """The newest checkpoint that is whole (of a step below `before`), or None where none was ever finished.

    `warn(text)` is told of damaged ones. Raises CorruptError when all of them are.
    """
    steps = [step for step in saved_steps(out) if before is None or step < before]
    first: OpenArcticError | None = None
    for step in reversed(steps):
        try:
            return open_checkpoint(out, step)
        except CorruptError as error:
            first = first or error
            if warn:
                warn(f"warning: {error.message}; taking the checkpoint before it")
    if first:
        raise CorruptError(f"every checkpoint under {out} is damaged: {first.message}", "start again in another folder")
    return None


def set_aside_after(out: Path, step: int) -> None:
    """Move checkpoints of later steps away, so that a run which goes on from `step` is not taken for them."""
    for later in saved_steps(out):
        if later > step:
            aside = checkpoints_folder(out) / SET_ASIDE
            aside.mkdir(exist_ok=True)
            shutil.rmtree(aside / f"step-{later}", ignore_errors=True)
            os.replace(checkpoints_folder(out) / f"step-{later}", aside / f"step-{later}")


def remove_old(out: Path, keep_last: int, keep_every: int | None) -> None:
    """Remove all but the last `keep_last` checkpoints and those of steps divisible by `keep_every`; and partial ones."""
    for step in saved_steps(out)[:-keep_last]:
        if not (keep_every and step and step % keep_every == 0):
            folder = checkpoints_folder(out) / f"step-{step}"
            (folder / MANIFEST).unlink()  # first: what is half removed does not count as a checkpoint
            shutil.rmtree(folder)
    for folder in checkpoints_folder(out).glob("step-*"):
        if not (folder / MANIFEST).is_file():
            shutil.rmtree(folder, ignore_errors=True)
