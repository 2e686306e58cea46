"""Encode Video and Decode Video: a chunk at a time, and the same as core's VAE nodes on the whole clip."""

import copy
import json
import shutil
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from blade.video.load import Stretch, load_clip
from demo import clips
from runner.graphs import with_defaults
from tests.host.helpers import progress_seen

CLIP = "blade_red_circle"
FFV1, H264 = "mkv (FFV1, lossless)", "mp4 (H.264)"


@pytest.fixture(scope="module")
def vae(comfy, checkpoint):
    return comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_model=False, output_clip=False)[2]


@pytest.fixture
def doors(comfy, tmp_path, monkeypatch):
    """Both nodes' execute, as the host calls them, with the demo clip in the input folder and an output folder of their own."""
    import folder_paths

    import blade.nodes.decode_video
    import blade.nodes.encode_video

    for kind in ("input", "output"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    shutil.copy(clips.path(CLIP), tmp_path / "input")

    def encode(vae, video=f"{CLIP}.mp4", start=0, count=0, every_nth=1, side=0, chunk=0):
        execute = torch.inference_mode()(blade.nodes.encode_video.EncodeVideo.execute)
        return execute(vae, video, start, count, every_nth, side, chunk_frames=chunk).result

    def decode(latent, vae, fps=8.0, prefix="video/blade", form=FFV1, crf=16, chunk=0, audio=None):
        return torch.inference_mode()(blade.nodes.decode_video.DecodeVideo.execute)(latent, vae, fps, prefix, form, crf, chunk, audio)

    return SimpleNamespace(encode=encode, decode=decode, input=tmp_path / "input", output=tmp_path / "output")


@pytest.fixture(scope="module")
def whole(vae):
    """The clip's frames, and its latent by core's VAE in one piece."""
    frames = load_clip(str(clips.path(CLIP))).frames
    with torch.inference_mode():
        return frames, vae.encode(frames)


def written(doors):
    return sorted(path.relative_to(doors.output).as_posix() for path in doors.output.rglob("*") if path.is_file())


@pytest.mark.parametrize("chunk", [0, 5])
def test_encoding_in_chunks_is_encoding_the_whole_clip(doors, vae, whole, chunk):
    latent, fps, audio, count, _ = doors.encode(vae, chunk=chunk)
    torch.testing.assert_close(latent["samples"], whole[1], rtol=1e-5, atol=1e-5)
    assert (fps, audio, count) == (8, None, 12)


def test_frames_that_the_cpus_memory_cannot_hold_are_refused(doors, vae, monkeypatch, comfy, whole):
    """The system had ended the process, and all that was in ComfyUI's queue with it."""
    here = copy.copy(vae)
    here.device = torch.device("cpu")
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: 2**30)
    with pytest.raises(
        ValueError, match=r"^Encode Video \(BLADE\), input longest_side: to encode one frame of 1024x1024 .* 1\.0 GiB are free"
    ):
        doors.encode(here, side=1024)
    with pytest.raises(ValueError, match=r"^Decode Video \(BLADE\), input latent: to decode one frame of 1024x768 .* 1\.0 GiB are free"):
        doors.decode({"samples": torch.zeros(1, 4, 96, 128)}, here)
    assert not list(doors.output.iterdir())
    assert len(doors.encode(here, chunk=1024, side=320)[0]["samples"]) == 12  # of which core takes no more at once than fit


def test_encoding_takes_the_stretch_that_load_video_takes(doors, vae, whole):
    latent, fps, _, count, _ = doors.encode(vae, start=1, count=4, every_nth=3, chunk=3)
    torch.testing.assert_close(latent["samples"], whole[1][[1, 4, 7, 10]], rtol=1e-5, atol=1e-5)
    assert (fps, count) == (pytest.approx(8 / 3), 4)


