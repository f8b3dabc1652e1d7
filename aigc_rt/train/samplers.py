"""What is evaluated: anything that draws samples of a seed. A run's networks, or a bundle that the runtime loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aigc_rt import media
from aigc_rt.errors import InputError
from aigc_rt.generator import Generator
from aigc_rt.manifest import Condition, Feedforward, Media
from aigc_rt.train.features import BLOCK, Images
from aigc_rt.train.generators.family import Family, sample, swept
from aigc_rt.train.task import Batch, to_floats

ENCODER = "encoder"
_POSTERIOR = ("mean", "log_variance")
_IMAGE = "image"


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What an autoencoder makes of images by way of the posterior's mean.

    Attributes:
        images: (N, H, W, C) uint8.
        mean, log_variance: of the posterior, (N, latent) float32.
    """

    images: Images
    mean: NDArray[np.float32]
    log_variance: NDArray[np.float32]


class Sampler(Protocol):
    """What `evaluate` asks of a generator of images."""

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """By name."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""

    def draw(self, count: int, seed: int, start: int = 0, **conditions: Any) -> Images:
        """Samples `start` to `start + count - 1` of a seed, (count, H, W, C) uint8.

        Conditions are one value for all or (count,); one left out is swept: sample i gets value i of its range.
        """

    def reconstruct(self, images: Images, labels: NDArray[np.int64] | None) -> Reconstruction | None:
        """Images, (N, H, W, C), encoded and decoded; None without an encoder."""

    def measures(self, images: Images, labels: NDArray[np.int64] | None) -> dict[str, float]:
        """What else is known of real images, as means; {} where nothing is."""


class RunSampler:
    """A run's networks, in eval mode.

    Args:
        family: theirs.
        networks: by role; all that `family.graphs` asks for.
    """

    def __init__(self, family: Family, networks: Mapping[str, nn.Module]) -> None:
        self._family, self._networks = family, networks
        self._graphs = {role: module.eval() for role, module in family.graphs(networks).items()}
        self._main = self._graphs[family.program.graph]
        self.conditions: Mapping[str, Condition] = family.program.conditions

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Sampler`."""
        return _planes(self.draw(1, seed=0).shape)

    def draw(self, count: int, seed: int, start: int = 0, **conditions: Any) -> Images:
        """See `Sampler`."""
        return sample(self._main, self._family.program, seed, count, start, conditions)

    @torch.no_grad()
    def reconstruct(self, images: Images, labels: NDArray[np.int64] | None) -> Reconstruction | None:
        """See `Sampler`."""
        program, names = self._family.program, self._family.further.get(ENCODER, ())
        if not _encodes(program, names):
            return None
        encoder, device = self._graphs[ENCODER], next(iter(self._main.parameters())).device
        parts = []
        for rows in _rows(len(images)):
            given = {
                name: torch.from_numpy(value).to(device)
                for name, value in _encoded(program, images[rows], _part(labels, rows)).items()
            }
            taken = inspect.signature(encoder.forward).parameters
            posterior = dict(zip(names, encoder(**{k: v for k, v in given.items() if k in taken}), strict=True))
            del given[_IMAGE]
            made = self._main(**{_latent(program): posterior["mean"]}, **given)
            parts.append([value.float().cpu().numpy() for value in (made, *(posterior[k] for k in _POSTERIOR))])
        return _joined(parts, program.media)

    @torch.no_grad()
    def measures(self, images: Images, labels: NDArray[np.int64] | None) -> dict[str, float]:
        """See `Sampler`: the family's own."""
        device = next(iter(self._main.parameters())).device
        found: dict[str, list[torch.Tensor]] = {}
        for rows in _rows(len(images)):
            planes = torch.from_numpy(np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2)))
            classes = None if labels is None else torch.from_numpy(labels[rows]).to(device)
            batch = Batch(to_floats(planes).to(device), classes, seed=0, first=rows.start)
            for name, values in self._family.measures(self._networks, batch).items():
                found.setdefault(name, []).append(values.double().cpu())
        return {name: float(torch.cat(values).mean()) for name, values in found.items()}


