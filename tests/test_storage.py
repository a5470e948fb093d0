"""Files of a study: whole or not at all."""

from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest

from manynet.storage import (
    StorageError,
    absolute,
    basename,
    check_writable,
    copy_folder,
    exists,
    join,
    local_copy,
    locate,
    read_bytes,
    read_json,
    write_bytes,
)


def inside(address: str) -> list[str]:
    """Names of all files under an address."""
    filesystem, folder = locate(address)
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(folder, recursive=True, allow_not_found=True))
    return sorted(info.path.removeprefix(f"{folder}/") for info in found if info.is_file)


def test_a_file_is_written_whole_and_read_back(place: str) -> None:
    address = join(place, "a", "b.txt")
    assert not exists(address) and not exists(place)
    write_bytes(address, b"one")
    write_bytes(address, b"two" * 2**21)
    assert exists(address) and exists(place)
    assert read_bytes(address) == b"two" * 2**21
    assert inside(place) == ["a/b.txt"]
    with local_copy(address) as path:
        assert path.name == "b.txt" and path.read_bytes() == b"two" * 2**21


def test_json_is_there_or_not(place: str) -> None:
    assert read_json(join(place, "x.json")) is None
    write_bytes(join(place, "x.json"), b"[1]")
    write_bytes(join(place, "y.json"), b"[1")
    assert read_json(join(place, "x.json")) == [1] and read_json(join(place, "y.json")) is None


def test_a_name_is_a_name_whatever_is_in_it(place: str) -> None:
    odd = "a b?c=d&e,f%20+.txt"
    write_bytes(join(place, odd), b"")
    assert inside(place) == [odd] and basename(join(place, odd)) == odd


def test_a_folder_that_can_be_written_is_left_as_it_was(place: str) -> None:
    check_writable(place)
    assert inside(place) == []


def test_names_go_before_the_options_of_an_address() -> None:
    assert join("s3://b/x/?region=here", "y", "z") == "s3://b/x/y/z?region=here"
    assert absolute("s3://b/x/?region=here") == "s3://b/x?region=here"
    # A path has no options, and a name on a disk is what it is.
    assert join("/b/x?y", "z w") == "/b/x?y/z w"
    assert basename("s3://b/x%20y/?region=here") == "x y" and basename("/b/x/") == "x"


def test_an_address_that_cannot_be_written_is_one_line(s3: Any) -> None:
    with pytest.raises(
        StorageError, match=r"^s3://none/x.* must be a folder that can be written: .*bucket.*$"
    ):
        check_writable(f"s3://none/x{s3.options}")
    with pytest.raises(StorageError, match="^/proc/x must be a folder that can be written: .*$"):
        check_writable("/proc/x")


def test_a_filesystem_address_works_like_a_path(tmp_path: Path) -> None:
    write_bytes(f"{tmp_path.as_uri()}/x", b"one")
    assert read_bytes(tmp_path / "x") == b"one"


def test_a_folder_is_copied(tmp_path: Path, place: str) -> None:
    (tmp_path / "from" / "in").mkdir(parents=True)
    (tmp_path / "from" / "x").write_bytes(b"one")
    (tmp_path / "from" / "in" / "y").write_bytes(b"two")
    copy_folder(tmp_path / "from", join(place, "there"))
    assert (
        inside(place) == ["there/in/y", "there/x"] and read_bytes(join(place, "there", "in", "y")) == b"two"
    )


def test_what_cannot_be_done_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="must be a file that can be read"):
        read_bytes(tmp_path / "none")
    with pytest.raises(StorageError, match="must be a path or a URI"):
        locate("nowhere://x")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="must be a file that can be written"):
        write_bytes(tmp_path / "file" / "x", b"")


@pytest.mark.parametrize("address", ["s3://id:secret@bucket/x", "s3://id:sec/ret@bucket/x?region=eu"])
def test_a_key_in_an_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(StorageError, match="an address must hold no key") as caught:
        locate(address)
    assert "ret" not in str(caught.value).replace("SECRET", "")
