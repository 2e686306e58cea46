"""A clip of five small frames in the real host: what the tests of batches share."""

import torch

FRAMES, SIGMA = 5, 3.0
SIZES = (1, 3)
CAUSAL = {
    "first+previous": (("first", "previous"), 0),
    "self+first+previous": (("self", "first", "previous"), 0),
    "self+middle": (("self", "middle"), 0),
    "anchor_every=3": (("self",), 3),
}

TWO = ("self+first+previous", "self+middle")  # of which one carries frames on and the other sends one ahead


def difference(a, b):
    assert torch.isfinite(b).all()
    return float((a - b).abs().max() / b.abs().max())


def check_batches(host, conds, **settings):
    """Temporal attention with these settings gives in batches what it gives in the whole clip."""
    whole = host.once(host.temporal(size=FRAMES, **settings), conds)
    for size in SIZES:
        assert difference(host.once(host.temporal(size=size, **settings), conds), whole) <= 1e-5


def spy_on_rows(host, monkeypatch):
    """The number of rows and of conds of each call of the model, as they come."""
    calls, cls = [], host.core.model_base.BaseModel
    run = cls._apply_model

    def spy(self, x, t, *args, **kwargs):
        options = kwargs.get("transformer_options") or args[3]
        calls.append((len(x), len(options["cond_or_uncond"])))
        return run(self, x, t, *args, **kwargs)

    monkeypatch.setattr(cls, "_apply_model", spy)
    return calls


def short_of_memory(host, monkeypatch):
    monkeypatch.setattr(host.core.model_management, "get_free_memory", lambda *a, **k: 1)


def with_entry(conds, **entry):
    return [[embedding, {**options, **entry}] for embedding, options in conds]


def area(height, width, y, x):
    return {"area": (height // 8, width // 8, y // 8, x // 8)}


def one_mask():
    mask = torch.zeros(1, 64, 64)
    mask[:, 8:46, 15:50] = 1
    return mask


def moving_masks():
    return torch.stack([one_mask()[0].roll(4 * frame, 1) for frame in range(FRAMES)])


def rows_for(host, texts):
    return [[torch.cat([host.prompt(text)[0][0] for text in texts]), {}]]


LONG = "a red circle on grass and " * 20
LAYOUTS = {
    "no negative at CFG 1": lambda h, p: (p[0], p[1], 1.0),
    "several positives": lambda h, p: (p[0] + h.prompt("a red star on sand"), p[1], 4.0),
    "prompts of 77 and 154 tokens": lambda h, p: (h.prompt(LONG), p[1], 4.0),
    "an area": lambda h, p: (p[0] + with_entry(h.prompt("a star"), **area(32, 40, 16, 24)), p[1], 4.0),
    "two areas, one of them the negative's": lambda h, p: (
        p[0] + with_entry(h.prompt("a star"), **area(32, 40, 16, 24)),
        p[1] + with_entry(h.prompt("sand"), **area(24, 64, 0, 0)),
        4.0,
    ),
    "one mask for the clip": lambda h, p: (p[0] + with_entry(h.prompt("a star"), mask=one_mask(), mask_strength=1.0), p[1], 4.0),
    "a mask for each frame": lambda h, p: (p[0] + with_entry(h.prompt("a star"), mask=moving_masks(), mask_strength=0.8), p[1], 4.0),
    "a mask for each frame, within its bounds": lambda h, p: (
        p[0] + with_entry(h.prompt("a star"), mask=moving_masks(), mask_strength=0.8, set_area_to_bounds=True),
        p[1],
        4.0,
    ),
    "a positive whose time has come, one whose has not": lambda h, p: (
        with_entry(p[0], start_percent=0.0, end_percent=0.9)
        + with_entry(h.prompt("a star"), start_percent=0.1)
        + with_entry(h.prompt("sand"), start_percent=0.95),
        p[1],
        4.0,
    ),
    "an embedding for each frame": lambda h, p: (rows_for(h, [f"a star {n}" for n in "abcde"]), rows_for(h, list("fghij")), 4.0),
    "fewer embeddings than frames": lambda h, p: (rows_for(h, ["a star", "sand"]), p[1], 4.0),
}
