"""A training run as a bundle, and the check that a generator can become one before it is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from aigc_rt.bundle import Bundle
from aigc_rt.errors import DataError
from aigc_rt.export.evidence import Judge as Judging
from aigc_rt.export.part import Part
from aigc_rt.export.pipeline import PRECISIONS, export
from aigc_rt.export.scratch import scratch
from aigc_rt.generator import Generator
from aigc_rt.manifest import Json
from aigc_rt.train import data as datasets
from aigc_rt.train import record
from aigc_rt.train.evaluate import evaluate
from aigc_rt.train.generators.family import TrainedGenerator
from aigc_rt.train.quality import Judge
from aigc_rt.train.restore import Adapter, load_generator
from aigc_rt.train.samplers import BundleSampler


def export_run(
    run: Path,
    out: Path,
    *,
    precisions: Sequence[str] = PRECISIONS,
    engines: Sequence[str] = (),
    name: str | None = None,
    force: bool = False,
    quality: bool = True,
    adapter: Adapter = "merged",
    progress: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Export the averaged generator of a run's newest checkpoint.

    Args:
        run: a folder that `aigc-rt train` wrote.
        out, precisions, engines, name, force, progress: see `export`.
        quality: where the run was judged, have the same judge measure every ONNX variant too.
        adapter: "live" keeps the adapters of a fine-tuned run apart, their strength a condition of `generate`.

    Raises:
        RunError: no run, no checkpoint in it, or no adapters to keep apart.
        DataError: the run's data is not there any more, or changed; only with `quality`.
        Others: as `export`.
    """
    trained = load_generator(run, adapter)
    judge = _judge(run) if quality and trained.quality is not None else None
    made = {"training": trained.made, "training_quality": trained.quality}
    return export(
        trained.module,
        trained.example_inputs,
        out,
        program=trained.program,
        also=_also(trained),
        precisions=precisions,
        engines=engines,
        dynamic=trained.dynamic,
        name=name or out.resolve().name,
        force=force,
        judge=judge,
        made=made,
        progress=progress,
    )


def check_exportable(trained: TrainedGenerator) -> None:
    """Export to a folder that is thrown away: what cannot be exported fails before it is trained.

    Raises:
        ExportError: as `export`.
    """
    with scratch("check") as folder:
        export(
            trained.module,
            trained.example_inputs,
            folder / "bundle",
            program=trained.program,
            also=_also(trained),
            precisions=("fp32",),
            dynamic=trained.dynamic,
        )


def _also(trained: TrainedGenerator) -> dict[str, Part]:
    return {role: Part(p.module, p.example_inputs, p.dynamic, p.outputs) for role, p in trained.also.items()}


def _judge(run: Path) -> Judging:
    of = record.read(run).data
    data = datasets.load(of.source, of.options)
    if data.sha256 != of.sha256:
        found = f"SHA-256 {data.sha256[:12]}... is not the run's {of.sha256[:12]}..."
        raise DataError(f"judge with the data {of.source}", found, "Bring back the run's data, or use --no-quality")
    judge = Judge.of(data, quiet=True)

    def measure(generator: Generator) -> dict[str, Json]:
        return evaluate(BundleSampler(generator), judge)

    return measure
