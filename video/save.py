"""Writes frames to a video file or a folder of pictures as they come, without holding more than a chunk of them."""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any

import av
import av.filter
import cv2
import numpy as np
from torch import Tensor

from .colour import EXACT
from .whole import Unwritable, whole

H264, FFV1, PNG = "mp4 (H.264)", "mkv (FFV1, lossless)", "PNG frames (lossless)"
PRORES, VP9, GIF = "mov (ProRes 422 HQ)", "webm (VP9)", "gif"
PNG_HEAD = 33  # bytes of a PNG's signature and first chunk, after which others may follow
SUFFIX = {H264: ".mp4", FFV1: ".mkv", PRORES: ".mov", VP9: ".webm", GIF: ".gif", PNG: ""}  # of a file's name, or of a folder's
SLOWEST, FASTEST, FASTEST_SOUND = 0.001, 100_000, 768_000  # frames and samples a second, beyond which files or FFmpeg have no numbers
LOUDEST = 1e6  # from about 1e12 on, AAC's encoder fails
# of 1 to 8 channels; of FFmpeg's layouts of three and four those whose every channel has all frequencies
LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1")
OPUS_LAYOUTS = (*LAYOUTS[:3], "quad", *LAYOUTS[4:])  # RFC 7845, section 5.1.1.2
MOST_CHANNELS = 64  # of PCM, which takes channels without a speaker position
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)  # ISO/IEC 14496-3, table 1.18
OPUS_RATES = (48000, 24000, 16000, 12000, 8000)  # RFC 6716, section 2.1.3


