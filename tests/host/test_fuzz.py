"""Every node on ordinary and odd inputs: each example ends in a result that makes sense, or in a sentence of ours that names the node."""

import io as bytes_io
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.host import odd
from tests.host.helpers import SOURCE, TARGET, temporal
from tests.host.odd import damage, odd_vae
from tests.host.trial import EXECUTED, Trial, counted, fill_inputs, sane

DATA = st.data()


@pytest.fixture(scope="module")
def nodes(comfy):
    import blade.nodes

    return SimpleNamespace(**{name: part for name, part in vars(blade.nodes).items() if isinstance(part, type)})


@pytest.fixture(scope="module")
def trial(studio, nodes, tmp_path_factory):
    import folder_paths

    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("input", "output", "temp"):
            (folder / kind).mkdir()
            patch.setattr(folder_paths, f"{kind}_directory", str(folder / kind))
        fill_inputs(folder / "input")
        yield Trial(studio, folder)
    if wanted := os.environ.get("BLADE_FUZZ_COUNT"):
        Path(wanted).write_text(json.dumps(EXECUTED))


CALLED = st.just("red circle") | st.just("circle") | st.sampled_from(odd.WORDS)
CLIPS = ["clip.mp4", "odd.mkv", "pictures/"]
ODD_CLIPS = ["tiny.mkv", "broken/", "empty/", "text.mp4", "nothing.mp4", "missing.mp4", "", ".", "..", "../x", "/etc/passwd", "a\0b", "n" * 5000, "é.mp4", "clip.mp4 [output]",
             "clip.mp4 [temp]", "[output]", "\ud800", "clip.mp4/x", "damaged.mp4"]  # fmt: skip
STRETCH = {"longest_side": st.sampled_from([0, 0, 8, 16, 40, 1, 7]), "start_frame": st.sampled_from([0, 0, 1, 2, 3, 1_000_000])}


@pytest.fixture(scope="module")
def made(trial, studio, nodes):
    """Trajectories of small clips, by how they were made."""
    tiny = studio.latent[..., :8, :8]
    source = studio.prompt(SOURCE)
    bare = [[source[0][0], {name: value for name, value in source[0][1].items() if name != "blade_words"}]]
    return {
        "plain": studio.invert(latent=tiny, steps=3),
        "one frame": studio.invert(latent=tiny[:1], steps=2),
        "odd size": studio.invert(latent=studio.latent[:2, :, :5, :3], steps=2),
        "fp16": studio.invert(latent=tiny, steps=2, precision="fp16"),
        "shallow": studio.invert(latent=tiny, steps=2, depth=0.3, method="refined"),
        "without words": studio.invert(latent=tiny, steps=2, source=bare),
        "temporal": studio.invert(temporal(studio.model, 2, "first", "previous"), latent=tiny, steps=2),
        "long words": studio.invert(latent=tiny[:1], steps=2, source=studio.prompt("a red circle " + "very " * 90 + "on grass")),
    }


def a_trajectory(data, made, spoil=8):
    trajectory = data.draw(st.sampled_from(list(made.values())))
    return data.draw(odd.spoiled(trajectory)) if data.draw(odd.seldom(spoil)) else trajectory


def clip_mask(data, trajectory):
    """A MASK for a trajectory, or none."""
    if data.draw(st.booleans()):
        return None
    height, width = (8 * side for side in made_size(trajectory))
    return data.draw(odd.masks(frames_of(trajectory), height, width))


def frames_of(trajectory):
    return trajectory.latents.shape[1] if trajectory.latents.ndim == 5 else 1


def made_size(trajectory):
    return trajectory.latents.shape[-2:] if trajectory.latents.ndim > 1 else (8, 8)


@given(DATA)
@counted
def test_prompt(trial, studio, nodes, data):
    text = data.draw(st.sampled_from(odd.PROMPTS) | st.text(max_size=60) | st.sampled_from(["\ud800", "a " * 3000]))
    clip = None if data.draw(odd.seldom(30)) else studio.clip
    if outputs := trial(nodes.Prompt, clip=clip, text=text):
        (embedding, _), words = outputs[0][0], outputs[0][0][1]["blade_words"]
        sane(embedding, 1, words.length, 64)
        assert words.text == text and all(column < words.length for column in words.columns)


