"""The bundle on disk: a folder with `manifest.json` and the files it lists. Read, verify, write atomically.

docs/bundle.md is the format's text. Nothing here opens a graph.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from aigc_rt.errors import BundleError, BundleExists, BundleNotFound, IntegrityError, ManifestError, WriteError
from aigc_rt.files import alive, write_whole
from aigc_rt.manifest import MANIFEST, MANIFEST_LIMIT_BYTES, SIGNATURE, File, Manifest
from aigc_rt.manifest_json import decode, encode

ZOO = Path(__file__).parent / "zoo"
"""Bundles that are shipped inside the package, by the names of their folders."""
_ZOO = "zoo:"


def locate(path: str | os.PathLike[str]) -> Path:
    """The folder that a user's words mean: a path, or "zoo:NAME" for a bundle that is shipped.

    Raises:
        BundleNotFound: no bundle of that name is shipped.
    """
    text = os.fspath(path)
    if not isinstance(text, str) or not text.startswith(_ZOO):
        return Path(path)
    name = text.removeprefix(_ZOO)
    there = sorted(file.parent.name for file in ZOO.glob(f"*/{MANIFEST}"))
    if name not in there:
        found = f"shipped are {', '.join(_ZOO + one for one in there) or 'none'}"
        raise BundleNotFound(f"open the bundle {text}", found, "Give one of them, or a bundle's folder")
    return ZOO / name


class Bundle:
    """A bundle on disk, its manifest read and checked; the files are hashed when they are opened.

    Raises (from the constructor):
        BundleNotFound: nothing there, or no manifest in it; see also `locate`.
        ManifestError, IntegrityError: see `decode`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = locate(path)
        data = _read_manifest(self.path)
        self.manifest = decode(data, str(self.path / MANIFEST))
        self.digest: str = json.loads(data)["digest"]

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r})"

    def file(self, name: str) -> Path:
        """The path of a listed file, its size and hash checked.

        Raises:
            IntegrityError: it is missing, a link, or not what was hashed.
        """
        with self._opened(name) as stream:
            digest = hashlib.sha256()
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        self._compare(name, digest.hexdigest())
        return self.path / name

    def read(self, name: str) -> bytes:
        """The bytes of a listed file; errors as in `file`. What is returned is what was hashed."""
        with self._opened(name) as stream:
            data = stream.read()
        self._compare(name, hashlib.sha256(data).hexdigest())
        return data

    def verify(self) -> None:
        """Hash every listed file, and refuse any that is not listed.

        Raises:
            IntegrityError: the first file that is missing, added, or not what was hashed.
        """
        self.check_listing()
        for name in self.manifest.files:
            self.file(name)

    def check_listing(self) -> None:
        """Refuse any file or folder that is not listed, without a look into those that are; errors as in `verify`."""
        signature = self.path / SIGNATURE
        if signature.is_symlink() or (signature.exists() and not _is_plain(signature)):
            raise self._wrong(SIGNATURE, "it is not a plain file")
        for entry in sorted(self.path.rglob("*")):
            name = entry.relative_to(self.path).as_posix()
            if entry.is_dir() and not entry.is_symlink():
                if not any(listed.startswith(name + "/") for listed in self.manifest.files):
                    raise self._added(name)
            elif name not in self.manifest.files and name not in (MANIFEST, SIGNATURE):
                raise self._added(name)

    def _added(self, name: str) -> IntegrityError:
        return IntegrityError(
            f"verify {self.path}",
            f"{name} is there but the manifest does not list it",
            f"Remove {name} if it is not yours",
        )

    def _wrong(self, name: str, found: str) -> IntegrityError:
        return IntegrityError(f"open {self.path / name}", found, "Copy the bundle again, or export it again")

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[BinaryIO]:
        entry, path = self.manifest.files[name], self.path / name
        try:
            for part in (path, *path.parents[: len(PurePosixPath(name).parts) - 1]):
                if part.is_symlink():
                    raise self._wrong(name, f"{part} is a link, a bundle holds plain files only")
            if not _is_plain(path):  # asked first: opening a named pipe would wait for a writer
                raise self._wrong(name, "it is not a plain file")
            with path.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if size != entry.bytes:
                    raise self._wrong(name, f"it has {size:,} bytes, the manifest says {entry.bytes:,}")
                yield stream
        except OSError as error:
            raise self._wrong(name, error.strerror or str(error)) from None

    def _compare(self, name: str, digest: str) -> None:
        if digest != self.manifest.files[name].sha256:
            expected = self.manifest.files[name].sha256
            raise self._wrong(name, f"its SHA-256 is {digest}, the manifest says {expected}")


