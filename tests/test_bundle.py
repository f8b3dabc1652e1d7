from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import toy

from aigc_rt.bundle import Bundle, replacing
from aigc_rt.errors import BundleError, BundleExists, BundleNotFound, IntegrityError, ManifestError, WriteError
from aigc_rt.manifest import MANIFEST


@pytest.fixture
def bundle(tmp_path: Path, images: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(images, tmp_path / "toy"))


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_whole_bundle_verifies(bundle: Path) -> None:
    opened = Bundle(bundle)
    opened.verify()
    for name in opened.manifest.files:
        assert opened.read(name) == (bundle / name).read_bytes()


def test_one_flipped_byte_in_any_file_is_found(bundle: Path) -> None:
    for path in [p for p in bundle.iterdir() if p.is_file()]:
        good = path.read_bytes()
        for place in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            with pytest.raises((IntegrityError, ManifestError)):
                Bundle(bundle).verify()
        path.write_bytes(good)
    Bundle(bundle).verify()


def test_truncated_missing_and_linked_files_are_found(bundle: Path) -> None:
    name = next(iter(Bundle(bundle).manifest.files))
    path, good = bundle / name, (bundle / name).read_bytes()
    path.write_bytes(good[:-1])
    with pytest.raises(IntegrityError, match=r"it has [\d,]+ bytes, the manifest says"):
        Bundle(bundle).file(name)
    path.unlink()
    with pytest.raises(IntegrityError, match="No such file"):
        Bundle(bundle).file(name)
    outside = bundle.parent / "same-bytes"
    outside.write_bytes(good)
    path.symlink_to(outside)
    with pytest.raises(IntegrityError, match="is a link"):
        Bundle(bundle).read(name)
    path.unlink()
    os.mkfifo(path)  # opening one waits for ever
    with pytest.raises(IntegrityError, match="plain file"):
        Bundle(bundle).verify()


def test_a_linked_manifest_is_found(bundle: Path) -> None:
    (bundle / MANIFEST).rename(bundle.parent / "elsewhere.json")
    (bundle / MANIFEST).symlink_to(bundle.parent / "elsewhere.json")
    with pytest.raises(IntegrityError, match="is a link"):
        Bundle(bundle)


@pytest.mark.parametrize("added", ["extra.onnx", "sub/extra", "empty/"])
def test_an_added_file_is_found(bundle: Path, added: str) -> None:
    place = bundle / added
    (place if added.endswith("/") else place.parent).mkdir(exist_ok=True)
    if not added.endswith("/"):
        place.write_text("x")
    with pytest.raises(IntegrityError, match="does not list it"):
        Bundle(bundle).verify()


def test_a_signature_may_be_there(bundle: Path) -> None:
    (bundle / "model.sig").write_text("{}")
    Bundle(bundle).verify()
    (bundle / "model.sig").unlink()
    (bundle / "model.sig").symlink_to(bundle / MANIFEST)
    with pytest.raises(IntegrityError, match="plain file"):
        Bundle(bundle).verify()


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, found in ((tmp_path / "none", "nothing"), (tmp_path / "file", "a file"), (tmp_path, "without manifest")):
        with pytest.raises(BundleNotFound, match=found):
            Bundle(path)
    for odd in ("x" * 5000, "nul\0byte"):
        with pytest.raises(BundleError):
            Bundle(tmp_path / odd)
    (tmp_path / MANIFEST).write_bytes(b" " * (17 << 20))
    with pytest.raises(ManifestError, match="larger than"):
        Bundle(tmp_path)


def test_only_what_is_opened_is_hashed(bundle: Path) -> None:
    first, second = Bundle(bundle).manifest.files
    (bundle / first).write_bytes(b"damaged")
    assert Bundle(bundle).file(second).is_file()


