"""Clips as the page offers them: those of subfolders too, with their previews, unless a setting says otherwise; and what a node tells of one."""

import shutil
from urllib.parse import parse_qs, urlsplit

import pytest

from demo import clips
from tests.browser.page import MODES, RUN

LOADER = {"1": {"class_type": "BLADE_LoadVideo", "inputs": {"video": "blade_red_circle.mp4"}}}
SHOWN = {"2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
VIDEO = """
const node = app.graph.nodes[0];
const drawn = document.querySelector(`.lg-node[data-node-id="${node.id}"]`) ?? node.widgets.find(({name}) => name === 'video-preview')?.element;
const video = drawn?.querySelector('video');
return video && {address: video.src, shown: video.readyState > 1 && !video.error, size: [video.videoWidth, video.videoHeight]};
"""
CHOOSE = """
const widget = app.graph.nodes[0].widgets.find(({name}) => name === 'video');
widget.value = arguments[0];
widget.callback(arguments[0]);
"""
TEXT = "return app.graph.nodes[0].widgets.find(({name}) => name.includes('text-preview'))?.value"
SET = "return app.extensionManager.setting.set('BLADE.Clips.Subfolders', arguments[0])"
REFRESH = "return app.refreshComboInNodes()"


def choices(page):
    return next(widget["choices"] for widget in page.nodes()[0]["widgets"] if widget["name"] == "video")


@pytest.fixture(params=MODES)
def loader(server, page, request):
    """A loader on the page, and a clip in a subfolder of the input folder."""
    (server.base / "input" / "shots").mkdir(exist_ok=True)
    shutil.copy(clips.path("blade_yellow_square"), server.base / "input" / "shots" / "take 1.mp4")
    page.use(request.param)
    page.run_script("return app.loadApiJson(arguments[0], 'clips')", LOADER | SHOWN)
    page.wait(lambda: len(page.nodes()) == 2, "the graph did not open")
    page.run_script(REFRESH)
    page.complaints()
    return page


def test_a_clip_in_a_subfolder_is_offered_previewed_and_told_of(loader):
    loader.wait(lambda: "shots/take 1.mp4" in choices(loader), "the subfolder's clip is not offered")
    loader.run_script(CHOOSE, "shots/take 1.mp4")

    def preview():
        video = loader.run_script(VIDEO)
        return video and "take" in video["address"] and video["shown"] and video

    video = loader.wait(preview, "no preview of the clip")
    asked = parse_qs(urlsplit(video["address"]).query)
    assert (asked["filename"], asked["subfolder"], video["size"]) == (["take 1.mp4"], ["shots"], [128, 128])
    loader.click(RUN)
    text = loader.wait(lambda: loader.run_script(TEXT), "the node tells nothing", 120)
    assert text == "12 frames of 128x128 at 8 fps, no sound"
    loader.settle()
    loader.picture(f"clips_{loader.mode}")
    assert loader.dialog() is None and loader.complaints() == []


def test_a_setting_leaves_subfolders_out(loader):
    try:
        loader.run_script(SET, False)
        loader.wait(lambda: loader.run_script(REFRESH) or "shots/take 1.mp4" not in choices(loader), "the subfolder is still listed")
        assert "blade_red_circle.mp4" in choices(loader)
    finally:
        loader.run_script(SET, True)
    loader.wait(lambda: loader.run_script(REFRESH) or "shots/take 1.mp4" in choices(loader), "the subfolder is not listed again")
