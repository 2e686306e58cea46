"""A few of the faults of `nox -s faults`, on a real server: one of each kind, and two cancellations."""

from dataclasses import replace

import pytest

from benchmarks.faults.cells import AT_ONCE, CANCEL, EXCEPTION, MEMORY, NAN, REFUSED, Fresh, in_one_server
from benchmarks.faults.graph import FRAMES, FaultHost, graph, prepare
from runner.graphs import with_defaults


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture(scope="module")
def host(comfy_folder, tmp_path_factory):
    with FaultHost(comfy_folder, prepare(tmp_path_factory.mktemp("faults"))) as host:
        yield host


@pytest.fixture(scope="module")
def fresh(host):
    return Fresh.of(host)


@pytest.fixture(scope="module")
def nonces():
    return iter(range(1, 1000))


@pytest.mark.parametrize(
    ("place", "kind", "sentence"),
    [
        ("inversion.cross-attention", CANCEL, "interrupted"),
        ("inversion.unet", MEMORY, "the fault of a full device"),
        ("sampling.self-attention", EXCEPTION, "the fault of another pack"),
        ("sampling.unet", NAN, "Blended Sampler (BLADE), input model: the model gives values that are not finite"),
        ("decoding.decode", CANCEL, "interrupted"),
        ("inversion.unet", REFUSED, "DDIM Invert (BLADE), input model: another pack's patch answers in the model's place"),
        ("selecting.unet", REFUSED, "Blended Sampler Select (BLADE), input model: another pack's patch answers in the model's place"),
    ],
)
def test_after_a_fault_the_server_gives_what_a_fresh_one_does_and_holds_nothing_more(host, fresh, nonces, place, kind, sentence):
    end, dirt = in_one_server(host, fresh, place, kind, nonces)
    assert end.startswith(sentence)
    assert dirt == []


def test_a_fault_that_does_not_happen_is_told(host, fresh, nonces):
    place = "inversion.unet"
    fewer = replace(fresh, calls={place: 1000 * fresh.calls[place]})
    assert in_one_server(host, fewer, place, CANCEL, nonces) == ("finished", ["the fault did not happen"])


def test_what_a_run_leaves_behind_is_told(host, fresh, nonces):
    """Planted: part of a file, a file in the temp folder, a result of other bits, and one more, which ComfyUI keeps."""
    prompt = graph(next(nonces))
    prompt["edited"]["inputs"]["cfg"] = 3.0
    prompt["left"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    prompt["digest of left"] = node("FaultDigest", value=["left", 0])
    (host.base / "output" / "faults").mkdir(exist_ok=True)
    (host.base / "output" / "faults" / "half.mkv").write_bytes(b"RIFF")
    left = host.base / "temp" / "left.bin"
    left.write_bytes(b"x")
    try:
        ran = host.edit(prompt)
    finally:
        left.unlink()
    assert any(told.startswith("file faults/half.mkv: cannot be read") for told in fresh.unlike(ran, ()))
    assert next(told.split(":")[0] for told in fresh.unlike(ran, AT_ONCE)) == "temp"
    assert ran.state["tensors"] - fresh.state["tensors"] == 4 * 4 * 8 * 8
    assert "digest of edited differs" in fresh.missed(ran)
    assert "digest of latent differs" not in fresh.missed(ran)


def test_what_a_refusal_advises_is_followed_by_no_warning_of_a_leak(host, nonces):
    """Self-Attention Guidance over a clip in batches, then in one: within the ten seconds in which ComfyUI, after core's prompt, looks for no circles."""
    prompt = {name: part for name, part in graph(next(nonces)).items() if name in ("checkpoint", "start", "frames", "temporal")}
    prompt["guided"] = node("SelfAttentionGuidance", model=["temporal", 0], scale=0.5, blur_sigma=2.0)
    prompt["words"] = node("BLADE_Prompt", clip=["checkpoint", 1], text="a circle")
    prompt["latent"] = node("VAEEncode", pixels=["frames", 0], vae=["checkpoint", 2])
    prompt["path"] = node("BLADE_DDIMInvert", model=["guided", 0], source=["words", 0], latent=["latent", 0], steps=2)
    prompt["saved path"] = node("BLADE_SaveTrajectory", trajectory=["path", 0], filename_prefix="faults/guided")
    host.arm()
    assert host.run(with_defaults(graph(next(nonces), "core"), host.types)).error is None
    assert "Self-Attention Guidance looks at the whole clip at once" in host.run(with_defaults(prompt, host.types)).error
    prompt["temporal"]["inputs"]["batch_frames"] = FRAMES
    ran = host.edit(prompt)
    assert (ran.outcome.error, ran.state["leaks"]) == (None, [0, 0])
