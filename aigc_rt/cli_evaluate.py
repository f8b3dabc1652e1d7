"""The subcommand of `aigc-rt` that judges. `aigc_rt.cli` registers it; PyTorch is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aigc_rt.command import AsJson, Backend, Device, Precision, Threads, needs, plan_request, progress, say, show

FEATURES = ("classifier", "efficientnet")


def evaluate(
    path: Annotated[
        Path, typer.Argument(metavar="RUN|BUNDLE", help="A folder that `aigc-rt train` or `aigc-rt export` wrote.")
    ],
    data: Annotated[
        str | None,
        typer.Option(help="The data to judge by, as `aigc-rt train` takes it. Default: what it was trained on."),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=6, max=1_000_000, help="How many. Fréchet distances of other counts do not compare.")
    ] = 1000,
    features: Annotated[
        str | None,
        typer.Option(
            help="What distances are taken in: classifier (trained on the data's classes) or efficientnet (of "
            "ImageNet). Default: classifier where the data has labels."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of the samples.")] = 0,
    figure: Annotated[
        Path | None, typer.Option(help="Draw samples beside their nearest training images here, .png.")
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="Who asks for the data, where its folder says who may. Default: nobody.")
    ] = None,
    device: Device = "auto",
    backend: Backend = None,
    precision: Precision = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Judge samples by the data they should be like: distances, coverage, copies."""
    if features is not None and features not in FEATURES:
        raise typer.BadParameter(f"--features {features}: there are {', '.join(FEATURES)}.")
    if figure is not None and figure.suffix.lower() != ".png":
        raise typer.BadParameter(f"--figure {figure}: it is drawn as .png.")
    request = plan_request(device, backend, precision, threads)
    room = needs("aigc_rt.train.subject", "train")
    if room.is_run(path) and (device, backend, precision) != ("auto", None, None):
        raise typer.BadParameter("--device, --backend and --precision are for bundles: a run is judged with PyTorch.")
    judging = needs("aigc_rt.train.evaluate", "train")
    if threads is not None:
        needs("torch", "train").set_num_threads(threads)
    with progress() as tell:
        tell(f"opening {path}")
        with room.opened(path, room.DataRequest(data, project), request) as subject:
            tell(f"making the judge of {subject.data.name}")
            judge = needs("aigc_rt.train.quality", "train").Judge.of(subject.data, quiet=True, features=features)
            tell(f"judging {samples:,} samples")
            result = judging.evaluate(
                subject.sampler,
                judge,
                samples=samples,
                seed=seed,
                untrained=subject.untrained,
                private=subject.private,
                figure=figure,
            )
    if figure is not None and subject.private:
        say(f"{figure} was not drawn: it would show training images of a private run.")
    show("\n".join(judging.lines(result)), {"subject": subject.said, **result}, as_json)


COMMANDS = (evaluate,)
"""In the order of the help."""
