"""From ONNX to a parsed network, and from there to an engine, mending on the way what the builder complains of."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_rt.backends.trt_library import Library
from aigc_rt.errors import EngineError, InputError
from aigc_rt.manifest import Profile

Profiles = Sequence[dict[str, Profile]]


@dataclass(frozen=True)
class Parsed:
    """A network with what must live as long."""

    library: Library
    name: str
    builder: Any
    network: Any
    parser: Any


def parse(library: Library, model: bytes | str | os.PathLike[str], name: str) -> Parsed:
    """Parse ONNX into a strongly typed network.

    Raises:
        InputError: there is no file at the path.
        EngineError: the library cannot start, or the parser refused, in its own words.
    """
    trt, mark = library.trt, library.log.mark()
    try:
        builder = trt.Builder(library.logger)
        network = builder.create_network(library.network_flags)
        parser = trt.OnnxParser(network, library.logger)
    except (TypeError, RuntimeError) as error:  # a factory that returned nothing
        raise EngineError(
            f"build {name} with {library}", library.log.words(mark, str(error)), "Mend what the library complains of"
        ) from None
    network.name = name
    if isinstance(model, bytes):
        fine = parser.parse(model)
    elif Path(model).is_file():
        fine = parser.parse_from_file(os.fspath(model))
    else:
        raise InputError(f"build {name} from {os.fspath(model)}", "there is no such file", "Give an ONNX file")
    if not fine or not network.num_outputs:
        said = [_complaint(parser.get_error(i)) for i in range(parser.num_errors)]
        raise EngineError(
            f"build {name} with {library}",
            " | ".join(said[:3]) or library.log.words(mark, "the parser found no output in the graph"),
            "Give a whole ONNX model of operators that the library knows",
        )
    return Parsed(library, name, builder, network, parser)


def _complaint(error: Any) -> str:
    node, operator = (getattr(error, field, str)() for field in ("node_name", "node_operator"))
    where = f"node {node or '(unnamed)'} ({operator}): " if node or operator else ""
    return f"{where}{error.desc()}"


def check_profiles(network: Any, profiles: Profiles, name: str) -> None:
    """Hold the profiles against the network's inputs.

    Raises:
        InputError: they do not fit; what does not is named.
        EngineError: an input's values, not its shape, decide shapes.
    """
    tensors = {t.name: t for t in (network.get_input(i) for i in range(network.num_inputs))}
    shapes = {key: tuple(t.shape) for key, t in tensors.items()}

    def wrong(found: str, mend: str = "Give each dynamic input its smallest, usual and largest shape") -> InputError:
        return InputError(f"build {name} with these profiles", found, mend)

    if values := [key for key, t in tensors.items() if t.is_shape_tensor]:
        raise EngineError(
            f"build {name}",
            f"the values of {', '.join(values)} decide shapes inside the graph",
            "Export the graph so that shapes come from the shapes of its inputs",
        )
    dynamic = {key for key, shape in shapes.items() if -1 in shape}
    if dynamic and not profiles:
        raise wrong(f"there is none, and {', '.join(sorted(dynamic))} has a dynamic axis")
    for number, profile in enumerate(profiles):
        if unknown := sorted(profile.keys() - shapes.keys()):
            raise wrong(f"profile {number} names {', '.join(unknown)}, the graph takes {', '.join(sorted(shapes))}")
        if missing := sorted(dynamic - profile.keys()):
            raise wrong(f"profile {number} lacks {', '.join(missing)}, which has a dynamic axis")
        for key, p in profile.items():
            if not len(p.min) == len(p.opt) == len(p.max) == len(shapes[key]):
                raise wrong(f"profile {number} gives {key} another number of axes than the graph, {shapes[key]}")
            for axis, (low, usual, high, fixed) in enumerate(zip(p.min, p.opt, p.max, shapes[key], strict=True)):
                if not 0 <= low <= usual <= high:
                    raise wrong(
                        f"profile {number} has {key} axis {axis} at {low}, {usual}, {high}", "Order them min, opt, max"
                    )
                if fixed != -1 and (low, high) != (fixed, fixed):
                    raise wrong(f"profile {number} has {key} axis {axis} at {low} to {high}, the graph fixes {fixed}")


# From a network to an engine


def build_healing(
    parsed: Parsed, profiles: Profiles, targets: tuple[str, ...], tf32: bool
) -> tuple[bytes, list[dict[str, Any]], int | None]:
    """Build, mend what the builder complains of, and build again; each mending is tried once.

    Returns:
        The engine; what was mended, on which layers, because of which words; the bytes of the engine's weights as the
        builder reports them, None where it does not.

    Raises:
        EngineError: the builder refused for a reason that nothing here mends, in its own words.
    """
    library, healed = parsed.library, list[dict[str, Any]]()
    left = list(_HEALERS)
    while True:
        mark = library.log.mark()
        plan = parsed.builder.build_serialized_network(parsed.network, _config(parsed, profiles, targets, tf32))
        if plan is not None:
            return bytes(plan), healed, _weights_bytes(library.log.since(mark, ("INFO",)))
        words = library.log.words(mark, "the builder gave no reason")
        for healer in left:
            if healer.symptom in words and (layers := healer.mend(library.trt, parsed.network)):
                healed.append({"what": healer.what, "layers": layers, "because": words[:500]})
                left.remove(healer)
                break
        else:
            at = _named(parsed.network, words)
            raise EngineError(
                f"build {parsed.name} with {library}",
                words + (f" (at {', '.join(at)})" if at else ""),
                "Export the graph so that it avoids this, for instance with that node in fp32",
            )


@dataclass(frozen=True)
class _Healer:
    """A symptom in the builder's words, and what mends the network: returns the layers it changed."""

    what: str
    symptom: str
    mend: Callable[[Any, Any], list[str]]


def _decompose_attention(trt: Any, network: Any) -> list[str]:
    changed = []
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        if layer.type.name == "ATTENTION_INPUT":
            layer.__class__ = trt.IAttentionInputLayer  # the bindings hand layers out as the base class
            if not layer.attention.decomposable:
                layer.attention.decomposable = True
                changed.append(layer.name)
    return changed


_HEALERS = (_Healer("attention without a dedicated kernel made decomposable", "decomposable", _decompose_attention),)


def _config(parsed: Parsed, profiles: Profiles, targets: tuple[str, ...], tf32: bool) -> Any:
    trt, builder, library = parsed.library.trt, parsed.builder, parsed.library
    config, mark = builder.create_builder_config(), library.log.mark()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for `inspect`
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if library.flavour.portable and targets != ("portable",):
        config.num_compute_capabilities = len(targets)
        for i, target in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), i)
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for key, p in shapes.items():
            profile.set_shape(key, p.min, p.opt, p.max)
        if shapes and config.add_optimization_profile(profile) < 0:
            words = library.log.words(mark, "the builder gave no reason")
            raise EngineError(f"build {parsed.name} with {library}", words, "Give other profiles")
    return config


def _weights_bytes(lines: list[str]) -> int | None:
    found = [int(m[1]) for line in lines if (m := re.search(r"Total Weights Memory: (\d+) bytes", line))]
    return found[-1] if found else None


def _named(network: Any, words: str) -> list[str]:
    names = {network.get_layer(i).name for i in range(network.num_layers)}
    return sorted(n for n in names if len(n) > 2 and re.search(rf"(?<![\w/.]){re.escape(n)}(?![\w/.])", words))[:8]
