"""Core's context windows as they have been since 0.26, on any ComfyUI."""

from __future__ import annotations

import inspect

import torch


def context_windows(schedule, length, overlap, fix=True, retained="", loop=False, fuse="flat", dim=0):
    """A handler of core's, as its node makes it. fix: whether the frame before a window goes ahead of it, and what comes of that one is
    dropped. retained: rows that show the frame of their own number whatever the window, such as "0, 2"."""
    import comfy.context_windows as core

    kind = core.IndexListContextHandler
    newer = "latent_retain_index_list" in inspect.signature(kind.__init__).parameters
    more = {"latent_retain_index_list": retained, "causal_window_fix": fix} if newer else {}
    schedule, fuse = core.get_matching_context_schedule(schedule), core.get_matching_fuse_method(fuse)
    handler = (kind if newer else acted_out(core))(schedule, fuse, length, overlap, closed_loop=loop, dim=dim, **more)
    if not newer:
        handler.fix, handler.latent_retain_index_list = fix, [int(row) for row in retained.split(",") if row]
    return handler


def frames_of(handler, frames):
    """Of each window of a clip, the frames that are passed and how many of the first are dropped. Without `retained`."""
    fix = getattr(handler, "causal_window_fix", getattr(handler, "fix", False))
    windows = [list(window.index_list) for window in handler.get_context_windows(None, torch.empty(frames, 1), {})]
    return [([window[0] - 1, *window], 1) if fix and window[0] > 0 else (window, 0) for window in windows]


def acted_out(core):
    """The same in the classes of an older host, where a window is passed as it is."""

    class Window(core.IndexListContextWindow):
        def get_tensor(self, full, device=None, dim=None):
            if len(full) == 1:
                return full
            return full[self.index_list if self.causal_anchor_index is None else [self.causal_anchor_index, *self.index_list]]

    class Handler(core.IndexListContextHandler):
        def set_step(self, timestep, model_options):
            super().set_step(timestep[0], model_options)  # 0.3.75 compares all of the frames' with the steps

        def evaluate_context_windows(self, calc_cond_batch, model, x_in, conds, timestep, numbered, model_options, *devices):
            found = []
            for number, window in numbered:
                before = window.index_list[0] - 1
                passed = Window(window.index_list, self.dim)
                passed.total_frames, passed.causal_anchor_index = len(x_in), before if self.fix and before >= 0 else None
                x = passed.get_tensor(x_in)
                x[self.latent_retain_index_list] = x_in[self.latent_retain_index_list]
                model_options["transformer_options"]["context_window"] = passed
                parts = [self.get_resized_cond(cond, x_in, passed) for cond in conds]
                outputs = calc_cond_batch(model, parts, x, passed.get_tensor(timestep), model_options)
                outputs = [out[passed.causal_anchor_index is not None :] for out in outputs]
                found.append(core.ContextResults(number, outputs, parts, window))
            return found

    return Handler
