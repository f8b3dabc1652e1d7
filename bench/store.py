"""The result on disk: one JSON document, whose rows can be computed again from its samples.

Version 2. Times are nanoseconds in `samples` and milliseconds in `rows`.

    schema, version      "aigc-rt-bench", 2
    made_utc             when it was measured
    bundle               name, digest, parameters
    machine, libraries   what it was measured on; `source` is the checkout's commit and dirty flag, or null
    options, threads     what was asked for, and the threads that every peer had
    baselines            by device: the peer that ratios are against, and why if it is not the one asked for or, when
                         none was asked for, not torch-eager; no entry where nothing could be measured
    peers                by peer: status (ok, missing, wrong, failed), reason, facts, prepare_s by batch, agreement of
                         its images with the reference's, batches that did not work (broken)
    rows                 by peer, what (images, engine) and batch: the precision its graph is stored in and the one that
                         it executes, the median call with its 95% interval, p90 and p99, batch / median, the ratio to
                         the baseline and whether both have the same precisions, and why it is unstable, or null
    controls             the A/A ratios
    doubts               sentences
    samples              by peer, what, batch and round: `ns` of every call, `others` (share of the cores' time that
                         went to other programs in that block, or null)
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from aigc_rt.errors import BenchError
from aigc_rt.files import write_whole

SCHEMA = "aigc-rt-bench"
VERSION = 2
KEYS = frozenset(
    {
        "schema", "version", "made_utc", "bundle", "machine", "libraries", "source", "options", "threads", "baselines",
        "peers", "rows", "controls", "doubts", "samples",
    }
)  # fmt: skip

Document = dict[str, Any]
_GIVE = "Give a file that `aigc-rt bench` wrote"


def read(path: str | os.PathLike[str]) -> Document:
    """The document in a file.

    Raises:
        BenchError: it cannot be read, or is no result of this schema and version.
    """
    try:
        document = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise BenchError(f"read {path}", error.strerror or str(error), _GIVE) from None
    except (ValueError, RecursionError) as error:
        raise BenchError(f"read {path}", f"it is not JSON ({error})", "Measure again with `aigc-rt bench`") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise BenchError(f"read {path}", f'it has no "schema": "{SCHEMA}"', _GIVE)
    if document.get("version") != VERSION:
        raise BenchError(
            f"read {path}",
            f"its version is {document.get('version')!r}, this version of aigc-rt reads {VERSION}",
            "Measure again, or read it with the version that wrote it",
        )
    if wrong := sorted(KEYS ^ document.keys()):
        raise BenchError(f"read {path}", f"the keys {', '.join(wrong)} are missing or unknown", "Measure again")
    return document


def write(document: Document, path: str | os.PathLike[str]) -> None:
    """Write in one step: whoever reads sees the old file or the new one.

    Raises:
        WriteError: the disk is full, or the place cannot be written to; what was there is untouched.
    """
    write_whole(Path(path), dumps(document).encode())


def dumps(document: Document) -> str:
    """JSON for people and `diff`: indented, but each block's samples on one line."""
    head = json.dumps({key: value for key, value in document.items() if key != "samples"}, indent=1, allow_nan=False)
    lines = ",\n".join(json.dumps(block, separators=(",", ":"), allow_nan=False) for block in document["samples"])
    return head.removesuffix("\n}") + f',\n "samples": [\n{lines}\n ]\n}}\n'
