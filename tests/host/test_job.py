"""What a job takes: told, and refused before the work starts."""

import copy
import sys
from collections import namedtuple
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

Memory = namedtuple("Memory", "available total", defaults=[2**40])


@pytest.fixture
def model(comfy, checkpoint):
    return comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=False, output_clip=False)[0]


@pytest.fixture
def job(comfy, model):
    from blade.host.job import Job

    return lambda frames, kept=0, in_memory=True: Job(model, (frames, 4, 64, 64), 20, kept, in_memory)


def test_a_clip_that_fits_is_not_refused(job):
    assert job(16, kept=10**6).check() is None


def test_a_trajectory_beyond_memory_is_refused_with_the_setting_that_fits(job, monkeypatch):
    import blade.host.job

    monkeypatch.setattr(blade.host.job.psutil, "virtual_memory", lambda: Memory(2 * 2**30))
    big = 100 * 64 * 4 * 64 * 64 * 21
    with pytest.raises(
        ValueError, match=r"trajectory of 1000 frames takes .* GiB.*Set storage to 'mapped file', or use at most \d+ frames"
    ):
        job(1000, kept=big).check()
    with pytest.raises(ValueError, match=r"latents of 1000 frames take .* GiB.*Use at most \d+ frames"):
        monkeypatch.setattr(blade.host.job.psutil, "virtual_memory", lambda: Memory(2**20))
        job(1000, kept=big, in_memory=False).check()


def test_the_number_of_frames_that_is_offered_fits(job, monkeypatch):
    import re

    import blade.host.job

    monkeypatch.setattr(blade.host.job.psutil, "virtual_memory", lambda: Memory(2**26))
    with pytest.raises(ValueError, match="at most") as refused:
        job(1000).check()
    job(int(re.search(r"at most (\d+) frames", str(refused.value))[1])).check()


def test_a_frame_that_the_device_cannot_hold_is_refused_with_a_size(job, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda device: 10 * 2**20)
    with pytest.raises(ValueError, match=r"one frame of 512x512 pixels takes .*Use frames of at most \d+ pixels a side"):
        job(1).check()


def test_the_sentence_names_frames_calls_and_the_trajectory(job):
    assert (
        job(7, kept=5 * 2**20, in_memory=False)
        .sentence()
        .startswith("7 frames, 20 model calls each, a trajectory of 5 MiB in a mapped file")
    )


def test_a_watch_tells_the_time_that_is_left_and_survives_the_hosts_copies(job, monkeypatch):
    import blade.host.job

    now = [0.0]
    monkeypatch.setattr(blade.host.job.time, "monotonic", lambda: now[0])
    watch = job(10).watch(None)
    said = []
    monkeypatch.setattr(watch, "say", lambda sentence, log=True: said.append(sentence))
    assert copy.deepcopy(watch) is watch
    now[0] = 2.0
    watch(10, {})  # a twentieth of 20 calls took 2 s
    assert said[-1].endswith("about 38 s to go")
    watch(300, {})
    assert watch.passed == watch.whole == 200
    assert said[-1].endswith("took 2 s")


def test_work_that_ended_with_fewer_calls_is_told_as_done(job, monkeypatch):
    watch, said = job(10).watch(None), []
    monkeypatch.setattr(watch, "say", lambda sentence, log=True: said.append(sentence))
    watch(10, {})
    watch.done("42 dB")
    assert watch.passed == watch.whole
    assert said[-1].endswith("took 0 s; 42 dB")


def test_a_warning_stands_before_all_that_is_told(comfy, model):
    from blade.host.job import Job

    assert Job(model, (1, 4, 8, 8), 1, warning="Warning: other patches.").sentence().startswith("Warning: other patches.\n1 frames")


class Tags(HTMLParser):
    """What a page makes of a text that it takes for HTML."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)

    def handle_endtag(self, tag):
        self.found.append(tag)

    def handle_comment(self, text):
        self.found.append(text)

    handle_decl = handle_pi = unknown_decl = handle_comment

    def handle_data(self, text):
        self.text += text


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("<img src=x onerror='f()'>", "< img src=x onerror='f()'>"),
        ("a</script><SVG/onload=f()>", "a< /script>< SVG/onload=f()>"),
        ("<!--<?x<", "< !--< ?x<"),
        ("<<<b>", "<<< b>"),
        ("![](https://a.test/b.png) [a]: b", "![] (https://a.test/b.png) [a] : b"),
        ("[[here|https://a.test]]", "[ [here|https://a.test]]"),
        ("3 < 4, 1<2, [a, b] & \"c\" 'd'\n->", "3 < 4, 1<2, [a, b] & \"c\" 'd'\n->"),
    ],
)
def test_a_text_in_a_node_is_text_to_pages_that_take_it_for_html_or_markdown(comfy, monkeypatch, told, shown):
    from blade.host.job import show_in_node

    sent = []
    instance = SimpleNamespace(send_progress_text=lambda text, node_id: sent.append((text, node_id)))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    show_in_node(told, "7")
    show_in_node(told, None)  # no node is told of
    assert sent == [(shown, "7")]
    assert Tags(shown).found == [] and Tags(shown).text == shown
