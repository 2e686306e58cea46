"""Prompts that hold for a part of the way or of the picture: where the model would be asked for none, that is told before any work."""

import logging

import pytest
import torch

from blade.host.conditioning import check_asked
from tests.host.helpers import TARGET, counting

FIRST_HALF, SECOND_HALF = {"start_percent": 0.0, "end_percent": 0.5}, {"start_percent": 0.5, "end_percent": 1.0}
MIDDLE = {"start_percent": 0.3, "end_percent": 0.6}
LEFT = {"area": (16, 8, 0, 0), "strength": 1.0}
RIGHT = {"area": ("percentage", 1.0, 0.5, 0.0, 0.5), "strength": 1.0}
SHAPE = (3, 4, 16, 16)


def halves(top):
    mask = torch.zeros(1, 128, 128)
    mask[:, : 128 * top // 16] = 1
    return mask


def in_one_frame_less():
    mask = torch.ones(3, 128, 128)
    mask[1, :20, :20] = 0
    return {"mask": mask, "mask_strength": 1.0}


UPPER, LOWER = ({"mask": mask, "mask_strength": 1.0, "set_area_to_bounds": True} for mask in (halves(8), 1 - halves(8)))


def with_entry(conditioning, **entry):
    return [[embedding, {**options, **entry}] for embedding, options in conditioning]


@pytest.fixture(scope="module")
def prompts(studio):
    """Each of some entries on a prompt of its own, joined as core's Conditioning (Combine) joins them."""

    def make(*entries, text="a red circle on grass"):
        return [found for number, entry in enumerate(entries) for found in with_entry(studio.prompt(text + " now" * number), **entry)]

    return make


@pytest.fixture(scope="module")
def levels(studio):
    return studio.trajectory.sampling_sigmas(4)[:-1]


BARE = {
    "the first half": ([FIRST_HALF], "it holds from 0 to 0.5 of the way from noise .* at 2 of 4 noise levels"),
    "the second half": ([SECOND_HALF], "it holds from 0.5 to 1 of the way .* at 2 of 4"),
    "a stretch between two levels": ([{"start_percent": 0.3, "end_percent": 0.301}], "at 4 of 4"),
    "a stretch that ends before it begins": ([{"start_percent": 0.6, "end_percent": 0.3}], "from 0.6 to 0.3 .* at 4 of 4"),
    "two stretches with a gap": (
        [{"end_percent": 0.2}, {"start_percent": 0.7}],
        "it holds from 0 to 0.2 and from 0.7 to 1 of the way .* at 2 of 4 .*Conditioning \\(Combine\\)",
    ),
    "a text encoder's schedule, cut": ([{"clip_start_percent": 0.0, "clip_end_percent": 0.8, "start_percent": 0.3}], "from 0.3 to 0.8"),
    "no strength": ([{"strength": 0.0}], "its strength is 0"),
    "a mask of no strength beside a half": ([{"mask": halves(16), "mask_strength": 0.0}, FIRST_HALF], "from 0 to 0.5 .* at 2 of 4"),
}
LACKING = {
    "a part of the picture": [LEFT],
    "a part of the picture, counted in shares": [RIGHT],
    "the picture but for some cells": [{"mask": halves(15), "mask_strength": 0.5}],
    "all but a corner of one frame": [in_one_frame_less()],
    "two parts that leave a gap": [{"mask": halves(6), "mask_strength": 1.0}, LOWER],
    "two halves of the picture, in turn": [{**UPPER, **FIRST_HALF}, {**LOWER, **SECOND_HALF}],
    "the whole picture for a while": [{**FIRST_HALF}, {**LEFT}],
}
WHOLE = {
    "all": [{}],
    "one half after the other": [FIRST_HALF, SECOND_HALF],
    "a stretch beside the whole": [MIDDLE, {}],
    "stretches that lap over": [{"end_percent": 0.7}, {"start_percent": 0.2}],
    "a text encoder's schedule": [
        {"clip_start_percent": 0.0, "clip_end_percent": 0.4},
        {"clip_start_percent": 0.4, "clip_end_percent": 1.0},
    ],
    "one part of the picture beside the other": [LEFT, RIGHT],
    "two masks": [UPPER, LOWER],
    "a part beside the whole": [LEFT, {}],
    "an area of more sides than a picture has": [{"area": (16, 16, 1, 0, 0, 0), "strength": 1.0}],
    "a part, and core's default for the rest": [LEFT, {"default": True}],
    "a part that is weak": [{"mask": halves(16), "mask_strength": 0.01}],
}


@pytest.mark.parametrize(("entries", "told"), BARE.values(), ids=BARE)
def test_a_noise_level_without_a_prompt_is_told_with_the_range(studio, prompts, levels, entries, told):
    with pytest.raises(ValueError, match=told):
        check_asked(studio.model, prompts(*entries), levels)


@pytest.mark.parametrize("entries", LACKING.values(), ids=LACKING)
def test_a_part_of_the_picture_without_a_prompt_is_told_where_all_of_it_counts(studio, prompts, levels, entries):
    with pytest.raises(ValueError, match="areas and masks leave a part of the picture"):
        check_asked(studio.model, prompts(*entries), levels, SHAPE)


@pytest.mark.parametrize("entries", WHOLE.values(), ids=WHOLE)
def test_prompts_that_hold_for_all_together_are_taken(studio, prompts, levels, entries):
    check_asked(studio.model, prompts(*entries), levels, SHAPE)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("entries", "whole"),
    [
        *((entries, True) for entries in WHOLE.values()),
        *((entries, False) for entries in (*LACKING.values(), *(e for e, _ in BARE.values()))),
    ],
)
def test_core_answers_zero_where_no_prompt_is_asked_and_nowhere_else(studio, prompts, levels, entries, whole):
    """Core's own batch of conds, around a model that answers 1."""
    from comfy.sampler_helpers import convert_cond
    from comfy.samplers import calc_cond_batch, process_conds

    class Ones(type(studio.model.model)):
        def apply_model(self, x, *args, **kwargs):
            return torch.ones_like(x)

    inner = studio.model.clone().model
    x, kind = torch.zeros(SHAPE), inner.__class__
    inner.current_patcher, inner.__class__ = studio.model, Ones
    try:
        conds = process_conds(inner, x, {"positive": convert_cond(prompts(*entries))}, "cpu")["positive"]
        answers = [calc_cond_batch(inner, [conds], x, level.expand(3), {"transformer_options": {}})[0] for level in levels]
    finally:
        inner.__class__, inner.current_patcher = kind, None
    assert all((answer != 0).all() for answer in answers) == whole


