"""Edit: what should change and where, for one of several edits in a pass; and what the samplers make of edits."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from comfy_api.latest import io

from ..attention.heat import WordsHeat, record_heat, spans
from ..attention.masks import ADD, MATTES, SUBTRACT
from ..attention.online import FixedMask, MaskHeat, OnlineMask, StepMask
from ..attention.record import MapRecorder, recorded_sizes
from ..attention.words import Phrase, PromptWords, changed_columns, means_all_but
from ..blending.consensus import Consensus, object_places
from ..blending.layers import Layer, Layers
from ..host.blended import PromptedEdit, tagged
from ..host.conditioning import why_unheard
from ..host.job import Watch
from ..host.sampling import percent_to_sigma
from ..host.words import words_of
from ..inversion.trajectory import Trajectory
from .common import CATEGORY, checked, clip_mask, naming, resize_note

TITLE = "Edit (BLADE)"
EditsSocket = io.Custom("BLADE_EDITS")
ALONE, SOURCE = "alone", "source"
MODES = (ALONE, SOURCE, *MATTES)
WITHOUT = {ADD: ", where add does nothing", SUBTRACT: ", where subtract does nothing"}  # modes in which words draw a mask without it too


def edit_inputs() -> list:
    """The inputs that say where an edit is and how it begins; shared by all nodes that take one."""
    return [
        io.String.Input(
            "source_words",
            default="",
            tooltip='Words of the source prompt whose place is edited, written as in Cross-Attention Mask: "red car, -road, wheels:0.5, car#2". '
            '"-red car" alone: everything but the car. Empty: the words that change.',
        ),
        io.String.Input(
            "target_words",
            default="",
            tooltip="Words of the target prompt that may widen the mask, written the same way. Empty: the words that change.",
        ),
        io.Int.Input("grow", default=0, min=-256, max=256, tooltip="Widens the mask by so many pixels; negative values shrink it."),
        io.Int.Input(
            "widen",
            default=0,
            min=0,
            max=256,
            tooltip="Widens the mask by so many pixels more at the first step, falling to none at the last. For thin objects, which hardly "
            "cover a latent cell of 8x8 pixels: try 8.",
        ),
        io.Float.Input(
            "feather",
            default=0.0,
            min=0.0,
            max=256.0,
            step=0.5,
            tooltip="Fades the edit out over so many pixels around the mask. The clip changes there too: where Pixel Composite follows, leave it at 0 "
            "and feather there.",
        ),
        io.Float.Input(
            "renoise",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="How the edit begins. 0: from the clip's own inverted noise, which remembers the old object's shape and light. 1: from fresh noise, "
            "which forgets it, for a replacement that the old object shines through. Each seed is another variation.",
        ),
        io.Float.Input(
            "structure",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Share of the way from noise to clip during which the object keeps the clip's own structure: its self-attention looks where the "
            "clip's does. Try 0.5 where another colour or material changes the object's build too; 0 for another kind of object. Needs the source "
            "prompt at source; that part takes half as long again, and with SDXL 300 MiB a frame of the batch.",
        ),
        io.Float.Input(
            "confine",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Share of the way from noise to clip during which the target prompt is heard inside the mask only. Else the object may be drawn "
            "beside its place, where the clip is kept, and comes out small or not at all: try 0.3. 0: heard everywhere, as in stock sampling.",
        ),
        io.Combo.Input(
            "mask_mode",
            options=list(MODES),
            default=ALONE,
            tooltip="What a connected mask does. alone: it is the mask, and the words are not used. source: it says where the old object is, and the "
            "target words may widen it. limit, add, subtract: the words draw the mask, which stays inside it, is joined with it, or keeps out of it.",
        ),
    ]


def mask_input():
    return io.Mask.Input("mask", optional=True, tooltip="A mask of your own, or Cross-Attention Mask's: one for the clip or one a frame.")


@dataclass(frozen=True, eq=False)
class Edit:
    """What should change and where. target: CONDITIONING; the rest as the inputs of `edit_inputs`. title: of the node that made it, for errors."""

    title: str
    target: list
    source_words: str = ""
    target_words: str = ""
    grow: int = 0
    widen: int = 0
    feather: float = 0.0
    renoise: float = 0.0
    structure: float = 0.0
    confine: float = 0.0
    mask_mode: str = ALONE
    mask: torch.Tensor | None = None
    tag: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def positive(self) -> list:
        """The target prompt, so marked that the sampler knows it for this edit's."""
        return tagged(self.target, self.tag)

    def own_mask(self, trajectory: Trajectory) -> torch.Tensor | None:
        """The artist's mask for every latent frame, [frames, height, width] at the clip's size, if there is one. Raises ValueError, naming node and input,
        where it does not fit the trajectory."""
        with naming(self.title, "mask"):
            return None if self.mask is None else clip_mask(self.mask, trajectory)

    def fixed_mask(self, trajectory: Trajectory, steps: int, own: torch.Tensor | None) -> FixedMask | None:
        """Its mask where that is the artist's own (`own_mask`) alone; None where words have a say."""
        if own is None or self.mask_mode != ALONE:
            return None
        return FixedMask(own, steps, trajectory.size, self.grow, self.widen, self.feather)

    def step_mask(self, trajectory: Trajectory, sigmas: torch.Tensor, mask: torch.Tensor | None) -> StepMask:
        """Its mask, step by step on these sigmas. mask: its `own_mask`. Raises ValueError, naming node and input, where the words do not fit the
        trajectory."""
        fixed = self.fixed_mask(trajectory, len(sigmas) - 1, mask)
        if fixed is not None:
            return fixed
        cells, (height, width) = trajectory.size, trajectory.pixels
        masked = mask is not None and self.mask_mode == SOURCE
        source, words, aim = self.words(trajectory, masked)
        if masked and mask is not None:
            heat: WordsHeat | MaskHeat = MaskHeat(mask)
        else:
            with naming(self.title, "trajectory"):
                heat = record_heat(trajectory.record, source, height, width)
        recorder = MapRecorder(words, recorded_sizes(*cells), trajectory.frames, trajectory.coordinates)
        matte, mode = (None, "") if masked else (mask, self.mask_mode)
        return OnlineMask(heat, recorder, WordsHeat(aim, height, width), sigmas, cells, self.grow, self.widen, matte, mode, self.feather)

    def words(self, trajectory: Trajectory, masked: bool) -> tuple[tuple[Phrase, ...], PromptWords, tuple[Phrase, ...]]:
        """The words that say where to edit: phrases of the source prompt; the target prompt's words, and phrases of those. masked: whether a mask
        says in the place of the source prompt's words."""
        record, goal = trajectory.record, words_of(self.target)
        if record is None:
            raise ValueError(
                f"{self.title}, input trajectory: no words were recorded with it, so no mask can draw itself. "
                "Make the source prompt of DDIM Invert with a Prompt (BLADE) node, or connect a mask."
            )
        if goal is None:
            raise ValueError(
                f"{self.title}, input target: its words are not known, so no mask can draw itself. Make it with a Prompt (BLADE) node, or connect a mask."
            )
        source: tuple[Phrase, ...] = ()
        aim: tuple[Phrase, ...] = ()
        if self.source_words.strip():
            with naming(self.title, "source_words"):
                source = record.words.choose(self.source_words, all_but=True)
        if means_all_but(source) and not masked:
            if self.target_words.strip():
                raise ValueError(
                    f"{self.title}, input target_words: source_words ({self.source_words.strip()!r}) says only what is kept, so that all else is the mask and "
                    "no word can widen it. Leave target_words empty."
                )
            return source, goal, ()
        if self.target_words.strip():
            with naming(self.title, "target_words"):
                aim = goal.choose(self.target_words)
        if not self.source_words.strip() or not self.target_words.strip():
            with naming(self.title, "target"):
                changed = [
                    (Phrase("the words that change", columns),) if columns else () for columns in changed_columns(record.words, goal)
                ]
            source = source if self.source_words.strip() else changed[0]
            aim = aim if self.target_words.strip() else changed[1]
        if not source and not masked:
            raise ValueError(
                f"{self.title}, input source_words: the target prompt only adds words, so none of the source prompt says where to edit. "
                f"Name words of the source prompt {record.words.text!r}."
            )
        return source, goal, aim


