"""What is a clip by its name, and which pictures move."""

import numpy as np
import pytest
from PIL import Image

from video.kinds import is_film

FRAMES = [Image.fromarray(np.full((16, 24, 3), value, np.uint8)) for value in (0, 80, 160)]


@pytest.mark.parametrize(
    "suffix",
    "mp4 m4v mov qt mkv webm avi divx wmv asf flv f4v ogv ogm mpg mpeg mpe m1v m2v m2p ts mts m2t m2ts trp tod mod vob mxf gxf y4m 3gp 3g2 dv "
    "nut ivf rm rmvb h264 h265 hevc gif apng avifs lrv insv".split(),
)
@pytest.mark.parametrize("shape", [str.lower, str.upper])
def test_videos_are_known_by_their_names(suffix, shape):
    assert is_film("clip." + shape(suffix))


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.tiff", "a.wav", "a.mp3", "a.txt", "a.safetensors", "mp4", "a.mp4.json", "none.png", "none.webp"]
)
def test_what_is_no_video_is_none(name):
    assert not is_film(name)


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize("frames", [1, 3])
def test_a_picture_is_a_clip_where_its_header_says_that_it_moves(tmp_path, suffix, frames):
    path = tmp_path / f"a.{suffix}"
    FRAMES[0].save(path, save_all=frames > 1, append_images=FRAMES[1:frames], duration=100, lossless=True)
    assert is_film(str(path)) == (frames > 1)


def test_an_avif_is_a_clip_where_its_header_says_that_it_moves(tmp_path):
    for major, moves in ((b"avif", False), (b"avis", True)):
        path = tmp_path / f"{major.decode()}.avif"
        path.write_bytes(
            b"\0\0\0\x1cftyp" + major + b"\0\0\0\0mif1miaf" + major + b"\0\0\0\x08avis"
        )  # what comes after the box does not count
        assert is_film(str(path)) == moves


def test_a_long_profile_before_the_pixels_hides_no_animation(tmp_path):
    path = tmp_path / "a.png"
    FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:], icc_profile=np.random.default_rng(0).bytes(50_000))
    assert is_film(str(path))


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\xff" * 64, b"RIFF\0\0\0\0WEBPVP8X", b"\0\0\0\x20ftyp"]
)
@pytest.mark.parametrize("suffix", ["png", "webp", "avif"])
def test_a_header_that_is_cut_off_says_nothing(tmp_path, content, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    assert not is_film(str(path))


def test_a_picture_that_is_written_anew_is_looked_into_again(tmp_path):
    path = tmp_path / "a.png"
    FRAMES[0].save(path)
    assert not is_film(str(path))
    FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:])
    assert is_film(str(path))
