"""Edits of real clips with a real checkpoint: the background, the masks and, where their weights are given, CLIP's figures and LPIPS.

    python -m benchmarks.footage --checkpoint my_sd15.safetensors --clips FOLDER [--out out/bench/footage] [--quick]
        [--clip-model FOLDER] [--lpips FILE]
    python -m benchmarks.footage --checkpoint my_sd15.safetensors --video FILE --source-prompt "a red car on a road"
        --target-prompt "a blue car on a road" [--words "red car"] [--kind colour]

The first edits the clips of a folder laid out as DAVIS or as FiVE-Bench (see benchmarks.footage.clips) and compares the method with itself
without its parts. The second accepts a checkpoint on one clip without a mask: there the background is what lies outside the sampler's own mask.
Both end with a verdict, whose first two lines are of the first edit. Runs on the GPU, if torch sees one. Downloads nothing. Writes footage.json,
footage.md and footage.jpg. All input is checked before the first edit. What is measured of an edit is kept, and not measured again until its
input or the code changes. Ends with 1 and a sentence if the input is no use, with 2 if the verdict misses a goal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.footage.clips import MARGIN, OWN_EDITS, Edit, Files, Folder
from benchmarks.footage.edit import METHOD, VAE, Bench, Judges, measure_edit, strip
from benchmarks.footage.report import goals, summary, table
from benchmarks.pack import import_pack
from benchmarks.quality.perceptual import BackgroundLpips, ClipFigures
from benchmarks.report import Kept, machine, merge, met
from demo import pictures

CFG = 7.5
QUICK_EDITS, QUICK_STEPS = 4, 25
SHOWN = 12  # edits in the picture


def find(options: argparse.Namespace, own: bool) -> tuple[list[tuple[Edit, Files]], list[str]]:
    """The edits whose files are sound, and sentences on those that were left out. Raises ValueError: for the user's own edits at the first fault."""
    if options.clips is None:
        edit = Edit(options.video.stem, options.source_prompt, options.target_prompt, options.words, "", options.kind, told="--video")
        files = Files(video=options.video)
        files.load(options.frames, options.longest_side)
        return [(edit, files)], []
    folder, loaded = Folder(options.clips), set()
    found: list[tuple[Edit, Files]] = []
    left: list[str] = []
    for edit in folder.edits():
        try:
            files = folder.files(edit, options.frames)
            if (edit.clip, edit.object) not in loaded:
                files.load(options.frames, options.longest_side, edit.object)
                loaded.add((edit.clip, edit.object))
            found.append((edit, files))
        except ValueError as error:
            refuse(own, f"{edit.told}: {error}", left)
    return found, left


def refuse(own: bool, sentence: str, left: list[str]) -> None:
    """The user's own edits can be corrected, those of a published benchmark are left out, and that is said."""
    if own:
        raise ValueError(sentence)
    left.append(sentence)


def check(options: argparse.Namespace) -> tuple[Bench, list[tuple[Edit, Files]], list[str], Judges]:
    """All that can be wrong is found here, the quick checks first."""
    if not options.checkpoint.is_file():
        raise ValueError(f"--checkpoint: there is no file {options.checkpoint}. Give an SD1.5 checkpoint.")
    own = options.clips is None or (options.clips / OWN_EDITS).is_file()
    edits, left = find(options, own)
    judges = Judges(options.clip_model and ClipFigures(options.clip_model), options.lpips and BackgroundLpips(options.lpips))
    import_pack()
    bench = Bench(options.checkpoint, options.steps, CFG)
    sound = []
    for edit, files in edits:
        try:
            bench.check_words(edit)
            sound.append((edit, files))
        except ValueError as error:
            refuse(own, f"{edit.told}: {error}", left)
    if not sound:
        raise ValueError("No edit is left:\n" + "\n".join(left[:10]))
    return bench, together(sound[: QUICK_EDITS if options.quick else None]), left, judges


def together(edits: list[tuple[Edit, Files]]) -> list[tuple[Edit, Files]]:
    """Edits of one clip and source prompt one after the other, else as they were: so one inversion serves them all."""
    places = [(edit.clip, edit.source_prompt) for edit, _ in edits]
    return sorted(edits, key=lambda pair: places.index((pair[0].clip, pair[0].source_prompt)))


def key_of(edit: Edit, frames: np.ndarray, masks: np.ndarray | None, options: argparse.Namespace, first: bool) -> str:
    """Of the figures that are kept: changes with all that they depend on but the code."""
    digest = hashlib.sha256(frames.tobytes() + (b"" if masks is None else masks.tobytes()))
    for path in (options.checkpoint, options.clip_model, options.lpips):
        digest.update(f"{path and path.resolve()} {path and path.stat().st_mtime_ns}".encode())
    digest.update(repr((edit, options.steps, first)).encode())
    return digest.hexdigest()[:20]