@pytest.mark.parametrize("chunk", [0, 2])
def test_decoding_to_ffv1_gives_the_vaes_frames_to_the_bit(doors, vae, whole, chunk):
    latent = whole[1][:5]
    with torch.inference_mode():
        expected = torch.cat([vae.decode(part) for part in latent.split(chunk or 16)])
        in_one = vae.decode(latent)
    video = doors.decode({"samples": latent}, vae, chunk=chunk).result[0]
    read = load_clip(video.get_stream_source()).frames
    assert torch.equal((read * 255).round(), (expected * 255).round())
    torch.testing.assert_close(read, in_one, rtol=0, atol=0.51 / 255)  # half a step, and the order of the sums


def test_a_chunk_is_never_larger_than_asked_for(doors, vae, monkeypatch):
    taken = []
    for step in ("encode", "decode"):
        real = getattr(vae, step)
        monkeypatch.setattr(vae, step, lambda x, real=real: (taken.append(len(x)), real(x))[1])
    doors.decode(doors.encode(vae, count=5, chunk=2)[0], vae, chunk=3)
    assert taken == [2, 2, 1, 3, 2]


@pytest.mark.parametrize(("free", "frames"), [(0, 1), (7, 3), (1000, 16)])
def test_the_automatic_chunk_fits_in_half_of_the_free_memory(comfy, monkeypatch, free, frames):
    import comfy.model_management

    from blade.host.vae import fitting_chunk

    vae = SimpleNamespace(device="cpu", vae_dtype=torch.float32, memory_used_encode=lambda shape, dtype: shape[2] * shape[3] * 4)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: free * 64 * 64 * 4)
    assert fitting_chunk(vae, "encode", (1, 3, 64, 64)) == frames


def test_mp4_carries_the_sound_and_counts_its_files(doors, vae, whole):
    audio = {"waveform": 0.5 * torch.ones(1, 2, 48000), "sample_rate": 16000}
    for _ in range(2):
        out = doors.decode({"samples": whole[1][:4]}, vae, form=H264, audio=audio)
    assert written(doors) == ["video/blade_00001_.mp4", "video/blade_00002_.mp4"]
    assert out.ui.as_dict()["images"] == [{"filename": "blade_00002_.mp4", "subfolder": "video", "type": "output"}]
    clip = load_clip(str(doors.output / "video" / "blade_00002_.mp4"))
    assert clip.waveform.shape == (2, 8000)  # 4 frames at 8 a second
    assert len(clip.frames) == 4


def test_sound_goes_through_both_doors(doors, vae, whole):
    sound = torch.rand(2, 12000) - 0.5
    doors.decode({"samples": whole[1][:6]}, vae, audio={"waveform": sound[None], "sample_rate": 16000})
    shutil.copy(doors.output / "video" / "blade_00001_.mkv", doors.input)
    _, fps, audio, _, _ = doors.encode(vae, "blade_00001_.mkv", start=2, count=4)
    assert fps == 8
    assert torch.equal(audio["waveform"], sound[None, :, 4000:12000])


def test_cancelling_between_chunks_leaves_no_file(comfy, doors, vae, whole, monkeypatch):
    import comfy.model_management as management

    calls = []

    def interrupted():
        calls.append(1)
        if len(calls) == 3:
            raise management.InterruptProcessingException

    monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", interrupted)
    with pytest.raises(management.InterruptProcessingException):
        doors.decode({"samples": whole[1]}, vae, chunk=4)
    assert written(doors) == []
    calls.clear()
    with pytest.raises(management.InterruptProcessingException):
        doors.encode(vae, chunk=4)


def test_progress_counts_frames(comfy, doors, vae, monkeypatch):
    seen = progress_seen(monkeypatch)
    doors.decode(doors.encode(vae, start=7, chunk=3)[0], vae, chunk=4)
    assert seen == [(3, 5), (5, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (torch.zeros(0, 4, 16, 16), r"\[0, 4, 16, 16\]"),
        (torch.zeros(2, 16, 16, 16), r"\[2, 16, 16, 16\].*\[frames, 4"),
        (torch.zeros(1, 4, 2, 16, 16), r"\[1, 4, 2, 16, 16\]"),
        (torch.full((2, 4, 16, 16), np.inf), "not finite"),
    ],
)
def test_a_latent_that_is_no_clip_is_refused(doors, vae, samples, sentence):
    with pytest.raises(ValueError, match=f"Decode Video.*input latent.*{sentence}"):
        doors.decode({"samples": samples}, vae)