# Writing


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def write_half() -> None:
        with replacing(tmp_path / "out") as folder:
            (folder / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_replaced_only_by_force(bundle: Path) -> None:
    before = content(bundle)
    with pytest.raises(BundleExists, match="--force"):
        toy.bundle(bundle)
    assert content(bundle) == before
    with replacing(bundle, force=True) as folder:
        (folder / "new").write_text("x")
    assert content(bundle) == {"new": b"x"}
    assert [p.name for p in bundle.parent.iterdir()] == ["toy"]


def test_force_spares_what_is_no_bundle(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "letters.txt").write_text("dear")
    (tmp_path / "link").symlink_to(home)
    for path in (home, home / "letters.txt", tmp_path / "link"):
        with pytest.raises(BundleExists, match="no bundle"), replacing(path, force=True):
            pass
    assert content(home) == {"letters.txt": b"dear"}
    (home / MANIFEST).write_text("{}")  # a web app's, say
    with pytest.raises(BundleExists, match="no bundle"), replacing(home, force=True):
        pass
    assert len(content(home)) == 2


def test_force_spares_a_bundle_that_holds_something_else_too(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(BundleExists, match="no bundle"), replacing(bundle, force=True):
        pass
    assert (bundle / "notes.txt").read_text() == "mine"


WRITER = """
import os, signal, sys, time
from pathlib import Path
from aigc_rt.bundle import replacing
with replacing(Path(sys.argv[1]), force=True) as folder:
    (folder / "manifest.json").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_kill_leaves_the_old_bundle_and_one_named_folder_that_the_next_call_removes(bundle: Path) -> None:
    before = content(bundle)
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(bundle)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"writing\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert content(bundle) == before
    left = [p.name for p in bundle.parent.iterdir() if p != bundle]
    assert len(left) == 1
    assert left[0].startswith(f".toy.{child.pid}.")
    assert left[0].endswith(".partial")
    with pytest.raises(BundleExists):
        toy.bundle(bundle)
    assert [p.name for p in bundle.parent.iterdir()] == ["toy"]


def test_a_bundle_that_a_kill_left_moved_aside_is_put_back(bundle: Path) -> None:
    before = content(bundle)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    bundle.rename(bundle.parent / f".toy.{gone.pid}.0123abcd.old")
    with pytest.raises(BundleExists):
        toy.bundle(bundle)
    assert content(bundle) == before


def test_what_appears_at_the_path_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def race(force: bool) -> None:
        with replacing(tmp_path / "out", force=force) as folder:
            (folder / "new").write_text("x")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "other").write_text("theirs")

    for force in (False, True):
        with pytest.raises(BundleExists):
            race(force)
        assert content(tmp_path / "out") == {"other": b"theirs"}
        shutil.rmtree(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_rename_that_fails_puts_the_old_bundle_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = content(bundle), Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(WriteError, match="No space left"), replacing(bundle, force=True) as folder:
        (folder / "new").write_text("x")
    assert content(bundle) == before
    assert [p.name for p in bundle.parent.iterdir()] == ["toy"]


def test_leftovers_of_a_bundle_with_a_longer_name_are_left_alone(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    others = [f".toy.9.{gone.pid}.0123abcd.partial", f".toy.9.{gone.pid}.0123abcd.old", ".toy.notes", ".toy.1.x.old"]
    for name in others:
        (tmp_path / name).mkdir()
    with replacing(tmp_path / "toy") as folder:
        (folder / "new").write_text("x")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "toy"])
    with replacing(tmp_path / "with [brackets]"):
        pass


def test_a_manifest_that_cannot_be_read_is_a_clear_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BundleError, match="Permission denied"):
        Bundle(bundle)


FULL = """
import resource, sys
from pathlib import Path
import aigc_rt.errors, aigc_rt.bundle
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    with aigc_rt.bundle.replacing(Path(sys.argv[1]), force=True) as folder:
        (folder / "weights").write_bytes(bytes(1000))
except aigc_rt.errors.WriteError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_changes_nothing(bundle: Path) -> None:
    before = content(bundle)
    run = subprocess.run([sys.executable, "-c", FULL, str(bundle)], capture_output=True, text=True, check=True)
    assert "File too large" in run.stdout
    assert "nothing was changed" in run.stdout
    assert content(bundle) == before
    assert [p.name for p in bundle.parent.iterdir()] == ["toy"]


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match=r"File exists|Not a directory"), replacing(tmp_path / "file" / "out"):
        pass


def test_the_folder_holds_what_the_manifest_lists(images: Path) -> None:
    listed = json.loads((images / MANIFEST).read_bytes())["files"]
    assert sorted([*listed, MANIFEST]) == sorted(p.name for p in images.iterdir())
