"""A VIDEO of core as a source of frames, without holding more of it than it holds itself."""

from __future__ import annotations

from numbers import Integral

from comfy_api.latest import InputImpl
from torch import Tensor

from ..video.save import check_fps
from ..video.source import Film, Held, Source


def video_source(video, deinterlace: bool = True) -> Source:
    """deinterlace: as of Film; a VIDEO that holds its frames has none to make whole. Raises ValueError for a VIDEO that cannot be decoded."""
    # A VIDEO of a file is read from there; ComfyUI after 0.3.75 can trim one, and after 0.33 crop it, which its file knows nothing of.
    cut = any(getattr(video, f"_VideoFromFile__{name}", None) for name in ("start_time", "duration", "crop"))
    if isinstance(video, InputImpl.VideoFromFile) and not cut:
        return Film(video.get_stream_source(), deinterlace)
    parts = video.get_components()
    images, (waveform, rate), fps = parts.images, sound_of(parts.audio), float(parts.frame_rate)
    if images.ndim == 4 and not len(images):
        raise ValueError("it has no frames. Connect another.")
    if images.ndim != 4 or 0 in images.shape or images.shape[3] not in (3, 4):
        raise ValueError(f"the shape of its frames is {list(images.shape)}, not [frames, height, width, 3]. Connect another.")
    check_fps(fps)
    return Held(images, fps, waveform, rate)


def sound_of(audio) -> tuple[Tensor | None, int]:
    """Waveform [channels, samples] and sample rate of AUDIO, of which the first of a batch counts; (None, 0) without any.

    Raises ValueError for AUDIO of another kind."""
    if not audio:
        return None, 0
    waveform, rate = audio["waveform"], audio["sample_rate"]
    if waveform.ndim != 3 or not len(waveform):
        raise ValueError(f"the sound's shape is {list(waveform.shape)}. Give [batch, channels, samples].")
    if not isinstance(rate, Integral) or rate < 1:
        raise ValueError(f"the sound's sample rate is {rate}. Give a whole number above 0.")
    return waveform[0], int(rate)