def _is_plain(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _read_manifest(folder: Path) -> bytes:
    file = folder / MANIFEST
    try:
        if file.is_symlink():
            raise IntegrityError(f"open {file}", "it is a link, not a plain file", "Copy the bundle again")
        if not file.is_file():
            there = "a folder without manifest.json" if folder.is_dir() else "a file" if folder.exists() else "nothing"
            mend = "Give the folder that `aigc-rt export` wrote"
            if (folder / "run.json").is_file():
                there, mend = "a training run", f"Export it first: aigc-rt export {folder} --out BUNDLE"
            elif (ZOO / folder.name / MANIFEST).is_file():
                mend += f", or zoo:{folder.name}"
            raise BundleNotFound(f"open the bundle {folder}", f"there is {there}", mend)
        if file.stat().st_size > MANIFEST_LIMIT_BYTES:
            found = f"it is larger than {MANIFEST_LIMIT_BYTES:,} bytes"
            raise ManifestError(f"read {file}", found, "Copy the bundle again, or export it again")
        return file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, BundleError):
            raise
        found = (error.strerror if isinstance(error, OSError) else None) or str(error)
        mend = "Make it readable, or copy the bundle again"
        raise BundleError(f"open the bundle {folder}", found, mend) from None


# Writing a bundle


@contextlib.contextmanager
def replacing(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `path`; rename it to `path` when the block ends well, remove it when it does not.

    Whatever happens, `path` is what it was before or the finished folder. A kill leaves one folder named
    `.NAME.PID.TOKEN.partial`, and in the instant between two renames the old one as `.NAME.PID.TOKEN.old`; the next
    call for the same path removes the one and puts the other back.

    Args:
        path: where the folder will be.
        force: replace what is there, if it is a bundle or an empty folder.

    Raises:
        BundleExists: something is there and `force` is off, or it is no bundle.
        WriteError: the disk is full, or the place cannot be written to.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve would follow a link at the path itself
    staging = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial"
    try:
        _sweep(path)
        _refuse_existing(path, force)
        path.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
        yield staging
        for written in staging.rglob("*"):
            if written.is_file():
                _flush(written)
        _refuse_existing(path, force)  # what came meanwhile is not ours to replace
        _put(staging, path)
    except OSError as error:
        if isinstance(error, BundleError):
            raise
        raise WriteError(
            f"write {path}",
            error.strerror or str(error),
            "Free space or choose a place you may write to; nothing was changed",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put(staging: Path, path: Path) -> None:
    if not path.exists():
        staging.rename(path)
        return
    old = staging.with_suffix(".old")
    path.rename(old)
    try:
        staging.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _refuse_existing(path: Path, force: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not force:
        raise BundleExists(
            f"write {path}",
            "something is already there",
            "Choose another path, or replace it with --force (force=True)",
        )
    if path.is_symlink() or not path.is_dir() or (any(path.iterdir()) and not _is_only_a_bundle(path)):
        raise BundleExists(
            f"replace {path}",
            "it is no bundle, so it is left alone",
            "Choose another path, or remove it yourself",
        )


def _is_only_a_bundle(path: Path) -> bool:
    """Whether a folder holds a manifest of ours and nothing that it does not list."""
    try:
        Bundle(path).check_listing()
    except BundleError:
        return False
    return True


def _sweep(path: Path) -> None:
    """Remove what killed writers of `path` left, and put back a bundle that one had moved aside."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.[0-9a-f]{{8}}\.(partial|old)")
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        match = pattern.fullmatch(left.name)
        if match is None or alive(int(match[1])):
            continue
        if match[2] == "old" and not path.exists():
            left.rename(path)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def content_name(role: str, variant: str, data: bytes, suffix: str) -> str:
    """The name of a file by its content: an update never writes over a file that a reader may have open."""
    return f"{role}.{variant}.{hashlib.sha256(data).hexdigest()[:12]}{suffix}"


def hash_files(folder: Path) -> dict[str, File]:
    """Size and hash of every file below `folder`, by its path in the bundle."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as stream:
            digest = (
                hashlib.file_digest(stream, "sha256")
                if hasattr(hashlib, "file_digest")
                else hashlib.sha256(stream.read())
            )
        found[path.relative_to(folder).as_posix()] = File(path.stat().st_size, digest.hexdigest())
    return found


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put manifest.json into `folder` in one step: a reader sees the old one or the new one.

    Raises:
        ManifestError: `decode` would not accept it.
        WriteError: it cannot be written.
    """
    write_whole(folder / MANIFEST, encode(manifest))
