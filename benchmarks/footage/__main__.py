"""Edits of real clips with a real checkpoint: the background, the masks and, where their weights are given, CLIP's figures and LPIPS.

    python -m benchmarks.footage --checkpoint my_sd15.safetensors --clips FOLDER [--out out/bench/footage] [--quick]
        [--clip-model FOLDER] [--lpips FILE]
    python -m benchmarks.footage --checkpoint my_sd15.safetensors --video FILE --source-prompt "a red car on a road"
        --target-prompt "a blue car on a road" [--words "red car"] [--kind colour]

The first edits the clips of a folder laid out as DAVIS or as FiVE-Bench (see benchmarks.footage.clips) and compares the method with itself
without its parts. The second accepts a checkpoint on one clip without a mask: there the background is what lies outside the sampler's own mask.
Both end with a verdict, whose first two lines are of the first edit. Runs on the GPU, if torch sees one. Downloads nothing. Writes footage.json,
footage.md and footage.jpg. What is measured of an edit is kept until its input or the code changes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.footage.clips import MARGIN, OWN_EDITS, Edit, Folder, require
from benchmarks.footage.edit import METHOD, VAE, Bench, Judges, measure_edit
from benchmarks.footage.report import goals, summary, table
from benchmarks.metrics.perceptual import BackgroundLpips, ClipFigures
from benchmarks.pack import import_pack
from benchmarks.quality.part import Rows
from benchmarks.report import Kept, command, judge, machine, merge
from demo import pictures

CFG = 7.5
QUICK_EDITS, STEPS = 4, (50, 25)  # without and with --quick
SHOWN = 12  # edits in the picture
OPTIONS: dict[str, dict[str, Any]] = {
    "--checkpoint": {"type": Path, "required": True, "help": "an SD1.5 checkpoint, or another that ComfyUI loads and the pack takes"},
    "--clips": {"type": Path, "help": "a folder laid out as DAVIS, with edits.json, or as FiVE-Bench"},
    "--video": {"type": Path, "help": "one clip in place of --clips; wants --source-prompt and --target-prompt"},
    "--source-prompt": {"default": "", "help": "what is in that clip"},
    "--target-prompt": {"default": "", "help": "what should be there"},
    "--words": {"default": "", "help": "words of the source prompt whose place is edited (default: the words that change)"},
    "--kind": {"default": "object", "help": "kind of that edit; colour and material keep the object's structure (default: object)"},
    "--frames": {"type": int, "default": 8, "help": "the first so many of each clip (default: 8)"},
    "--longest-side": {"type": int, "default": 512, "help": "pixels, to which clips are scaled (default: 512)"},
    "--steps": {"type": int, "help": f"of inversion and edit (default: {STEPS[0]}, with --quick {STEPS[1]})"},
    "--clip-model": {"type": Path, "help": "a folder with a CLIP model as transformers saves it: adds Tem-Con and Frame-Acc"},
    "--lpips": {"type": Path, "help": "torchvision's weights of AlexNet, SqueezeNet 1.1 or VGG16: adds LPIPS; wants the package lpips"},
}
NOTE = (
    "{checkpoint}; edits: {kinds}; {frames} frames, longest side {longest_side}, {steps} steps, CFG {cfg}. Means over the edits, and half their 95 % "
    "interval. The background is all that is more than {margin} px outside {background_is_outside}; FiVE's convention zeroes the object, without that "
    "margin, and averages over the whole frame. Seconds: of the edit, without its inversion.\n"
)


def listed(options: argparse.Namespace) -> tuple[Iterable[Edit], Callable[[Edit], Edit], bool]:
    """The edits; what adds its files to one; whether they are the user's own. Raises ValueError where an option does not fit the others."""
    video, clips, prompts = options.video, options.clips, (options.source_prompt, options.target_prompt)
    sane = options.frames >= 2 and 2 <= options.steps <= 999 and options.longest_side >= 64 and options.longest_side % 8 == 0
    for fits, sentence in (
        ((clips is None) != (video is None), "give either --clips FOLDER, or --video FILE with --source-prompt and --target-prompt."),
        (clips or all(map(str.strip, prompts)), "--video wants --source-prompt (what is in the clip) and --target-prompt (what should be there)."),
        (video or not any((*prompts, options.words)), "--source-prompt, --target-prompt and --words go with --video; with --clips they stand in "
         "the folder's edits.json."),
        (sane, "--frames must be 2 or more, --steps from 2 to 999, --longest-side a multiple of 8 and 64 or more."),
    ):  # fmt: skip
        require(fits, sentence)
    if video:
        return [Edit(video.stem, *prompts, options.words, kind=options.kind, where="--video", video=video)], lambda edit: edit, True
    folder = Folder(clips)
    return folder.edits(), folder.found, (clips / OWN_EDITS).is_file()


