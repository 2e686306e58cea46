"""Files that come into the page: what Save Video wrote opens its graph, and what stands in a file is text there."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from blade.inversion.file import save_trajectory
from blade.inversion.trajectory import Origin, Trajectory
from tests.browser.page import MODES, RUN

TITLE = "what {this graph is for"  # with a brace that has no partner
FORMATS = {"mp4 (H.264)": ".mp4", "webm (VP9)": ".webm", "mov (ProRes 422 HQ)": ".mov", "PNG frames (lossless)": "/00001.png"}
OPEN = "app.loadApiJson(arguments[0], 'from_a_test')"
RENAME = "app.graph.nodes.find(node => node.type === 'BLADE_LoadVideo').title = arguments[0]"
DROP = ("dragEnter", "dragOver", "drop")


def open_graph(page, prompt):
    """Opens a graph, given as the server takes it."""
    page.run_script(OPEN, prompt)
    page.wait(lambda: len(page.nodes()) == len(prompt), "the graph did not open")
    page.complaints()


def drop(page, path):
    """Drags a file from the desktop to an empty place of the canvas."""
    canvas = page.run_script(
        "const {left, top, width, height} = app.canvas.canvas.getBoundingClientRect(); return [left + width / 2, top + height * 0.8]"
    )
    for kind in DROP:
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        page.driver.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": canvas[0], "y": canvas[1], "data": data})


@pytest.fixture(scope="module")
def saved(server, page):
    """A graph that has run on the page, and the files that it wrote by their format."""
    prompt = {"1": {"class_type": "BLADE_LoadVideo", "inputs": {"video": "blade_red_circle.mp4", "frame_count": 3}}}
    for number, form in enumerate(FORMATS, 2):
        inputs = {"frames": ["1", 0], "fps": ["1", 1], "filename_prefix": f"dropped/{number}", "format": form, "crf": 16}
        prompt[str(number)] = {"class_type": "BLADE_SaveVideo", "inputs": inputs}
    open_graph(page, prompt)
    page.run_script(RENAME, TITLE)
    page.click(RUN)
    folder = server.base / "output" / "dropped"
    files = {form: Path(f"{folder / str(number)}_00001_{suffix}") for number, (form, suffix) in enumerate(FORMATS.items(), 2)}
    page.wait(lambda: all(path.exists() for path in files.values()), "not all files were written", 240)
    return files


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_is_dropped_on_the_page_opens_its_graph(page, saved, form):
    page.run_script("app.graph.clear()")
    page.wait(lambda: not page.nodes(), "the graph did not go")
    page.settle()  # what the graph before still loads is no longer under way
    drop(page, saved[form])
    page.wait(lambda: len(page.nodes()) == 1 + len(FORMATS), f"{saved[form].name} did not open its graph")
    titles = [node["title"] for node in page.nodes() if node["type"] == "BLADE_LoadVideo"]
    assert titles == [TITLE]
    assert page.dialog() is None


SCRIPT = "<img src=x onerror=\"window.taken = 'by {0}'\"><script>window.taken = 'script of {0}'</script>![](/picture_of_{0}.png)[[here|https://{0}.test]]"
SHOWN = "< img src=x onerror=\"window.taken = 'by {0}'\">< script>window.taken = 'script of {0}'< /script>![] (/picture_of_{0}.png)[ [here|"
LOADED = {
    "1": {"class_type": "BLADE_LoadTrajectory", "inputs": {"trajectory_file": "hostile.safetensors"}},
    "2": {"class_type": "BLADE_SaveTrajectory", "inputs": {"trajectory": ["1", 0], "filename_prefix": "hostile/saved"}},
}
PLACES = ("patch", "patched", "prompt", "schedule", "method")
LISTEN = """
window.told = []; window.ended = false; delete window.taken;
app.api.addEventListener('progress_text', ({detail}) => window.told.push(detail));
app.api.addEventListener('execution_success', () => { window.ended = true; });
"""
AGAIN = "for (const detail of [...window.told]) app.api.dispatchCustomEvent('progress_text', detail)"  # later pages take texts away as a job ends
FOREIGN = """
const links = [...document.querySelectorAll('a')].filter(link => link.textContent === 'here');  // one that shows its address is no fault
return [window.taken, document.querySelectorAll('img[src=x], img[src*=picture_of]').length, links.length];
"""
NOTHING = [None, 0, 0]


def hostile(path):
    """Writes a trajectory whose every text is a picture that runs script, a script, and a picture and a link as other languages of markup have them."""
    text = {name: SCRIPT.format(name) for name in PLACES}
    origin = Origin(torch.zeros(3), {text["patch"]: text["patched"]}, text["prompt"], text["schedule"], text["method"])
    save_trajectory(path, Trajectory(torch.tensor([0.0, 1.0]), torch.zeros(2, 1, 4, 8, 8), origin=origin))


@pytest.mark.parametrize("mode", MODES)
def test_what_a_file_says_is_text_on_the_page(server, page, mode):
    page.use(mode)
    hostile(server.base / "input" / "hostile.safetensors")
    open_graph(page, LOADED)
    page.run_script(LISTEN)
    page.click(RUN)
    told = page.wait(
        lambda: (told := page.run_script("return window.ended && window.told")) and len({each["nodeId"] for each in told}) == 2 and told,
        "no texts",
    )
    page.run_script(AGAIN)
    page.settle()
    page.picture(f"hostile_{mode}")
    assert page.run_script(FOREIGN) == NOTHING
    (text,) = {each["text"] for each in told if each["nodeId"] == "1"}
    shown = page.run_script("return [...document.querySelectorAll('.dom-widget')].map(widget => widget.innerText).join()").replace("\\", "")
    for name in PLACES:
        assert SHOWN.format(name) in text.replace("\\", "")
        assert mode == "vue" or SHOWN.format(name) in shown


@pytest.mark.skipif(os.name == "nt", reason="Windows takes no such name")
@pytest.mark.parametrize("mode", MODES)
def test_what_a_file_says_is_text_in_the_dialog_about_an_error(server, page, mode):
    page.use(mode)
    name = "<img src=x onerror=\"window.taken = 'by name'\">.safetensors"
    save_file(
        {SCRIPT.format("tensor"): torch.zeros(1, dtype=torch.int8)},
        server.base / "input" / name,
        {"format": "blade_trajectory", "version": "1"},
    )
    page.run_script("return app.refreshComboInNodes()")
    prompt = LOADED | {"1": {"class_type": "BLADE_LoadTrajectory", "inputs": {"trajectory_file": name}}}
    open_graph(page, prompt)
    page.run_script(LISTEN)
    page.click(RUN)
    sentence = page.wait(lambda: (told := page.error()) and "tensor" in told and told, "no word about the error", 60)
    page.picture(f"hostile_error_{mode}")
    sentence = sentence.replace("\\", "")  # in quotation marks as Python writes them
    assert name in sentence and "<script>window.taken = 'script of tensor'</script>" in sentence
    assert page.run_script(FOREIGN) == NOTHING
    page.close_dialog()


def test_a_message_without_output_does_no_harm(page):
    open_graph(page, {"1": {"class_type": "BLADE_SaveVideo", "inputs": {}}})
    shown = page.run_script("""
        const node = app.graph.nodes[0], kinds = [];
        for (const output of [{animated: [true]}, undefined, null, {}]) { node.onExecuted(output); kinds.push(node.previewMediaType); }
        return kinds;
    """)
    assert shown == ["video", "video", "video", "image"]
