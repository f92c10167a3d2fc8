"""What is read and written by verbs of many files is settled beforehand."""

import os

import pytest

from landcover.errors import DataError, UsageError
from landcover.io.discovery import check_targets, find_files


def find(*inputs, out):
    found = find_files(inputs, out, what="images", suffixes=frozenset({".tif"}), left_out=("_mask",))
    return [one.path for one in found]


def test_links_in_circles_are_kept_for_those_who_read_them(tmp_path):
    """Passed over, an image would be missed without a word."""
    links = [tmp_path / "a.tif", tmp_path / "b.tif"]
    links[0].symlink_to(links[1])
    links[1].symlink_to(links[0])
    assert find(tmp_path, out=tmp_path / "out") == links
    check_targets([(links[0], tmp_path / "a_mask.tif")], force=False)


def test_a_file_and_the_link_to_it_in_one_folder_are_two(tmp_path):
    (tmp_path / "a.tif").touch()
    (tmp_path / "b.tif").symlink_to(tmp_path / "a.tif")
    assert find(tmp_path, tmp_path / "a.tif", out=tmp_path / "out")[:2] == [
        tmp_path / "a.tif",
        tmp_path / "b.tif",
    ]


def test_pipes_are_no_images(tmp_path):
    """Opening one would wait for ever."""
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "a.tif").touch()
    assert find(tmp_path, out=tmp_path / "out") == [tmp_path / "a.tif"]
    with pytest.raises(DataError, match=r"pipe\.tif is a device or a pipe; expected a file or a folder"):
        find(tmp_path / "pipe.tif", out=tmp_path / "out")


def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "a.tif").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="has no name, like a variable that is not set"):
        find("", out=tmp_path / "out")