@given(DATA)
@counted
def test_temporal_attention(trial, studio, nodes, made, data):
    inputs = data.draw(odd.settings_of(nodes.TemporalAttention))
    if outputs := trial(nodes.TemporalAttention, model=studio.model, **inputs):
        assert outputs[0] is not studio.model
        if data.draw(odd.seldom(3)):
            latent = {"samples": studio.latent[..., :4, :4]}
            found = trial(nodes.DDIMInvert, model=outputs[0], source=studio.prompt(SOURCE), latent=latent, steps=2)
            sane(found[0].latents, 3, 3, 4, 4, 4)


@given(DATA)
@counted
def test_ddim_invert(trial, studio, nodes, data):
    inputs = data.draw(
        odd.settings_of(nodes.DDIMInvert, steps=st.integers(2, 3), refine=st.integers(1, 2), depth=st.sampled_from([1.0, 1.0, 0.5, 0.01]))
    )
    frames = data.draw(st.integers(1, 3))
    latent = data.draw(odd.latents(frames))
    if data.draw(odd.seldom(4)):
        inputs["sigmas"] = data.draw(odd.grids())
    if data.draw(odd.seldom(6)):
        inputs["null_prompt"] = data.draw(odd.promptings(studio))
    model = temporal(studio.model, 2, "first", "previous") if data.draw(odd.seldom(5)) else studio.model
    if outputs := trial(nodes.DDIMInvert, model=model, source=data.draw(odd.promptings(studio)), latent=latent, **inputs):
        trajectory = outputs[0]
        sane(trajectory.clip, *latent["samples"].shape)
        sane(trajectory.latents.float(), len(trajectory.sigmas), *latent["samples"].shape)
        assert (trajectory.sigmas.diff() > 0).all() and trajectory.sigmas[0] == 0


@given(DATA)
@counted
def test_reconstruction_check(trial, studio, nodes, made, data):
    trajectory = a_trajectory(data, made)
    vae = odd_vae(data, studio) if data.draw(odd.seldom(3)) else None
    source = data.draw(odd.promptings(studio))
    if outputs := trial(nodes.ReconstructionCheck, model=studio.model, source=source, trajectory=trajectory, vae=vae):
        latent, plot, report, psnr = outputs
        sane(latent["samples"], *trajectory.clip.shape)
        sane(plot, 1, None, None, 3, low=0, high=1)
        assert math.isfinite(psnr) and "nan" not in report


@given(DATA)
@counted
def test_save_trajectory(trial, nodes, made, data):
    trial.clear()
    trajectory = a_trajectory(data, made, 4)
    prefix = data.draw(st.sampled_from(odd.PREFIXES) | st.text(max_size=12))
    for number in (1, 2):
        if trial(nodes.SaveTrajectory, trajectory=trajectory, filename_prefix=prefix) is None:
            return
        assert len(list((trial.folder / "output").rglob("*.safetensors"))) == number  # the second lies beside the first


@given(DATA)
@counted
def test_load_trajectory(trial, nodes, made, data):
    trial.clear()
    output = trial.folder / "output"
    assert trial(nodes.SaveTrajectory, trajectory=data.draw(st.sampled_from(list(made.values()))), filename_prefix="a") is not None
    (path,) = output.glob("*.safetensors")
    if data.draw(st.booleans()):
        path.write_bytes(damage(data, path.read_bytes()))
    name = data.draw(st.sampled_from(["a_00001_.safetensors [output]"] * 4 + ["../output/a_00001_.safetensors", *ODD_CLIPS]))
    assert nodes.LoadTrajectory.validate_inputs(name) is True or "Load Trajectory (BLADE)" in nodes.LoadTrajectory.validate_inputs(name)
    if outputs := trial(nodes.LoadTrajectory, trajectory_file=name):
        sane(outputs[0].latents.float(), len(outputs[0].sigmas), *outputs[0].clip.shape)


