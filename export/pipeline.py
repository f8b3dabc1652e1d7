"""`export`: one call from torch modules to a bundle with its evidence."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import torch

from aigc_rt.backends import trt_library
from aigc_rt.bundle import Bundle, hash_files, replacing, write_manifest
from aigc_rt.errors import ExportError, InputError, ManifestError
from aigc_rt.export import draft, evidence, graph
from aigc_rt.export.draft import Draft
from aigc_rt.export.part import Part, Ready, output_names, ready
from aigc_rt.manifest import Evidence, Feedforward, Format, Json, Manifest, Program, Tensor
from aigc_rt.manifest_json import NAME
from aigc_rt.verify import verify

PRECISIONS = ("fp32", "fp16")
ENGINES = tuple(f for f in get_args(Format) if f != "onnx")
ROLE = "generator"
"""The role of the one graph that a module becomes when its program names none."""
Tell = Callable[[str], None]


def export(
    module: torch.nn.Module,
    example_inputs: Any,
    out: str | os.PathLike[str],
    *,
    program: Program | None = None,
    also: Mapping[str, Part] | None = None,
    precisions: Sequence[str] = PRECISIONS,
    engines: Sequence[str] = (),
    dynamic: graph.Dynamic | None = None,
    name: str | None = None,
    force: bool = False,
    judge: evidence.Judge | None = None,
    made: Mapping[str, Json] | None = None,
    progress: Tell = lambda _: None,
) -> Bundle:
    """Write a bundle: the modules as ONNX in each precision, engines built from them, and what was measured.

    Args:
        module: any torch.nn.Module whose forward takes and gives tensors; it is not changed.
        example_inputs: a tuple, or a dict by forward's parameter names.
        out: the bundle's folder; it appears whole or not at all.
        program: how the graph becomes samples; None is `tensor`, for `Generator.run` only.
        also: further graphs by role, for `Generator.run(inputs, graph=role)`: a VAE's "encoder", say. They come in the
            same precisions, measured on their example inputs; engines are built for the main graph only.
        precisions: of "fp32" and "fp16". fp16 is in the graph, strongly typed; inputs and outputs stay fp32.
        engines: of "tensorrt-rtx" and "tensorrt", built from the fp16 graph, or from fp32 where that is all there is.
        dynamic: input name -> axis -> its name, or (name, smallest, largest); a name alone is 1 to 64.
        name: of the bundle; None takes the folder's.
        force: replace a bundle that is there.
        judge: is given the loaded bundle with each ONNX variant of the main graph, and says what it is worth.
        made: how the weights came about, kept in the manifest.
        progress: is told what happens.

    Raises:
        InputError: an argument is none of the above.
        BundleExists, WriteError: see `bundle.replacing`.
        ExportError: PyTorch, ONNX or the engine builder refuses a module; GateFailed: a variant is too far off.
    """
    order = _Order(program or Tensor(ROLE), _listed(precisions), _listed(engines), judge, progress)
    _check_choices("precision", order.precisions, PRECISIONS)
    _check_choices("engine", order.engines, ENGINES, empty=True)
    _check_roles(order.role, also or {})
    path = Path(out)
    if str(path).startswith("zoo:"):
        raise InputError(f"export to {path}", "zoo: names the bundles that come with aigc-rt", "Give a folder")
    main = ready(Part(module, example_inputs, dynamic))
    _check_program(order.program, main)
    parts = {order.role: main} | {role: ready(part) for role, part in (also or {}).items()}
    with replacing(path, force=force) as folder, torch.no_grad():
        drafts = _draft(folder, parts, order)
        graphs = {role: one.described for role, one in drafts.items()}
        manifest = Manifest(name or path.name, order.program, graphs, hash_files(folder), (), _made(made))
        try:
            write_manifest(folder, manifest)  # the runtime that measures reads it
        except ManifestError as error:
            raise InputError("export with this program", error.found, "Mend the program, or the module") from None
        progress("measuring against PyTorch")
        claims = [claim for one in drafts.values() for claim in (*one.evidence, *_measure(one, manifest, order))]
        write_manifest(folder, replace(manifest, evidence=tuple(claims)))
        progress("verifying")
        _verify(folder)
    return Bundle(path)


@dataclass(frozen=True)
class _Order:
    """What to make of the parts."""

    program: Program
    precisions: Sequence[str]
    engines: Sequence[str]
    judge: evidence.Judge | None
    progress: Tell

    @property
    def role(self) -> str:
        """The main graph's."""
        return self.program.graph


