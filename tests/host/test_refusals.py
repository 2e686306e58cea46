"""What the nodes refuse in one sentence, where no other file tests the node in this process: places in the output folder, files that are not
there, prompts and trajectories without words."""

import pytest
import torch

from tests.host.helpers import SOURCE, TARGET


@pytest.fixture
def output(comfy, tmp_path, monkeypatch):
    """An output folder of the test's own, in a folder where something else may lie beside it."""
    import folder_paths

    folder = tmp_path / "output"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(folder))
    return folder


def place(prefix):
    from blade.nodes.common import place

    return place(prefix, 128, 64)


def plain(studio, text):
    """A prompt as core's CLIP Text Encode gives it: nothing in it says which words it was made of."""
    return studio.clip.encode_from_tokens_scheduled(studio.clip.tokenize(text))


@pytest.fixture(scope="module")
def wordless(studio):
    """A trajectory with which no words were recorded."""
    return studio.invert(source=plain(studio, SOURCE))


# Places in the output folder


def test_a_file_in_the_way_of_a_folder_is_refused(output):
    (output / "taken").write_text("a file")
    with pytest.raises(ValueError, match=r"^the folder of 'taken/kept' cannot be used \(.*\)\. Choose another\.$"):
        place("taken/kept")


def test_a_way_into_the_output_folder_from_elsewhere_is_refused(output):
    """Followed, the link ends inside; core, which follows none in its older versions, would refuse it with a page of its own."""
    import folder_paths

    link = output.parent / "link"
    link.symlink_to(output, target_is_directory=True)
    try:
        folder_paths.get_save_image_path(str(link / "kept"), str(output), 64, 64)
    except Exception:  # core raises nothing narrower
        pass
    else:
        assert place(str(link / "kept"))[:2] == (str(link), "kept")
        return
    with pytest.raises(ValueError, match=r"leads out of ComfyUI's output folder\. Give a place inside it"):
        place(str(link / "kept"))


def test_a_link_that_only_the_size_names_is_refused(output):
    (output / "128").symlink_to(output.parent, target_is_directory=True)
    assert place("%height%/kept")[:2] == (str(output / "64"), "kept")
    with pytest.raises(ValueError, match=r"^'%width%/kept' leads out of ComfyUI's output folder\. Give a place inside it"):
        place("%width%/kept")


# Files that are not there


def test_a_trajectory_that_is_not_there_is_refused_before_the_run_and_in_it(output):
    from blade.nodes.load_trajectory import LoadTrajectory

    sentence = "there is no file 'none.safetensors [output]' in ComfyUI's output or input folder. Choose another."
    told = f"Load Trajectory (BLADE), input trajectory_file: {sentence}"
    assert LoadTrajectory.validate_inputs("none.safetensors [output]") == told
    with pytest.raises(ValueError) as caught:
        LoadTrajectory.execute("none.safetensors [output]")
    assert str(caught.value) == told


# Prompts and trajectories without words


def test_a_checkpoint_without_a_text_encoder_is_refused(comfy):
    from blade.nodes.prompt import Prompt

    with pytest.raises(ValueError, match=r"^Prompt \(BLADE\), input clip: there is no CLIP\. .*load one that does"):
        Prompt.execute(None, TARGET)


def test_no_mask_is_drawn_from_a_trajectory_without_words(studio, wordless):
    from blade.nodes.mask import CrossAttentionMask

    with pytest.raises(
        ValueError, match=r"^Cross-Attention Mask \(BLADE\), input trajectory: no words were recorded.*Make the source prompt"
    ):
        CrossAttentionMask.execute(wordless, "circle")
    with pytest.raises(ValueError, match=r"^Blended Sampler \(BLADE\), input trajectory: no words were recorded.*or connect a mask\.$"):
        studio.sample(wordless)


def test_no_mask_is_drawn_by_a_target_whose_words_are_not_known(studio):
    with pytest.raises(ValueError, match=r"^Blended Sampler \(BLADE\), input target: its words are not known.*or connect a mask\.$"):
        studio.sample(target=plain(studio, TARGET))


def test_with_a_mask_neither_needs_words(studio, wordless, box):
    assert torch.equal(studio.latents(trajectory=wordless, target=plain(studio, TARGET), mask=box), studio.latents(mask=box))


def test_a_mask_mode_that_is_none_is_refused_with_those_that_are(studio, box):
    """ComfyUI lets one through that comes from another node."""
    with pytest.raises(ValueError, match=r"^Blended Sampler \(BLADE\), input mask_mode: it is 'join'\. Choose one of: .*limit, add.*\.$"):
        studio.sample(mask=box, mask_mode="join")


def test_a_sampler_without_edits_is_refused(studio):
    with pytest.raises(ValueError, match=r"^Blended Sampler Select \(BLADE\), input edits: there is none\. Connect an Edit"):
        studio.select(())


def test_frames_without_numbers_draw_no_mask(studio):
    from blade.nodes.mask import CrossAttentionMask

    frames = torch.full((studio.frames, 128, 128, 3), torch.nan)
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match=r"^Cross-Attention Mask \(BLADE\), input frames: they hold values that are not"),
    ):
        CrossAttentionMask.execute(studio.trajectory, "circle", frames=frames)