@given(DATA)
@counted
def test_cross_attention_mask(trial, nodes, made, data):
    trajectory = a_trajectory(data, made)
    inputs = data.draw(odd.settings_of(nodes.CrossAttentionMask, words=CALLED, grow=st.integers(-4, 4)))
    frames, (height, width) = frames_of(trajectory), (8 * side for side in made_size(trajectory))
    pictures = (
        data.draw(odd.tensors(frames, height, width, data.draw(st.sampled_from([3, 3, 3, 4, 1])))) if data.draw(st.booleans()) else None
    )
    if outputs := trial(nodes.CrossAttentionMask, trajectory=trajectory, frames=pictures, matte=clip_mask(data, trajectory), **inputs):
        mask, heat, steps, contours = outputs
        sane(mask, frames, height, width, low=0, high=1)
        for picture, count in ((heat, frames), (steps, 1), (contours, frames)):
            sane(picture, count, None, None, 3, low=0, high=1)


EDITS = {
    "source_words": st.just("") | st.just("circle") | st.sampled_from(odd.WORDS),
    "target_words": st.just("") | st.just("blue") | st.sampled_from(odd.WORDS),
}


def an_edit(data, studio, nodes, trial, trajectory, previous=()):
    inputs = data.draw(odd.settings_of(nodes.EditNode, **EDITS))
    target = data.draw(odd.promptings(studio))
    outputs = trial(nodes.EditNode, target=target, mask=clip_mask(data, trajectory), previous=previous, **inputs)
    return outputs and outputs[0]


@given(DATA)
@counted
def test_edit(trial, studio, nodes, made, data):
    edits = an_edit(data, studio, nodes, trial, made["plain"])
    if edits and data.draw(st.booleans()):
        more = an_edit(data, studio, nodes, trial, made["plain"], edits)
        assert more is None or (len(more) == 2 and more[0] is edits[0])


SAMPLING = {
    "steps": st.sampled_from([1, 2, 2, 3]),
    "cfg": st.sampled_from([7.5, 1.0, 0.0, 100.0]),
    "start": st.sampled_from([1.0, 1.0, 0.5, 0.01]),
    "structure": st.sampled_from([0.0, 0.0, 0.5]),
    "blend_from": st.sampled_from([0.0, 0.0, 0.4]),
    "blend_until": st.sampled_from([1.0, 1.0, 0.7, 0.3]),
}


@given(DATA)
@counted
def test_blended_sampler(trial, studio, nodes, made, data):
    trajectory = a_trajectory(data, made)
    inputs = data.draw(odd.settings_of(nodes.BlendedSampler, **SAMPLING, **EDITS))
    target, negative = data.draw(odd.promptings(studio)) if data.draw(odd.seldom(3)) else studio.prompt(TARGET), studio.prompt("")
    if data.draw(odd.seldom(6)):
        negative = data.draw(odd.promptings(studio))
    inputs["source"] = data.draw(odd.promptings(studio)) if data.draw(odd.seldom(3)) else studio.prompt(SOURCE)
    inputs["edits"] = (an_edit(data, studio, nodes, trial, trajectory) if data.draw(odd.seldom(4)) else None) or ()
    mask = clip_mask(data, trajectory)
    if outputs := trial(
        nodes.BlendedSampler, model=studio.model, target=target, negative=negative, trajectory=trajectory, mask=mask, **inputs
    ):
        latent, used, strip = outputs
        frames, _, height, width = trajectory.clip.shape
        sane(latent["samples"], *trajectory.clip.shape)
        times = 8 if inputs["mask_size"] == "pixels" else 1
        sane(used, frames, times * height, times * width, low=0, high=1)
        sane(strip, 1, None, None, 3, low=0, high=1)


@given(DATA)
@counted
def test_blended_sampler_select(trial, studio, nodes, made, data):
    trajectory = a_trajectory(data, made)
    inputs = data.draw(odd.settings_of(nodes.BlendedSamplerSelect, **SAMPLING))
    edits = an_edit(data, studio, nodes, trial, trajectory) or ()
    source = data.draw(odd.promptings(studio)) if data.draw(st.booleans()) else None
    outputs = trial(nodes.BlendedSamplerSelect, model=studio.model, trajectory=trajectory, edits=edits, source=source, **inputs)
    if outputs is None:
        return
    sampler, positive, sigmas, latent = outputs
    sigmas = data.draw(odd.grids()) if data.draw(odd.seldom(5)) else sigmas
    if sigmas.ndim == 1 and len(sigmas) > 1 and sigmas.isfinite().all():  # core itself takes no others
        guided = SimpleNamespace(
            execute=lambda **given: SimpleNamespace(result=studio.advanced(**given)), define_schema=nodes.BlendedSamplerSelect.define_schema
        )
        if found := trial(guided, guider=studio.guided(positive), sampler=sampler, sigmas=sigmas, latent=latent):
            sane(found[0], *trajectory.clip.shape)


