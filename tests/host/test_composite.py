"""Pixel Composite and Save Video on a clip that has been through the demo checkpoint's VAE."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from benchmarks.quality.mask_clips import DEVELOPMENT_CLIPS
from blade.video.load import load_clip
from demo import clips
from tests.clips import render_clip
from tests.host.helpers import progress_seen

FRAMES, SIDE = 4, 128
H264, FFV1, PNG = "mp4 (H.264)", "mkv (FFV1, lossless)", "PNG frames (lossless)"
NO_FRAMES = torch.zeros(FRAMES, SIDE, SIDE, 3)


@pytest.fixture(scope="module")
def vae(comfy, checkpoint):
    return comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_model=False, output_clip=False)[2]


def through(vae, frames):
    with torch.inference_mode():
        return vae.decode(vae.encode(frames)).float().clone()


def to_frames(pictures):
    """Frames as a loader gives them, whose values need not be multiples of 1/255."""
    return torch.from_numpy(pictures).float() / 255 * 0.98 + 0.0103


@pytest.fixture(scope="module")
def made(vae):
    """For several clips: the source, the same with its object recoloured after the VAE, and the object's exact mask."""
    found = []
    for name in clips.CLIPS:
        clip = clips.find(name)
        other = replace(clip.thing, colour="blue")
        source, edited = (
            render_clip(clip.seed, [thing], clip.ground, FRAMES, clip.velocity, clip.spin)[0] for thing in (clip.thing, other)
        )
        found.append((to_frames(source), through(vae, to_frames(edited)), torch.from_numpy(clips.truth(name)[:FRAMES])))
    for kind in ("textured", "unseen_ground", "two", "leaving"):
        clip = DEVELOPMENT_CLIPS[kind][0]
        path = clip.paths[clip.sought]
        recoloured = list(clip.paths)
        recoloured[clip.sought] = replace(path, thing=replace(path.thing, colour="black"))
        edited = replace(clip, paths=tuple(recoloured)).render(FRAMES)
        found.append((to_frames(clip.render(FRAMES)), through(vae, to_frames(edited)), torch.from_numpy(clip.truth(FRAMES))))
    return found


@pytest.fixture
def nodes(comfy, tmp_path, monkeypatch):
    """Both nodes' execute as the host calls them, with an output folder of their own."""
    import folder_paths

    import blade.nodes.composite
    import blade.nodes.save_video

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))

    def save(frames, fps=8.0, prefix="video/blade", form=FFV1, crf=16, audio=None):
        return blade.nodes.save_video.SaveVideo.execute(frames, fps, prefix, form, crf, audio)

    def composite(source, edited, *inputs, **more):
        return blade.nodes.composite.PixelComposite.execute(edited, source, *inputs, **more).result

    return SimpleNamespace(composite=composite, save=save, output=tmp_path)


def written(nodes):
    return sorted(path.relative_to(nodes.output).as_posix() for path in nodes.output.rglob("*") if path.is_file())


def near(mask, pixels):
    """Where a thing is, and so many pixels around it. [frames, height, width] bool"""
    brush = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return torch.from_numpy(np.stack([cv2.dilate((frame > 0).astype(np.uint8), brush) for frame in mask.numpy()])) > 0


def seam(nodes, source, edited, mask, colour_match):
    """How far the ground along the seam is from the source's in colour, in grey levels. Averaged over each neighbourhood, so that texture which
    the VAE loses does not count; 5 pixels from the object, whose own edge the VAE blurs."""
    result, used = nodes.composite(source, edited, mask, grow=12, feather=0.0, colour_match=colour_match)
    found = []
    for apart, along in zip((result - source).numpy(), ((used == 1) & ~near(mask, 5)).numpy().astype(np.float32), strict=True):
        total, weight = (cv2.GaussianBlur(values, (0, 0), 3) for values in (apart * along[..., None], along))
        found.append(255 * np.abs(total[along > 0] / weight[along > 0][:, None]).mean())
    return float(np.mean(found))


