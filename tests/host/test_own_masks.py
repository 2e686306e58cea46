"""Masks that an artist connects, at every node that takes one: those of pictures that have none, empty ones, and ones of another size than the clip."""

import logging
import re

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.host.helpers import TARGET, changed, counting

NO_MASK = (
    "it is 64x64 pixels and empty, as core's Load Image gives it for a picture that has no mask: no alpha channel, and nothing painted"
)
SIDE, LITTLE = 128, 64


@pytest.fixture
def folder(comfy, tmp_path, monkeypatch):
    """ComfyUI's input and temp folder."""
    import folder_paths

    for kind in ("input", "temp"):
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path))
    return tmp_path


def load_image(folder, picture, name="picture.png"):
    """The MASK that core's Load Image makes of a picture."""
    import nodes

    picture.save(folder / name)
    return nodes.LoadImage().load_image(name)[1]


@pytest.fixture(scope="module")
def little(studio):
    """A trajectory of a clip of 64x64 pixels."""
    return studio.invert(latent=studio.latent[..., 4:12, 4:12])


def takers(studio, trajectory):
    """By title and input: what every node that takes a MASK does with one, for a clip of a trajectory's size."""
    import blade.nodes as nodes
    from blade.nodes.common import CELL

    height, width = (CELL * side for side in trajectory.latents.shape[-2:])
    frames = torch.rand(studio.frames, height, width, 3, generator=torch.Generator().manual_seed(0))
    latent = {"samples": studio.model.model.process_latent_out(trajectory.clip)}

    def selected(mask, **inputs):
        sampler, positive, sigmas, clip = studio.select(studio.edits(mask=mask, **inputs), trajectory)
        return studio.advanced(studio.guided(positive), sampler, sigmas, clip)[0]

    def run(node, **given):
        return lambda mask, name="mask", **inputs: node.execute(**given | {name: mask} | inputs).result

    return {
        "Blended Sampler (BLADE), input mask": lambda mask, **inputs: studio.sample(trajectory, mask=mask, **inputs),
        "Edit (BLADE), input mask": selected,
        "Cross-Attention Mask (BLADE), input matte": lambda mask, **inputs: run(
            nodes.CrossAttentionMask, trajectory=trajectory, words="circle"
        )(mask, "matte", **inputs),
        "Pixel Composite (BLADE), input mask": run(nodes.PixelComposite, source=frames, edited=1 - frames),
        "Latent Composite (BLADE), input mask": run(nodes.LatentComposite, latent=latent, vae=studio.vae, source=frames),
        "Compare (BLADE), input mask": run(nodes.Compare, source=frames, edited=1 - frames, fps=8.0),
        "Edit Report (BLADE), input mask": run(nodes.EditReport, source=frames, edited=1 - frames),
    }


TAKERS = [
    *(
        f"{name} (BLADE), input mask"
        for name in ("Blended Sampler", "Edit", "Pixel Composite", "Latent Composite", "Compare", "Edit Report")
    ),
    "Cross-Attention Mask (BLADE), input matte",
]


def refused(sentence, work, *args, **inputs):
    with torch.inference_mode(), pytest.raises(ValueError, match=f"^{sentence}"):
        work(*args, **inputs)


# Pictures that have no mask


@pytest.mark.parametrize("where", TAKERS)
@pytest.mark.parametrize("side", [SIDE, LITTLE])
def test_a_picture_without_a_mask_is_told_by_its_name_and_not_by_its_size(studio, little, folder, where, side):
    """Also where the clip happens to have the size of core's empty mask, and where the picture moves."""
    take = takers(studio, little if side == LITTLE else studio.trajectory)[where]
    mask = load_image(folder, Image.new("RGB", (side, side), "red"))
    assert mask.shape == (1, 64, 64) and not mask.any()  # what core gives, on the host at hand
    for given in (mask, mask[0], mask.expand(5, -1, -1)):
        refused(re.escape(f"{where}: {NO_MASK}"), take, given)


@pytest.mark.parametrize("mode", ["alone", "source", "limit", "add", "subtract"])
def test_a_picture_without_a_mask_is_told_in_every_mode(studio, mode):
    refused(re.escape(f"Blended Sampler (BLADE), input mask: {NO_MASK}"), studio.sample, mask=torch.zeros(1, 64, 64), mask_mode=mode)


def test_an_empty_mask_of_a_large_clips_cells_is_shown_and_told(studio, folder, told):
    """64x64 are the cells of 512x512 pixels, and the sampler's own mask may be empty."""
    import blade.nodes as nodes

    frames = torch.rand(2, 512, 512, 3)
    with torch.inference_mode():
        nodes.Compare.execute(source=frames, edited=frames, fps=8.0, longest_side=64, mask=torch.zeros(2, 64, 64))
    assert "The mask is empty in 2 of 2 frames. If it is from Load Image, its picture has no mask" in told()


