"""The processes that share a run: one, or as many as `accelerate launch` started on one machine or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from aigc_rt.errors import DeviceUnavailable

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Workers:
    """This process's place among those that train together.

    Gradients are averaged by `mean_` after the backward pass and not by hooks on a wrapped module
    (DistributedDataParallel): a GAN's losses go through its networks several times, in parts and in methods other than
    forward, and only one network learns from each.

    Attributes:
        device: where this process computes.
        rank: its number, from 0.
        count: how many there are.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @classmethod
    def alone(cls, device: str = "cpu") -> Workers:
        """One process, whatever was launched."""
        return cls(torch.device(device))

    @classmethod
    def launched(cls, device: Device = "auto") -> Workers:
        """What `accelerate launch` set up, or one process where it was not used.

        Raises:
            DeviceUnavailable: "cuda" was asked for and PyTorch finds none.
        """
        from accelerate import PartialState

        if device == "cuda" and not torch.cuda.is_available():
            found = f"PyTorch {torch.__version__} finds no CUDA device"
            raise DeviceUnavailable("train on cuda", found, "Install PyTorch's CUDA build, or use --device cpu")
        state = PartialState(cpu=device == "cpu")
        return cls(torch.device("cpu") if device == "cpu" else state.device, state.process_index, state.num_processes)

    @property
    def first(self) -> bool:
        """Whether this is the one process that writes."""
        return self.rank == 0

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over all processes into each tensor; all call it with tensors of the same shapes."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process; all call it."""
        if self.count == 1:
            return flag
        found = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(found)
        return bool(found.item())

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier()
