"""The measurement as a whole: from a bundle and options to the document."""

from __future__ import annotations

import datetime
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aigc_rt import checkout
from aigc_rt.bench import machine, report, store, summary
from aigc_rt.bench.crew import Crew, Progress
from aigc_rt.bench.options import BenchOptions, is_factory
from aigc_rt.bundle import Bundle
from aigc_rt.errors import BenchError, InputError
from aigc_rt.manifest import Feedforward
from aigc_rt.plan import available_threads

__all__ = ["BenchOptions", "bench"]

Document = dict[str, Any]


def bench(bundle: Path, options: BenchOptions | None = None, progress: Progress | None = None) -> Document:
    """Measure every peer on one bundle.

    Args:
        bundle: the bundle's folder.
        options: what is measured, and for how long; None takes the defaults.
        progress: called with a line of text for every step.

    Returns:
        The document of `aigc_rt.bench.store`: rows, raw samples, machine, versions, options.

    Raises:
        InputError: options.torch is neither a run nor a factory.
        BundleError: the bundle cannot be read.
        BenchError: it makes no images, it has no such batch size, the baseline asked for cannot run, or nothing
            could be measured.
        KeyboardInterrupt: as it came; the peers' processes are gone by then.
    """
    options = options or BenchOptions()
    _check_torch(options.torch)
    opened = _open_bundle(bundle, options)
    threads = options.threads or available_threads()
    described = machine.describe()
    with tempfile.TemporaryDirectory(prefix="aigc-rt-bench-", ignore_cleanup_errors=True) as scratch:
        crew = Crew(opened, options, threads, Path(scratch), progress or (lambda _: None))
        try:
            crew.open()
            crew.repeat_baselines()
            samples = crew.measure()
        finally:
            crew.kill()
    peers = [entry.to_json() for entry in crew.entries]
    found = summary.summarise(peers, samples, crew.baselines, options)
    _check_rows(bundle, found)
    return {
        "schema": store.SCHEMA,
        "version": store.VERSION,
        "made_utc": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "bundle": {
            "name": opened.manifest.name,
            "digest": opened.digest,
            "parameters": opened.manifest.main_graph.parameters,
        },
        "machine": described,
        "libraries": machine.libraries(),
        "source": checkout.commit(),
        "options": {**asdict(options), "peers": list(options.peers), "batches": list(options.batches)},
        "threads": threads,
        "baselines": crew.baselines,
        "peers": peers,
        **found,
        "samples": samples,
    }


def _check_torch(torch: str | None) -> None:
    if torch is not None and not is_factory(torch) and not (Path(torch) / "run.json").is_file():
        raise InputError(
            f"the PyTorch module {torch!r}",
            "there is no run.json in it",
            "Give a folder that aigc-rt train wrote, or package.module:factory",
        )


def _check_rows(bundle: Path, found: Document) -> None:
    if not any(row["status"] == "ok" for row in found["rows"]):
        reasons = (f"{', '.join(names)} ({reason})" for reason, names in report.absent(found).items())
        raise BenchError(
            f"bench {bundle}",
            f"nothing could be measured: {'; '.join(reasons)}",
            "Mend one of these, or name other peers",
        )


def _open_bundle(path: Path, options: BenchOptions) -> Bundle:
    opened = Bundle(path)
    program, graph = opened.manifest.program, opened.manifest.main_graph
    if not isinstance(program, Feedforward) or program.media.kind != "image":
        kind = program.media.kind if isinstance(program, Feedforward) else program.kind
        raise BenchError(f"bench {path}", f"its program makes no images ({kind})", "Give an image generator's bundle")
    axis = graph.axes[str(graph.inputs[0].shape[0])]
    if beyond := [batch for batch in options.batches if not axis.min <= batch <= axis.max]:
        raise BenchError(
            f"bench {path} at batch {', '.join(map(str, beyond))}",
            f"it was exported for batch {axis.min} to {axis.max}",
            "Name other batches with --batches, or export it with a wider range",
        )
    return opened
