"""A hundred clips as they come from cameras, recorders and cutting programs: what was put in comes out."""

import numpy as np
import pytest

from blade.video.load import Stretch, load_clip
from blade.video.source import source_of_path
from tests.video.drawn import TURNS, beeps_of, cells, draw, picture, write

CLIPS = 100
IN_STEP = 0.02  # seconds by which sound may be early or late


@pytest.fixture(scope="module")
def looks():
    """The cells of each number's picture."""
    return np.stack([cells(picture(number)) for number in range(64)])


@pytest.mark.parametrize("seed", range(CLIPS))
def test_what_is_put_into_a_clip_comes_out(tmp_path, looks, seed):
    drawn = draw(seed)
    path = tmp_path / f"clip.{drawn.container}"
    write(path, drawn)
    source = source_of_path(str(path))
    clip = load_clip(source)
    upright = TURNS[drawn.turn][1]
    assert clip.frames.shape[1:3] == upright(picture(0)).shape[:2], drawn
    found = []
    for frame in clip.frames.numpy() * 255:
        seen = cells(frame)
        apart = np.abs(np.stack([upright(look) for look in looks]) - seen).mean((1, 2, 3))
        found.append(int(apart.argmin()))
        assert apart.min() < 8, (drawn, "colours or orientation", apart.min())
    assert found == drawn.shown(), drawn
    assert clip.fps == pytest.approx(float(drawn.rate), rel=2e-3), drawn
    assert abs(Stretch().expected(source) - len(found)) <= 1, drawn
    if drawn.sound is None:
        assert clip.waveform is None
        return
    assert len(clip.waveform) == drawn.channels, drawn
    heard = beeps_of(clip)
    assert len(heard) == len(drawn.beeps), (drawn, heard)
    assert heard == pytest.approx(drawn.beeps, abs=IN_STEP), drawn