def _draft(folder: Path, parts: Mapping[str, Ready], order: _Order) -> dict[str, Draft]:
    """Every part traced and written; the main graph also built."""
    alone = {order.role: order.program.media.output} if isinstance(order.program, Feedforward) else {}
    outputs = {role: output_names(part, alone.get(role)) for role, part in parts.items()}  # all, before any work
    drafts = {}
    for role, part in parts.items():
        order.progress(f"tracing the {role}")
        one = drafts[role] = draft.trace(folder, role, part, outputs[role])
        for wanted in dict.fromkeys(order.precisions):
            order.progress(f"writing {role}/{wanted}")
            one.add_onnx(wanted)
    for flavour in dict.fromkeys(order.engines):
        order.progress(f"building the {flavour} engine")
        drafts[order.role].add_engine(flavour)
    return drafts


def _measure(one: Draft, manifest: Manifest, order: _Order) -> list[Evidence]:
    """One graph's claims: every variant against PyTorch, the judge's word on the main one, the answer to verify by."""
    claims: list[Evidence] = []
    truth = evidence.reference(one.part.module, manifest, one.role, one.part.examples)
    for name, stored in one.variants.items():
        subject = evidence.Subject(one.folder, manifest, one.role, name)
        if stored.format == "onnx":
            measured = evidence.parity(subject, truth, one.notes.get(name, {}))
        elif trt_library.unusable(stored.format) is None:
            measured = evidence.on_device(subject, truth)
        else:
            continue
        for claim in measured:
            evidence.require(claim)
        claims += measured
        if order.judge is not None and stored.format == "onnx" and one.role == order.role:
            order.progress(f"judging {name}")
            claims.append(evidence.quality(subject, order.judge))
    return claims + evidence.answer(one.part.module, manifest, one.role)


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


def _check_roles(main: str, also: Mapping[str, Part]) -> None:
    if not isinstance(also, Mapping) or not all(isinstance(part, Part) for part in also.values()):
        mend = 'Give {"encoder": Part(module, example_inputs)}, say'
        raise InputError(f"also={also!r:.80}", "it is no dict of Parts", mend)
    if main in also:
        raise InputError(f"also a graph {main!r}", "that is the main graph's role", "Give it another role")
    for role in (main, *also):  # files are named after roles
        if not isinstance(role, str) or not NAME.fullmatch(role):
            raise InputError(f"a graph {role!r}", "it is no role", 'Give a word such as "encoder"')


def _check_program(program: Program, main: Ready) -> None:
    if not isinstance(program, Feedforward):
        return
    fed = sorted([*program.noise, *(c.input for c in program.conditions.values())])
    if fed != sorted(main.examples):
        found = f"forward is given {sorted(main.examples)}"
        raise InputError(f"a program that feeds {fed}", found, "Name noise and conditions after forward's parameters")
    for name, example in main.examples.items():
        shape = program.noise[name].shape if name in program.noise else ()
        if tuple(example.shape[1:]) != shape or example.ndim == 0:
            found = f"its example has the shape {tuple(example.shape)}"
            raise InputError(
                f"a program that gives {name} as (batch, *{shape})", found, "Give an example of that shape"
            )
        if 0 not in main.dynamic.get(name, {}):
            found = f"dynamic says {dict(main.dynamic.get(name, {})) or 'nothing'}"
            mend = f'Give dynamic={{"{name}": {{0: ("batch", 1, 64)}}}}'
            raise InputError(f"a program whose input {name} has a batch", found, mend)


def _made(given: Mapping[str, Json] | None) -> dict[str, Json]:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"at": at, "with": {"python": platform.python_version(), **_versions()}, **(given or {})}


def _versions() -> dict[str, str]:
    found = {}
    for package in ("aigc-rt", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "torch"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
