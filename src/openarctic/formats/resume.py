"""Output that survives interruption: a folder `DST.partial` beside the destination, with a journal.

The journal's first line says what is being made of what (a fingerprint); every further line is the number of pieces that have
reached the disk. Pieces come in an order that the fingerprint determines, so one number is all it takes to go on, after a
kill or a power cut alike. The destination itself appears only when everything is written.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

from openarctic.errors import UserError
from openarctic.formats.companions import JOURNAL, foreign_in_partial
from openarctic.formats.planned import Plan, create, full_disk_told, sync, write_at
from openarctic.formats.quants import Raw

Note = Callable[[str], None]


def partial_folder(destination: Path) -> Path:
    """Where the output is until it is complete."""
    return destination.with_name(destination.name + ".partial")


def real_destination(destination: Path) -> Path:
    """A link to a folder stands for the folder, which is what a conversion replaces."""
    return destination.resolve() if destination.is_symlink() and destination.is_dir() else destination


def open_locked(journal: Path) -> int:
    """A descriptor that appends to a folder's journal. Raises UserError while another process has one."""
    opened = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(opened)
        raise UserError(f"another process is writing {journal.parent}", "wait for it") from error
    return opened


class PartialOutput:
    """The files of a plan on their way. `done` of `pieces` are safe; open one for a destination at a time.

    Raises UserError where the folder's place is taken by something else, or holds what no conversion made.
    """

    def __init__(
        self, destination: Path, plan: Plan, fingerprint: str, pieces: int, *, restart: bool = False, note: Note = print
    ) -> None:
        self.folder = partial_folder(destination)
        self.plan = plan
        self.done = 0
        self._unsynced: set[int] = set()
        self._journal = self._lock()
        head = json.dumps({"plan": fingerprint})
        found = self._read_journal()
        if found and found[0] == head and not restart and self._is_whole():
            done = _count(found[-1], pieces) if len(found) > 1 else 0
            if done is not None:
                self.done = done
                return
            note(f"the journal of {self.folder} is damaged: starting anew")
        elif found:
            note(f"{self.folder} was begun {'before' if restart else 'from other input or options'}: starting anew")
        self._begin(head)

    def _lock(self) -> int:
        path = self.folder / JOURNAL
        if self.folder.exists():
            self._check_ours()
        self.folder.mkdir(parents=True, exist_ok=True)
        return open_locked(path)

    def _check_ours(self) -> None:
        is_ours = self.folder.is_dir() and ((self.folder / JOURNAL).is_file() or not any(self.folder.iterdir()))
        if not is_ours:
            raise UserError(f"{self.folder} is in the way, and no conversion made it", "move it away")
        foreign = foreign_in_partial(self.folder)
        if foreign:
            raise UserError(f"{self.folder} holds what no conversion made: {', '.join(foreign[:3])}", "move it away")

    def _read_journal(self) -> list[str]:
        """Its complete lines; a last one without its end was being written."""
        text = os.pread(self._journal, os.fstat(self._journal).st_size, 0).decode("utf-8", "replace")
        return [line for line in text.splitlines(keepends=False)[: text.count("\n")] if line]

    def _is_whole(self) -> bool:
        paths = {self.folder / file.name: file.size for file in self.plan.files}
        return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())

    def _begin(self, head: str) -> None:
        os.ftruncate(self._journal, 0)
        for path in self.folder.iterdir():
            if path.name != JOURNAL:
                path.unlink()
        create(self.plan, self.folder)
        for file in self.plan.files:
            sync(self.folder / file.name)
        self._append(head)

    def _append(self, line: str) -> None:
        with full_disk_told(self.folder):
            os.write(self._journal, f"{line}\n".encode())
            os.fsync(self._journal)

    def write(self, file: int, offset: int, data: Raw) -> None:
        """Write a part of a piece."""
        self._unsynced.add(file)
        write_at(self.folder / self.plan.files[file].name, offset, data)

    def commit(self, done: int) -> None:
        """Wait until all that was written is on the disk, and note that `done` pieces are."""
        for file in sorted(self._unsynced):
            sync(self.folder / self.plan.files[file].name)
        self._unsynced.clear()
        if done > self.done:
            self._append(str(done))
            self.done = done

    def close(self) -> None:
        """Let others write here."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1


def _count(line: str, limit: int) -> int | None:
    """A journal's number; None for one that cannot be."""
    if not (line.isascii() and line.isdigit() and len(line) < 20):
        return None
    return int(line) if int(line) <= limit else None
