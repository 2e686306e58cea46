"""Which files are clips: by their names and, for pictures that may be animated, by their headers."""

from __future__ import annotations

import os
import stat
import struct
from functools import lru_cache

# What cameras, phones, recorders and cutting programs write, of what FFmpeg reads. A list of our own, since a machine's table of mime types may
# lack any of them; and a GIF or a .apng that does not move is rare.
FILMS = tuple(
    ".360 .3g2 .3gp .amv .apng .asf .av1 .avi .avifs .bik .divx .dv .evo .f4v .flc .fli .flv .gif .gxf .h264 .h265 .264 .265 .hevc .insv .ivf "
    ".lrf .lrv .m1v .m2p .m2t .m2ts .m2v .m4v .mj2 .mjpeg .mjpg .mk3d .mkv .mod .mov .mp4 .mpe .mpeg .mpg .mpv .mts .mxf .nsv .nut .obu .ogm .ogv "
    ".ogx .qt .rm .rmvb .roq .tod .trp .ts .vc1 .vob .vro .webm .wmv .wtv .y4m".split()
)
MAY_MOVE = (".png", ".webp", ".avif")
MOST_CHUNKS = 64  # of a PNG before its first pixels


def is_film(path: str) -> bool:
    """Whether a file is a video or an animated picture. A picture that may be either is looked into; a still one is no clip."""
    name = path.lower()
    return name.endswith(FILMS) or (name.endswith(MAY_MOVE) and moves(path))


def moves(path: str) -> bool:
    """Whether a PNG, WebP or AVIF file says that it is animated."""
    try:
        status = os.stat(path)
        return stat.S_ISREG(status.st_mode) and header_moves(path, status.st_mtime_ns, status.st_size)
    except OSError:
        return False


@lru_cache(maxsize=16384)
def header_moves(path: str, changed: int, size: int) -> bool:
    """`moves` of a file whose state is `changed` and `size`: no header is read twice."""
    with open(path, "rb") as file:
        begins = file.read(256)
        if begins.startswith(b"\x89PNG"):
            file.seek(8)
            for _ in range(MOST_CHUNKS):
                chunk = file.read(8)
                if len(chunk) < 8 or chunk[4:] in (b"acTL", b"IDAT"):
                    return chunk[4:] == b"acTL"
                file.seek(struct.unpack(">I", chunk[:4])[0] + 4, os.SEEK_CUR)
            return False
    if begins[:4] == b"RIFF" and begins[8:16] == b"WEBPVP8X":
        return bool(begins[20:21]) and begins[20] & 2 > 0
    return begins[4:8] == b"ftyp" and b"avis" in begins[8 : struct.unpack(">I", begins[:4])[0]]