class BundleSampler:
    """A loaded bundle, run as its plan says.

    Raises:
        InputError: its program makes no images.
    """

    def __init__(self, generator: Generator) -> None:
        manifest = generator.bundle.manifest
        program = manifest.program
        if not isinstance(program, Feedforward) or program.media.kind != "image":
            found = f"its program is {program.kind!r}" + (", and makes no images" if program.kind != "tensor" else "")
            raise InputError(f"evaluate {manifest.name}", found, "Give a bundle that makes images")
        self._generator, self._program, self._graphs = generator, program, manifest.graphs
        self.conditions: Mapping[str, Condition] = program.conditions

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Sampler`."""
        return _planes(self.draw(1, seed=0).shape)

    def draw(self, count: int, seed: int, start: int = 0, **conditions: Any) -> Images:
        """See `Sampler`."""
        left_out = {name: c for name, c in self.conditions.items() if name not in conditions}
        given: dict[str, Any] = {name: swept(condition, start, count) for name, condition in left_out.items()}
        made: Images = self._generator.generate(count, seed=seed, start=start, **given, **conditions).array
        return made

    def reconstruct(self, images: Images, labels: NDArray[np.int64] | None) -> Reconstruction | None:
        """See `Sampler`."""
        graph, program = self._graphs.get(ENCODER), self._program
        if graph is None or not _encodes(program, [spec.name for spec in graph.outputs]):
            return None
        most = min(BLOCK, *(axis.max for role in (ENCODER, program.graph) for axis in self._graphs[role].axes.values()))
        taken, parts = {spec.name for spec in graph.inputs}, []
        for rows in _rows(len(images), most):
            given = _encoded(program, images[rows], _part(labels, rows))
            posterior = self._generator.run({k: v for k, v in given.items() if k in taken}, graph=ENCODER)
            del given[_IMAGE]
            made = self._generator.run({_latent(program): posterior["mean"], **given})[program.media.output]
            parts.append([made, *(posterior[name] for name in _POSTERIOR)])
        return _joined(parts, program.media)

    def measures(self, images: Images, labels: NDArray[np.int64] | None) -> dict[str, float]:
        """See `Sampler`: the likelihood is no part of a bundle."""
        return {}


def _encodes(program: Feedforward, outputs: Any) -> bool:
    return set(_POSTERIOR) <= set(outputs) and len(program.noise) == 1


def _latent(program: Feedforward) -> str:
    """The decoder's input that the posterior is of."""
    (name,) = program.noise
    return name


def _encoded(program: Feedforward, images: Images, labels: NDArray[np.int64] | None) -> dict[str, NDArray[Any]]:
    """The encoder's inputs: images as the main graph makes them, the labels as every condition in whole numbers, and
    any other condition (an adapter's strength, say) as it is swept.
    """
    low, high = program.media.low, program.media.high
    floats = images.astype(np.float32) * np.float32((high - low) / 255.0) + np.float32(low)
    given: dict[str, NDArray[Any]] = {
        _IMAGE: floats if program.media.layout == "NHWC" else np.ascontiguousarray(floats.transpose(0, 3, 1, 2))
    }
    for condition in program.conditions.values():
        whole = np.issubdtype(np.dtype(condition.dtype), np.integer)
        values = swept(condition, 0, len(images)) if labels is None or not whole else condition.low + labels
        given[condition.input] = values.astype(condition.dtype)
    return given


def _joined(parts: list[list[NDArray[Any]]], how: Media) -> Reconstruction:
    made, mean, log_variance = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Reconstruction(media.finish(made, how), mean.astype(np.float32), log_variance.astype(np.float32))


def _rows(count: int, size: int = BLOCK) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def _part(labels: NDArray[np.int64] | None, rows: slice) -> NDArray[np.int64] | None:
    return None if labels is None else labels[rows]


def _planes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    _, height, width, channels = shape
    return channels, height, width
