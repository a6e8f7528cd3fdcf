"""Notes beside a manifest: another content is noticed, another time is not taken for it."""

import os
import time
from pathlib import Path

import pytest

from fadepth.data.manifest import Manifest
from fadepth.data.watch import changed_files, data_generation, note_files, notes_path
from fadepth.errors import FadepthError
from tests.tiny import tiny_manifest

YEARS_AGO = 1_500_000_000


@pytest.fixture
def checked(tmp_path: Path) -> tuple[Path, Path]:
    """A manifest and the folder of its files, noted long after they were written."""
    root = tmp_path / "frames"
    root.mkdir()
    manifest = tiny_manifest(root)
    for name in manifest.files:
        os.utime(root / name, (YEARS_AGO, YEARS_AGO))
    path = tmp_path / "manifest.jsonl"
    manifest.write(path)
    note_files(manifest, path, root, time.time(), "")
    return path, root


def test_what_has_not_changed_is_not_read(checked: tuple[Path, Path]) -> None:
    path, root = checked
    # Nothing may be hashed at all.
    assert changed_files(path, root, most=0) == {}
    assert data_generation(path, root) == ""


def test_another_content_is_told_even_with_the_old_size(checked: tuple[Path, Path]) -> None:
    path, root = checked
    image = root / "3.png"
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(content)
    assert list(changed_files(path, root)) == ["3.png"]
    assert data_generation(path, root) != ""


def test_an_absent_file_is_told(checked: tuple[Path, Path]) -> None:
    path, root = checked
    (root / "0.png").unlink()
    assert changed_files(path, root) == {"0.png": ""}


def test_another_time_alone_is_read_once_and_forgotten(checked: tuple[Path, Path]) -> None:
    path, root = checked
    os.utime(root / "1.png")
    assert changed_files(path, root) == {}
    assert changed_files(path, root, most=0) == {}


def test_more_than_a_plan_may_read_is_refused_with_what_to_do(checked: tuple[Path, Path]) -> None:
    path, root = checked
    os.utime(root / "1.png")
    with pytest.raises(FadepthError, match=f"fadepth data verify {path}"):
        changed_files(path, root, most=10)


def test_what_was_read_and_is_another_file_is_known(checked: tuple[Path, Path]) -> None:
    """After `data verify` a plan tells it, and does not ask for the same again."""
    path, root = checked
    (root / "1.png").write_bytes(b"another")
    os.utime(root / "1.png", (YEARS_AGO, YEARS_AGO + 1))
    changed = changed_files(path, root, most=None)
    assert list(changed) == ["1.png"]
    assert changed_files(path, root, most=0) == changed
    # The old content comes back: read again, and all is well.
    (root / "1.png").write_bytes(b"a third")
    with pytest.raises(FadepthError):
        changed_files(path, root, most=0)


def test_each_change_gives_another_generation_and_a_new_manifest_keeps_it(
    checked: tuple[Path, Path],
) -> None:
    """The word that Snakemake compares is the same before and after the manifest is made anew."""
    path, root = checked
    seen = [data_generation(path, root)]
    for content in (b"first", b"second", b"first"):
        (root / "2.png").write_bytes(content)
        planned = data_generation(path, root)
        path.unlink()  # as Snakemake does before it runs the rule
        assert data_generation(path, root) == planned
        manifest = Manifest("tiny", str(root), {"train": [], "val": [], "test": []}, hashes(root))
        manifest.write(path)
        note_files(manifest, path, root, time.time() + 10, planned)
        assert data_generation(path, root) == planned
        seen.append(planned)
    assert len(set(seen)) == 4


def hashes(root: Path) -> dict[str, str]:
    import hashlib

    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in root.glob("*.png")}


def test_what_was_written_while_it_was_hashed_is_hashed_again(tmp_path: Path) -> None:
    root = tmp_path / "frames"
    root.mkdir()
    began = time.time()
    manifest = tiny_manifest(root)
    path = tmp_path / "manifest.jsonl"
    note_files(manifest, path, root, began, "")
    with pytest.raises(FadepthError):
        changed_files(path, root, most=0)
    assert changed_files(path, root) == {}


@pytest.mark.parametrize("damage", ["", "{", '{"files": 3}', "[]"])
def test_without_notes_or_folder_nothing_is_told(checked: tuple[Path, Path], damage: str) -> None:
    path, root = checked
    assert changed_files(path, root / "elsewhere") == {}
    notes_path(path).write_text(damage)
    assert changed_files(path, root) == {}
    assert data_generation(path, root) == ""