@given(DATA)
@counted
def test_cfg_schedule(trial, studio, nodes, data):
    inputs = data.draw(odd.settings_of(nodes.CFGSchedule))
    positive, negative = data.draw(odd.promptings(studio)), studio.prompt("")
    outputs = trial(nodes.CFGSchedule, model=studio.model, positive=positive, negative=negative, **inputs)
    assert outputs is None or (outputs[0].ends == (inputs["cfg"], inputs["cfg_end"]))


@given(DATA)
@counted
def test_latent_composite(trial, studio, nodes, data):
    frames = data.draw(st.integers(1, 2))
    latent = data.draw(odd.latents(frames))
    height, width = (8 * side for side in latent["samples"].shape[-2:]) if latent["samples"].ndim > 1 else (8, 8)
    inputs = data.draw(odd.settings_of(nodes.LatentComposite, rounds=st.integers(1, 2)))
    source, mask = data.draw(odd.tensors(frames, height, width, 3)), data.draw(odd.masks(frames, height, width))
    if outputs := trial(nodes.LatentComposite, latent=latent, vae=odd_vae(data, studio), source=source, mask=mask, **inputs):
        sane(outputs[0]["samples"], *latent["samples"].shape)
        assert set(outputs[0]) == set(latent)


@given(DATA)
@counted
def test_pixel_composite(trial, nodes, data):
    frames, height, width = data.draw(odd.sizes())
    inner = (height // 8 * 8 or 8, width // 8 * 8 or 8) if data.draw(odd.seldom(4)) else (height, width)
    source, edited = data.draw(odd.tensors(frames, height, width, 3)), data.draw(odd.tensors(frames, *inner, 3))
    inputs = data.draw(odd.settings_of(nodes.PixelComposite))
    if outputs := trial(nodes.PixelComposite, source=source, edited=edited, mask=data.draw(odd.masks(frames, height, width)), **inputs):
        sane(outputs[0], *source.shape)
        sane(outputs[1], *source.shape[:3], low=0, high=1)
        outside = outputs[1] == 0
        assert torch.equal(outputs[0][outside], source.float()[outside])


@given(DATA)
@counted
def test_compare(trial, nodes, data):
    trial.clear()
    frames, height, width = data.draw(odd.sizes())
    source, edited = data.draw(odd.tensors(frames, height, width, 3)), data.draw(odd.tensors(frames, height, width, 3))
    mask = data.draw(odd.masks(frames, height, width)) if data.draw(st.booleans()) else None
    fps = data.draw(odd.ODD_RATES if data.draw(odd.seldom()) else odd.RATES)
    inputs = data.draw(odd.settings_of(nodes.Compare, ("fps",), longest_side=st.sampled_from([512, 0, 8, 1, 8192])))
    if outputs := trial(nodes.Compare, source=source, edited=edited, mask=mask, fps=fps, **inputs):
        sane(outputs[0], len(source), None, None, 3, low=0, high=1)
        sane(outputs[1], 1, None, None, 3, low=0, high=1)


@given(DATA)
@counted
def test_edit_report(trial, nodes, data):
    trial.clear()
    frames, height, width = data.draw(odd.sizes())
    source, edited = data.draw(odd.tensors(frames, height, width, 3)), data.draw(odd.tensors(frames, height, width, 3))
    mask = data.draw(odd.masks(frames, height, width))
    if outputs := trial(nodes.EditReport, source=source, edited=edited, mask=mask, **data.draw(odd.settings_of(nodes.EditReport))):
        sane(outputs[0], 1, None, None, 3, low=0, high=1)
        assert json.loads(outputs[1])["frames"] == len(source)


def file_of(data, node):
    """The inputs that say how a clip is written."""
    inputs = data.draw(odd.settings_of(node, ("fps",), filename_prefix=st.just("a") | st.sampled_from(odd.PREFIXES)))
    inputs["fps"] = data.draw(odd.ODD_RATES if data.draw(odd.seldom()) else odd.RATES)
    return inputs | {"audio": data.draw(odd.sounds())}


def a_fit(data, nodes, trial):
    """What a loader says of a clip, seldom."""
    if not data.draw(odd.seldom(5)):
        return None
    inputs = data.draw(odd.settings_of(nodes.LoadVideo, ("video",), **STRETCH))
    outputs = trial(nodes.LoadVideo, video=data.draw(st.sampled_from(CLIPS)), **inputs)
    return outputs and (outputs[0], outputs[4])


@given(DATA)
@counted
def test_save_video(trial, nodes, data):
    trial.clear()
    loaded, inputs = a_fit(data, nodes, trial), file_of(data, nodes.SaveVideo)
    frames = data.draw(odd.tensors(*data.draw(odd.sizes()), 3))
    if loaded:
        frames, inputs["fit"] = (loaded[0] if data.draw(st.booleans()) else frames), loaded[1]
    for number in (1, 2):
        if trial(nodes.SaveVideo, frames=frames, **inputs) is None:
            return
        assert len(list((trial.folder / "output").rglob("*_0000?_*"))) == number


@given(DATA)
@counted
def test_decode_video(trial, studio, nodes, data):
    trial.clear()
    latent = data.draw(odd.latents(data.draw(st.integers(1, 2))))
    inputs = file_of(data, nodes.DecodeVideo)
    if trial(nodes.DecodeVideo, latent=latent, vae=odd_vae(data, studio), **inputs) is not None:
        assert len([path for path in (trial.folder / "output").rglob("*") if path.stat().st_size]) >= 1


def a_clip(data, trial):
    """The name of a clip, ordinary, odd, or damaged."""
    if data.draw(st.booleans()):
        return data.draw(st.sampled_from(CLIPS))
    original = trial.folder / "input" / data.draw(st.sampled_from(["clip.mp4", "odd.mkv"]))
    (trial.folder / "input" / "damaged.mp4").write_bytes(damage(data, original.read_bytes()))
    return data.draw(st.sampled_from(["damaged.mp4"] * len(ODD_CLIPS) + ODD_CLIPS))


def check_stretch(outputs, frames):
    _, fps, audio, count, (source, stretch) = outputs
    assert count == frames > 0 and math.isfinite(fps) and fps > 0 and stretch.fit(source)
    if audio is not None:
        sane(audio["waveform"], 1, None, None)


@given(DATA)
@counted
def test_load_video(trial, nodes, data):
    video = a_clip(data, trial)
    assert nodes.LoadVideo.validate_inputs(video) is True or "Load Video (BLADE)" in nodes.LoadVideo.validate_inputs(video)
    inputs = data.draw(odd.settings_of(nodes.LoadVideo, ("video",), **STRETCH))
    if outputs := trial(nodes.LoadVideo, video=video, **inputs):
        sane(outputs[0], None, None, None, 3, low=0, high=1)
        check_stretch(outputs, len(outputs[0]))


@given(DATA)
@counted
def test_encode_video(trial, studio, nodes, data):
    inputs = data.draw(odd.settings_of(nodes.EncodeVideo, ("video",), **STRETCH))
    if outputs := trial(nodes.EncodeVideo, vae=odd_vae(data, studio), video=a_clip(data, trial), **inputs):
        sane(outputs[0]["samples"], None, 4, None, None)
        check_stretch(outputs, len(outputs[0]["samples"]))


@given(DATA)
@counted
def test_video_to_frames(trial, nodes, data):
    from comfy_api.latest import InputImpl, Types

    if data.draw(st.booleans()):
        images = data.draw(odd.tensors(*data.draw(odd.sizes()), data.draw(st.sampled_from([3, 3, 4])), odd=3))
        rate = odd.rate_of(data.draw(odd.RATES)) if not data.draw(odd.seldom()) else 0
        video = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, audio=data.draw(odd.sounds()), frame_rate=rate))
    else:
        content = (trial.folder / "input" / data.draw(st.sampled_from(["clip.mp4", "odd.mkv", "text.mp4"]))).read_bytes()
        video = InputImpl.VideoFromFile(bytes_io.BytesIO(damage(data, content) if data.draw(st.booleans()) else content))
    if outputs := trial(nodes.VideoToFrames, video=video, **data.draw(odd.settings_of(nodes.VideoToFrames, **STRETCH))):
        sane(outputs[0], None, None, None, 3)
        check_stretch(outputs, len(outputs[0]))
