"""PyTorch by itself, eager and compiled, with the module that the bundle was made of."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aigc_rt.bench.options import is_factory
from aigc_rt.bench.peers.base import Array, Arrays, Job, Peer, WrongAnswer, levels, one_output
from aigc_rt.bundle import Bundle
from aigc_rt.errors import DeviceUnavailable, InputError
from aigc_rt.verify import TOLERANCE, distance, probe

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class Eager(Peer):
    """`eval()`, inference mode, the threads asked for; TF32 off, the same arithmetic as every other fp32 peer."""

    compiled = False

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        torch.set_num_threads(job.threads)
        torch.set_num_interop_threads(1)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        if job.device != "cpu" and not torch.cuda.is_available():
            raise DeviceUnavailable(f"PyTorch on {job.device}", f"torch {torch.__version__} sees none", "Check it")
        self.dtype = DTYPES[job.precision]
        assert job.torch is not None  # such a peer is not started without
        self.names = [spec.name for spec in self.graph.outputs]
        module = load_module(job.torch).eval()
        check_answer(module, self.bundle, self.output)
        self.module = module.to(job.device, self.dtype)
        self.scale, self.offset = map(float, levels(self.program))
        self.floats, self.levels = self._floats, self._levels

    def _floats(self, **tensors: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = one_output(self.module(**tensors), self.names, self.output)
        return values.float()

    def _levels(self, **tensors: torch.Tensor) -> torch.Tensor:
        image = self._floats(**tensors).mul(self.scale).add(self.offset).round().clamp(0, 255).to(torch.uint8)
        return image.permute(0, 2, 3, 1) if self.program.media.layout == "NCHW" else image

    def _tensors(self, inputs: Arrays) -> dict[str, torch.Tensor]:
        tensors = {name: torch.from_numpy(array).to(self.job.device) for name, array in inputs.items()}
        return {name: t.to(self.dtype) if t.is_floating_point() else t for name, t in tensors.items()}

    @torch.inference_mode()
    def run(self, inputs: Arrays) -> Array:
        """The module, numpy in and numpy out."""
        values: Array = self.floats(**self._tensors(inputs)).cpu().numpy()
        return values

    @torch.inference_mode()
    def images(self, n: int, start: int) -> NDArray[np.uint8]:
        """The post-processing where it is fastest: numpy for eager on a CPU, else on the device."""
        if self.job.device == "cpu" and not self.compiled:
            return super().images(n, start)
        tensors = self._tensors(self.inputs(n, start))
        return np.ascontiguousarray(self.levels(**tensors).cpu().numpy())

    def facts(self) -> dict[str, Any]:
        """Version and device."""
        return {"torch": torch.__version__, "executes": self.job.precision, "device": device_name(self.job.device)}


class Compile(Eager):
    """`torch.compile` with fixed shapes, the post-processing compiled along; CUDA graphs on a GPU."""

    compiled = True

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.mode = "default" if job.device == "cpu" else "reduce-overhead"
        self.floats = torch.compile(self._floats, dynamic=False, mode=self.mode)
        self.levels = torch.compile(self._levels, dynamic=False, mode=self.mode)

    def facts(self) -> dict[str, Any]:
        """Version, device and how it was compiled."""
        return {**super().facts(), "mode": self.mode, "shapes": "fixed", "cache": "none: every run compiles anew"}


def load_module(source: str) -> torch.nn.Module:
    """The module of a run's folder, or of what `package.module:factory` returns.

    That is the module itself, or the keyword arguments of `aigc_rt.export.export`, with `module` and `example_inputs`.
    """
    if not is_factory(source):
        from aigc_rt.train.restore import load_generator

        trained: torch.nn.Module = load_generator(Path(source)).module
        return trained
    path, _, factory = source.partition(":")
    made = getattr(importlib.import_module(path), factory)()
    module = made["module"] if isinstance(made, dict) and {"module", "example_inputs"} <= made.keys() else made
    if not isinstance(module, torch.nn.Module):
        mend = "Return an nn.Module, or a dict of aigc_rt.export.export's arguments, module and example_inputs at least"
        raise InputError(f"call {source}", f"it returned a {type(made).__name__} without them", mend)
    return module


@torch.inference_mode()
def check_answer(module: torch.nn.Module, bundle: Bundle, output: str) -> None:
    """Hold a module against the answer of PyTorch that the bundle records, before another peer is blamed.

    Raises:
        WrongAnswer: it is not the module that the bundle was exported from, or its weights are others.
    """
    role, graph = bundle.manifest.program.graph, bundle.manifest.main_graph
    recorded = [e.details for e in bundle.manifest.evidence if (e.claim, e.graph) == ("answer", role)]
    if not recorded:
        return
    wrong = "the module that --torch names is not the one that the bundle was exported from: "
    try:
        given = module(**{name: torch.from_numpy(array) for name, array in probe(bundle.manifest, role).items()})
        values = one_output(given, [spec.name for spec in graph.outputs], output).float().cpu().numpy()
    except Exception as error:  # whatever another network says to these inputs
        raise WrongAnswer(f"{wrong}{type(error).__name__}: {error}") from None
    off = distance({output: recorded[0]["outputs"][output]}, {output: values})
    if not off <= TOLERANCE["fp32"]:  # NaN is wrong too
        allowed = f"allowed {TOLERANCE['fp32']:g}"
        raise WrongAnswer(f"{wrong}its answer is {off:.2g} of the range off the one recorded ({allowed})")


def device_name(device: str) -> str:
    """What PyTorch calls the device."""
    return "cpu" if device == "cpu" else torch.cuda.get_device_name(device)