@pytest.mark.parametrize(
    ("channels", "ratio", "sentence"),
    [
        (16, 8, "16 channels and 8x8 pixels"),
        (4, 4, "4 channels and 4x4 pixels"),
        (4, (lambda frames: frames // 4, 8, 8), "video VAE"),
    ],
)
def test_a_vae_of_another_family_is_refused_by_both(doors, whole, channels, ratio, sentence):
    other = SimpleNamespace(latent_channels=channels, downscale_ratio=ratio)
    with pytest.raises(ValueError, match=f"Encode Video.*input vae.*{sentence}.*SDXL"):
        doors.encode(other)
    with pytest.raises(ValueError, match=f"Decode Video.*input vae.*{sentence}.*SDXL"):
        doors.decode({"samples": whole[1]}, other)


def test_a_vae_that_overflows_is_named_with_the_frames_and_leaves_no_file(doors, vae, whole, monkeypatch):
    real = vae.decode
    monkeypatch.setattr(vae, "decode", lambda x: real(x) * np.nan)
    with pytest.raises(ValueError, match="Decode Video.*input vae.*frames 0 to 3.*not finite.*--fp32-vae"):
        doors.decode({"samples": whole[1]}, vae, chunk=4)
    assert written(doors) == []


def test_a_vae_that_overflows_while_encoding_is_named_with_the_frames(doors, vae, monkeypatch):
    real = vae.encode
    monkeypatch.setattr(vae, "encode", lambda pixels: real(pixels) * np.nan)
    with pytest.raises(ValueError, match="Encode Video.*input vae.*encodes frames 0 to .*not finite.*--fp32-vae"):
        doors.encode(vae)


PROMPT = {"9": {"class_type": "BLADE_SaveVideo", "inputs": {"text": 'an ä, a \\ and a "} {'}, "is_changed": [0.5]}}
WORKFLOW = {"nodes": [{"id": 9, "title": "a brace: }"}], "version": 0.4}


def tags(path):
    with av.open(str(path)) as file:
        return {name.lower(): text for name, text in file.metadata.items()}


def as_run(node):
    """A node as the host runs it, which tells it the graph."""
    from comfy_api.latest import io

    hidden = io.HiddenHolder("9", PROMPT, {"workflow": WORKFLOW}, None, None, None)
    return type(node.__name__, (node,), {"hidden": hidden})


@pytest.mark.parametrize("form", [H264, "webm (VP9)", FFV1, "mov (ProRes 422 HQ)"])
def test_both_doors_out_write_the_graph_as_core_s_save_video_does(doors, vae, whole, form):
    from comfy_api.latest import io
    from comfy_extras.nodes_video import SaveVideo as CoreSaveVideo

    from blade.nodes.decode_video import DecodeVideo
    from blade.nodes.save_video import SaveVideo

    with torch.inference_mode():
        video = as_run(SaveVideo).execute(whole[0][:2], 8.0, "saved", form, 16).result[0]
        as_run(DecodeVideo).execute({"samples": whole[1][:2]}, vae, 8.0, "decoded", form, 16, 0)
    if form == H264:
        plain = {given.id for given in CoreSaveVideo.define_schema().inputs if isinstance(given, io.Combo.Input)}
        codec = "h264" if "codec" in plain else {"codec": "h264"}  # since 0.30 with settings of its own
        as_run(CoreSaveVideo).execute(video, "core", "mp4", codec)
    for path in doors.output.iterdir():
        found = tags(path)
        assert json.loads(found["prompt"]) == PROMPT and json.loads(found["workflow"]) == WORKFLOW, path.name
    assert len(written(doors)) == (3 if form == H264 else 2)


def test_the_graph_s_texts_hold_no_brace_that_the_page_would_count(doors, vae, whole):
    from blade.nodes.save_video import SaveVideo

    as_run(SaveVideo).execute(whole[0][:2], 8.0, "saved", "webm (VP9)", 16)
    found = tags(doors.output / "saved_00001_.webm")["workflow"]
    assert found.count("{") == found.count("}") == 2


def test_disable_metadata_is_honoured(doors, vae, whole, monkeypatch):
    from comfy.cli_args import args

    from blade.nodes.decode_video import DecodeVideo
    from blade.nodes.save_video import SaveVideo

    monkeypatch.setattr(args, "disable_metadata", True)
    with torch.inference_mode():
        as_run(SaveVideo).execute(whole[0][:2], 8.0, "saved", H264, 16)
        as_run(DecodeVideo).execute({"samples": whole[1][:2]}, vae, 8.0, "decoded", H264, 16, 0)
    assert len(written(doors)) == 2
    assert not any({"prompt", "workflow"} & tags(doors.output / name).keys() for name in written(doors))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fps": float("nan")}, "input fps.*nan"),
        ({"audio": {"waveform": torch.full((1, 1, 9), np.nan), "sample_rate": 8000}}, "input audio.*not finite"),
        (
            {"audio": {"waveform": torch.zeros(1, 9, 9), "sample_rate": 8000}, "form": H264},
            "input audio.*9 channels, and mp4.*takes 8.*Choose mov",
        ),
    ],
)
def test_what_the_file_cannot_hold_is_refused_with_the_input(doors, vae, whole, options, sentence):
    with pytest.raises(ValueError, match=f"Decode Video.*{sentence}"):
        doors.decode({"samples": whole[1]}, vae, **options)


