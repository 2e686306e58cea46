"""Compare and Edit Report: what they give of a clip whose edit is known, what they refuse, and how the server shows them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.quality.mask_clips import DEVELOPMENT_CLIPS
from blade.video.fit import CROP
from blade.video.load import load_clip
from demo.clips import truth
from tests.host.helpers import progress_seen

FRAMES, SIDE = 5, 128
CLIP = DEVELOPMENT_CLIPS["plain"][0]
NO_FRAMES = torch.zeros(FRAMES, SIDE, SIDE, 3)


@pytest.fixture(scope="module")
def made():
    """A thing on its way over a ground, the same with red and blue exchanged where it is, and its exact masks."""
    source, mask = torch.from_numpy(CLIP.render(FRAMES)).float() / 255, torch.from_numpy(CLIP.truth(FRAMES))
    return SimpleNamespace(source=source, edited=torch.where((mask > 0)[..., None], source.flip(-1), source), mask=mask)


@pytest.fixture
def nodes(comfy, tmp_path, monkeypatch):
    """Both nodes' execute as the host calls them, with a temp folder of their own that is not there yet."""
    import folder_paths

    import blade.nodes.compare
    import blade.nodes.edit_report

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))

    def compare(source, edited, mask=None, fps=8.0, **more):
        return blade.nodes.compare.Compare.execute(edited, source, fps, mask=mask, **more)

    def report(source, edited, mask, margin=8):
        out = blade.nodes.edit_report.EditReport.execute(edited, source, mask, margin)
        return json.loads(out.result[1])

    return SimpleNamespace(compare=compare, report=report, temp=tmp_path / "temp")


def left_behind(made):
    """The edited thing of the first frame in all of them, over the source's ground."""
    still = made.source.clone()
    inside = made.mask[0] > 0
    still[:, inside] = made.edited[0][inside]
    return still


# Compare


def test_the_clip_is_a_file_of_the_temp_folder_that_plays(nodes, made):
    out = nodes.compare(made.source, made.edited, made.mask)
    (shown,) = out.ui.as_dict()["images"]
    assert (shown["type"], shown["subfolder"], out.ui.as_dict()["animated"]) == ("temp", "", (True,))
    assert [file.name for file in nodes.temp.iterdir()] == [shown["filename"]]
    clip = load_clip(str(nodes.temp / shown["filename"]))
    assert clip.fps == 8
    assert (clip.frames - out.result[0]).abs().mean() < 0.02


def test_it_shows_source_mask_and_edit_beside_each_other(nodes, made):
    frames, sheet = nodes.compare(made.source, made.edited, made.mask).result
    assert frames.shape == (FRAMES, SIDE + 16, 3 * SIDE + 8, 3)
    torch.testing.assert_close(frames[:, 16:, :SIDE], made.source, rtol=0, atol=0.51 / 255)
    torch.testing.assert_close(frames[:, 16:, -SIDE:], made.edited, rtol=0, atol=0.51 / 255)
    middle, inside = frames[:, 16:, SIDE + 4 : 2 * SIDE + 4], made.mask == 1
    contour = torch.tensor([1.0, 0, 1])
    assert ((middle - made.source).abs().amax(-1) < 0.01)[inside & (middle != contour).any(-1)].all()
    assert (middle == contour).all(-1).sum((1, 2)).min() > 50
    assert sheet.shape[0] == 1 and sheet.max() <= 1