@pytest.mark.parametrize("method", ["alpha", "poisson"])
def test_a_clip_through_the_vae_comes_back_outside_the_mask_to_the_bit(nodes, made, method):
    for source, edited, mask in made:
        assert (edited != source).any(-1).float().mean() > 0.99  # the VAE itself keeps nothing
        result, used = nodes.composite(source, edited, mask, method=method)
        outside = used == 0
        assert torch.equal(result[outside], source[outside])
        far = ~near(mask, 8)
        assert outside[far].all()  # 8 pixels from the object, where the benchmarks measure
        core = mask == 1
        assert (result[core] - edited[core]).abs().mean() < (0.02 if method == "alpha" else 0.12)


def test_the_colour_match_lessens_the_vaes_own_seam(nodes, made):
    without, matched = np.mean([[seam(nodes, *clip, amount) for amount in (0.0, 1.0)] for clip in made], 0)
    assert matched < without


def test_the_colour_match_takes_a_vaes_shift_off(nodes, made):
    """The demo's VAE is nearly neutral, so its frames get a shift of a few grey levels, as those of SD leave it."""
    shift = (torch.tensor([5.0, -4.0, 3.0]) + torch.linspace(-3, 3, SIDE)[:, None]) / 255
    for source, edited, mask in made:
        plain, without, matched = (
            seam(nodes, source, clip, mask, amount) for clip, amount in ((edited, 0.0), (edited + shift, 0.0), (edited + shift, 1.0))
        )
        assert matched < min(0.65 * without, plain + 0.2)


def test_frames_that_vae_encode_crops_are_laid_back_in_their_place(nodes, vae, made):
    """Core's VAE Encode takes the middle of frames whose sides are no multiples of 8."""
    source = torch.nn.functional.pad(made[0][0].movedim(-1, 1), (0, 5, 3, 0), mode="replicate").movedim(1, -1)
    edited = through(vae, source)
    assert edited.shape == (FRAMES, SIDE, SIDE, 3)
    mask = torch.zeros(1, *source.shape[1:3])
    mask[:, 40:90, 50:100] = 1
    result, used = nodes.composite(source, edited, mask, grow=0)
    assert result.shape == source.shape and used.shape == source.shape[:3]
    assert torch.equal(used[:, 40:90, 50:100], torch.ones(FRAMES, 50, 50))
    assert torch.equal(result[used == 0], source[used == 0])
    assert (result[used == 1] - source[used == 1]).abs().mean() < 0.03  # nothing was edited: a shifted window would show
    small, _ = nodes.composite(source, edited, mask[:, 1:-2, 2:-3], grow=0)
    assert torch.equal(small, result)


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (1, 1, SIDE, SIDE)])
def test_a_mask_of_any_kind_serves(nodes, made, shape):
    source, edited, mask = made[0]
    hard = (mask[:1] > 0.5).float()
    expected, _ = nodes.composite(source, edited, hard)
    result, _ = nodes.composite(source, edited, 3 * hard.double().reshape(shape) - 1)
    assert torch.equal(result, expected)


def test_it_can_be_cancelled(nodes, made, comfy):
    import comfy.model_management as management

    for work in (lambda: nodes.composite(*made[0]), lambda: nodes.save(made[0][0], form=PNG), lambda: nodes.save(made[0][0])):
        management.interrupt_current_processing(True)
        try:
            with pytest.raises(management.InterruptProcessingException):
                work()
        finally:
            management.interrupt_current_processing(False)
    assert written(nodes) == []
    assert not list(nodes.output.rglob(".blade_*"))


