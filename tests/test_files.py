from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from aigc_rt import files
from aigc_rt.errors import InputError, WriteError


def test_a_file_that_could_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.check_target(tmp_path / "bench.json")
    files.check_target("bench.json")
    for path, words in ((tmp_path, "it is a folder"), (tmp_path / "no" / "x.json", f"no folder {tmp_path / 'no'}")):
        with pytest.raises(InputError, match=re.escape(words)):
            files.check_target(path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(WriteError, match="does not let you write"):
        files.check_target(tmp_path / "bench.json")


def test_a_missing_folder_is_not_made_and_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"there is no folder .*none. Make the folder first"):
        files.write_whole(tmp_path / "none" / "x.png", b"")
    assert list(tmp_path.iterdir()) == []
