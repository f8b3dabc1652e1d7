"""`export`: one call from a torch module to a bundle with its evidence."""

from __future__ import annotations

import contextlib
import copy
import os
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import torch

from aigc_rt.backends import trt_library
from aigc_rt.bundle import Bundle, content_name, hash_files, replacing, write_manifest
from aigc_rt.errors import ExportError, InputError, ManifestError
from aigc_rt.export import engine, evidence, graph, precision
from aigc_rt.manifest import Evidence, Feedforward, Format, Graph, Json, Manifest, Profile, Program, Tensor, Variant
from aigc_rt.verify import verify

PRECISIONS = ("fp32", "fp16")
ENGINES = tuple(f for f in get_args(Format) if f != "onnx")
ROLE = "generator"
"""The role of the one graph that a module becomes when its program names none."""
OPT_BATCH = 8
"""The length a dynamic axis of an engine is tuned for, where its range allows."""


@dataclass
class _Draft:
    """A bundle in the making: files are in the folder, the manifest is not."""

    folder: Path
    role: str
    variants: dict[str, Variant] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)
    notes: dict[str, dict[str, Json]] = field(default_factory=dict)
    """What a conversion could not keep, by variant; it goes into the variant's parity claims."""

    def put(self, name: str, data: bytes, suffix: str, **stored: Any) -> None:
        file = content_name(self.role, name, data, suffix)
        (self.folder / file).write_bytes(data)
        self.variants[name] = Variant(file=file, **stored)