# The nodes


REFUSED = {
    "the source": (lambda s, p: s.invert(p["model"], p["half"]), r"DDIM Invert \(BLADE\), input source: it holds from 0 to 0.5"),
    "the source, on an area": (lambda s, p: s.invert(p["model"], p["area"]), r"DDIM Invert \(BLADE\), input source: its areas and masks"),
    "the null prompt": (
        lambda s, p: s.invert(p["model"], null_prompt=p["half"]),
        r"DDIM Invert \(BLADE\), input null_prompt: it holds from 0 to 0.5",
    ),
    "the target": (lambda s, p: s.sample(model=p["model"], target=p["half"]), r"Blended Sampler \(BLADE\), input target: it holds"),
    "the negative": (lambda s, p: s.sample(model=p["model"], negative=p["half"]), r"Blended Sampler \(BLADE\), input negative: it holds"),
    "the negative, asked at the end": (
        lambda s, p: s.sample(model=p["model"], negative=p["half"], cfg=1.0, cfg_end=2.0),
        r"Blended Sampler \(BLADE\), input negative: it holds",
    ),
    "an edit's target": (lambda s, p: s.sample(model=p["model"], edits=s.edits(p["half"])), r"Edit \(BLADE\), input target: it holds"),
    "the source where structure is kept": (
        lambda s, p: s.sample(model=p["model"], source=p["late"], structure=0.5),
        r"Blended Sampler \(BLADE\), input source: it holds from 0.5 to 1 .* at 2 of 2",
    ),
    "the source on an area where structure is kept": (
        lambda s, p: s.sample(model=p["model"], source=p["area"], structure=0.5),
        r"Blended Sampler \(BLADE\), input source: it is given an area, but structure",
    ),
    "the structure of Select": (
        lambda s, p: s.select(s.edits(structure=0.5), model=p["model"], source=p["late"]),
        r"Blended Sampler Select \(BLADE\), input source: it holds from 0.5 to 1",
    ),
}


