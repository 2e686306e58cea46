"""Cases that drawn inputs (test_fuzz), or reading for them, found: each was a traceback from inside a library, or a result without sense."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from tests.host.helpers import SOURCE

ANSWERED = {"fps", "video", "trajectory_file", "sampler_name"}  # by the nodes themselves, in words that say more than a range or a list
NODES = ["LoadVideo", "VideoToFrames", "EncodeVideo", "Prompt", "TemporalAttention", "DDIMInvert", "ReconstructionCheck", "SaveTrajectory", "LoadTrajectory",
         "CrossAttentionMask", "BlendedSampler", "EditNode", "BlendedSamplerSelect", "CFGSchedule", "LatentComposite", "PixelComposite", "Compare", "EditReport",
         "SaveVideo", "DecodeVideo"]  # fmt: skip


@pytest.fixture
def nodes(comfy, tmp_path, monkeypatch):
    import folder_paths

    import blade.nodes

    for kind in ("input", "output", "temp"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    return blade.nodes


def refused(node, sentence, **inputs):
    with torch.inference_mode(), pytest.raises(ValueError, match=sentence):
        node.execute(**inputs)


def odd_values(widget) -> list:
    from comfy_api.latest import io

    if isinstance(widget, io.Combo.Input):
        return ["nonsense", None]
    if isinstance(widget, io.Int.Input | io.Float.Input):
        return [widget.min - 1, widget.max + 1, math.nan, math.inf, "7"]
    return ["half a character \ud800", 7] if isinstance(widget, io.String.Input) else []


@pytest.mark.parametrize("name", NODES)
def test_what_a_link_brings_and_no_widget_could_is_refused_before_anything_else(nodes, name):
    from comfy_api.latest import io

    node = getattr(nodes, name)
    schema = node.define_schema()
    assert len(NODES) == len(set(NODES)) == 20
    given = {
        put.id: None
        if not isinstance(put, io.WidgetInput)
        else put.default
        if put.default is not None
        else (getattr(put, "options", None) or [""])[0]
        for put in schema.inputs
    }
    for widget in schema.inputs:
        for value in odd_values(widget) if widget.id not in ANSWERED else []:
            with pytest.raises(ValueError) as error:
                node.execute(**given | {widget.id: value})
            assert str(error.value).startswith(f"{schema.display_name}, input {widget.id}: it is {value!r:.80}"), error.value


@pytest.mark.parametrize(
    "mask", [torch.tensor(1.0), torch.zeros(0, 64, 64), torch.zeros(1, 0, 0), torch.full((1, 64, 64), 1e300, dtype=torch.float64)]
)
def test_a_mask_without_pixels_or_numbers_is_refused_everywhere(nodes, studio, mask):
    trajectory, frames = studio.invert(latent=studio.latent[..., :8, :8], steps=2), torch.rand(3, 64, 64, 3)
    sentence = r"\(BLADE\), input (mask|matte): (its shape is|it holds values that are not finite)"
    sampling = {"model": studio.model, "negative": studio.prompt(""), "steps": 2, "cfg": 7.5, "sampler_name": "euler", "start": 1.0}
    words = {"source_words": "", "target_words": ""}
    refused(nodes.BlendedSampler, sentence, target=studio.prompt(SOURCE), trajectory=trajectory, mask=mask, **sampling, **words)
    refused(nodes.CrossAttentionMask, sentence, trajectory=trajectory, words="circle", matte=mask)
    refused(nodes.PixelComposite, sentence, source=frames, edited=frames, mask=mask)
    refused(nodes.LatentComposite, sentence, latent={"samples": studio.latent[..., :8, :8]}, vae=studio.vae, source=frames, mask=mask)
    refused(nodes.Compare, sentence, source=frames, edited=frames, fps=8.0, mask=mask)
    refused(nodes.EditReport, sentence, source=frames, edited=frames, mask=mask)


@pytest.mark.parametrize(
    ("audio", "sentence"),
    [
        ({"waveform": torch.zeros(0, 2, 100), "sample_rate": 8000}, r"the sound's shape is \[0, 2, 100\]"),
        ({"waveform": torch.zeros(100), "sample_rate": 8000}, r"the sound's shape is \[100\]"),
        ({"waveform": torch.zeros(1, 2, 100), "sample_rate": math.nan}, "the sound's sample rate is nan"),
        ({"waveform": torch.zeros(1, 2, 100), "sample_rate": 8000.5}, "the sound's sample rate is 8000.5"),
        ({"waveform": torch.zeros(1, 2, 100), "sample_rate": 2**40}, "the sound's sample rate is 1099511627776"),
        ({"waveform": torch.full((1, 2, 100), 3e38), "sample_rate": 8000}, r"the sound's values reach 3e\+38"),
    ],
)
def test_a_sound_that_no_file_takes_is_refused(nodes, tmp_path, audio, sentence):
    file = {"fps": 8.0, "filename_prefix": "a", "format": "mp4 (H.264)", "crf": 16}
    refused(nodes.SaveVideo, rf"^Save Video \(BLADE\), input audio: {sentence}", frames=torch.rand(1, 16, 16, 3), audio=audio, **file)
    assert not list((tmp_path / "output").iterdir())


@pytest.mark.parametrize("fps", [0.0, 1e-300, 1e300, math.nan, math.inf])
def test_a_frame_rate_that_no_file_can_tell_is_refused(nodes, fps):
    file = {"filename_prefix": "a", "format": "mkv (FFV1, lossless)", "crf": 16}
    refused(nodes.SaveVideo, r"^Save Video \(BLADE\), input fps: the frame rate is", frames=torch.rand(1, 16, 16, 3), fps=fps, **file)


@pytest.mark.parametrize("prefix", ["a\0b", "n" * 5000, "n" * 250])
def test_a_name_that_no_file_can_have_is_refused_and_leaves_nothing_behind(nodes, studio, tmp_path, prefix):
    file = {"fps": 8.0, "filename_prefix": prefix, "crf": 16}
    for form in ("mp4 (H.264)", "PNG frames (lossless)"):
        refused(nodes.SaveVideo, r"^Save Video \(BLADE\).* (NUL|cannot be written)", frames=torch.rand(1, 16, 16, 3), format=form, **file)
    trajectory = studio.invert(latent=studio.latent[:1, :, :8, :8], steps=2)
    refused(nodes.SaveTrajectory, r"^Save Trajectory \(BLADE\).* (NUL|cannot be written)", trajectory=trajectory, filename_prefix=prefix)
    assert not list((tmp_path / "output").iterdir())


@pytest.mark.parametrize("prefix", ["a/", "a//", "./a", ""])
def test_a_second_file_lies_beside_the_first_however_the_place_is_written(nodes, tmp_path, prefix):
    for _ in range(2):
        nodes.SaveVideo.execute(torch.rand(1, 16, 16, 3), 8.0, prefix, "mkv (FFV1, lossless)", 16)
    assert len(list((tmp_path / "output").rglob("*.mkv"))) == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("(" * 3000 + "a" + ")" * 3000, "input text: its parentheses lie too deep"),
        ("(red:nan) circle", "input clip: the text encoder gives values that are not finite .* finite weights"),
    ],
)
def test_a_prompt_whose_weights_cannot_be_read_is_refused(nodes, studio, text, sentence):
    refused(nodes.Prompt, rf"^Prompt \(BLADE\), {sentence}", clip=studio.clip, text=text)


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ([], "there is no prompt in it"),
        ([[torch.zeros(1, 77, 768), {}]], r"its embedding is \[1, 77, 768\], but this model reads \[1, tokens, 64\]"),
        ([[torch.full((1, 77, 64), math.nan), {}]], "its embedding holds values that are not finite"),
        ([[torch.zeros(1, 77, 64), {"mask": torch.ones(2, 64, 64)}]], "its mask has 2 frames, but the clip has 3"),
    ],
)
def test_a_prompt_of_another_models_text_encoder_is_refused(nodes, studio, prompt, sentence):
    latent = {"samples": studio.latent[..., :8, :8]}
    refused(
        nodes.DDIMInvert, rf"^DDIM Invert \(BLADE\), input source: {sentence}", model=studio.model, source=prompt, latent=latent, steps=2
    )
    with pytest.raises(ValueError, match=rf"^Blended Sampler \(BLADE\), input target: {sentence}"):
        studio.sample(target=prompt or [], mask=torch.ones(1, 128, 128)) if prompt else studio_sample_of_nothing(studio)


def studio_sample_of_nothing(studio):
    """The helper takes an empty list for "the usual prompt"."""
    from blade.nodes.sampler import BlendedSampler

    with torch.inference_mode():
        BlendedSampler.execute(
            studio.model, [], studio.prompt(""), studio.trajectory, 2, 7.5, "euler", 1.0, "", "", mask=torch.ones(1, 128, 128)
        )


def test_a_checkpoint_without_vae_is_told_of(nodes, studio):
    import copy

    vae = copy.copy(studio.vae)
    vae.first_stage_model = None
    file = {"fps": 8.0, "filename_prefix": "a", "format": "mp4 (H.264)", "crf": 16, "chunk_frames": 0}
    for given in (vae, None):
        refused(
            nodes.DecodeVideo, r"^Decode Video \(BLADE\), input vae: there is no VAE", latent={"samples": studio.latent}, vae=given, **file
        )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda it: {"sigmas": it.sigmas[:0]},
        lambda it: {"sigmas": it.sigmas.flip(0)},
        lambda it: {"latents": it.latents[0]},
        lambda it: {"latents": torch.tensor(1.0)},
        lambda it: {"latents": it.latents[:, :0]},
        lambda it: {"exact_clip": torch.zeros(1)},
    ],
)
def test_a_trajectory_whose_parts_do_not_fit_together_is_refused(nodes, studio, spoil):
    spoiled = replace(studio.trajectory, **spoil(studio.trajectory))
    sentence = r"\(BLADE\), input trajectory: its .*\. Invert the clip again\.$"
    refused(nodes.ReconstructionCheck, sentence, model=studio.model, source=studio.prompt(SOURCE), trajectory=spoiled)
    refused(nodes.CrossAttentionMask, sentence, trajectory=spoiled, words="circle")
    refused(nodes.SaveTrajectory, sentence, trajectory=spoiled, filename_prefix="a")


def test_an_edit_in_which_all_numbers_are_lost_is_told_of(studio, box):
    lost = replace(studio.trajectory, latents=studio.trajectory.latents * math.nan)
    with pytest.raises(ValueError, match=r"^Blended Sampler \(BLADE\), input model: the model gives values that are not finite"):
        studio.sample(trajectory=lost, mask=box)


def test_a_grid_with_two_axes_is_refused(nodes, studio):
    inputs = {"model": studio.model, "source": studio.prompt(SOURCE), "latent": {"samples": studio.latent}, "steps": 2}
    refused(nodes.DDIMInvert, r"input sigmas: the grid's shape is \[1, 3\]", sigmas=torch.tensor([[2.0, 1.0, 0.0]]), **inputs)


def test_sigmas_that_rise_are_refused_by_the_sampler(studio, box):
    sampler, positive, sigmas, latent = studio.select(studio.edits(mask=box))
    with pytest.raises(ValueError, match=r"^Blended Sampler Select \(BLADE\), input sigmas: they do not fall"):
        studio.advanced(studio.guided(positive), sampler, sigmas.flip(0), latent)


@pytest.mark.parametrize(
    ("images", "rate", "sentence"),
    [
        (torch.zeros(2, 16, 16, 1), 8, r"the shape of its frames is \[2, 16, 16, 1\]"),
        (torch.tensor(0.5), 8, r"the shape of its frames is \[\]"),
        (torch.full((2, 16, 16, 3), math.nan), 8, "a frame holds values that are not finite"),
        (torch.zeros(2, 16, 16, 3), 0, "the frame rate is 0"),
    ],
)
def test_a_video_of_another_nodes_frames_that_are_none_is_refused(nodes, images, rate, sentence):
    from comfy_api.latest import InputImpl, Types

    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, audio=None, frame_rate=Fraction(rate)))
    refused(nodes.VideoToFrames, rf"^Video to Frames \(BLADE\), input video: {sentence}", video=video)


def test_more_frames_than_memory_holds_are_refused_before_they_are_read(nodes):
    from comfy_api.latest import InputImpl, Types

    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=torch.zeros(3, 16, 16, 3), audio=None, frame_rate=Fraction(1, 100)))
    refused(nodes.VideoToFrames, r"^Video to Frames \(BLADE\), input video: 300000 frames or more of 8192x8192 pixels do not fit into the .* GiB", video=video, longest_side=8192,
            force_fps=1000.0)  # fmt: skip


def test_a_feather_next_to_nothing_is_none(nodes):
    """Divided by it, in fp32, the pixels of the mask itself had become NaN."""
    frames, mask = torch.rand(1, 16, 16, 3), torch.zeros(1, 16, 16)
    mask[:, 4:12, 4:12] = 1
    _, used = nodes.PixelComposite.execute(frames, frames, mask, 0, 5e-324).result
    assert torch.equal(used, mask)


def test_a_forced_rate_next_to_nothing_is_refused(nodes):
    """Divided by every_nth it had become 0, and the clip's length a division by it."""
    from comfy_api.latest import InputImpl, Types

    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=torch.zeros(3, 16, 16, 3), audio=None, frame_rate=Fraction(8)))
    refused(
        nodes.VideoToFrames, r"^Video to Frames \(BLADE\), input video: force_fps is 5e-324", video=video, force_fps=5e-324, every_nth=7
    )