def export(
    module: torch.nn.Module,
    example_inputs: Any,
    out: str | os.PathLike[str],
    *,
    program: Program | None = None,
    precisions: Sequence[str] = PRECISIONS,
    engines: Sequence[str] = (),
    dynamic: graph.Dynamic | None = None,
    name: str | None = None,
    force: bool = False,
    judge: evidence.Judge | None = None,
    made: Mapping[str, Json] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Write a bundle: the module as ONNX in each precision, engines built from it, and what was measured.

    Args:
        module: any torch.nn.Module whose forward takes and gives tensors; it is not changed.
        example_inputs: a tuple, or a dict by forward's parameter names.
        out: the bundle's folder; it appears whole or not at all.
        program: how the graph becomes samples; None is `tensor`, for `Generator.run` only.
        precisions: of "fp32" and "fp16". fp16 is in the graph, strongly typed; inputs and outputs stay fp32.
        engines: of "tensorrt-rtx" and "tensorrt", built from the fp16 graph, or from fp32 where that is all there is.
        dynamic: input name -> axis -> its name, or (name, smallest, largest); a name alone is 1 to 64.
        name: of the bundle; None takes the folder's.
        force: replace a bundle that is there.
        judge: images uint8 (N, H, W, C) -> what it says of them; measured on 1,000 samples of every ONNX variant.
        made: how the weights came about, kept in the manifest.
        progress: is told what happens.

    Raises:
        InputError: an argument is none of the above.
        BundleExists, WriteError: see `bundle.replacing`.
        ExportError: PyTorch, ONNX or the engine builder refuses the module; GateFailed: a variant is too far off.
    """
    precisions, engines = _listed(precisions), _listed(engines)
    _check_choices("precision", precisions, PRECISIONS)
    _check_choices("engine", engines, ENGINES, empty=True)
    path = Path(out)
    frozen = _freeze(module)
    examples = graph.examples_by_name(module, example_inputs)
    _check_program(program, judge, examples, dynamic or {})
    with replacing(path, force=force) as folder, torch.no_grad():
        progress("tracing the module")
        outputs = _output_names(_try(frozen, examples), program, examples.keys())
        exported = graph.to_onnx(frozen, examples, dynamic or {}, outputs)
        draft = _Draft(folder, program.graph if program else ROLE)
        for wanted in dict.fromkeys(precisions):
            progress(f"writing {wanted}")
            _add_onnx(draft, exported, wanted)
        for flavour in dict.fromkeys(engines):
            progress(f"building the {flavour} engine")
            _add_engine(draft, exported, flavour)
        described = Graph(exported.inputs, exported.outputs, exported.axes, exported.parameters, draft.variants)
        manifest = Manifest(
            name or path.name, program or Tensor(ROLE), {draft.role: described}, hash_files(folder), (), _made(made)
        )
        try:
            write_manifest(folder, manifest)  # the runtime that measures reads it
        except ManifestError as error:
            raise InputError("export with this program", error.found, "Mend the program, or the module") from None
        progress("measuring against PyTorch")
        draft.evidence += _measure(draft, manifest, evidence.reference(frozen, manifest, examples), judge)
        draft.evidence += evidence.answer(frozen, manifest)
        write_manifest(folder, replace(manifest, evidence=tuple(draft.evidence)))
        progress("verifying")
        _verify(folder)
    return Bundle(path)


def _verify(folder: Path) -> None:
    """What `aigc-rt verify` will say of the bundle here, before it is handed over."""
    failed = [check for check in verify(folder).checks if check.result == "failed"]
    if failed:
        found = "; ".join(f"{check.what}: {check.detail}" for check in failed)
        raise ExportError("verify the new bundle", found, "Make forward give the same answer each time")


def _check_choices(word: str, given: Sequence[str], known: tuple[str, ...], *, empty: bool = False) -> None:
    if isinstance(given, str):
        raise InputError(f"{word}s={given!r}", "it is one string", f"Give a tuple of {', '.join(known)}")
    for value in given:
        if value not in known:
            raise InputError(f"{word} {value!r}", f"there are {', '.join(known)}", "Choose of them")
    if not given and not empty:
        raise InputError(f"no {word}", f"there are {', '.join(known)}", "Choose one or more")


def _listed(given: Sequence[str]) -> Sequence[str]:
    return given if isinstance(given, str) else tuple(given)  # a generator is read once


def _freeze(module: torch.nn.Module) -> torch.nn.Module:
    """A float32 copy on the CPU in eval mode, its weights finite."""
    if not isinstance(module, torch.nn.Module):
        raise InputError("export", f"it is a {type(module).__name__}", "Give a torch.nn.Module")
    try:
        frozen = copy.deepcopy(module)
    except RuntimeError as error:
        mend = "Remove hooks and old weight_norm first: torch.nn.utils.remove_weight_norm"
        raise ExportError(f"copy {type(module).__name__}", str(error), mend) from error
    frozen = frozen.eval().to("cpu", torch.float32)
    for name, value in frozen.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ExportError(
                f"export {type(module).__name__}", f"the weight {name} holds NaN or infinity", "Train it anew"
            )
    return frozen


def _check_program(
    program: Program | None,
    judge: evidence.Judge | None,
    examples: Mapping[str, torch.Tensor],
    dynamic: graph.Dynamic,
) -> None:
    if judge is not None and not (isinstance(program, Feedforward) and program.media.kind == "image"):
        raise InputError("export with a judge", "the program makes no images", "Leave the judge out")
    if not isinstance(program, Feedforward):
        return
    fed = sorted([*program.noise, *(c.input for c in program.conditions.values())])
    if fed != sorted(examples):
        found = f"forward is given {sorted(examples)}"
        raise InputError(f"a program that feeds {fed}", found, "Name noise and conditions after forward's parameters")
    for name, example in examples.items():
        shape = program.noise[name].shape if name in program.noise else ()
        if tuple(example.shape[1:]) != shape or example.ndim == 0:
            found = f"its example has the shape {tuple(example.shape)}"
            raise InputError(
                f"a program that gives {name} as (batch, *{shape})", found, "Give an example of that shape"
            )
        if 0 not in dynamic.get(name, {}):
            found = f"dynamic says {dict(dynamic.get(name, {})) or 'nothing'}"
            mend = f'Give dynamic={{"{name}": {{0: ("batch", 1, 64)}}}}'
            raise InputError(f"a program whose input {name} has a batch", found, mend)


def _try(module: torch.nn.Module, examples: Mapping[str, torch.Tensor]) -> Any:
    """One call of forward, before minutes are spent on it."""
    try:
        return module(**examples)
    except Exception as error:  # forward raises what it wants
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in examples.items())
        raise ExportError(
            f"run {type(module).__name__} on the examples ({shapes})",
            f"{type(error).__name__}: {error}",
            "Give examples that forward takes",
        ) from error


def _output_names(answer: Any, program: Program | None, taken: Collection[str]) -> tuple[str, ...]:
    """Names for the outputs: the one that the program's media names, "output", or output_0, output_1, ..."""
    count = len(evidence.tensors(answer))
    if isinstance(program, Feedforward) and program.media.output in taken:
        found = f"forward's parameters are {', '.join(taken)}"
        raise InputError(f"an output called {program.media.output}", found, "Give the media's output another name")
    if count == 0:
        raise ExportError("export", f"forward returns {type(answer).__name__}, no tensor", "Return a tensor")
    if count == 1:
        return (program.media.output if isinstance(program, Feedforward) else _free("output", taken),)
    return tuple(_free(f"output_{i}", taken) for i in range(count))


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _add_onnx(draft: _Draft, exported: graph.Exported, wanted: str) -> None:
    model = exported.model
    if wanted == "fp16":
        half = precision.to_fp16(model)
        model = half.model
        draft.notes[wanted] = {"fp32_nodes": list(half.fp32_nodes), "clamped_constants": list(half.clamped)}
    opset = next(o.version for o in model.opset_import if not o.domain)
    data = model.SerializeToString(deterministic=True)
    draft.put(wanted, data, ".onnx", precision=wanted, format="onnx", opset=opset)


def _add_engine(draft: _Draft, exported: graph.Exported, flavour: str) -> None:
    source = "fp16" if "fp16" in draft.variants else "fp32"
    stored = draft.variants[source]
    built = engine.build_in_child(
        (draft.folder / stored.file).read_bytes(),
        flavour=flavour,
        precision=stored.precision,
        profiles=[_profile(exported)],
        name=f"{draft.role}/{source}",
        options=engine.BuildOptions(parameters=exported.parameters),
    )
    name = f"{source}-{flavour}"
    draft.put(
        name, built.engine, ".engine", precision=stored.precision, format=flavour, source=source, engine=built.spec
    )
    draft.evidence.append(Evidence("precision", "typed", built.evidence, draft.role, name, passed=True))


def _profile(exported: graph.Exported) -> dict[str, Profile]:
    axes = exported.axes
    profile = {}
    for spec in exported.inputs:
        low, opt, high = [], [], []
        for length in spec.shape:
            axis = axes[length] if isinstance(length, str) else None
            low.append(axis.min if axis else int(length))
            high.append(axis.max if axis else int(length))
            opt.append(min(max(OPT_BATCH, axis.min), axis.max) if axis else int(length))
        profile[spec.name] = Profile(tuple(low), tuple(opt), tuple(high))
    return profile


def _measure(
    draft: _Draft, manifest: Manifest, truth: evidence.Reference, judge: evidence.Judge | None
) -> list[Evidence]:
    claims: list[Evidence] = []
    for name, stored in manifest.main_graph.variants.items():
        if stored.format == "onnx":
            measured = evidence.parity(draft.folder, manifest, name, truth, draft.notes.get(name, {}))
        elif trt_library.unusable(stored.format) is None:
            measured = evidence.on_device(draft.folder, manifest, name, truth)
        else:
            continue
        for claim in measured:
            evidence.require(claim)
        claims += measured
        if judge is not None and stored.format == "onnx":
            claims.append(evidence.quality(draft.folder, manifest, name, judge))
    return claims


def _made(given: Mapping[str, Json] | None) -> dict[str, Json]:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"at": at, "with": {"python": platform.python_version(), **_versions()}, **(given or {})}


def _versions() -> dict[str, str]:
    found = {}
    for package in ("aigc-rt", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "torch"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