def check_places(
    edits: Sequence[Edit], owns: Sequence[torch.Tensor | None], masks: Sequence[StepMask | None], trajectory: Trajectory
) -> list[str]:
    """Raises ValueError where no edit has a place, so that sampling would change nothing. Returns what an artist should know of the masks, a sentence
    each. owns: the edits' own masks. masks: what comes of them, None for one that words will draw."""
    notes, places = [], []
    for number, (edit, own, mask) in enumerate(zip(edits, owns, masks, strict=True), 1):
        name = "mask" if len(edits) == 1 else f"mask of edit {number}"
        if isinstance(mask, FixedMask):
            place = mask.filled()
        else:
            place = torch.ones(trajectory.frames, dtype=torch.bool) if own is None else own.flatten(1).any(1)
        if edit.mask is not None:
            notes.append(resize_note(edit.mask, *trajectory.pixels, name))
        if not place.all():
            notes.append(f"The {name} is empty in {int((~place).sum())} of {len(place)} frames{WITHOUT.get(edit.mask_mode, '')}.")
        elif not (mask is None or mask.filled().any()):
            notes.append(f"Nothing is inside the {name} at the first step: nothing changes unless the target words widen it.")
        places.append(place.any() or edit.mask_mode in WITHOUT)
    if not any(places):
        refuse_empty(edits[0], owns[0], trajectory)
    return [note for note in notes if note]