@pytest.mark.parametrize("node", ["composite", "save"])
def test_progress_counts_frames(nodes, made, comfy, monkeypatch, node):
    seen = progress_seen(monkeypatch)
    nodes.composite(*made[0]) if node == "composite" else nodes.save(made[0][0])
    assert seen == [(count, FRAMES) for count in range(1, FRAMES + 1)]


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"edited": NO_FRAMES[:3]}, "input edited: it has 3 frames, but source has 4"),
        ({"edited": NO_FRAMES[:, :64]}, "input edited: it is 128x64 pixels, but source is 128x128.*resize"),
        ({"edited": torch.zeros(FRAMES, SIDE, SIDE, 4)}, "input edited: it has 4 channels.*Split Image with Alpha"),
        ({"source": torch.zeros(FRAMES, SIDE, SIDE, 4)}, "input source: it has 4 channels.*Split Image with Alpha"),
        ({"source": torch.zeros(0, SIDE, SIDE, 3)}, r"input source: its shape is \[0, 128, 128, 3\]"),
        ({"source": torch.full_like(NO_FRAMES, torch.inf)}, "input source: frame 0 holds values that are not finite"),
        ({"edited": NO_FRAMES.index_fill(0, torch.tensor([2]), torch.nan)}, "input edited: frame 2 holds.*--fp32-vae"),
        ({"mask": torch.zeros(3, SIDE, SIDE)}, "input mask: it has 3 frames, but the clip has 4"),
        ({"mask": torch.zeros(1, 64, 64)}, "input mask: it is 64x64 pixels and empty, as core's Load Image gives it.* no alpha channel"),
        ({"mask": torch.full((1, SIDE, SIDE), torch.nan)}, "input mask: it holds values that are not finite"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_input(nodes, inputs, sentence):
    with pytest.raises(ValueError, match=rf"^Pixel Composite \(BLADE\), {sentence}"):
        nodes.composite(**{"source": NO_FRAMES, "edited": NO_FRAMES, "mask": torch.zeros(1, SIDE, SIDE), **inputs})


def test_ffv1_gives_back_a_composite_as_the_rounded_frames(nodes, made):
    frames, _ = nodes.composite(*made[0])
    frames[0, 0, 0] = torch.tensor([-0.5, 1.5, 0.4999])
    out = nodes.save(frames)
    assert written(nodes) == ["video/blade_00001_.mkv"]
    assert out.ui.as_dict() == {"images": [{"filename": "blade_00001_.mkv", "subfolder": "video", "type": "output"}], "animated": (True,)}
    clip = load_clip(str(nodes.output / "video" / "blade_00001_.mkv"))
    assert torch.equal((clip.frames * 255).round(), (frames.clamp(0, 1) * 255).round())
    assert clip.fps == 8


def test_png_frames_lie_in_a_numbered_folder_and_show_in_the_page(nodes, made):
    frames = made[0][0]
    for _ in range(2):
        out = nodes.save(frames, form=PNG, audio={"waveform": torch.rand(1, 1, 8000), "sample_rate": 8000})
    names = [f"{number:05}.png" for number in range(FRAMES)]
    assert written(nodes) == [f"video/blade_0000{run}_/{name}" for run in (1, 2) for name in [*names, "sound.wav"]]
    assert out.ui.as_dict()["images"] == [{"filename": name, "subfolder": "video/blade_00002_", "type": "output"} for name in names]
    read = np.stack([cv2.imread(str(nodes.output / "video" / "blade_00002_" / name))[..., ::-1] for name in names])
    assert np.array_equal(read, (frames * 255).round().byte().numpy())


def test_mp4_takes_the_sound(nodes, made):
    nodes.save(made[0][0], form=H264, audio={"waveform": 0.5 * torch.ones(1, 2, 48000), "sample_rate": 16000})
    clip = load_clip(str(nodes.output / "video" / "blade_00001_.mp4"))
    assert clip.waveform.shape == (2, 8000)  # 4 frames at 8 a second
    assert (clip.frames - made[0][0]).abs().mean() < 0.03


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"frames": torch.zeros(2, 16, 16, 4)}, "input frames: it has 4 channels"),
        ({"frames": torch.full((2, 16, 16, 3), torch.nan)}, "input frames: frame 0 holds values that are not finite"),
        ({"frames": torch.zeros(2, 16, 17, 3), "form": H264}, "input format: .*even sides.*17x16 pixels"),
        ({"fps": float("nan")}, "input fps: .*nan"),
        ({"audio": {"waveform": torch.full((1, 1, 9), np.nan), "sample_rate": 8000}}, "input audio: .*not finite"),
        ({"prefix": "../outside"}, "input filename_prefix: '../outside' leads out of ComfyUI's output folder"),
    ],
)
def test_what_cannot_be_saved_is_refused_with_the_input(nodes, inputs, sentence):
    with pytest.raises(ValueError, match=rf"^Save Video \(BLADE\), {sentence}"):
        nodes.save(**{"frames": torch.zeros(2, 16, 16, 3), **inputs})
    assert written(nodes) == []
