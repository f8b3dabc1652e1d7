"""Who may train on a folder of data: what its `aigc-rt.data.json` says, and a log of every decision.

    {"name": "scans", "origin": "ward 3", "licence": "internal", "allow": ["project-a"], "contact": "data@example.org"}

Every key may be missing. Without `allow` every project may; with an empty one none. What cannot be read as such is
refused. The file counts for its folder and what is below, so neither a folder inside nor one around it gets past it.
It guards against mistakes and leaves a trace; against those who may read the files anyway, permissions help.
"""

from __future__ import annotations

import datetime
import getpass
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs

from aigc_rt.errors import AccessDenied

FILE = "aigc-rt.data.json"
LOG = "AIGC_RT_AUDIT_LOG"
"""Environment variable: another place for the audit log."""
_TEXTS = ("name", "origin", "licence", "contact")
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Policy:
    """One `aigc-rt.data.json`; None is a key that it lacks."""

    file: Path
    name: str | None = None
    origin: str | None = None
    licence: str | None = None
    contact: str | None = None
    allow: tuple[str, ...] | None = None

    def admit(self, project: str | None) -> None:
        """Raise AccessDenied unless the project may."""
        if self.allow is None or project in self.allow:
            return
        asks = f"the project {project!r} is not among those" if project else "no project was named, only those"
        may = f"{asks} that {self.file} allows: {', '.join(self.allow)}" if self.allow else f"{self.file} allows none"
        ask = self.contact or f"whoever keeps {self.file}"
        own = "Give the project that the run is for, if it is among them" if self.allow else "Use other data"
        raise AccessDenied(f"use the data {self.name or self.file.parent}", may, f"{own}, or ask {ask} for access")


def check(source: Path, project: str | None) -> Policy | None:
    """The nearest policy above the data, once all that concern it have allowed the project and that was recorded.

    Args:
        source: an existing folder or file of data.
        project: who asks.

    Raises:
        AccessDenied: a policy does not allow it or cannot be read, or the audit log cannot be written.
    """
    asked = Path(os.path.abspath(source))  # noqa: PTH100 - a link counts where it stands, too
    source = source.resolve()
    above = list(_above(source, asked))
    below = list(_below(source)) if source.is_dir() else []
    policies = []
    for file in dict.fromkeys([*above, *below]):
        content = None
        policy = Policy(file)
        try:
            content = _content(file)
            policy = _policy(file, content)
            policy.admit(project)
        except AccessDenied as refused:
            _record(source, project, policy, content, "refused", refused.found)
            raise
        policies.append((policy, content))
    if policies:
        _record(source, project, *policies[0], "allowed")
    return policies[0][0] if above else None


def audit_log() -> Path:
    """Where decisions are recorded."""
    return Path(
        os.environ.get(LOG) or Path(platformdirs.user_state_dir("aigc-rt", appauthor=False), "audit.jsonl")
    ).absolute()


def _is_there(file: Path) -> bool:
    """Also where it cannot be read, a link that leads nowhere say: that is refused later, not overlooked."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _above(*places: Path) -> Iterator[Path]:
    for place in dict.fromkeys(folder for low in places for folder in (low, *low.parents)):
        if _is_there(place / FILE):
            yield place / FILE


def _below(folder: Path) -> Iterator[Path]:
    """Those inside, and those that concern what links inside lead to."""
    for place, folders, files in os.walk(folder):
        names = (*folders, *files)
        if Path(place) != folder and FILE in names:
            yield Path(place, FILE)
        for path in (Path(place, name) for name in names if name != FILE):
            if path.is_symlink():
                real = Path(os.path.realpath(path))  # of a loop too, where resolve raises
                yield from _above(real if real.is_dir() else real.parent)


def _content(file: Path) -> bytes:
    try:
        if not file.is_file():
            raise _unreadable(file, "it is no file")
        with file.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except AccessDenied:
        raise
    except OSError as error:
        raise _unreadable(file, error.strerror or str(error)) from None
    if len(content) > _MOST_BYTES:
        raise _unreadable(file, f"it is longer than {_MOST_BYTES:,} bytes")
    return content


def _policy(file: Path, content: bytes) -> Policy:
    try:
        found = json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _unreadable(file, f"it is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise _unreadable(file, "it is no JSON object")
    if unknown := found.keys() - {*_TEXTS, "allow"}:
        raise _unreadable(file, f"it has the unknown key {min(unknown)!r}")
    for key in _TEXTS:
        if key in found and not _is_text(found[key]):
            raise _unreadable(file, f"its {key!r} is not a text")
    allow = found.get("allow", [])
    if not isinstance(allow, list) or not all(map(_is_text, allow)):
        raise _unreadable(file, "its 'allow' is not a list of project names")
    return Policy(file, **{**found, "allow": tuple(allow) if "allow" in found else None})


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands there twice")
    return dict(pairs)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _unreadable(file: Path, found: str) -> AccessDenied:
    return AccessDenied(
        f"read {file}", found, f"Nobody may use the data until it is mended; its keys are {', '.join(_TEXTS)}, allow"
    )


def _record(
    source: Path,
    project: str | None,
    policy: Policy,
    content: bytes | None,
    decision: Literal["allowed", "refused"],
    reason: str | None = None,
) -> None:
    """Append one line, in one write, so that lines of several processes do not mix."""
    entry = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
        "user": _user(),
        "project": project,
        "data": os.fspath(source),
        "name": policy.name,
        "policy": os.fspath(policy.file),
        "policy_sha256": None if content is None else hashlib.sha256(content).hexdigest(),
        "decision": decision,
        "reason": reason,
        "pid": os.getpid(),
    }
    line = (json.dumps(entry) + "\n").encode()
    log = audit_log()
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.write(handle, line) != len(line):
                raise OSError("the disk is full")
        finally:
            os.close(handle)
    except (OSError, ValueError) as error:
        raise AccessDenied(
            f"use the data {policy.name or source}",
            f"that cannot be recorded in the audit log {log} ({getattr(error, 'strerror', None) or error})",
            f"Make it writable, or name another file in the environment variable {LOG}",
        ) from None


def _user() -> str:
    """The account's name, as the system has it where it says so: the environment can say anything."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except ImportError:  # Windows
        return getpass.getuser()
    except KeyError:  # a container's user without an entry
        return f"uid {os.getuid()}"
