"""What loading takes beside what it returns, from a clip of ten minutes in full HD."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FRAMES, HEIGHT, WIDTH, MOST = 16, 1080, 1920, 300  # MiB
LOAD = """
import re, sys, types
pack = types.ModuleType("blade")
pack.__path__ = [sys.argv[1]]
sys.modules["blade"] = pack
from blade.video.load import Stretch, load_clip
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
before = peak()
clip = load_clip(sys.argv[2], Stretch(count=int(sys.argv[3])))
print(len(clip.frames), clip.frames.nbytes, peak() - before)
"""


def write_long(path: Path, minutes: int) -> None:
    """A second of moving noise, encoded once and repeated, since encoding all of it would take long."""
    second = path.with_name("second.mp4")
    rng = np.random.default_rng(0)
    block = rng.integers(0, 256, (HEIGHT // 40, WIDTH // 40, 3), np.uint8).repeat(40, 0).repeat(40, 1)
    with av.open(str(second), "w") as file:
        stream = file.add_stream("libx264", rate=30, options={"preset": "ultrafast", "x264-params": "bframes=0"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for n in range(30):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(block, 8 * n, 1), format="rgb24")))
        file.mux(stream.encode())
    with av.open(str(path), "w") as file, av.open(str(second)) as one:
        stream = file.add_stream_from_template(one.streams.video[0])
        packets = [
            (bytes(packet), packet.pts, packet.dts, packet.is_keyframe, packet.time_base) for packet in one.demux(video=0) if packet.size
        ]
        for turn in range(60 * minutes):
            for content, pts, dts, key, base in packets:
                packet = av.Packet(content)
                shift = int(turn / base)
                packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(base), key
                packet.pts, packet.dts = pts + shift, dts + shift
                file.mux(packet)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process's peak")
def test_the_first_frames_of_ten_minutes_of_full_hd_take_little_beside_what_they_are(tmp_path):
    write_long(tmp_path / "long.mp4", 10)
    with av.open(str(tmp_path / "long.mp4")) as file:
        assert file.duration == pytest.approx(600e6, rel=1e-3) and file.streams.video[0].frames == 18000
    command = [sys.executable, "-c", LOAD, str(ROOT), str(tmp_path / "long.mp4"), str(FRAMES)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    frames, held, grown = map(int, done.stdout.split())
    assert frames == FRAMES and held == FRAMES * HEIGHT * WIDTH * 3 * 4
    assert 0.9 * held < grown < held + MOST * 2**20
