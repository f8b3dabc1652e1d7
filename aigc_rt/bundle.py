"""The bundle on disk: a folder with `manifest.json` and the files it lists. Read, verify, write atomically.

docs/bundle.md is the format's text. Nothing here opens a graph.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from aigc_rt.errors import BundleExists, BundleNotFound, IntegrityError, ManifestError, WriteError
from aigc_rt.manifest import MANIFEST, MANIFEST_LIMIT_BYTES, SIGNATURE, File, Manifest
from aigc_rt.manifest_json import decode, encode


class Bundle:
    """A bundle on disk, its manifest read and checked; the files are hashed when they are opened.

    Raises (from the constructor):
        BundleNotFound: nothing there, or no manifest in it.
        ManifestError, IntegrityError: see `decode`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        file = self.path / MANIFEST
        if not file.is_file():
            there = (
                "a folder without manifest.json"
                if self.path.is_dir()
                else "a file"
                if self.path.exists()
                else "nothing"
            )
            raise BundleNotFound(
                f"open the bundle {self.path}",
                f"there is {there}",
                "Give the folder that `aigc-rt export` wrote",
            )
        if file.is_symlink():
            raise IntegrityError(f"open {file}", "it is a link, not a plain file", "Copy the bundle again")
        if file.stat().st_size > MANIFEST_LIMIT_BYTES:
            raise ManifestError(
                f"read {file}",
                f"it is larger than {MANIFEST_LIMIT_BYTES:,} bytes",
                "Copy the bundle again, or export it again",
            )
        data = file.read_bytes()
        self.manifest = decode(data, str(file))
        self.digest: str = json.loads(data)["digest"]

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r})"

    def file(self, name: str) -> Path:
        """The path of a listed file, its size and hash checked.

        Raises:
            IntegrityError: it is missing, a link, or not what was hashed.
        """
        self._hash(name)
        return self.path / name

    def read(self, name: str) -> bytes:
        """The bytes of a listed file; errors as in `file`. What is returned is what was hashed."""
        return self._hash(name, keep=True)

    def verify(self) -> None:
        """Hash every listed file, and refuse any that is not listed.

        Raises:
            IntegrityError: the first file that is missing, added, or not what was hashed.
        """
        for entry in sorted(self.path.rglob("*")):
            name = entry.relative_to(self.path).as_posix()
            if entry.is_dir() and not entry.is_symlink():
                if not any(listed.startswith(name + "/") for listed in self.manifest.files):
                    raise self._added(name)
            elif name not in self.manifest.files and name not in (MANIFEST, SIGNATURE):
                raise self._added(name)
        for name in self.manifest.files:
            self._hash(name)

    def _added(self, name: str) -> IntegrityError:
        return IntegrityError(
            f"verify {self.path}",
            f"{name} is there but the manifest does not list it",
            f"Remove {name} if it is not yours",
        )

    def _hash(self, name: str, *, keep: bool = False) -> bytes:
        entry = self.manifest.files[name]
        path = self.path / name

        def wrong(found: str) -> IntegrityError:
            return IntegrityError(f"open {path}", found, "Copy the bundle again, or export it again")

        for part in (path, *path.parents[: len(PurePosixPath(name).parts) - 1]):
            if part.is_symlink():
                raise wrong(f"{part} is a link, a bundle holds plain files only")
        try:
            if not stat.S_ISREG(path.lstat().st_mode):  # asked first: opening a named pipe would wait for a writer
                raise wrong("it is not a plain file")
            with path.open("rb") as stream:
                info = os.fstat(stream.fileno())
                if info.st_size != entry.bytes:
                    raise wrong(f"it has {info.st_size:,} bytes, the manifest says {entry.bytes:,}")
                kept, digest = bytearray(), hashlib.sha256()
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
                    if keep:
                        kept += chunk
        except OSError as error:
            raise wrong(error.strerror or str(error)) from None
        if digest.hexdigest() != entry.sha256:
            raise wrong(f"its SHA-256 is {digest.hexdigest()}, the manifest says {entry.sha256}")
        return bytes(kept)


# Writing a bundle


@contextlib.contextmanager
def replacing(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `path`; rename it to `path` when the block ends well, remove it when it does not.

    Whatever happens, `path` is what it was before or the finished folder. A kill leaves one folder named
    `.NAME.PID.TOKEN.partial`, which the next call for the same path removes.

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
        if path.exists():
            old = staging.with_suffix(".old")
            path.rename(old)
            staging.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            staging.rename(path)
    except OSError as error:
        if isinstance(error, BundleExists | WriteError):
            raise
        raise WriteError(
            f"write {path}",
            error.strerror or str(error),
            "Free space or choose a place you may write to; nothing was changed",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_existing(path: Path, force: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not force:
        raise BundleExists(
            f"write {path}",
            "something is already there",
            "Choose another path, or replace it with --force (force=True)",
        )
    if path.is_symlink() or not path.is_dir() or (any(path.iterdir()) and not (path / MANIFEST).is_file()):
        raise BundleExists(
            f"replace {path}",
            "it is no bundle, so it is left alone",
            "Choose another path, or remove it yourself",
        )


def _sweep(path: Path) -> None:
    """Remove what killed writers of `path` left, and put back a bundle that one had moved aside."""
    for left in path.parent.glob(f".{path.name}.*.*"):
        owner = left.name[len(path.name) + 2 :].split(".")[0]
        if left.suffix not in (".partial", ".old") or not owner.isdigit() or _alive(int(owner)):
            continue
        if left.suffix == ".old" and not path.exists():
            left.rename(path)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    if os.name == "nt":  # there, os.kill(pid, 0) would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def content_name(role: str, variant: str, data: bytes, suffix: str) -> str:
    """The name of a file by its content: an update never writes over a file that a reader may have open."""
    return f"{role}.{variant}.{hashlib.sha256(data).hexdigest()[:12]}{suffix}"


def describe(folder: Path) -> dict[str, File]:
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
    """Put manifest.json into `folder` in one step: a reader sees the old one or the new one."""
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    temporary.write_bytes(encode(manifest))
    temporary.replace(folder / MANIFEST)
