"""Structure injection: inside the mask, self-attention's queries and keys of the clip's own pass, so that an edited object keeps its shape."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import comfy.sampler_helpers
import comfy.samplers
import torch
import torch.nn.functional as F
from torch import Tensor

from .conditioning import on_area
from .families.family import Family
from .frames import check_answered, rows_of_all_conds
from .layers import FRAMES, STRUCTURE, Attend, Layer

HELD = "blade_structure"  # in transformer_options: the pass under way
CELLS = 180, 1300  # least and most of a layer that takes part: 16x16 and 32x32 at 512 px. Coarser ones lead the shape away from the clip's,
# and finer ones would hold too much: of SD1.5 at 512 px these hold 13 MiB a frame of the batch, of SDXL at 1024 px about 300
OTHERS = ("control", "hooks", "gligen")  # of a cond: they need a model loaded, or weights patched, which core did not for this one


@dataclass
class SourcePass:
    """What the clip's own pass leaves for the edit's: by layer the place of its prompt, queries and keys. inside: where they are used, [frames, 1, h, w]."""

    inside: Tensor
    layers: dict[Hashable, tuple[int, Tensor, Tensor]] = field(default_factory=dict)
    whole: bool = False  # whether the clip's own pass is over


def source_conds(model, family: Family, source: list, x: Tensor) -> list[dict]:
    """CONDITIONING as the model takes it, without prompts on an area. `model` is what a sampler function is given, x the clip's latents,
    [frames, channels, h, w]."""
    guider, x = model.inner_model, family.model_first(x)
    whole = comfy.sampler_helpers.convert_cond([entry for entry in source if not on_area(entry[1])])
    conds = [{name: value for name, value in cond.items() if name not in OTHERS} for cond in whole]
    return comfy.samplers.process_conds(guider.inner_model, x, {"source": conds}, x.device)["source"]


def asking_the_source(
    conds: list[dict], background: Callable[[Tensor], Tensor], inside: Callable[[float], Tensor | None]
) -> tuple[Callable, dict]:
    """A CALC_COND_BATCH wrapper, to stand inside that of host.frames, and what Family.attention_wrapper takes.

    Before each call the model is also asked for the source prompt at the clip's own latent of that level (background(sigma)), and its queries and
    keys take the place of the edit's at the cells where inside(sigma) says so; None asks for nothing. Values stay the edit's.

    Paper silent; after Plug-and-Play (Tumanyan et al. 2022, section 4.2), whose features are left out, and kept inside the mask."""

    order = {cond["uuid"]: place for place, cond in enumerate(conds)}
    level: list = []  # the one under way: sigma, the clip's latents
    one_at_a_time = threading.Lock()  # since 0.23 core may run conds in threads, on devices of their own

    def calc_cond_batch(executor, inner, edits, x, timestep, model_options):
        options = model_options["transformer_options"]
        passing, cells = options[FRAMES], inside(float(timestep[0]))
        if cells is None:
            return executor(inner, edits, x, timestep, model_options)
        if level[:1] != [float(timestep[0])]:  # batch after batch asks for the same
            level[:] = [float(timestep[0]), background(timestep[0])]
        behind = level[1]
        rows, frames = list(passing.clip), len(behind)
        held = SourcePass(cells.expand(frames, -1, -1, -1)[rows].to(x))
        options = {**model_options, "transformer_options": {**options, HELD: held}}
        asked = [conds] if passing.family.frame_axis else rows_of_all_conds([conds], rows, rows, frames)
        executor(inner, asked, passing.family.model_first(behind[rows].to(x)), timestep, options)
        held.whole = True
        passing.ran.clear()
        edited = executor(inner, edits, x, timestep, options)
        check_answered(passing, inner)
        return edited

    def look(q: Tensor, k: Tensor, v: Tensor, attend: Attend, layer: Layer) -> Tensor:
        held: SourcePass | None = layer.call.options.get(HELD)
        if held is None:
            layer.note(STRUCTURE, idle=True)
        elif layer.passing is None:  # another patch has changed the batch's rows
            pass
        elif not held.whole:
            known = [order.get(uuid, len(order)) for uuid, _ in layer.call.conds]
            with one_at_a_time:
                if layer.name not in held.layers or min(known) < held.layers[layer.name][0]:  # of several source prompts, the first's
                    begin = known.index(min(known)) * len(held.inside)
                    held.layers[layer.name] = min(known), q[begin : begin + len(held.inside)], k[begin : begin + len(held.inside)]
        elif layer.name in held.layers:
            own_q, own_k = (part.to(q.device) for part in held.layers[layer.name][1:])  # core may run conds on several devices
            # Another patch (HyperTile, token merging) may have changed the cells: then the layer is left alone.
            if q.shape[1:] == own_q.shape[1:] and k.shape[1:] == own_k.shape[1:] and len(q) % len(own_q) == 0 == len(k) % len(own_k):
                inside = F.adaptive_max_pool2d(held.inside.to(q), layer.size).flatten(1)[..., None] > 0.5
                if inside.shape[1] == q.shape[1] == k.shape[1]:
                    layer.note(STRUCTURE)
                    prompts = len(q) // len(own_q)
                    inside = inside.repeat(prompts, 1, 1)
                    q, k = (torch.where(inside, own.repeat(prompts, 1, 1), new) for own, new in ((own_q, q), (own_k, k)))
        return attend(q, k, v)

    return calc_cond_batch, {"self_attention": look, "self_where": lambda size: CELLS[0] <= size[0] * size[1] <= CELLS[1]}