def save_video(
    target: str | Path,
    chunks: Iterable[np.ndarray],
    fps: float,
    form: str = H264,
    crf: int = 16,
    waveform: Tensor | None = None,
    sample_rate: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Encodes chunks of frames to `target` and returns how many frames there were.

    chunks: uint8 RGB [frames, height, width, 3] each, all of one size; even sides for H.264, VP9 and ProRes.
    form: "mp4 (H.264)": yuv420p, BT.709, limited range, tagged so, with AAC; crf 0..51, less is better.
        "webm (VP9)": the same colours, with Opus; crf as for H.264.
        "mov (ProRes 422 HQ)": yuv422p10, the same colours in 10 bits, with PCM of 24 bits.
        "gif": 256 colours a frame, no sound; its clock knows hundredths of a second.
        "mkv (FFV1, lossless)": the same RGB bits come back, and the same sound (PCM, fp32).
        "PNG frames (lossless)": a folder of 00000.png, 00001.png and so on, with the sound as sound.wav (PCM, fp32).
    waveform: [channels, samples] in -1..1 at sample_rate, cut at the last frame's end. 3 to 8 channels are taken in the order of FFmpeg's layouts 3.0,
        4.0, 5.0, 5.1, 6.1 and 7.1; AAC and Opus take no more, and keep the lowest notes only of the fourth of 6, 7 or 8 (low frequencies).
    metadata: text by name that the file holds, as tags of the container, or as tEXt chunks of each PNG; GIF holds none.

    All is written under another name beside `target` and renamed at the end: whatever is raised meanwhile, by `chunks` too,
    leaves nothing half written and an earlier file as it was. Raises ValueError for no frames, frames of another kind or size, a folder
    that exists, and an fps or a sound that cannot be written; Unwritable where the system refuses to write."""
    target = Path(target)
    check_fps(fps)
    check_sound(waveform, sample_rate, form)
    if form == PNG and os.path.exists(target):  # False for a name that the system does not take
        raise ValueError(f"there is already something at {target}. Give another name.")
    chunks = (chunk for chunk in map(check_chunk, chunks) if len(chunk))
    first = next(chunks, None)
    if first is None:
        raise ValueError("there are no frames to write. Give at least one.")
    height, width = first.shape[1:3]
    check_sides(form, height, width)
    pictures, rate = chain.from_iterable(chain([first], chunks)), Fraction(float(fps)).limit_denominator(10_000)
    with whole(target) as made:
        if form == PNG:
            return write_folder(made, pictures, (height, width), rate, waveform, sample_rate, metadata or {})
        try:
            return write_file(made, form, pictures, (height, width), rate, crf, waveform, sample_rate, metadata or {})
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise Unwritable(f"{target.name!r:.80} cannot be written as {form} ({error.strerror}). Choose another format.") from error


def write_file(
    path: Path, form: str, pictures: Iterable[np.ndarray], size, rate: Fraction, crf: int, waveform, sample_rate: int, metadata
) -> int:
    coding = CODING[form]
    with av.open(str(path), "w", format=coding.container, options=coding.muxing) as file:
        file.metadata.update(metadata)
        video = Pictures(file, coding, size, rate, crf)
        sound = Sound(file, coding, waveform, sample_rate) if waveform is not None and coding.sound else None
        for picture in pictures:
            video.write(picture)
            if sound:
                sound.write(video.written / video.rate)
        video.finish()
        if sound:
            sound.finish()
    return video.written


def write_folder(path: Path, pictures: Iterable[np.ndarray], size, rate: Fraction, waveform, sample_rate: int, metadata) -> int:
    path.mkdir()
    written, texts = 0, b"".join(text_chunk(name, text) for name, text in metadata.items())
    for picture in pictures:
        check_size(picture, size, written)
        _, png = cv2.imencode(".png", picture[..., ::-1])  # imwrite fails on Windows where a path is not ASCII
        content = png.tobytes()
        (path / f"{written:05}.png").write_bytes(content[:PNG_HEAD] + texts + content[PNG_HEAD:])
        written += 1
    if waveform is not None:
        with av.open(str(path / "sound.wav"), "w", format="wav") as file:
            sound = Sound(file, LOSSLESS, waveform, sample_rate)
            sound.write(written / rate)
            sound.finish()
    return written


def text_chunk(name: str, text: str) -> bytes:
    """A tEXt chunk (PNG specification, 11.3.4.3). Characters beyond Latin-1 become question marks; JSON escapes them before."""
    content = b"tEXt" + name.encode("latin-1", "replace")[:79] + b"\0" + text.encode("latin-1", "replace")
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def check_fps(fps: float) -> None:
    """Raises ValueError for what is no frame rate, or none that a file can tell."""
    if not SLOWEST <= fps <= FASTEST:
        raise ValueError(f"the frame rate is {fps}. Give one above 0, from {SLOWEST} to {FASTEST:,}.")


def check_sound(waveform: Tensor | None, sample_rate: int, form: str) -> None:
    """Raises ValueError for a sound that the form does not take. waveform: [channels, samples]"""
    if waveform is None:
        return
    most = CODING.get(form, LOSSLESS).channels
    if waveform.ndim != 2 or not 1 <= len(waveform) <= MOST_CHANNELS:
        raise ValueError(f"the sound's shape is {list(waveform.shape)}. Give [channels, samples] with 1 to {MOST_CHANNELS} channels.")
    if len(waveform) > most:
        raise ValueError(
            f"the sound has {len(waveform)} channels, and {form} takes {most}. Choose {PRORES}, {FFV1} or {PNG}, or mix the sound down first."
        )
    if not isinstance(sample_rate, Integral) or not 1 <= sample_rate <= FASTEST_SOUND:
        raise ValueError(f"the sound's sample rate is {sample_rate}. Give a whole number above 0, up to {FASTEST_SOUND:,}.")
    peak = float(waveform.float().abs().max()) if waveform.numel() else 0.0
    if not math.isfinite(peak):
        raise ValueError("the sound holds values that are not finite (NaN or infinity). Make it again, or leave it out.")
    if peak > LOUDEST:
        raise ValueError(f"the sound's values reach {peak:.3g}, but a waveform lies in -1..1. Make it again, or leave it out.")


def check_sides(form: str, height: int, width: int) -> None:
    """Raises ValueError for frames that the form does not take."""
    if form in (H264, VP9, PRORES) and (height % 2 or width % 2):
        raise ValueError(
            f"{form} takes frames with even sides, and these are {width}x{height} pixels. Crop them, or choose a lossless format."
        )


def check_size(picture: np.ndarray, size: tuple[int, ...], number: int) -> None:
    """Raises ValueError for a frame of another size, (height, width), than the first."""
    if picture.shape[:2] != size:
        (height, width), (rows, columns) = size, picture.shape[:2]
        raise ValueError(f"frame {number} is {columns}x{rows} pixels, but the first is {width}x{height}. Give frames of one size.")


def check_chunk(chunk: np.ndarray) -> np.ndarray:
    """The chunk itself. Raises ValueError unless it is uint8 [frames, height, width, 3]."""
    if chunk.dtype != np.uint8 or chunk.ndim != 4 or chunk.shape[3] != 3:
        raise ValueError(f"frames of {chunk.dtype} {list(chunk.shape)} cannot be written. Give uint8 [frames, height, width, 3].")
    return chunk


@dataclass(frozen=True)
class Coding:
    """How a file is written. pixels: FFmpeg's name of the pixel format. tagged: as BT.709 in limited range, and converted so. rates: those
    of samples that the sound's codec takes (none: any; others become 48000). sound: its codec; none: no sound. bits: of the sound, a second and channel at
    48000 samples; none: lossless. layouts: of 1, 2, ... channels; more have none. channels: how many there may be."""

    container: str
    video: str
    pixels: str
    tagged: bool
    sound: str
    rates: tuple[int, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    muxing: dict[str, str] = field(default_factory=dict)
    bits: int = 0
    layouts: tuple[str, ...] = LAYOUTS
    channels: int = MOST_CHANNELS


# ComfyUI's page looks for the graph in user tags, within the first 64 MiB
MP4 = {"movflags": "+faststart+use_metadata_tags"}
LOSSLESS = Coding("matroska", "ffv1", "bgr0", False, "pcm_f32le", options={"level": "3", "slicecrc": "1"})
CODING = {
    H264: Coding("mp4", "libx264", "yuv420p", True, "aac", AAC_RATES, muxing=MP4, bits=128_000, channels=8),
    VP9: Coding(
        "webm",
        "libvpx-vp9",
        "yuv420p",
        True,
        "libopus",
        OPUS_RATES,
        # a rate of 0 leaves the quality to crf alone; without row-mt and a faster setting VP9 takes ten times as long for the same picture
        options={"b": "0", "row-mt": "1", "cpu-used": "4"},
        bits=64_000,
        layouts=OPUS_LAYOUTS,
        channels=8,
    ),
    # profile 3 is HQ; by name it is known to newer FFmpeg only
    PRORES: Coding("mov", "prores_ks", "yuv422p10le", True, "pcm_s24le", options={"profile": "3", "vendor": "apl0"}, muxing=MP4),
    GIF: Coding("gif", "gif", "pal8", False, ""),
    FFV1: LOSSLESS,
}


class Pictures:
    """The video stream of a file that is being written."""

    def __init__(self, file, coding: Coding, size: tuple[int, ...], rate: Fraction, crf: int):
        self.file, self.coding, self.size, self.rate, self.written = file, coding, size, rate, 0
        options = coding.options | ({"crf": str(crf)} if coding.video in ("libx264", "libvpx-vp9") else {})
        self.stream = file.add_stream(coding.video, rate=rate, options=options)
        self.stream.height, self.stream.width = size
        self.stream.pix_fmt = coding.pixels
        if coding.tagged:
            context = self.stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
            context.color_range = 1  # limited
        self.palettes = Palettes(size, rate) if coding.pixels == "pal8" else None

    def write(self, picture: np.ndarray) -> None:
        """picture: uint8 RGB [height, width, 3]"""
        check_size(picture, self.size, self.written)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        if self.palettes:
            frame = self.palettes.apply(frame)
        else:
            wanted: dict[str, Any] = {"dst_colorspace": "ITU709", "dst_color_range": "MPEG"} if self.coding.tagged else {}
            frame = frame.reformat(format=self.coding.pixels, interpolation=EXACT, **wanted)
        frame.pts, frame.time_base = self.written, 1 / self.rate
        self.file.mux(self.stream.encode(frame))
        self.written += 1

    def finish(self) -> None:
        self.file.mux(self.stream.encode())


class Palettes:
    """Turns each frame into 256 colours of its own choice, as GIF takes them."""

    def __init__(self, size: tuple[int, ...], rate: Fraction):
        self.graph = av.filter.Graph()
        height, width = size
        source = self.graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=1 / rate)
        split, chosen = self.graph.add("split"), self.graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
        used, sink = self.graph.add("paletteuse", "new=1"), self.graph.add("buffersink")
        source.link_to(split)
        split.link_to(used, 0, 0)
        split.link_to(chosen, 1, 0)
        chosen.link_to(used, 0, 1)
        used.link_to(sink)
        self.graph.configure()
        self.given = 0

    def apply(self, frame):
        frame.pts = self.given
        self.given += 1
        self.graph.push(frame)
        return self.graph.pull()


class Sound:
    """The audio stream of a file that is being written; fed in step with the pictures, so that both lie side by side in the file."""

    def __init__(self, file, coding: Coding, waveform: Tensor, sample_rate: int):
        self.file, self.rate, self.written = file, int(sample_rate), 0
        self.samples, channels = waveform.float().cpu().numpy(), len(waveform)
        self.layout = coding.layouts[channels - 1] if channels <= len(coding.layouts) else f"{channels}C"
        rate = self.rate if not coding.rates or self.rate in coding.rates else 48000
        # by itself FFmpeg maps 5 and 7 channels of Opus to the wrong speakers
        options = {"mapping_family": "1"} if coding.sound == "libopus" and channels > 2 else {}
        self.stream = file.add_stream(coding.sound, rate=rate, layout=self.layout, options=options)
        if coding.bits:
            self.stream.bit_rate = round(channels * rate * coding.bits / 48000)

    def write(self, until: Fraction) -> None:
        """Encodes what is heard before that time in seconds."""
        end = min(round(until * self.rate), self.samples.shape[1])
        if end > self.written:
            # in planes PyAV's arrays end the process from 8 channels on
            packed = np.ascontiguousarray(self.samples[:, self.written : end].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.written, Fraction(1, self.rate)
            self.file.mux(self.stream.encode(frame))
            self.written = end

    def finish(self) -> None:
        if self.written:
            self.file.mux(self.stream.encode())