def refuse_empty(edit: Edit, own: torch.Tensor | None, trajectory: Trajectory) -> None:
    """Raises ValueError that says why nothing is left of an edit's own mask."""
    with naming(edit.title, "mask"):
        if own is not None and not own.any():
            raise ValueError(
                "it is empty in every frame, so nothing would be edited. Paint the mask, or look at the node that it comes from: a picture from Load "
                "Image has a mask only where it is transparent or painted on."
            )
    larger = replace(edit, grow=0).fixed_mask(trajectory, 2, own)
    if edit.grow < 0 and larger is not None and larger.filled().any():
        with naming(edit.title, "grow"):
            raise ValueError(
                f"it is {edit.grow}, which leaves nothing of the mask in any frame, so nothing would be edited. Set it higher."
            )
    with naming(edit.title, "mask"):
        raise ValueError(
            "it is too small or too faint: of no latent cell (8x8 pixels) it covers a fifth, so nothing would be edited. Give a larger one, or set grow higher."
        )


class Pass:
    """Edits made ready for one run of a sampler: their masks, how their frames agree, what they need of the model.

    consensus, until: how far frames agree, and for which share of the way from noise to clip. window: shares of the steps between which masks hold.
    notes: what an artist should know of the masks. Raises ValueError as Edit.step_mask and check_places do."""

    def __init__(
        self,
        model,
        trajectory: Trajectory,
        edits: Sequence[Edit],
        sigmas: torch.Tensor,
        consensus: float,
        until: float,
        window: tuple[float, float],
    ):
        self.trajectory, self.sigmas, steps = trajectory, sigmas, len(sigmas) - 1
        own = [edit.own_mask(trajectory) for edit in edits]
        self.masks = [edit.step_mask(trajectory, sigmas, mask) for edit, mask in zip(edits, own, strict=True)]
        self.unheard = [why_unheard(model, edit.target, words_of(edit.target), sigmas[:-1]) for edit in edits]
        self.notes = check_places(edits, own, self.masks, trajectory)
        held = [
            Layer(mask.at_step, edit.renoise, self.consensus(mask, consensus, percent_to_sigma(model, until)))
            for mask, edit in zip(self.masks, edits, strict=True)
        ]
        first = min(round(window[0] * steps), steps - 1)
        self.layers = Layers(held, (first, max(round(window[1] * steps), first + 1)))  # at least one step, however narrow the window
        self.prompted = [
            PromptedEdit(
                edit.tag,
                mask.recorder,
                *(percent_to_sigma(model, share) if share else math.inf for share in (edit.structure, edit.confine)),
            )
            for mask, edit in zip(self.masks, edits, strict=True)
        ]

    @staticmethod
    def consensus(mask: StepMask, amount: float, until: float) -> Consensus | None:
        """How an edit's frames agree along its mask. One that does not move says nothing of how the object in it does."""
        return Consensus(object_places(mask.source_masks()), amount, until) if amount and not mask.still else None

    def finish(self, watch: Watch) -> None:
        """The run is at its end: tells what it lacked."""
        unseen = [mask.unseen for mask in self.masks]
        if len(self.sigmas) > 2 and any(unseen):
            silent, why = self.unheard[unseen.index(True)]
            watch.warn("the target's words could not widen the mask", why if silent == len(self.sigmas) - 1 else "")
        empty = [int((mask.cells.flatten(1) == 0).all(1).sum()) for mask in self.masks if mask.recorder is not None]
        told = "; ".join(f"a mask that words drew came out empty in {count} of {self.trajectory.frames} frames" for count in empty if count)
        if told:
            logging.warning("BLADE: %s", told)
        watch.done(told)

    def cells(self) -> torch.Tensor:
        """The last step's mask of all edits, on the latent grid, for each of the clip's frames. [frames, h, w]"""
        return self.trajectory.grid.to_frames(_joined([mask.cells[:, 0] for mask in self.masks]))

    def pixels(self) -> torch.Tensor:
        """The same at pixel size. [frames, height, width]"""
        joined = [_joined([mask.pixels(span) for mask in self.masks]) for span in spans(self.trajectory.frames)]
        return self.trajectory.grid.to_frames(torch.cat(joined))


