"""Files and folders that are whole or not there: made under another name, and renamed in one step."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = re.compile(r"\.blade_[0-9a-f]{16}\.part")
ABANDONED = 24 * 60 * 60  # seconds without a change after which nobody writes there any more
PATIENCE = 10  # seconds for which a program may keep a new file to itself: on Windows those that look for viruses do
KEEP = "keep"  # a file that says that the folder it lies in is not abandoned


class Unwritable(OSError):
    """The system refuses to write a file. Says so in a sentence."""


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Where to make the file or the folder of files that becomes `target` as soon as the block has ended and the disk holds it all.

    Whatever is raised meanwhile leaves what lay at `target`, and nothing beside it. A killed process leaves one folder .blade_*.part, which goes
    when something else is written there a day later. Raises Unwritable for every OSError; where all is made and only its last step is denied,
    that goes on being tried for PATIENCE seconds, and then the sentence says where the work is kept."""
    room = target.with_name(f".blade_{secrets.token_hex(8)}.part")  # a folder, since a library may put more files beside the one it writes
    kept = False
    try:
        remove_abandoned(target.parent)
        room.mkdir()
        made = room / target.name  # a name that the system does not take is refused now, not after hours
        yield made
        try:
            for file in made.iterdir() if made.is_dir() else [made]:
                patiently(flush, file)
            patiently(os.replace, made, target)
        except PermissionError as error:
            kept = True
            with suppress(OSError):
                (room / KEEP).touch()
            raise Unwritable(
                f"{target.name!r} cannot be moved into {str(target.parent)!r} ({error.strerror or error}). Another program may hold it. "
                f"It is whole, and kept: move it there from {str(made)!r}."
            ) from error
    except Unwritable:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise Unwritable(
            f"{target.name!r} cannot be written ({reason}). Make room on the disk, or choose another folder or name."
        ) from error
    finally:
        if not kept:
            shutil.rmtree(room, ignore_errors=True)


def patiently(step: Callable[..., None], *paths: Path) -> None:
    """Takes a step again and again while the system denies it, for PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return step(*paths)
        except PermissionError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def flush(path: Path) -> None:
    """Raises OSError where the disk does not hold all of a file: some file systems tell only now that they are full."""
    with path.open("rb+") as written:
        os.fsync(written.fileno())


def remove_abandoned(folder: Path) -> None:
    """Removes what killed processes have left in a folder."""
    for entry in os.scandir(folder):
        if PART.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False) and not Path(entry.path, KEEP).exists():
            with suppress(OSError):  # another process ends its own just now
                changed = max(path.lstat().st_mtime for path in (Path(entry.path), *Path(entry.path).rglob("*")))
                if changed < time.time() - ABANDONED:
                    shutil.rmtree(entry.path, ignore_errors=True)
