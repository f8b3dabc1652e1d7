"""Before a private run: does the family keep to what the promise rests on? Tried on images of pure noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from aigc_rt.errors import InputError
from aigc_rt.train.generators.family import DataSpec, Family
from aigc_rt.train.poisson import PoissonBatch
from aigc_rt.train.private_update import PrivateUpdate, unwarned
from aigc_rt.train.task import Loss

IMAGES, MADE = 3, 4
TOLERANCE = 1e-3
"""Largest difference of gradients that are the same but for rounding, as a share of their norm."""


def rehearse(family: Family, role: str, spec: DataSpec, update: PrivateUpdate) -> None:
    """Take gradients of noise, and again after the first image has become another one; leave all as it was.

    Raises:
        InputError: the rows do not add up to the gradient, or the row of another image has changed, or the loss cannot
            be taken in rows at all.
    """
    stream, before = update.stream, (update.stream.step, update.stream.batch)
    buffers = [(b, b.clone()) for network in family.networks.values() for b in network.buffers()]
    try:
        with torch.random.fork_rng(devices=[]):
            one, other = _batches(spec, update)
            total, rows = _rows(family, role, update, one)
            _, others = _rows(family, role, update, other)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise _refused(
            f"its loss cannot be taken image by image ({str(error)[:200] or type(error).__name__})"
        ) from None
    finally:
        stream.step, stream.batch = before
        for buffer, kept in buffers:
            buffer.copy_(kept)
    if not _close(sum(found.mean(0) for found in rows.values()), total):  # type: ignore[arg-type]
        raise _refused("its gradient is not the sum of one gradient an image")
    for number, found in rows.items():
        same = [_close(a, b) for a, b in zip(found, others[number], strict=True)]
        if len(found) != IMAGES and not all(same):
            raise _refused("what it makes depends on the images")
        if not all(same[1:]):
            raise _refused("the gradient of an image depends on another one")


def _batches(spec: DataSpec, update: PrivateUpdate) -> Iterator[PoissonBatch]:
    """Two that differ in the first image and its label."""
    made, device = None if update.alone else MADE, update.parameters[0].device
    torch.manual_seed(0)
    images = torch.rand(IMAGES + 1, *spec.shape) * 2 - 1
    labels = torch.randint(spec.classes, (IMAGES + 1,)) if spec.classes else None
    for chosen in ([0, 1, 2], [3, 1, 2]):
        told = None if labels is None else labels[chosen].to(device)
        yield PoissonBatch(images[chosen].to(device), told, 0, 0, IMAGES, made, spec.classes)


def _rows(family: Family, role: str, update: PrivateUpdate, batch: PoissonBatch) -> tuple[Tensor, dict[int, Tensor]]:
    """The gradient of the first loss, (P,), and its rows by call, (B, P) each."""
    torch.manual_seed(0)
    update.stream.step, update.stream.batch = 0, batch
    loss: Loss = next(iter(family.losses(batch)))
    if loss.trains != role:
        raise _refused(f"its first loss is the {loss.trains}'s")
    update.hooks.disable_hooks()
    with unwarned():
        plain = torch.autograd.grad(loss.value, update.parameters, retain_graph=True, allow_unused=True)
    if update.alone:
        update.hooks.enable_hooks()
    found = {
        number: torch.cat([r.flatten(1) for r in rows if r is not None], 1) for number, rows in update.rows(loss.value)
    }
    update.forget()
    return torch.cat([g.flatten() for g in plain if g is not None]), found


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= TOLERANCE * other.norm() + 1e-12)


def _refused(found: str) -> InputError:
    return InputError(
        "train with differential privacy",
        found,
        "Choose settings without batch norm, spectral norm, penalties on gradients, diff_augment and paired losses",
    )