def _joined(masks: list[torch.Tensor]) -> torch.Tensor:
    found = masks[0]
    for mask in masks[1:]:
        found = torch.maximum(found, mask)
    return found


class EditNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BLADE_Edit",
            display_name=TITLE,
            category=CATEGORY,
            description="One more edit in the same pass: other words, another target prompt, another mask. Chain as many as you like; where two "
            "overlap, the later one is seen.",
            inputs=[
                io.Conditioning.Input(
                    "target",
                    tooltip="What should be in the clip where this edit is, from a Prompt (BLADE) node: the whole finished clip, the same for all "
                    "edits, or, where objects mix, this edit's own object alone. Never another edit's old object, which would be drawn where masks meet.",
                ),
                *edit_inputs(),
                mask_input(),
                EditsSocket.Input("previous", optional=True, tooltip="Edits that this one lies over."),
            ],
            outputs=[EditsSocket.Output(display_name="edits", tooltip="For Blended Sampler, or for the next Edit.")],
        )

    @classmethod
    @checked()
    def execute(
        cls,
        target,
        source_words: str,
        target_words: str,
        grow: int = 0,
        widen: int = 0,
        feather: float = 0.0,
        renoise: float = 0.0,
        structure: float = 0.0,
        confine: float = 0.0,
        mask_mode: str = ALONE,
        mask: torch.Tensor | None = None,
        previous: tuple[Edit, ...] = (),
    ) -> io.NodeOutput:
        edit = Edit(TITLE, target, source_words, target_words, grow, widen, feather, renoise, structure, confine, mask_mode, mask)
        return io.NodeOutput((*previous, edit))
