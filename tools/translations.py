"""The nodes' texts in other languages: says where one lacks its translation, or has an outdated one.

    python -m tools.translations            says it
    python -m tools.translations --stamp    after translating: records which English text each translation was made from

A translation that has not changed although its English text has is not recorded: it still is out of date. Where it fits the new text as it is,
--as-is records it too. The English texts are the nodes' own schemas, asked of a ComfyUI (COMFYUI_PATH, or the downloaded one).
locales/<language>/nodeDefs.json holds the others as ComfyUI's page reads them; locales/translated.json holds for each a hash of its English text,
and one of itself. The options of combos are not translated: the page shows them as the server takes them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from demo.base import prepare_base
from runner.fetch import find_comfy
from runner.host import REPOSITORY, ComfyHost

LOCALES = REPOSITORY / "locales"
LANGUAGES = ("ja", "zh")
STAMPS = LOCALES / "translated.json"
SUFFIX = " (BLADE)"  # every node's title ends so, in every language
SAME_NAMES = {"vae", "clip", "cfg", "crf", "sigmas", "latent"}  # that may stay in English, as they do in the page's own nodes
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
MARKS = re.compile(r"[{}@|]")  # the page's translator, vue-i18n, reads a syntax of its own in these


def english_texts(object_info: dict) -> dict[str, str]:
    """All that a page shows of the pack's nodes, by its place in nodeDefs.json: "BLADE_Edit.inputs.grow.tooltip" -> text.

    object_info: the server's answer to GET /object_info."""
    texts: dict[str, str | None] = {}
    for node, info in object_info.items():
        if node.startswith("BLADE_"):
            texts |= {f"{node}.display_name": info["display_name"], f"{node}.description": info["description"]}
            for name, settings in inputs_of(info).items():
                texts |= {f"{node}.inputs.{name}.name": name, f"{node}.inputs.{name}.tooltip": settings.get("tooltip")}
            for index, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True)):
                texts |= {f"{node}.outputs.{index}.name": name, f"{node}.outputs.{index}.tooltip": tooltip}
    return {place: text for place, text in texts.items() if text}


def option_names(object_info: dict) -> dict[str, list[str]]:
    """The fixed options of the pack's combos, by the place of their tooltip."""
    return {
        f"{node}.inputs.{name}.tooltip": list(settings.get("options") or ())
        for node, info in object_info.items()
        if node.startswith("BLADE_")
        for name, settings in inputs_of(info).items()
    }


def inputs_of(info: dict) -> dict[str, dict]:
    """The settings of a node type's inputs, by name."""
    specs = info["input"].get("required", {}) | info["input"].get("optional", {})
    return {name: spec[1] if len(spec) > 1 else {} for name, spec in specs.items()}


def flat(tree: dict, above: str = "") -> dict[str, str]:
    """nodeDefs.json by place: {"BLADE_Edit": {"inputs": {"grow": {"name": ...}}}} -> {"BLADE_Edit.inputs.grow.name": ...}"""
    found: dict[str, str] = {}
    for key, value in tree.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def stamped(english: dict[str, str], translated: dict[str, str], before: dict[str, str], as_is: bool = False) -> dict[str, str]:
    """Place -> "hash of the English text, hash of the translation", for every translation that was made from the present English text.

    before: what was recorded so far. as_is: whether a translation that is still the one recorded there fits an English text that is not."""
    found: dict[str, str] = {}
    for place in english.keys() & translated.keys():
        now, then = [digest(english[place]), digest(translated[place])], before.get(place, "- -").split()
        outdated = then[0] not in ("-", now[0]) and then[1] == now[1] and not as_is
        found[place] = " ".join(then if outdated else now)
    return dict(sorted(found.items()))


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def translated_texts(language: str) -> dict[str, str]:
    """What locales/ holds in a language, by place."""
    return flat(read(LOCALES / language / "nodeDefs.json"))