def test_an_unreadable_file_and_an_empty_stretch_are_refused_with_the_file(doors, vae):
    (doors.input / "broken.mp4").write_bytes(b"\0" * 4096)
    with pytest.raises(ValueError, match="Encode Video.*input video.*'broken.mp4'.*cannot be decoded.*Choose another"):
        doors.encode(vae, "broken.mp4")
    with pytest.raises(ValueError, match="Encode Video.*input video.*12 frames.*frame 12"):
        doors.encode(vae, start=12)


@pytest.fixture
def graph():
    return {
        "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "blade_demo.safetensors"}},
        "encode": {
            "class_type": "BLADE_EncodeVideo",
            "inputs": {
                "vae": ["model", 2],
                "video": f"{CLIP}.mp4",
                "start_frame": 2,
                "frame_count": 0,
                "every_nth": 1,
                "longest_side": 0,
                "chunk_frames": 4,
            },
        },
        "decode": {
            "class_type": "BLADE_DecodeVideo",
            "inputs": {
                "latent": ["encode", 0],
                "vae": ["model", 2],
                "fps": ["encode", 1],
                "audio": ["encode", 2],
                "filename_prefix": "doors/clip",
                "format": H264,
                "crf": 16,
                "chunk_frames": 0,
            },
        },
        "again": {"class_type": "GetVideoComponents", "inputs": {"video": ["decode", 0]}},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["again", 0]}},
    }


def test_a_file_goes_through_both_doors_on_the_server(server, graph):
    outcome = server.run(with_defaults(graph, server.object_info()))
    assert outcome.error is None
    (video,) = outcome.outputs["decode"]["images"]
    clip = load_clip(str(server.base / video["type"] / video["subfolder"] / video["filename"]))
    source = load_clip(str(clips.path(CLIP)), Stretch(2))
    assert clip.frames.shape == (10, 128, 128, 3)
    assert clip.fps == 8
    assert (clip.frames - source.frames).abs().mean() < 0.05
    assert len(outcome.outputs["show"]["images"]) == 10  # core's nodes go on from the VIDEO


def test_a_missing_file_is_refused_before_anything_runs(server, graph):
    graph["encode"]["inputs"]["video"] = "nowhere.mp4"
    outcome = server.run(with_defaults(graph, server.object_info()))
    assert outcome.error_node == "encode"
    assert "Encode Video (BLADE), input video" in outcome.error
    assert not outcome.outputs
