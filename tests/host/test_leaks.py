"""After an error ComfyUI must find every network that it has loaded by a MODEL that lives on: else it warns of a leak at each loading, for good.

Its frame keeps the error's traceback in a circle, which Python finds when it looks for such: here only when told to, so that nothing is left to
chance."""

import asyncio
import gc
import sys
import weakref

import pytest

from tests.host.helpers import SOURCE, temporal

FRAMES_AT_ONCE = 2  # of three


@pytest.fixture
def clones(comfy, monkeypatch):
    """Weak references to every MODEL that is cloned."""
    made, clone = [], comfy.model_patcher.ModelPatcher.clone

    def noted(patcher, *args, **kwargs):
        found = clone(patcher, *args, **kwargs)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "clone", noted)
    gc.collect()
    gc.disable()
    yield made
    gc.enable()


def prompt_of(run, studio, model):
    """What ends a prompt that runs a node so, in ComfyUI's manner: in a loop of its own, with a frame that keeps the traceback of an error, though not
    of a cancellation."""
    from comfy.model_management import InterruptProcessingException

    async def execute():
        try:
            run(studio, model)
        except InterruptProcessingException as error:
            return str(error)
        except Exception as error:
            kept = sys.exc_info()[2]  # noqa: F841
            return str(error)
        return "finished"

    return asyncio.run(execute())


def answering(fault):
    """What patches a MODEL so that it fails in its third call."""

    def patch(model):
        calls = []

        def unet(apply, given):
            calls.append(1)
            return fault(apply, given) if len(calls) == 3 else apply(given["input"], given["timestep"], **given["c"])

        model.set_model_unet_function_wrapper(unet)

    return patch


def fails(apply, given):
    raise RuntimeError("the fault of another pack")


def not_a_number(apply, given):
    return apply(given["input"], given["timestep"], **given["c"]) * float("nan")


def cancelled(apply, given):
    from comfy.model_management import InterruptProcessingException

    raise InterruptProcessingException("cancelled")


FAULTS = {
    "another pack's patch answers in the model's place": answering(lambda apply, given: given["input"]),
    "the model gives values that are not finite": answering(not_a_number),
    "the fault of another pack": answering(fails),
    "cancelled": answering(cancelled),
}


def invert(studio, model):
    studio.invert(model=model)


def check(studio, model):
    from blade.nodes.reconstruction import ReconstructionCheck

    ReconstructionCheck.execute(model, studio.prompt(SOURCE), studio.trajectory)


def sample(studio, model):
    studio.sample(model=model)


def select(studio, model):
    sampler, positive, sigmas, latent = studio.select(studio.edits())
    studio.advanced(studio.guided(positive, model=model), sampler, sigmas, latent)


def cores_sampler(studio, model):
    from nodes import KSampler

    KSampler().sample(model, 0, 2, 5.0, "euler", "normal", studio.prompt(SOURCE), studio.prompt(""), {"samples": studio.latent})


@pytest.mark.parametrize("sentence", FAULTS)
@pytest.mark.parametrize("run", [invert, check, sample, select])
def test_an_error_inside_the_model_leaves_no_clone_and_no_dead_model(comfy, studio, clones, run, sentence):
    assert sentence in after_a_fault(comfy, studio, clones, run, FAULTS[sentence])


@pytest.mark.parametrize("run", [invert, check, sample, cores_sampler])
def test_a_refusal_of_another_packs_patch_leaves_no_clone_and_no_dead_model(comfy, studio, clones, run):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    told = after_a_fault(
        comfy, studio, clones, run, lambda model: None, lambda model: SelfAttentionGuidance.execute(model, 0.5, 2.0).result[0]
    )
    assert "Self-Attention Guidance looks at the whole clip at once" in told


def after_a_fault(comfy, studio, clones, run, patch, another=lambda model: model):
    """How a prompt ends that runs a sampling node on a MODEL of several nodes, which ComfyUI's cache drops as soon as the next prompt lacks them."""
    _ = studio.trajectory
    model = studio.model.clone()
    patch(model)
    model = another(temporal(model, FRAMES_AT_ONCE, "self", "first"))
    nodes = len(clones)
    end = prompt_of(run, studio, model)
    assert [clone() for clone in clones[nodes:] if clone() is not None] == []
    del model
    gc.collect()
    loaded = comfy.model_management.current_loaded_models
    assert not any(one.is_dead() for one in loaded if one.real_model is not None)
    return end
