"""A file or a folder is whole or not there, whatever happens while it is written."""

import errno
import os
import shutil
import time

import pytest

import blade.video.whole as whole_module
from blade.video.whole import ABANDONED, Unwritable, whole

OLD = time.time() - ABANDONED - 60


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_the_old_one_at_the_end(tmp_path):
    (tmp_path / "a").write_text("old")
    with whole(tmp_path / "a") as made:
        made.write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "new"


def test_a_folder_takes_its_place_with_all_its_files(tmp_path):
    with whole(tmp_path / "a") as made:
        made.mkdir()
        (made / "0").write_text("0")
        assert len(names(tmp_path)) == 1 and not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["0"]


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError, SystemExit, MemoryError])
def test_whatever_is_raised_passes_and_leaves_the_old_file_alone(tmp_path, raised):
    (tmp_path / "a").write_text("old")
    with pytest.raises(raised), whole(tmp_path / "a") as made:
        made.write_text("half")
        (made.parent / "another").write_text("of a library")
        raise raised
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_tells_only_at_the_end_that_it_is_full_leaves_the_old_file_alone(tmp_path, monkeypatch, step):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, step, full)
    with (
        pytest.raises(Unwritable, match=r"^'a' cannot be written \(No space left on device\)\. Make room.*another folder"),
        whole(tmp_path / "a") as made,
    ):
        made.write_text("new")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_folder_never_takes_the_place_of_one_that_appeared_meanwhile(tmp_path):
    with pytest.raises(Unwritable, match="'a' cannot be written"), whole(tmp_path / "a") as made:
        made.mkdir()
        (made / "0").write_text("new")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "0").write_text("old")
    assert names(tmp_path) == ["a"] and (tmp_path / "a" / "0").read_text() == "old"


@pytest.mark.parametrize("name", ["n" * 300, "gone/a"])
def test_a_place_that_the_system_does_not_take_is_refused_before_anything_is_made(tmp_path, name):
    begun = []
    with pytest.raises(Unwritable, match="cannot be written"), whole(tmp_path / name) as made:
        made.touch()
        begun.append(made)
    assert not begun and not names(tmp_path)


def test_a_file_replaces_a_link_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a").write_text("far")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "a").symlink_to(tmp_path / "far" / "a")
    with whole(tmp_path / "near" / "a") as made:
        made.write_text("new")
    assert (tmp_path / "far" / "a").read_text() == "far"
    assert not (tmp_path / "near" / "a").is_symlink() and (tmp_path / "near" / "a").read_text() == "new"


def denied(times):
    """A step of the system that is denied so often, as on Windows while another program reads a new file; and how often it was tried."""
    tried = []

    def around(step):
        def trying(*places, **options):
            tried.append(places)
            if len(tried) <= times:
                raise PermissionError(errno.EACCES, "Access is denied")
            return step(*places, **options)

        return trying

    return around, tried


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_last_step_that_is_denied_for_a_moment_is_taken_again(tmp_path, monkeypatch, step, folder):
    around, tried = denied(3)
    monkeypatch.setattr(os, step, around(getattr(os, step)))
    with whole(tmp_path / "a") as made:
        made.mkdir() if folder else None
        (made / "0" if folder else made).write_text("new")
    assert len(tried) == 4 and names(tmp_path) == ["a"]
    assert (tmp_path / "a" / "0" if folder else tmp_path / "a").read_text() == "new"


def test_work_whose_last_step_stays_denied_is_kept_where_the_sentence_says_and_never_taken_for_abandoned(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(whole_module, "PATIENCE", 0.3)
        patch.setattr(os, "replace", denied(10**6)[0](os.replace))
        (tmp_path / "a").write_text("old")
        with (
            pytest.raises(Unwritable, match=r"'a' cannot be moved into.*Access is denied.*move it there from") as caught,
            whole(tmp_path / "a") as made,
        ):
            made.write_text("hours of work")
    assert repr(str(made)) in str(caught.value)
    for path in (*made.parent.iterdir(), made.parent):
        os.utime(path, (OLD, OLD))
    with whole(tmp_path / "b") as other:
        other.touch()
    assert made.read_text() == "hours of work" and (tmp_path / "a").read_text() == "old"


def test_what_is_denied_while_the_work_goes_on_is_not_kept(tmp_path):
    with pytest.raises(Unwritable, match="cannot be written"), whole(tmp_path / "a") as made:
        made.write_text("half")
        raise PermissionError(errno.EACCES, "Access is denied")
    assert not names(tmp_path)


def left(folder, number, old):
    """What a killed process leaves, with its last change as long ago as that."""
    place = folder / f".blade_{number:016x}.part" / "frames"
    place.mkdir(parents=True)
    (place / "00000.png").write_bytes(b"half")
    for path in (place / "00000.png", place, place.parent):
        if old:
            os.utime(path, (OLD, OLD))
    return place.parent


def test_what_a_killed_process_left_goes_a_day_later_and_nothing_else_does(tmp_path):
    abandoned, fresh, in_use = left(tmp_path, 1, True), left(tmp_path, 2, False), left(tmp_path, 3, True)
    os.utime(in_use / "frames" / "00000.png")
    others = [
        tmp_path / name
        for name in (".blade_1.part", "blade_0000000000000001.part", ".blade_0000000000000001.part.txt", ".blade_zzzzzzzzzzzzzzzz.part")
    ]
    for other in others:
        shutil.copytree(abandoned, other)
        os.utime(other, (OLD, OLD))
    (tmp_path / "far").mkdir()
    (tmp_path / f".blade_{4:016x}.part").symlink_to(tmp_path / "far", target_is_directory=True)
    before = set(names(tmp_path))
    with whole(tmp_path / "a") as made:
        made.touch()
    assert before - set(names(tmp_path)) == {abandoned.name}
    assert (fresh / "frames" / "00000.png").exists()


def test_a_folder_that_another_process_ends_meanwhile_is_no_obstacle(tmp_path, monkeypatch):
    left(tmp_path, 1, True)

    def gone(*_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(whole_module.Path, "rglob", gone)
    with whole(tmp_path / "a") as made:
        made.touch()
    assert (tmp_path / "a").exists()