def test_masks_in_latent_cells_are_shown_at_the_clip_s_size(nodes, made):
    cells = torch.zeros(1, SIDE // 8, SIDE // 8)
    cells[:, 4:9, 3:10] = 1
    pixels = torch.zeros(FRAMES, SIDE, SIDE)
    pixels[:, 32:72, 24:80] = 1
    one, other = (nodes.compare(made.source, made.edited, mask).result for mask in (cells, pixels))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_without_a_mask_it_shows_source_and_edit(nodes, made):
    assert nodes.compare(made.source, made.edited).result[0].shape[2] == 2 * SIDE + 4


def test_the_sheet_has_so_many_rows_and_columns(nodes, made):
    sheets = [nodes.compare(made.source, made.edited, rows=rows, columns=columns).result[1] for rows, columns in ((2, 1), (4, 1), (2, 2))]
    assert sheets[1].shape[1] - sheets[0].shape[1] == 2 * (256 + 8)
    assert (sheets[2].shape[1], sheets[2].shape[2]) == (sheets[0].shape[1], 2 * sheets[0].shape[2])


def test_one_frame_and_odd_sides_work(nodes, made):
    out = nodes.compare(made.source[:1, :97, :75], made.edited[:1, :97, :75], made.mask[:1, :97, :75])
    assert out.result[0].shape[0] == 1
    assert len(load_clip(str(next(nodes.temp.iterdir()))).frames) == 1


def test_large_frames_are_made_smaller(nodes):
    large = torch.rand(1, 200, 400, 3)
    assert nodes.compare(large, large, longest_side=200).result[0].shape[2] == 2 * 200 + 4
    assert nodes.compare(large, large, longest_side=0).result[0].shape[2] == 2 * 400 + 5 + 1


# Edit Report


def test_identical_clips_have_100_db_and_nothing_changed(nodes, made):
    told = nodes.report(made.source, made.source, made.mask)
    summary = told["summary"]
    assert summary["background_psnr_db"] == summary["background_psnr_db_five"] == 100
    assert summary["changed_pixels"] == summary["changed_share"] == 0
    assert summary["warp_error_edited"] == summary["warp_error_source"]
    assert summary["colour_flicker_edited"] == summary["colour_flicker_source"]


def test_an_edit_inside_its_mask_alone_changes_nothing_outside(nodes, made):
    for margin in (0, 8):
        assert nodes.report(made.source, made.edited, made.mask, margin)["summary"]["changed_pixels"] == 0


def test_a_change_that_8_bits_do_not_hold_is_none_and_a_larger_one_is_counted(nodes, made):
    edited = made.edited.clone()
    edited[0, 0] += 0.3 / 255
    edited[3, 0, :7] = 1 - made.source[3, 0, :7]
    told = nodes.report(made.source, edited, made.mask)
    assert told["per_frame"]["changed_pixels"] == [0, 0, 0, 7, 0]
    assert told["per_frame"]["background_psnr_db"][3] < 60 < told["per_frame"]["background_psnr_db"][0] == 100


def test_a_thing_that_moves_with_the_source_has_a_far_smaller_warp_error_than_one_that_stays_behind(nodes, made):
    moves, stays = (nodes.report(made.source, edited, made.mask)["summary"] for edited in (made.edited, left_behind(made)))
    assert moves["warp_error_edited"] < 2 * moves["warp_error_source"]
    assert stays["warp_error_edited"] > 10 * moves["warp_error_edited"]
    assert stays["warp_error_source"] == moves["warp_error_source"]


def test_colours_that_flicker_are_seen_beside_a_source_whose_do_not(nodes, made):
    bright = torch.tensor([0.0, 0.1, 0, 0.1, 0]).view(-1, 1, 1, 1) * (made.mask[..., None] > 0)
    told = nodes.report(made.source, (made.source + bright).clamp(0, 1), made.mask)
    assert told["summary"]["colour_flicker_edited"] > 1e-3 > 100 * told["summary"]["colour_flicker_source"]


def test_one_mask_serves_all_frames_and_one_in_cells_is_scaled(nodes, made):
    cells = torch.zeros(1, SIDE // 8, SIDE // 8)
    cells[:, 4:8, 4:8] = 1
    told = nodes.report(made.source, made.edited, cells)
    assert told["per_frame"]["mask_share"] == [1 / 16] * FRAMES


@pytest.mark.parametrize("shape", [(1, 12, 300, 3), (3, 5, 7, 3), (1, 16, 16, 3)])
def test_tiny_and_thin_clips_are_reported(nodes, shape):
    frames = torch.rand(shape)
    told = nodes.report(frames, frames, torch.ones(1, *shape[1:3]))
    assert told["summary"]["background_psnr_db"] is None
    assert told["frames"] == shape[0]


def test_a_long_mask_that_comes_and_goes_is_no_error(nodes, made):
    mask = made.mask.clone()
    mask[1], mask[3] = 1, 0
    told = nodes.report(made.source, made.edited, mask)
    assert [value is None for value in told["per_frame"]["background_psnr_db"]] == [False, True, False, False, False]
    assert told["per_step"]["warp_error_edited"][3] is None


# both


@pytest.mark.parametrize("node", ["compare", "report"])
def test_it_can_be_cancelled_and_leaves_no_file(nodes, made, comfy, node):
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    try:
        with pytest.raises(management.InterruptProcessingException):
            getattr(nodes, node)(made.source, made.edited, made.mask)
    finally:
        management.interrupt_current_processing(False)
    assert not nodes.temp.exists() or not list(nodes.temp.iterdir())


@pytest.mark.parametrize("node", ["compare", "report"])
def test_progress_counts_frames(nodes, made, comfy, monkeypatch, node):
    seen = progress_seen(monkeypatch)
    getattr(nodes, node)(made.source, made.edited, made.mask)
    assert seen == [(count, FRAMES) for count in range(1, FRAMES + 1)]


@pytest.mark.parametrize(("node", "title"), [("compare", "Compare"), ("report", "Edit Report")])
@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"edited": NO_FRAMES[:3]}, "input edited: it has 3 frames, but source has 5. Connect as source the very frames"),
        ({"edited": NO_FRAMES[:, :64]}, "input edited: it is 128x64 pixels, but source is 128x128.*resize"),
        ({"edited": torch.zeros(FRAMES, SIDE, SIDE, 4)}, "input edited: it has 4 channels.*Split Image with Alpha"),
        ({"source": torch.zeros(FRAMES, SIDE, SIDE, 4)}, "input source: it has 4 channels.*Split Image with Alpha"),
        ({"source": torch.zeros(0, SIDE, SIDE, 3)}, r"input source: its shape is \[0, 128, 128, 3\]"),
        ({"source": NO_FRAMES.index_fill(0, torch.tensor([2]), torch.nan)}, "input source: frame 2 holds values that are not finite"),
        ({"mask": torch.zeros(3, SIDE, SIDE)}, "input mask: it has 3 frames, but the clip has 5. Give one mask, or one for each frame"),
        ({"mask": torch.zeros(1, 64, 64)}, "input mask: it is 64x64 pixels and empty, as core's Load Image gives it.* no alpha channel"),
        ({"mask": torch.full((1, SIDE, SIDE), torch.nan)}, "input mask: it holds values that are not finite.*Make it again"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_input(nodes, node, title, inputs, sentence):
    with pytest.raises(ValueError, match=rf"^{title} \(BLADE\), {sentence}"):
        getattr(nodes, node)(**{"source": NO_FRAMES, "edited": NO_FRAMES, "mask": torch.zeros(1, SIDE, SIDE), **inputs})


def test_a_frame_rate_that_is_none_is_refused(nodes, made):
    with pytest.raises(ValueError, match=r"^Compare \(BLADE\), input fps: the frame rate is nan"):
        nodes.compare(made.source, made.edited, fps=float("nan"))


def prompt_of():
    """The demo clip against its negative, with the mask that an artist drew over it."""
    load = {"start_frame": 0, "frame_count": 4, "every_nth": 1, "longest_side": 0, "force_fps": 0.0, "sides": CROP}
    pair = {"source": ["1", 0], "edited": ["4", 0], "mask": ["3", 0]}
    return {
        "1": {"class_type": "BLADE_LoadVideo", "inputs": {"video": "blade_red_circle.mp4", **load}},
        "2": {"class_type": "BLADE_LoadVideo", "inputs": {"video": "blade_red_circle_mask.mp4", **load}},
        "3": {"class_type": "ImageToMask", "inputs": {"image": ["2", 0], "channel": "red"}},
        "4": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "compare": {"class_type": "BLADE_Compare", "inputs": {**pair, "fps": ["1", 1], "rows": 2, "columns": 1, "longest_side": 512}},
        "report": {"class_type": "BLADE_EditReport", "inputs": {**pair, "margin": 8}},
        "json": {"class_type": "PreviewAny", "inputs": {"source": ["report", 1]}},
        "sheet": {"class_type": "PreviewImage", "inputs": {"images": ["compare", 1]}},
    }


def test_the_server_plays_the_clip_shows_the_plot_and_tells_the_figures(server):
    told = []
    outcome = server.run(prompt_of(), on_event=told.append)
    assert outcome.error is None
    (video,) = outcome.outputs["compare"]["images"]
    assert outcome.outputs["compare"]["animated"] == [True]
    assert video["type"] == "temp"
    clip = load_clip(str(Path(server.base, "temp", video["filename"])))
    assert clip.frames.shape == (4, SIDE + 16, 3 * SIDE + 8, 3) and clip.fps == 8
    assert len(outcome.outputs["sheet"]["images"]) == 1
    assert len(outcome.outputs["report"]["images"]) == 1
    figures = json.loads(outcome.outputs["json"]["text"][0])
    assert figures["frames"] == 4
    assert figures["summary"]["changed_share"] > 0.99
    exact = truth("blade_red_circle")[:4] > 0.5
    assert np.mean(figures["per_frame"]["mask_share"]) > exact.mean()  # the artist's mask is wider
    assert {event["data"]["node"] for event in told if event["type"] == "progress"} >= {"compare", "report"}


def test_the_server_s_own_error_names_node_and_input(server):
    prompt = prompt_of()
    prompt["2"]["inputs"]["frame_count"] = 3
    outcome = server.run(prompt)
    assert "(BLADE), input mask: it has 3 frames, but the clip has 4" in outcome.error
