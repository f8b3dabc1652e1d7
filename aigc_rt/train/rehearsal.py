"""Before a private run: does the family keep to what the promise rests on? Tried on images of pure noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
            one, other = (_take(family, role, update, batch) for batch in _batches(spec, update))
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
    if not _close(sum(rows.mean(0) for rows in one.rows.values()), one.total[1:]):  # type: ignore[arg-type]
        raise _refused("its gradient is not the sum of one gradient an image")
    if not all(_close(a, b) for a, b in zip(one.others, other.others, strict=True)):
        raise _refused("what else is trained depends on the images past the private network")
    _compare(one.rows, other.rows)


def _compare(rows: dict[int, Tensor], others: dict[int, Tensor]) -> None:
    """Only the first row of one call may change; in the others no image has a row."""
    changed = {number for number, found in rows.items() if not _close(found, others[number])}
    if len(changed) > 1:
        raise _refused("one image has a part in several gradients")
    for number, found in rows.items():
        if number not in changed and len(found) != MADE:
            raise _refused("how many images are made depends on how many there are")
        if not all(_close(a, b) for a, b in zip(found[1:], others[number][1:], strict=True)):
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


@dataclass(frozen=True)
class Taken:
    """What a batch leads to: the gradient of the first loss, (P,), its rows by call, (B, P) each, and the gradients of
    the other losses.
    """

    total: Tensor
    rows: dict[int, Tensor]
    others: list[Tensor]


def _take(family: Family, role: str, update: PrivateUpdate, batch: PoissonBatch) -> Taken:
    torch.manual_seed(0)
    update.stream.step, update.stream.batch = 0, batch
    losses = iter(family.losses(batch))
    loss = next(losses)
    if loss.trains != role:
        raise _refused(f"its first loss is the {loss.trains}'s")
    update.hooks.disable_hooks()
    total = _gradient(loss, update.parameters)
    if update.alone:
        update.hooks.enable_hooks()
    parts: dict[int, list[Tensor]] = {}
    for number, found in update.rows(loss.value):
        parts.setdefault(number, []).append(torch.cat([r.flatten(1).cpu() for r in found if r is not None], 1))
    rows = {number: torch.cat(some) for number, some in parts.items()}
    others = [_gradient(other, [*family.networks[other.trains].parameters()]) for other in losses]
    update.forget()
    return Taken(total, rows, others)


def _gradient(loss: Loss, parameters: Sequence[nn.Parameter]) -> Tensor:
    trained = [p for p in parameters if p.requires_grad]
    with unwarned():
        found = torch.autograd.grad(loss.value, trained, retain_graph=True, allow_unused=True) if trained else ()
    return torch.cat([torch.zeros(1), *(g.flatten().cpu() for g in found if g is not None)])


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= TOLERANCE * other.norm() + 1e-12)


def _refused(found: str) -> InputError:
    return InputError(
        "train with differential privacy",
        found,
        "Choose settings without batch norm, spectral norm, penalties on gradients, diff_augment and paired losses",
    )
