"""Who may use a folder of data, and the log of who asked."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aigc_rt.errors import AccessDenied, DataError
from aigc_rt.train import access, data
from aigc_rt.train.data import DataOptions

A = DataOptions(project="project-a")


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(access.LOG, str(tmp_path / "state" / "audit.jsonl"))
    return tmp_path / "state" / "audit.jsonl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for k in range(4):
            Image.new("L", (4, 4), 50 * k).save(tmp_path / "pets" / name / f"{k}.png")
    return tmp_path / "pets"


def policy(folder: Path, content: Any) -> Path:
    (folder / access.FILE).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / access.FILE


def entries(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_no_policy_no_log(folder: Path, log: Path) -> None:
    assert data.load(folder).licence == "not stated"
    assert not log.exists()


def test_without_allow_everybody_may(folder: Path, log: Path) -> None:
    policy(folder, {"name": "Pets", "origin": "our own photographs", "licence": "CC0"})
    found = data.load(folder)
    assert (found.name, found.origin, found.licence) == ("Pets", "our own photographs", "CC0")
    assert len(found.images) == 8
    assert [entry["decision"] for entry in entries(log)] == ["allowed"]


def test_a_named_project_may_and_leaves_one_line(folder: Path, log: Path) -> None:
    file = policy(folder, {"name": "Pets", "allow": ["project-b", "project-a"]})
    assert data.load(folder, A).origin == f"folder {folder.name}"
    [entry] = entries(log)
    assert entry.pop("time").endswith("+00:00")
    assert entry.pop("user")
    assert entry == {
        "project": "project-a",
        "data": str(folder),
        "name": "Pets",
        "policy": str(file),
        "policy_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "decision": "allowed",
        "reason": None,
        "pid": os.getpid(),
    }


@pytest.mark.parametrize(
    ("allow", "project", "words"),
    [
        (["project-b", "project-c"], "project-a", ("'project-a' is not among", "project-b, project-c")),
        (["project-b"], None, ("no project was named", "project-b")),
        ([], "project-a", ("allows none", "Use other data")),
        (["project-a "], "project-a", ("'project-a' is not among",)),
    ],
)
def test_others_may_not(allow: list[str], project: str | None, words: tuple[str, ...], folder: Path, log: Path) -> None:
    policy(folder, {"name": "Pets", "allow": allow, "contact": "pets@example.org"})
    with pytest.raises(AccessDenied) as error:
        data.load(folder, DataOptions(project=project))
    for word in (*words, "Pets", "ask pets@example.org"):
        assert word in str(error.value)
    assert isinstance(error.value, (DataError, PermissionError))
    assert [(entry["decision"], entry["project"], entry["name"]) for entry in entries(log)] == [
        ("refused", project, "Pets")
    ]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"alow": ["project-a"]}',
        '{"allow": "project-a"}',
        '{"allow": null}',
        '{"allow": ["project-a", 3]}',
        '{"allow": ["project-a"], "licence": null}',
        '{"allow": ["project-a"], "name": 3}',
        '{"allow": ["project-a"], "name": "\\u001b[2J"}',
        '{"allow": [], "allow": ["project-a"]}',
        "[" * 100_000,
        " " * 2_000_000,
    ],
    ids=lambda content: content[:40].strip() or f"{len(content)} blanks",
)
def test_a_policy_that_cannot_be_read_refuses(content: str, folder: Path, log: Path) -> None:
    file = policy(folder, content)
    with pytest.raises(AccessDenied) as error:
        data.load(folder, A)
    assert str(file) in str(error.value)
    assert [entry["decision"] for entry in entries(log)] == ["refused"]


@pytest.mark.parametrize("kind", ["folder", "dangling link", "not text"])
def test_a_policy_that_is_no_file_refuses(kind: str, folder: Path) -> None:
    if kind == "folder":
        (folder / access.FILE).mkdir()
    elif kind == "not text":
        (folder / access.FILE).write_bytes(b"\xff\xfe\0")
    else:
        (folder / access.FILE).symlink_to(folder / "nowhere")
    with pytest.raises(AccessDenied, match=access.FILE):
        data.load(folder, A)


def test_neither_a_folder_inside_nor_one_around_gets_past_it(folder: Path, log: Path) -> None:
    policy(folder / "dog", {"name": "Dogs", "allow": ["project-b"], "origin": "the kennel"})
    with pytest.raises(AccessDenied, match="Dogs"):
        data.load(folder, A)
    (folder / "dog" / "young").mkdir()
    Image.new("L", (4, 4)).save(folder / "dog" / "young" / "a.png")
    with pytest.raises(AccessDenied, match="Dogs"):
        data.load(folder / "dog" / "young", A)
    (folder.parent / "shortcut").symlink_to(folder / "dog")
    with pytest.raises(AccessDenied, match="Dogs"):
        data.load(folder.parent / "shortcut", A)
    (folder / "dog" / "door").symlink_to(folder / "cat")
    with pytest.raises(AccessDenied, match="Dogs"):
        data.load(folder / "dog" / "door", A)
    (folder / "dog" / "door").unlink()
    assert len(data.load(folder / "dog" / ".." / "cat", A).images) == 4
    assert len(entries(log)) == 4
    assert data.load(folder, DataOptions(project="project-b")).origin == f"folder {folder.name}"
    assert len(entries(log)) == 5


def test_links_to_files_do_not_get_past_it(folder: Path, tmp_path: Path, log: Path) -> None:
    file = policy(folder / "dog", {"name": "Dogs", "allow": ["project-b"]})
    (tmp_path / "links").mkdir()
    for k in range(4):
        (tmp_path / "links" / f"{k}.png").symlink_to(folder / "dog" / f"{k}.png")
    (tmp_path / "links" / "loop").symlink_to("loop")
    with pytest.raises(AccessDenied, match="Dogs"):
        data.load(tmp_path / "links", A)
    assert len(data.load(tmp_path / "links", DataOptions(project="project-b")).images) == 4
    assert [(e["decision"], e["policy"]) for e in entries(log)] == [("refused", str(file)), ("allowed", str(file))]


def test_an_npz_file_is_under_its_folders_policy(tmp_path: Path, log: Path) -> None:
    (tmp_path / "arrays").mkdir()
    np.savez(tmp_path / "arrays" / "a.npz", images=np.zeros((4, 4, 4), np.uint8))
    policy(tmp_path / "arrays", {"licence": "CC0", "allow": ["project-a"]})
    found = data.load(tmp_path / "arrays" / "a.npz", A)
    assert (found.name, found.licence) == ("a", "CC0")
    with pytest.raises(AccessDenied):
        data.load(tmp_path / "arrays" / "a.npz")
    assert [entry["decision"] for entry in entries(log)] == ["allowed", "refused"]


def test_refused_before_anything_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy(folder, {"allow": []})
    (folder / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(AccessDenied):
        data.load(folder)


@pytest.mark.parametrize("place", ["a folder", "below a file", "a full disk"])
def test_what_cannot_be_recorded_is_refused(
    place: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy(folder, {"name": "Pets"})
    (tmp_path / "file").touch()
    if place == "a full disk":
        monkeypatch.setattr(os, "write", lambda _handle, content: len(content) - 1)
    else:
        monkeypatch.setenv(access.LOG, str({"a folder": tmp_path, "below a file": tmp_path / "file" / "log"}[place]))
    with pytest.raises(AccessDenied, match=r"cannot be recorded in the audit log .*AIGC_RT_AUDIT_LOG"):
        data.load(folder, A)


def test_the_log_is_for_its_owner_only(folder: Path, log: Path) -> None:
    policy(folder, {})
    data.load(folder)
    assert log.stat().st_mode & 0o077 == 0


def test_the_users_own_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(access.LOG)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert access.audit_log().name == "audit.jsonl"
    if sys.platform == "linux":
        assert access.audit_log() == tmp_path / "aigc-rt" / "audit.jsonl"


def test_lines_of_several_processes_do_not_mix(folder: Path, log: Path) -> None:
    policy(folder, {"name": "Pets" * 500, "allow": ["project-a"]})
    code = (
        "import sys; from pathlib import Path; from aigc_rt.train import access\n"
        "for _ in range(50): access.check(Path(sys.argv[1]), 'project-a')"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(folder)]) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    assert len({entry["pid"] for entry in entries(log)}) == 4
    assert len(entries(log)) == 200
