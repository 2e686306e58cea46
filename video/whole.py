"""Files and folders that are whole or not there: made under another name, and put in their place in one step."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = re.compile(r"\.blade_[0-9a-f]{16}\.part")
ABANDONED = 24 * 60 * 60  # seconds without a change after which nobody writes there any more


class Unwritable(OSError):
    """The system refuses to write a file. Says so in a sentence."""


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Where to make the file or the folder of files that takes `target`'s place as soon as the block has ended and the disk holds it all.

    Whatever is raised meanwhile leaves what lay at `target`, and nothing beside it. A killed process leaves one folder .blade_*.part, which goes
    when something else is written there a day later. Raises Unwritable for every OSError."""
    room = target.with_name(f".blade_{secrets.token_hex(8)}.part")  # a folder, since a library may put more files beside the one it writes
    try:
        remove_abandoned(target.parent)
        room.mkdir()
        made = room / target.name  # a name that the system does not take is refused now, not after hours
        yield made
        for file in made.iterdir() if made.is_dir() else [made]:
            with file.open("rb+") as written:
                os.fsync(written.fileno())  # some file systems tell only now that the disk is full
        os.replace(made, target)
    except Unwritable:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise Unwritable(
            f"{target.name!r} cannot be written ({reason}). Make room on the disk, or choose another place or name."
        ) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Removes what killed processes have left in a folder."""
    for entry in os.scandir(folder):
        if PART.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            with suppress(OSError):  # another process ends its own just now
                changed = max(place.lstat().st_mtime for place in (Path(entry.path), *Path(entry.path).rglob("*")))
                if changed < time.time() - ABANDONED:
                    shutil.rmtree(entry.path, ignore_errors=True)
