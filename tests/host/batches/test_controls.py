"""Frames pass in batches as if the whole clip passed at once, each with its own ControlNet hints."""

import copy

import pytest
import torch

from tests.host.batches.small_clip import FRAMES, SIZES, TWO, check_batches, difference, spy_on_rows
from tests.host.windows import context_windows


@pytest.fixture(scope="module")
def control_net(host):
    """A ControlNet of the demo model's shape with random weights, its zero convolutions' too."""
    config = {k: v for k, v in host.config.items() if k not in ("out_channels", "transformer_depth_output")}
    net = host.core.cldm.cldm.ControlNet(**config, hint_channels=3, dtype=torch.float32, operations=host.core.ops.disable_weight_init)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            wide = weight.ndim > 1
            weight.normal_(0, weight[0].numel() ** -0.5 if wide else 0.1, generator=generator)
            if not wide and name.endswith("weight"):
                weight += 1
    return host.core.controlnet.ControlNet(net.eval(), load_device=torch.device("cpu"))


def hints(frames, seed=6):
    return torch.rand(frames, 64, 64, 3, generator=torch.Generator().manual_seed(seed))


def controlled(host, plain, control_net, *images, strength=0.5):
    positive, negative, cfg = plain
    for image in images:
        positive, negative = host.core_nodes.ControlNetApplyAdvanced().apply_controlnet(
            positive, negative, control_net, image, strength, 0.0, 1.0
        )
    return positive, negative, cfg


CONTROLS = {
    "a hint for each frame": [hints(FRAMES)],
    "one hint for all": [hints(1)],
    "fewer hints than frames": [hints(2)],
    "two chained": [hints(FRAMES), hints(1, 7)],
    "two chained, a hint for each frame": [hints(FRAMES), hints(FRAMES, 7)],
}


@pytest.mark.parametrize("variant", TWO)
@pytest.mark.parametrize("images", CONTROLS.values(), ids=CONTROLS)
def test_under_controlnets_batches_give_what_the_whole_clip_gives(in_double, plain, control_net, images, variant):
    conds = controlled(in_double, plain, control_net, *images)
    whole, unsteered = (in_double.once(in_double.temporal(variant, FRAMES), each) for each in (conds, plain))
    assert difference(unsteered, whole) > 1e-3
    check_batches(in_double, conds, variant=variant)


@pytest.mark.parametrize("images", CONTROLS.values(), ids=CONTROLS)
def test_in_cores_context_windows_a_hint_stays_with_its_frame(in_double, plain, control_net, images):
    """Core's own windows all get the clip's first hints."""
    host, conds = in_double, controlled(in_double, plain, control_net, *images)
    handler = context_windows("standard_static", 3, 1)

    def in_windows(guider, x, sigmas, extra):
        options = {**extra["model_options"], "context_handler": handler}
        options["transformer_options"]["sample_sigmas"] = sigmas[:1]
        return guider(x, sigmas, **{**extra, "model_options": options})

    whole = host.once(host.temporal("self", FRAMES), conds)
    for size in (2, FRAMES):
        assert difference(host.inside(host.temporal("self", size), conds, in_windows), whole) <= 1e-5


def test_under_a_controlnet_cond_and_uncond_still_share_a_batch(host, plain, control_net, monkeypatch):
    conds = controlled(host, plain, control_net, *CONTROLS["two chained"])
    calls = spy_on_rows(host, monkeypatch)
    host.once(host.temporal(size=3), conds)
    assert calls == [(6, 2), (4, 2)]


def test_a_hint_steers_its_own_frame_and_those_that_look_at_it(host, plain, control_net):
    other = hints(FRAMES).clone()
    other[3] = 1 - other[3]
    for size in SIZES:
        a, b = (host.once(host.temporal(size=size), controlled(host, plain, control_net, images)) for images in (hints(FRAMES), other))
        assert torch.equal(a[:3], b[:3])
        assert difference(a[3], b[3]) > 1e-3


def test_a_controlnet_is_unchanged_afterwards_and_works_without_our_patch(host, plain, control_net):
    conds = controlled(host, plain, control_net, *CONTROLS["two chained, a hint for each frame"])
    before = host.once(host.model, conds)
    chain = [conds[0][0][1]["control"], conds[0][0][1]["control"].previous_controlnet]
    states = [{name: copy.copy(value) for name, value in vars(part).items() if isinstance(value, (list, dict))} for part in chain]
    values = [dict(vars(part)) for part in chain]
    for size in (*SIZES, FRAMES):
        host.once(host.temporal(size=size), conds)
    for part, state, value in zip(chain, states, values, strict=True):
        assert vars(part).keys() == value.keys()
        assert all(vars(part)[name] is held for name, held in value.items())
        assert all(vars(part)[name] == held for name, held in state.items() if name != "extra_concat_orig")
    assert torch.equal(host.once(host.model, conds), before)


@pytest.mark.parametrize(("images", "masks"), [(1, FRAMES), (3, FRAMES), (FRAMES, 2), (FRAMES, FRAMES)])
def test_the_mask_beside_a_hint_follows_it_as_in_core(host, images, masks):
    """An inpainting ControlNet's mask goes with the hint's rows: core repeats it to their number, then both to the clip's."""
    hint, mask = torch.arange(images).float(), torch.arange(masks).float()
    control = host.core.controlnet.ControlBase().set_cond_hint(hint[:, None], extra_concat=[mask[:, None]])

    def pairs(part):
        rows = len(part.cond_hint_original)
        repeated = host.core.utils.repeat_to_batch_size(part.extra_concat_orig[0], rows)
        return torch.cat([part.cond_hint_original, repeated], 1)

    whole = host.core.utils.repeat_to_batch_size(pairs(control), FRAMES)
    rows = [2, 3, 4]
    part = host.frames.rows_of_control(control, rows, FRAMES, {})
    assert torch.equal(host.core.utils.repeat_to_batch_size(pairs(part), len(rows)), whole[rows])


def test_an_advanced_controlnet_is_told_the_batchs_frames_on_a_copy(host):
    control = host.core.controlnet.ControlBase().set_cond_hint(hints(FRAMES))
    control.sub_idxs = control.full_latent_length = control.context_length = None
    part = host.frames.rows_of_control(control, [3, 4], FRAMES, {})
    assert (part.sub_idxs, part.full_latent_length, part.context_length) == ([3, 4], FRAMES, 2)
    assert len(part.cond_hint_original) == FRAMES
    assert control.sub_idxs is control.full_latent_length is control.context_length is None