def measure(bench: Bench, edits: list[tuple[Edit, Files]], judges: Judges, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The summary, with the checks of the first edit. Also draws footage.jpg."""
    done, rows, strips = Kept(out / "footage_rows.json"), [], []
    checks: dict[str, Any] = {}
    for number, (edit, files) in enumerate(edits):
        frames, masks = files.load(options.frames, options.longest_side, edit.object)
        key = key_of(edit, frames, masks, options, number == 0)
        shown = [
            out / f"footage_{key}_{frame}.png"
            for frame in ((0, len(frames) // 2, len(frames) - 1) if masks is None else (len(frames) // 2,))
        ]
        if key not in done.rows or (number < SHOWN and not all(path.exists() for path in shown)):
            begin = time.monotonic()
            found, made = measure_edit(bench, edit, frames, masks, judges, number)
            if number < SHOWN:
                for path in shown:
                    pictures.save(path, strip(edit, made, int(path.stem.rpartition("_")[2])))
            done.rows[key] = {"rows": found} | ({"checks": bench.checks(edit, frames)} if number == 0 else {})
            done.write()
            print(f"{number + 1}/{len(edits)} {edit.clip}: {edit.source_prompt!r} to {edit.target_prompt!r}: background "
                  f"{found[METHOD]['background_psnr_db']:.2f} dB (VAE {found[VAE]['background_psnr_db']:.2f}), {time.monotonic() - begin:.0f} s", flush=True)  # fmt: skip
        rows.append(done.rows[key]["rows"])
        checks = checks or done.rows[key]["checks"]
        if number < SHOWN:
            strips += [pictures.load(path) for path in shown]
    width = max(one.shape[1] for one in strips)
    pictures.save(
        out / "footage.jpg",
        np.concatenate([np.pad(one, ((0, 0), (0, width - one.shape[1]), (0, 0)), constant_values=255) for one in strips]),
    )
    return summary(rows, [edit.kind for edit, _ in edits]) | {"checks": checks}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="an SD1.5 checkpoint, or another that ComfyUI loads and the pack takes"
    )
    parser.add_argument("--clips", type=Path, help="a folder laid out as DAVIS, with edits.json, or as FiVE-Bench")
    parser.add_argument("--video", type=Path, help="one clip in place of --clips; wants --source-prompt and --target-prompt")
    parser.add_argument("--source-prompt", default="", help="what is in that clip")
    parser.add_argument("--target-prompt", default="", help="what should be there")
    parser.add_argument("--words", default="", help="words of the source prompt whose place is edited (default: the words that change)")
    parser.add_argument(
        "--kind", default="object", help="kind of that edit; colour and material keep the thing's structure (default: object)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/bench/footage"), help="where the results go (default: out/bench/footage)")
    parser.add_argument("--frames", type=int, default=8, help="the first so many of each clip (default: 8)")
    parser.add_argument("--longest-side", type=int, default=512, help="pixels, to which clips are scaled (default: 512)")
    parser.add_argument("--steps", type=int, help=f"of inversion and edit (default: 50, with --quick {QUICK_STEPS})")
    parser.add_argument("--clip-model", type=Path, help="a folder with a CLIP model as transformers saves it: adds Tem-Con and Frame-Acc")
    parser.add_argument(
        "--lpips", type=Path, help="torchvision's weights of AlexNet, SqueezeNet 1.1 or VGG16: adds LPIPS; wants the package lpips"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"the first {QUICK_EDITS} edits only, with fewer steps, in a folder of their own"
    )
    options = parser.parse_args(arguments)
    options.steps = options.steps or (QUICK_STEPS if options.quick else 50)
    if (options.clips is None) == (options.video is None):
        parser.error("give either --clips FOLDER, or --video FILE with --source-prompt and --target-prompt.")
    if options.video is not None and not (options.source_prompt.strip() and options.target_prompt.strip()):
        parser.error("--video wants --source-prompt (what is in the clip) and --target-prompt (what should be there).")
    if options.clips is not None and (options.source_prompt or options.target_prompt or options.words):
        parser.error("--source-prompt, --target-prompt and --words go with --video; with --clips they stand in the folder's edits.json.")
    if options.frames < 2 or not 2 <= options.steps <= 999 or options.longest_side < 64 or options.longest_side % 8:
        parser.error("--frames must be 2 or more, --steps from 2 to 999, --longest-side a multiple of 8 and 64 or more.")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    out = options.out.resolve() / "quick" if options.quick else options.out.resolve()
    try:
        bench, edits, left, judges = check(options)
        out.mkdir(parents=True, exist_ok=True)
        for sentence in left:
            print(f"Left out: {sentence}", flush=True)
        found = measure(bench, edits, judges, options, out)
    except (ValueError, OSError) as error:  # the pack's nodes say what is wrong as ValueError, too little memory for one
        print(f"The benchmark cannot run. {error}", file=sys.stderr)
        return 1
    found |= {
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
    merge(out / "footage.json", json.loads(json.dumps(found)))
    text = f"{table(found)}\n{told(found)}"
    (out / "footage.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{found['checks']['advice']}")
    listed = goals(found)
    for name, (value, which, bound) in listed.items():
        print(f"{'met   ' if met(value, which, bound) else 'MISSED'} {name}: {value:.4g}, {which} {bound}")
    return 0 if all(met(*goal) for goal in listed.values()) else 2


def told(found: dict[str, Any]) -> str:
    """What the table's figures are."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in found["edits"].items())
    return (
        f"{found['checkpoint']}; edits: {kinds}; {found['frames']} frames, longest side {found['longest_side']}, {found['steps']} steps, CFG {CFG}. "
        f"Means over the edits, in brackets their 95 % interval. The background is all that is more than {MARGIN} px outside {found['background_is_outside']}; "
        "FiVE's convention zeroes the object, without that margin, and averages over the whole frame. Seconds: of the edit, without its inversion.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