def faults(english: dict[str, str], options: dict[str, list[str]], translated: dict[str, str], stamps: dict[str, str]) -> list[str]:
    """What is wrong with one language, a sentence each, beginning with the place: node, input or output, and whether its name or tooltip.

    english, options: as english_texts and option_names tell them. stamps: as `stamped` makes them."""
    found = [f"{place}: has no translation of {text!r}" for place, text in english.items() if not translated.get(place)]
    found += [f"{place}: there is no such text" for place in sorted({*translated, *stamps} - english.keys())]
    for place, text in english.items():
        if mine := translated.get(place):
            found += [f"{place}: {fault}" for fault in text_faults(place, text, mine, english, options.get(place, ()), translated)]
            if place not in stamps:
                found.append(f"{place}: no record says from which English text it was translated")
            elif stamps[place].split()[0] != digest(text):
                found.append(f"{place}: the English text has changed since it was translated, to {text!r}")
    first: dict[str, str] = {}
    for place in sorted(english.keys() & translated.keys()):
        if place.endswith((".tooltip", ".description")) and translated[first.setdefault(english[place], place)] != translated[place]:
            found.append(f"{place}: the same text is translated otherwise at {first[english[place]]}")
    return found


def up_to_date(english: dict[str, str], translated: dict[str, str], stamps: dict[str, str]) -> set[str]:
    """The places whose translation was made from the present English text."""
    return {place for place in english.keys() & translated.keys() & stamps.keys() if stamps[place].split()[0] == digest(english[place])}


def text_faults(place: str, text: str, mine: str, english: dict, options, translated: dict) -> Iterator[str]:
    """What is wrong with a single translation `mine` of `text`."""
    node = place.split(".")[0]
    if place.endswith(".display_name") and not mine.endswith(SUFFIX):
        yield f"{mine!r} does not end with {SUFFIX!r}"
    if mine.casefold() == text.casefold() and not (place.endswith(".name") and text in SAME_NAMES):
        yield f"is still in English: {mine!r}"
    if MARKS.search(mine):
        yield f"holds one of {{ }} @ |, which the page would not show as they are: {mine!r}"
    if place.endswith(".name"):
        return
    if lost := sorted(set(NUMBER.findall(text)) - set(NUMBER.findall(mine))):
        yield f"lacks numbers of the English text: {', '.join(lost)}"
    for quoted in re.findall(r'"[^"]*"', text):
        if quoted[1:-1] not in mine:
            yield f"lacks the example {quoted}, which is typed as it is"
    for option in options:
        if re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text) and option not in mine:
            yield f"does not name the option {option!r}, which the page shows as it is"
    for called, translation in names_of(node, english, translated).items():
        if re.search(rf"(?<!\w){re.escape(called)}(?!\w)", text) and translation not in mine:
            yield f"calls {called!r} otherwise than the page does: {translation!r}"


def names_of(node: str, english: dict, translated: dict) -> dict[str, str]:
    """Names that cannot be mistaken for plain words, and what the page calls them: nodes' titles, and this node's inputs and outputs of two words."""
    found: dict[str, str] = {}
    for place, name in english.items():
        if place.endswith(".display_name"):
            whole = translated.get(place, "")
            bare, title = name.removesuffix(SUFFIX), whole.removesuffix(SUFFIX)
            found |= {bare: title} if " " in bare else {name: whole}  # "Edit" alone is a plain word
        elif place.startswith(f"{node}.") and place.endswith(".name") and "_" in name:
            found[name] = translated.get(place, "")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamp", action="store_true", help="record the English texts that the translations were made from")
    parser.add_argument("--as-is", action="store_true", help="with --stamp: also where only the English text has changed")
    chosen = parser.parse_args()
    with TemporaryDirectory() as folder, ComfyHost(find_comfy(), prepare_base(Path(folder)), cpu=True) as host:
        info = host.object_info()
    english, options, stamps = english_texts(info), option_names(info), read(STAMPS)
    if chosen.stamp:
        stamps = {name: stamped(english, translated_texts(name), stamps.get(name, {}), chosen.as_is) for name in LANGUAGES}
        STAMPS.write_text(json.dumps(stamps, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    wrong = [f"{name} {fault}" for name in LANGUAGES for fault in faults(english, options, translated_texts(name), stamps.get(name, {}))]
    raise SystemExit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
