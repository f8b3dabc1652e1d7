from __future__ import annotations

import subprocess
from pathlib import Path

import aigc_rt
from aigc_rt import checkout


def git(folder: Path, *command: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *command], check=True, capture_output=True)


def test_the_commit_is_that_of_the_checkout_and_none_outside(tmp_path: Path) -> None:
    found = checkout.commit()
    assert (found is not None) == (Path(aigc_rt.__file__).parents[1] / ".git").exists()
    installed = tmp_path / "aigc_rt" / "__init__.py"
    installed.parent.mkdir()
    installed.touch()
    assert checkout.commit(installed) is None


def test_only_a_tracked_file_that_changed_makes_a_checkout_dirty(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("one")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "module.py")
    git(tmp_path, "commit", "-q", "-m", "first")
    (tmp_path / "notes.txt").touch()
    found = checkout.commit(source)
    assert found is not None
    assert (len(found["commit"]), found["dirty"]) == (40, False)
    source.write_text("two")
    found = checkout.commit(source)
    assert found is not None
    assert found["dirty"] is True
    assert checkout.commit(tmp_path / "notes.txt") is None  # a file that is in the folder, not in the checkout