def check(options: argparse.Namespace) -> tuple[argparse.Namespace, Bench, list[Edit], list[str], Judges]:
    """All that can be wrong is found here, the quick checks first. Returns with the options the bench, the sound edits, sentences on those that are left
    out, and the judges. Raises ValueError: the user's own edits can be corrected; those of a published benchmark are left out, and that is said."""
    options.steps = options.steps or STEPS[options.quick]
    require(options.checkpoint.is_file(), f"--checkpoint: there is no file {options.checkpoint}. Give an SD1.5 checkpoint.")
    (edits, with_files, own), left = listed(options), list[str]()

    def sound(edits: Iterable[Edit], checked: Callable[[Edit], Edit]) -> Iterator[Edit]:
        for edit in edits:
            try:
                yield checked(edit)
            except ValueError as error:
                left.append(f"{edit.where}: {error}")
                require(not own, left[-1])

    def loadable(edit: Edit) -> Edit:
        edit = with_files(replace(edit, frames=options.frames, longest_side=options.longest_side))
        edit.load()
        return edit

    edits = list(sound(edits, loadable))
    judges = Judges(options.clip_model and ClipFigures(options.clip_model), options.lpips and BackgroundLpips(options.lpips))
    import_pack()
    bench = Bench(options.checkpoint, options.steps, CFG)
    edits = list(sound(edits, bench.check_words))
    require(edits, "\n".join(["No edit is left:", *left[:10]]))
    return options, bench, together(edits[: QUICK_EDITS if options.quick else None]), left, judges


def together(edits: list[Edit]) -> list[Edit]:
    """Edits of one clip and source prompt one after the other, else as they were: so one inversion serves them all. Each with a seed of its own."""
    places = [(edit.clip, edit.source_prompt) for edit in edits]
    ordered = sorted(edits, key=lambda edit: places.index((edit.clip, edit.source_prompt)))
    return [replace(edit, seed=number) for number, edit in enumerate(ordered)]


def key_of(edit: Edit, options: argparse.Namespace) -> str:
    """Of the figures that are kept: changes with all that they depend on but the code."""
    files = (options.checkpoint, options.clip_model, options.lpips, *edit.pictures, *edit.masks, edit.video)
    stamps = [(str(path.resolve()), path.stat().st_mtime_ns) for path in files if path]
    return hashlib.sha256(repr((edit, options.steps, stamps)).encode()).hexdigest()[:20]


def measure(options: argparse.Namespace, bench: Bench, edits: list[Edit], judges: Judges, out: Path) -> dict[str, Any]:
    """The summary, with the checks of the first edit. Also draws footage.jpg."""
    done, keys = Kept(out / "footage_rows.json"), [key_of(edit, options) for edit in edits]
    shown = {key: out / f"footage_{key}.png" for key in keys[:SHOWN]}
    for number, (key, edit) in enumerate(zip(keys, edits, strict=True)):
        if key in done.rows and (key not in shown or shown[key].exists()):
            continue
        begin = time.monotonic()
        rows, picture = measure_edit(bench, edit, judges)
        if key in shown:
            pictures.save(shown[key], picture)
        done.rows[key] = {"rows": rows, "checks": {} if number else bench.checks(edit)}
        done.write()
        print(f"{number + 1}/{len(edits)} {edit.clip}: {edit.source_prompt!r} to {edit.target_prompt!r}: background "
              f"{rows[METHOD]['background_psnr_db']:.2f} dB (VAE {rows[VAE]['background_psnr_db']:.2f}), {time.monotonic() - begin:.0f} s", flush=True)  # fmt: skip
    strips = [pictures.load(path) for path in shown.values()]
    width = max(one.shape[1] for one in strips)
    padded = [np.pad(one, ((0, 0), (0, width - one.shape[1]), (0, 0)), constant_values=255) for one in strips]
    pictures.save(out / "footage.jpg", np.concatenate(padded))
    by_kind = {f"{edit.kind.replace('/', ' or ')}/{key}": done.rows[key]["rows"] for key, edit in zip(keys, edits, strict=True)}
    return summary(Rows(by_kind)) | {"checks": done.rows[keys[0]]["checks"]}


def run(checked: tuple, out: Path, quick: bool) -> bool:
    """Measures, writes and prints; whether the goals are met."""
    options, bench, edits, left, judges = checked
    out = out / "quick" if quick else out
    out.mkdir(parents=True, exist_ok=True)
    print("\n".join(f"Left out: {sentence}" for sentence in left), flush=True)
    found = measure(options, bench, edits, judges, out) | {
        "checkpoint": options.checkpoint.name,
        "frames": options.frames,
        "longest_side": options.longest_side,
        "steps": options.steps,
        "background_is_outside": "the given masks" if options.clips else "the sampler's own mask",
        "lpips_network": judges.lpips.network if judges.lpips else None,
        "left_out": left,
        "machine": machine(Path(os.environ["COMFYUI_PATH"])),
    }
    (out / "footage.json").unlink(missing_ok=True)  # other clips' figures would stay in it
    merge(out / "footage.json", found)
    kinds = ", ".join(f"{count} {kind}" for kind, count in found["edits"].items())
    text = table(found) + "\n" + NOTE.format(**found, kinds=kinds, cfg=CFG, margin=MARGIN)
    (out / "footage.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{found['checks']['advice']}")
    return judge(goals(found))


def main() -> int:
    quick = f"the first {QUICK_EDITS} edits only, with fewer steps, in a folder of their own"
    return command(__doc__, {"footage": run}, "out/bench/footage", quick, options=OPTIONS, subject=check)


if __name__ == "__main__":
    sys.exit(main())