@pytest.mark.parametrize(("run", "told"), REFUSED.values(), ids=REFUSED)
def test_a_node_refuses_it_before_the_model_is_asked(studio, prompts, run, told):
    model, calls = counting(studio.model)
    given = {"model": model, "half": prompts(FIRST_HALF), "late": prompts(SECOND_HALF), "area": prompts(LEFT)}
    with pytest.raises(ValueError, match=told):
        run(studio, given)
    assert not calls


def test_a_range_that_is_given_between_select_and_its_guider_is_refused(studio):
    sampler, positive, sigmas, latent = studio.select(studio.edits(source_words="red circle"))
    model, calls = counting(studio.model)
    with pytest.raises(ValueError, match=r"Blended Sampler Select \(BLADE\): it holds from 0 to 0.5 of the way"):
        studio.advanced(studio.guided(with_entry(positive, **FIRST_HALF), model=model), sampler, sigmas, latent)
    assert not calls


def test_prompts_that_are_not_asked_may_hold_for_a_part_of_the_way(studio, prompts, box):
    half = prompts(FIRST_HALF)
    plain = studio.latents(mask=box, cfg=1.0, steps=1)
    assert torch.equal(studio.latents(mask=box, cfg=1.0, steps=1, negative=half, source=half), plain)


def told_of(caplog):
    return [record.message for record in caplog.records if "words were recorded" in record.message or "could not widen" in record.message]


HEARD = {
    "for a part of the way": (FIRST_HALF, "words were recorded at 2 of 4 levels, since their prompt holds from 0 to 0.5 of the way"),
    "on an area": (LEFT, "words were recorded at 0 of 4 levels, since their prompt is given an area"),
}


@pytest.mark.parametrize(("entry", "told"), HEARD.values(), ids=HEARD)
def test_why_words_were_not_recorded_is_the_prompts_own_range_or_area(studio, prompts, caplog, entry, told):
    caplog.set_level(logging.WARNING)
    studio.invert(source=[*prompts(entry), *studio.prompt("grass")])
    assert [told in sentence and "patch" not in sentence for sentence in told_of(caplog)] == [True]


def test_with_a_null_prompt_the_source_may_hold_for_a_part_of_the_way(studio, prompts, caplog):
    caplog.set_level(logging.WARNING)
    found, other = (studio.invert(source=source, null_prompt=studio.prompt("")) for source in (prompts(SECOND_HALF), None))
    assert torch.allclose(found.latents, other.latents, atol=1e-3)
    assert ["2 of 4 levels, since their prompt holds from 0.5 to 1" in sentence for sentence in told_of(caplog)] == [True]


def test_why_the_target_could_not_widen_the_mask_is_its_own_area(studio, prompts, caplog):
    caplog.set_level(logging.WARNING)
    studio.sample(target=[*prompts(LEFT, text=TARGET), *studio.prompt("grass")], source_words="red circle", target_words="blue circle")
    assert ["since their prompt is given an area" in sentence for sentence in told_of(caplog)] == [True]
