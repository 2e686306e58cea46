"""Clips as they are drawn for the property test: what is put in, the file that PyAV makes of it, and what is to come out."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH, BIT, BITS = 96, 128, 16, 8
CORNERS = {(0, 0): (200, 30, 30), (0, 1): (30, 160, 50), (1, 0): (40, 60, 200), (1, 1): (128, 128, 128)}  # red, green, blue, grey
TONE, BEEP = 1000, 0.06  # Hz, seconds

# container -> video codecs with their pixel formats, and sound codecs with the channels that they take
CONTAINERS = {
    "mp4": (["libx264 yuv420p", "mpeg4 yuv420p", "libx265 yuv420p"], {"aac": (1, 2, 6, 8), "mp3": (1, 2)}),
    "mov": (["libx264 yuv420p", "prores_ks yuv422p10le", "mjpeg yuvj420p"], {"aac": (1, 2, 6, 8), "pcm_s16le": (1, 2, 6, 8)}),
    "mkv": (["libx264 yuv420p", "ffv1 yuv420p", "mpeg2video yuv420p"], {"flac": (1, 2, 6, 8), "pcm_s16le": (1, 2, 6, 8, 16), "aac": (2,)}),
    "webm": (["libvpx yuv420p", "libvpx-vp9 yuv420p"], {"libopus": (1, 2, 6, 8)}),
    "ts": (["libx264 yuv420p", "mpeg2video yuv420p"], {"mp2": (1, 2), "aac": (1, 2, 6)}),
    "avi": (["mpeg4 yuv420p", "mjpeg yuvj420p"], {"pcm_s16le": (1, 2, 6), "mp2": (1, 2)}),
    "flv": (["libx264 yuv420p"], {"aac": (1, 2)}),
    "wmv": (["wmv2 yuv420p"], {"wmav2": (1, 2)}),
    "mxf": (["mpeg2video yuv420p"], {"pcm_s16le": (1, 2)}),
    "nut": (["ffv1 yuv420p", "mpeg4 yuv420p"], {"pcm_s16le": (1, 2, 8)}),
}
FORMATS = {"mkv": "matroska", "ts": "mpegts", "wmv": "asf"}
RATES = {"mpeg2video": [24, 25, Fraction(30000, 1001), 50]}  # MPEG-2 has names for these only
ANY_RATE = [12, 15, 24, 25, Fraction(30000, 1001), 50]
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1", 16: "hexadecagonal"}
TURNS = {  # a, b, c, d of the matrix in tkhd, and the picture that is then shown
    "upright": ((1, 0, 0, 1), lambda p: p),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "upside down, mirrored": ((1, 0, 0, -1), lambda p: p[::-1]),
    "half a turn": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "a quarter clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "a quarter counterclockwise": ((0, -1, 1, 0), lambda p: np.rot90(p)),
    "transposed": ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
    "transposed the other way": ((0, -1, -1, 0), lambda p: np.rot90(p, 2).swapaxes(0, 1)),
}


@dataclass(frozen=True)
class Drawn:
    """times: of the frames, in units of 1/rate. cut: frames at the beginning that an edit list hides. offset: seconds at which all begins.
    beeps: seconds after the first frame that is shown. gap: seconds between which there are no packets of sound, or None."""

    container: str
    codec: str
    pixels: str
    rate: Fraction
    times: tuple[int, ...]
    b_frames: int
    turn: str
    cut: int
    offset: int
    sound: str | None
    channels: int
    beeps: tuple[float, ...]
    gap: tuple[float, float] | None
    matrix: int  # of the colours, as ITU-T H.273 numbers it; 2: not named

    def shown(self) -> list[int]:
        """The number of the frame for each 1/rate of the clip."""
        kept = [time for time in self.times if time >= self.cut]
        slots = range(self.cut, kept[-1] + 1)
        return [max(number for number, time in enumerate(self.times) if time <= slot) for slot in slots]


def draw(seed: int) -> Drawn:
    rng = np.random.default_rng(seed)

    def one(choices):
        return choices[rng.integers(len(choices))]

    container = list(CONTAINERS)[seed % len(CONTAINERS)]
    codecs, sounds = CONTAINERS[container]
    codec, pixels = one(codecs).split()
    rate = Fraction(one(RATES.get(codec, ANY_RATE)))
    count = int(rng.integers(20, 60))
    times = tuple(range(count))
    if (
        container in ("mp4", "mov", "mkv", "webm", "nut") and codec not in ("mpeg2video", "mpeg4") and rng.random() < 0.3
    ):  # frames that stay
        steps = np.where(rng.random(count) < 0.2, rng.integers(2, 4, count), 1)
        times = tuple(int(time) for time in np.cumsum(steps) - steps[0])
    isom = container in ("mp4", "mov")
    even = times == tuple(range(count))
    cut = int(rng.integers(1, 15)) if isom and even and codec != "prores_ks" and rng.random() < 0.4 else 0
    offset = int(one([0, 0, 7, 1000])) if container in ("mkv", "webm", "ts", "nut") else 0
    sound = one([*sounds, None])
    length = float((times[-1] + 1 - cut) / rate)
    whole = sound is not None and length > 0.9
    beeps = tuple(float(at) for at in (0.1, length * 0.5, length - 0.25)) if whole else (0.1,)
    gap = (beeps[0] + 0.15, beeps[1] - 0.1) if whole and container in ("mp4", "mkv", "webm", "ts", "nut") and rng.random() < 0.5 else None
    if gap and gap[1] - gap[0] < 0.15:
        gap = None
    tagged = codec in ("libx264", "libx265", "mpeg2video", "libvpx-vp9") and container in ("mp4", "mov", "mkv", "webm", "ts")
    return Drawn(
        container, codec, pixels, rate, times,
        int(rng.integers(0, 3)) if codec in ("libx264", "mpeg4", "mpeg2video", "libx265") and container != "flv" else 0,
        one(list(TURNS)) if isom else "upright",
        cut, offset, sound, int(one(sounds[sound])) if sound else 0, beeps, gap,
        int(one([1, 6, 2])) if tagged else 2,
    )  # fmt: skip


def picture(number: int) -> np.ndarray:
    """A frame that tells its number and which way is up: uint8 RGB [96, 128, 3]"""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for (row, column), colour in CORNERS.items():
        frame[row * 64 : row * 64 + 32, column * 64 : column * 64 + 64] = colour
    for bit in range(BITS):
        frame[32:64, bit * BIT : (bit + 1) * BIT] = 235 if number >> bit & 1 else 20
    return frame


def cells(frame: np.ndarray) -> np.ndarray:
    """The mean colour of every 16x16 pixels without their rim, by which frames are told apart: [rows, columns, 3]"""
    rows, columns = frame.shape[0] // BIT, frame.shape[1] // BIT
    return frame.reshape(rows, BIT, columns, BIT, 3)[:, 4:-4, :, 4:-4].astype(float).mean((1, 3))


def beeping(drawn: Drawn, rate: int) -> np.ndarray:
    """fp32 [channels, samples]: silence with a tone at each beep, which is as late as what is cut off before it"""
    hidden = float(drawn.cut / drawn.rate)
    sound = np.zeros((drawn.channels, round((float((drawn.times[-1] + 1) / drawn.rate)) * rate)), np.float32)
    for at in drawn.beeps:
        first, length = round((at + hidden) * rate), round(BEEP * rate)
        tone = 0.7 * np.sin(np.arange(length) * 2 * np.pi * TONE / rate)
        sound[:, first : first + length] = tone[: max(0, sound.shape[1] - first)]
    return sound


def write(path: Path, drawn: Drawn) -> None:
    """The file. A cut is made as cutting programs make it: packets from before the cut stay, and an edit list hides them."""
    # as ffmpeg -ss -c copy: times before 0 are kept, and the muxer writes the edit list
    options = {"avoid_negative_ts": "disabled"} if drawn.cut or drawn.offset else {}
    if drawn.offset and drawn.container == "ts":
        options["mpegts_copyts"] = "1"
    with av.open(str(path), "w", format=FORMATS.get(drawn.container, drawn.container), options=options) as file:
        video = file.add_stream(drawn.codec, rate=drawn.rate, options=encoder_options(drawn))
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, drawn.pixels
        context = video.codec_context
        context.gop_size = 12
        if drawn.codec != "libx265":
            context.max_b_frames = drawn.b_frames
        if drawn.codec == "mpeg2video":
            context.bit_rate = 4_000_000
        context.colorspace, context.color_range = drawn.matrix, 2 if drawn.pixels.startswith("yuvj") else 1
        rate = 48000
        audio = file.add_stream(drawn.sound, rate=rate, layout=LAYOUTS[drawn.channels]) if drawn.sound else None
        if drawn.sound == "wmav2":
            audio.bit_rate = 96_000  # it has no default that it takes
        shift = drawn.offset - drawn.cut / drawn.rate
        packets = [*encoded_pictures(video, drawn), *(encoded_sound(audio, drawn, rate) if audio else ())]
        for packet in sorted(packets, key=lambda one: one.dts * one.time_base):
            ticks = round(shift / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            file.mux(packet)
    if drawn.turn != "upright":
        turn(path, TURNS[drawn.turn][0])


def encoder_options(drawn: Drawn) -> dict[str, str]:
    return {
        "libx264": {"crf": "10", "preset": "veryfast"},
        "libx265": {"crf": "10", "preset": "ultrafast", "x265-params": f"log-level=none:bframes={drawn.b_frames}:pools=none"},
        "libvpx": {"b": "3M", "deadline": "realtime", "cpu-used": "8"},
        "libvpx-vp9": {"crf": "10", "b": "0", "deadline": "realtime", "cpu-used": "8"},
        "mpeg4": {"qscale": "2", "flags": "+qscale", "global_quality": "236"},
        "mjpeg": {"flags": "+qscale", "global_quality": "236"},
        "wmv2": {"flags": "+qscale", "global_quality": "236"},
    }.get(drawn.codec, {})


def encoded_pictures(stream, drawn: Drawn) -> list:
    base, packets = 1 / drawn.rate, []
    stream.codec_context.time_base = base
    matrix = {1: "ITU709", 6: "ITU601", 2: "ITU601"}[drawn.matrix]
    levels = "JPEG" if drawn.pixels.startswith("yuvj") else "MPEG"
    for number, time in enumerate(drawn.times):
        frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
        frame = frame.reformat(
            format=drawn.pixels, dst_colorspace=matrix, dst_color_range=levels, interpolation=4 | 0x2000 | 0x4000 | 0x40000
        )
        frame.pts, frame.time_base = time, base
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def encoded_sound(stream, drawn: Drawn, rate: int) -> list:
    sound, packets = beeping(drawn, rate), []
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.T.reshape(1, -1)), format="flt", layout=LAYOUTS[drawn.channels])
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    for packet in [*stream.encode(frame), *stream.encode(None)]:
        at = float(packet.pts * packet.time_base) - float(drawn.cut / drawn.rate)
        if drawn.gap is None or not drawn.gap[0] < at < drawn.gap[1]:
            packets.append(packet)
    return packets


def turn(path: Path, matrix: tuple[int, ...]) -> None:
    """Sets the matrix of the first track that has a picture."""
    content, one = bytearray(path.read_bytes()), 1 << 16
    at = content.index(b"tkhd") + 4 + 40  # ISO/IEC 14496-12, 8.3.2: the matrix of version 0
    a, b, c, d = (value * one for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


LOOKS = np.stack([cells(picture(number)) for number in range(200)])


def a_drawn(container="mp4", codec="libx264", rate=24, count=48, b_frames=2, sound="aac", beeps=(0.5, 1.5), **others):
    whole = {"turn": "upright", "cut": 0, "offset": 0, "channels": 1, "gap": None, "matrix": 2, "pixels": "yuv420p"} | others
    times = whole.pop("times", tuple(range(count)))
    return Drawn(container=container, codec=codec, rate=Fraction(rate), times=times, b_frames=b_frames, sound=sound, beeps=beeps, **whole)


def numbers(frames):
    """The number that each frame of `drawn.picture` tells."""
    return [int(np.abs(LOOKS - cells(np.asarray(frame) * 255)).mean((1, 2, 3)).argmin()) for frame in frames]


def remux(source, target, change, form=None, options=None):
    """A copy of a film whose packets have gone through `change(packet, number of its stream's packets before) -> bool`, which says whether it stays."""
    with av.open(str(source)) as old, av.open(str(target), "w", format=form, options=options or {}) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        seen = dict.fromkeys(streams, 0)
        for packet in old.demux():
            if packet.size:
                stays, seen[packet.stream_index] = change(packet, seen[packet.stream_index]), seen[packet.stream_index] + 1
                if stays:
                    packet.stream = streams[packet.stream_index]
                    new.mux(packet)
    return str(target)


def beeps_of(clip) -> list[float]:
    """When each tone of a clip begins, in seconds."""
    loud = np.flatnonzero(np.abs(clip.waveform.numpy()).max(0) > 0.25)
    return [at / clip.sample_rate for before, at in zip([-(10**9), *loud], loud, strict=False) if at - before > 0.03 * clip.sample_rate]