# Empty masks


@pytest.fixture
def told(caplog):
    """What was said in log and node since the test began."""
    caplog.set_level(logging.INFO)
    return lambda: caplog.text


@pytest.mark.parametrize("mode", ["alone", "source", "limit"])
def test_an_empty_mask_is_refused_before_the_model_runs(studio, folder, mode):
    model, rows = counting(studio.model)
    opaque = load_image(folder, Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 255)))  # nothing painted, nothing transparent
    assert opaque.shape == (1, SIDE, SIDE)
    sentence = r"\(BLADE\), input mask: it is empty in every frame, so nothing would be edited.*transparent or painted on\.$"
    refused(f"Blended Sampler {sentence}", studio.sample, model=model, mask=opaque, mask_mode=mode)
    if mode == "alone":
        refused(f"Edit {sentence}", studio.select, studio.edits(mask=opaque, mask_mode=mode), model=model)
    assert not rows


@pytest.mark.parametrize("mode", ["add", "subtract"])
def test_an_empty_mask_that_changes_nothing_of_the_words_mask_is_only_told(studio, told, mode):
    found = studio.sample(mask=torch.zeros(1, SIDE, SIDE), mask_mode=mode)[1]
    assert torch.equal(found, studio.sample()[1])
    assert f"The mask is empty in 3 of 3 frames, where {mode} does nothing." in told()


@pytest.mark.parametrize(
    ("size", "value", "inputs", "sentence"),
    [
        (8, 1.0, {"grow": -20}, r"input grow: it is -20, which leaves nothing of the mask in any frame.*Set it higher"),
        (3, 1.0, {}, r"input mask: it is too small or too faint: of no latent cell \(8x8 pixels\) it covers a fifth.*set grow higher"),
        (3, 1.0, {"widen": 16}, "input mask: it is too small or too faint"),  # at the last step, whose mask decides, nothing is widened
        (40, 0.1, {}, "input mask: it is too small or too faint"),
        (40, 0.1, {"grow": -2}, "input mask: it is too small or too faint"),  # with or without grow
    ],
)
def test_a_mask_of_which_nothing_is_left_is_refused_with_what_took_it(studio, size, value, inputs, sentence):
    model, rows = counting(studio.model)
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 48 : 48 + size, 48 : 48 + size] = value
    refused(rf"Blended Sampler \(BLADE\), {sentence}", studio.sample, model=model, mask=mask, **inputs)
    refused(rf"Edit \(BLADE\), {sentence}", studio.select, studio.edits(mask=mask, **inputs), model=model)
    assert not rows


@pytest.mark.parametrize("mode", ["alone", "source", "limit", "add", "subtract"])
def test_a_mask_without_axes_is_refused_by_its_shape_in_every_mode(studio, mode):
    refused(r"Edit \(BLADE\), input mask: its shape is \[\]", studio.select, studio.edits(mask=torch.tensor(1.0), mask_mode=mode))


def test_a_mask_that_widen_alone_lets_in_serves_where_one_step_is_all(studio):
    dot = torch.zeros(1, SIDE, SIDE)
    dot[:, 50:53, 50:53] = 1
    assert changed(studio, studio.latents(mask=dot, widen=16, steps=1)).any()


def test_a_mask_that_is_empty_in_some_frames_serves_and_is_told(studio, box, told):
    mask = box.repeat(studio.frames, 1, 1)
    mask[1] = 0
    moved = changed(studio, studio.latents(mask=mask))
    assert moved[0].any() and moved[2].any() and not moved[1].any()
    assert "The mask is empty in 1 of 3 frames." in told()


def test_one_empty_mask_among_edits_is_told_with_its_number(studio, box, told):
    empty = studio.edits(mask=torch.zeros(1, SIDE, SIDE))
    studio.latents(mask=box, edits=empty)
    assert "The mask of edit 2 is empty in 3 of 3 frames." in told() and "mask of edit 1" not in told()
    refused(
        r"Blended Sampler \(BLADE\), input mask: it is empty in every frame", studio.sample, mask=torch.zeros(1, SIDE, SIDE), edits=empty
    )


def test_a_mask_of_words_that_comes_out_empty_is_told_before_and_after(studio, told):
    latents = studio.latents(grow=-100)
    assert not changed(studio, latents).any()
    assert "Nothing is inside the mask at the first step: nothing changes unless the target words widen it." in told()
    assert "a mask that words drew came out empty in 3 of 3 frames" in told()


