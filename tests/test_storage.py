"""Files of a study: whole or not at all."""

from pathlib import Path

import pytest

from manynet.storage import StorageError, copy_folder, exists, locate, read_bytes, write_bytes


def test_a_file_is_written_whole_and_read_back(tmp_path: Path) -> None:
    address = tmp_path / "a" / "b.txt"
    assert not exists(address)
    write_bytes(address, b"one")
    write_bytes(address, b"two")
    assert exists(address)
    assert read_bytes(address) == b"two"
    assert [file.name for file in address.parent.iterdir()] == ["b.txt"]


def test_a_filesystem_address_works_like_a_path(tmp_path: Path) -> None:
    write_bytes(f"{tmp_path.as_uri()}/x", b"one")
    assert read_bytes(tmp_path / "x") == b"one"


def test_a_folder_is_copied(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "x").write_bytes(b"one")
    copy_folder(tmp_path / "from", tmp_path / "to" / "there")
    assert read_bytes(tmp_path / "to" / "there" / "x") == b"one"


def test_what_cannot_be_done_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="must be a file that can be read"):
        read_bytes(tmp_path / "none")
    with pytest.raises(StorageError, match="must be a path or a URI"):
        locate("nowhere://x")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="must be a file that can be written"):
        write_bytes(tmp_path / "file" / "x", b"")
