"""A VIDEO of core as a source of frames, without holding more of it than it holds itself."""

from __future__ import annotations

from comfy_api.latest import InputImpl

from ..video.source import Film, Held, Source


def video_source(video) -> Source:
    """Raises ValueError for a VIDEO that cannot be decoded."""
    # A VIDEO of a file is read from there; ComfyUI after 0.3.75 can trim one, which its file knows nothing of.
    trimmed = any(getattr(video, f"_VideoFromFile__{name}", 0) for name in ("start_time", "duration"))
    if isinstance(video, InputImpl.VideoFromFile) and not trimmed:
        return Film(video.get_stream_source())
    parts = video.get_components()
    waveform, rate = (parts.audio["waveform"][0], parts.audio["sample_rate"]) if parts.audio else (None, 0)
    if not len(parts.images):
        raise ValueError("it has no frames. Connect another.")
    return Held(parts.images, float(parts.frame_rate), waveform, rate)