def test_an_empty_matte_is_refused_where_it_bounds_the_mask(studio):
    draw = takers(studio, studio.trajectory)["Cross-Attention Mask (BLADE), input matte"]
    refused(
        r"Cross-Attention Mask \(BLADE\), input matte: it is empty in every frame, and with matte_mode limit",
        draw,
        torch.zeros(1, SIDE, SIDE),
    )
    plain = draw(None)[0]
    for mode in ("add", "subtract"):
        assert torch.equal(draw(torch.zeros(1, SIDE, SIDE), matte_mode=mode)[0], plain)


@pytest.mark.parametrize(
    ("where", "inputs"), [("Pixel Composite", {"grow": 0}), ("Pixel Composite", {"grow": -100}), ("Latent Composite", {}), ("Compare", {})]
)
def test_where_an_empty_mask_only_shows_the_source_it_is_told(studio, box, folder, told, where, inputs):
    mask = box if inputs.get("grow") else 0 * box
    takers(studio, studio.trajectory)[f"{where} (BLADE), input mask"](mask, **inputs)
    assert "The mask is empty in 3 of 3 frames." in told()


# Masks of another size


def as_core(mask, height, width):
    """Core's own function for a mask of another size."""
    import comfy.utils

    return comfy.utils.reshape_mask(mask, (1, 1, height, width))[:, 0]


@pytest.fixture(scope="module")
def large():
    """A soft mask of four times the clip's size. [1, 512, 512]"""
    mask = torch.zeros(1, 512, 512)
    mask[:, 130:390, 161:413] = 1
    return F.avg_pool2d(mask, 9, 1, 4)


@pytest.mark.parametrize("where", TAKERS)
def test_a_mask_of_another_size_is_resized_as_core_does_and_told(studio, folder, large, told, where):
    take = takers(studio, studio.trajectory)[where]
    name = "matte" if "matte" in where else "mask"
    with torch.inference_mode():
        found, expected = take(large), take(as_core(large, SIDE, SIDE))
    if where.startswith("Edit Report"):
        assert found[1] == expected[1]
    else:
        assert len(found) == len(expected)
        assert all(torch.equal(one if torch.is_tensor(one) else one["samples"], other if torch.is_tensor(other) else other["samples"])
                   for one, other in zip(found, expected, strict=True))  # fmt: skip
    if "Report" not in where:  # whose node shows its figures, and the log nothing
        assert f"The {name} of 512x512 pixels is resized to the clip's 128x128." in told()


@pytest.mark.parametrize("where", TAKERS)
def test_a_mask_of_another_size_and_another_number_of_frames_is_refused(studio, folder, large, where):
    refused(
        re.escape(where) + ": it has 2 frames, but the (clip|trajectory) has 3. Give one mask, or one for each frame",
        takers(studio, studio.trajectory)[where],
        large.expand(2, -1, -1),
    )


def test_the_report_shows_what_was_done_to_a_mask(studio, folder, large, monkeypatch):
    import blade.nodes.edit_report as module

    shown = []
    monkeypatch.setattr(module, "show_in_node", lambda text, node_id: shown.append(text))
    report = takers(studio, studio.trajectory)["Edit Report (BLADE), input mask"]
    report(large)
    report(torch.zeros(1, SIDE, SIDE))
    assert "The mask of 512x512 pixels is resized to the clip's 128x128." in shown[0]
    assert shown[1].count("empty in 3 of 3 frames") == 2 and "its picture has no mask" in shown[1]


@pytest.mark.parametrize(
    ("height", "width", "told_of"),
    [
        (64, 128, "and stretched, since its sides are in another proportion."),
        (300, 300, "is resized to the clip's 128x128."),
        (129, 128, "is resized to the clip's 128x128."),  # by a rounded side
        (16, 16, "If it is Blended Sampler's, set mask_size there to pixels for a sharper one."),
    ],
)
def test_what_is_told_of_a_size(studio, told, height, width, told_of):
    mask = torch.zeros(1, height, width)
    mask[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1
    studio.latents(mask=mask, target=studio.prompt(TARGET))
    assert told_of in told()
    assert ("stretched" in told()) == ("stretched" in told_of)


def test_frames_that_vae_encode_cropped_take_a_mask_of_any_size(studio, folder, told):
    import blade.nodes as nodes

    source, mask = torch.rand(2, 133, 131, 3), torch.zeros(1, 266, 262)
    mask[:, 100:160, 90:150] = 1
    edited = torch.rand(2, SIDE, SIDE, 3)
    exact, resized = (
        nodes.PixelComposite.execute(source=source, edited=edited, mask=given).result for given in (as_core(mask, 133, 131), mask)
    )
    assert torch.equal(exact[0], resized[0]) and torch.equal(exact[1], resized[1])
    assert "The mask of 262x266 pixels is resized to the clip's 131x133." in told()
