"""Zips from strangers: what must be refused, and by which name."""

import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import tree, write_folder, write_zip

from ferops.data.sources import SourceError, members
from ferops.data.sources.members import Members
from ferops.data.sources.source import MissingSourceError, UnsafeArchiveError


@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "train/../../evil.png",
        "/etc/evil.png",
        "C:/evil.png",
        "C:evil.png",
        "..\\evil.png",
        "train\\angry\\evil.png",
        "\\\\server\\evil.png",
    ],
)
def test_a_member_that_climbs_out_is_named_and_refused(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "a.zip", {"train/angry/1.png": b"x", name: b"x"})
    with pytest.raises(UnsafeArchiveError, match="points outside") as caught:
        Members(path)
    assert repr(name) in str(caught.value)


def test_an_encrypted_member_is_named_and_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"train/angry/1.png": b"secret"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    content[content.index(b"PK\x03\x04") + 6] |= 1
    path.write_bytes(content)
    with pytest.raises(UnsafeArchiveError, match=r"train/angry/1\.png.*encrypted"):
        Members(path)


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_MEMBER_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/angry/bomb.png", b"\0" * 1001)
    with pytest.raises(UnsafeArchiveError, match=r"bomb\.png.*1,001 bytes"):
        Members(tmp_path / "a.zip")


def test_a_member_cannot_unpack_to_more_than_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/angry/liar.png", b"\0" * 100_000)
    content = bytearray(path.read_bytes())
    size = content.index(b"PK\x01\x02") + 24
    content[size : size + 4] = (10).to_bytes(4, "little")
    path.write_bytes(content)
    with Members(path).reader() as read, pytest.raises(UnsafeArchiveError, match="cannot be unpacked"):
        read("train/angry/liar.png")


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("train/angry/1.png", b"one")
        archive.writestr("train/angry/1.png", b"two")
    with pytest.raises(UnsafeArchiveError, match="two members"):
        Members(tmp_path / "a.zip")


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_cut_off_zip_says_so(tmp_path: Path, keep: float) -> None:
    path = write_zip(tmp_path / "a.zip", tree({"train": 1}))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(SourceError, match="damaged"):
        Members(path)


def test_damaged_content_names_the_member(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"train/angry/1.png": b"some content"})
    path.write_bytes(path.read_bytes().replace(b"some content", b"same content"))
    with Members(path).reader() as read, pytest.raises(UnsafeArchiveError, match=r"train/angry/1\.png"):
        read("train/angry/1.png")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError, match=r"nowhere\.zip does not exist"):
        Members(tmp_path / "nowhere.zip")


def test_folder_and_zip_of_the_same_files_read_alike(tmp_path: Path) -> None:
    content = tree({"train": 2, "test": 1}) | {".DS_Store": b"", "__MACOSX/train/._1.png": b""}
    folder = Members(write_folder(tmp_path / "folder", content))
    zipped = Members(write_zip(tmp_path / "a.zip", dict(reversed(content.items()))))
    assert folder.names == zipped.names == sorted(tree({"train": 2, "test": 1}))
    with folder.reader() as one, zipped.reader() as other:
        assert all(one(name) == other(name) for name in folder.names)


@given(
    st.lists(
        st.sampled_from(["train", "angry", "1.png", "..", ".", "", "C:", "a b", "é", "..."]), min_size=1
    ),
    st.sampled_from(["/", "\\"]),
)
@settings(max_examples=150, deadline=None)
def test_no_accepted_name_leaves_the_folder(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], separator: str
) -> None:
    path = tmp_path_factory.mktemp("names") / "a.zip"
    name = separator.join(parts)
    if not name or name.endswith("/"):
        name += "x"
    write_zip(path, {name: b"x"})
    try:
        accepted = Members(path).names
    except UnsafeArchiveError:
        return
    root = path.parent.resolve()
    assert all((root / name).resolve().is_relative_to(root) for name in accepted)
