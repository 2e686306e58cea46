"""A template, run by the page's own button, with nodes drawn in both ways."""

from urllib.parse import parse_qs, urlsplit

import pytest

from demo.clips import read_mp4
from tests.browser.page import MODES, RUN

FRAMES, STEPS = 4, 4
WAIT = 240  # seconds; on two free cores the first run takes about ten
VIDEO = """
const node = app.graph.nodes.find(node => node.type === 'BLADE_SaveVideo');
const drawn = document.querySelector(`.lg-node[data-node-id="${node.id}"]`) ?? node.widgets.find(({name}) => name === 'video-preview')?.element;
const video = drawn?.querySelector('video');
return video && {address: video.src, shown: video.readyState > 1 && !video.error && video.checkVisibility(), size: [video.videoWidth, video.videoHeight]};
"""


@pytest.fixture(params=MODES)
def colour(page, request):
    """The template that changes a colour, shortened through its widgets."""
    page.use(request.param)
    page.open_template("blade_change_colour")
    page.fill("Load Video (BLADE)", "frame_count", FRAMES)
    page.fill("DDIM Invert (BLADE)", "steps", STEPS)
    page.fill("Blended Sampler (BLADE)", "steps", STEPS)
    page.complaints()
    return page


def test_the_button_runs_the_graph_and_its_video_appears(server, colour):
    assert not colour.run_script(VIDEO)
    colour.click(RUN)
    video = colour.wait(lambda: (found := colour.run_script(VIDEO)) and found["shown"] and found, "no video in Save Video", WAIT)
    colour.settle()
    colour.picture(f"run_{colour.mode}")
    assert colour.dialog() is None and colour.complaints() == []
    assert colour.misplaced() == []  # with its pictures a node may be higher
    assert video["size"] == [128, 128]
    name = parse_qs(urlsplit(video["address"]).query)["filename"][0]
    assert len(read_mp4(server.base / "output" / "video" / name)) == FRAMES


def test_a_word_that_the_prompt_lacks_is_answered_with_the_pack_s_sentence(colour):
    colour.fill("Blended Sampler (BLADE)", "source_words", "circel")
    colour.click(RUN)
    sentence = colour.wait(lambda: (told := colour.error()) and "circel" in told and told, "no word about the error", WAIT)
    colour.picture(f"error_{colour.mode}")
    for part in ("Blended Sampler (BLADE)", "input source_words", "'circel'", "a, red, circle, on, grass", "Did you mean 'circle'"):
        assert part in sentence
    colour.close_dialog()
