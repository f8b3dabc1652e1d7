"""manifest.json read and written, strictly: a key that is missing or unknown, a value of another type, a contradiction,
a byte that canonical JSON would not have written, each is an error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from aigc_rt.errors import IntegrityError, ManifestError, SchemaVersionError, UnsafePath
from aigc_rt.manifest import (
    FORMAT,
    MANIFEST,
    MANIFEST_LIMIT_BYTES,
    SCHEMA,
    SIGNATURE,
    Feedforward,
    Graph,
    Json,
    Manifest,
    Program,
    Tensor,
)


def canonical(document: Json) -> bytes:
    """The one way a JSON document is written in a bundle: sorted keys, one-space indent, UTF-8, a final newline."""
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def encode(manifest: Manifest) -> bytes:
    """The bytes of manifest.json, its digest computed and put in.

    Raises:
        ManifestError: the manifest is not one that `decode` would accept.
    """
    document = {"format": FORMAT, "schema": SCHEMA, **_to_json(manifest)}
    try:
        data = canonical({**document, "digest": hashlib.sha256(canonical(document)).hexdigest()})
    except (TypeError, ValueError) as error:
        raise ManifestError(
            f"write {MANIFEST}", f"a value is no JSON ({error})", "Record plain, finite values"
        ) from None
    if len(data) > MANIFEST_LIMIT_BYTES:
        raise ManifestError(
            f"write {MANIFEST}",
            f"it has {len(data):,} bytes, the limit is {MANIFEST_LIMIT_BYTES:,}",
            "Record less evidence",
        )
    try:
        decode(data, MANIFEST)
    except ManifestError as error:
        raise type(error)(f"write {MANIFEST}", error.found, "Describe the bundle without the contradiction") from None
    return data


def decode(data: bytes, where: str) -> Manifest:
    """The manifest in `data`; `where` names it in errors.

    Raises:
        SchemaVersionError: the schema is another one.
        UnsafePath: a path leaves the folder.
        ManifestError: anything else that docs/bundle.md forbids.
        IntegrityError: the digest is not that of the content.
    """
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"read {where}", f"it is not JSON ({error})", _AGAIN) from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ManifestError(
            f"read {where}", f'it has no "format": "{FORMAT}"', "Give the folder that `aigc-rt export` wrote"
        )
    schema = document.pop("schema", None)
    if type(schema) is not int or schema != SCHEMA:
        raise SchemaVersionError(
            f"read {where}",
            f"its schema is {schema!r}, this version of aigc-rt reads {SCHEMA}",
            "Upgrade aigc-rt, or export the bundle again with this version",
        )
    del document["format"]
    digest = document.pop("digest", None)
    manifest: Manifest = _from_json(Manifest, document, where)
    _validate(manifest, where)
    body = {"format": FORMAT, "schema": SCHEMA, **document}
    try:
        expected = hashlib.sha256(canonical(body)).hexdigest()
    except (ValueError, RecursionError) as error:  # NaN, infinity, half a surrogate pair: JSON that nobody may write
        raise ManifestError(f"read {where}", f"a value in it cannot be written ({error})", _AGAIN) from None
    if digest != expected:
        raise IntegrityError(f"read {where}", f"its digest is {digest!r}, its content gives {expected!r}", _AGAIN)
    if data != canonical({**body, "digest": digest}):
        raise ManifestError(f"read {where}", "it is not written as canonical JSON", _AGAIN)
    return manifest


_AGAIN = "It was damaged or edited: copy the bundle again, or export it again"


def _to_json(value: Any) -> Json:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    return value


def _from_json(kind: Any, value: Json, where: str) -> Any:
    """`value` as the type `kind`, or a ManifestError that names the place."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if kind == Program:
        kinds: dict[Json, type] = {"feedforward": Feedforward, "tensor": Tensor}
        chosen = value.get("kind") if isinstance(value, dict) else None
        if not isinstance(chosen, str) or chosen not in kinds:
            raise ManifestError(
                f"read {where}",
                f"the program is {chosen!r}, known are {', '.join(kinds)}",
                "Upgrade aigc-rt, or export again",
            )
        return _from_json(kinds[chosen], value, where)
    if dataclasses.is_dataclass(kind):
        return _object_from_json(kind, value, where)
    if origin is dict and isinstance(value, dict):
        return {key: _from_json(args[1], item, f"{where}: {key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_from_json(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Literal and isinstance(value, str) and value in args:
        return value
    if origin is types.UnionType:
        if value is None and type(None) in args:
            return None
        options = [option for option in args if option is not type(None)]
        return _from_json(next((o for o in options if type(value) is o), options[0]), value, where)
    if kind in (int, float, str, bool) and type(value) is kind:
        return value
    raise ManifestError(f"read {where}", f"{_show(value)} is not {_describe(kind)}", _AGAIN)


def _object_from_json(kind: Any, value: Json, where: str) -> Any:
    if not isinstance(value, dict):
        raise ManifestError(f"read {where}", f"{_show(value)} is not an object", _AGAIN)
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    if wrong := known ^ value.keys():
        raise ManifestError(f"read {where}", f"the keys {sorted(wrong)} are missing or unknown", _AGAIN)
    return kind(**{name: _from_json(hints[name], value[name], f"{where}: {name}") for name in sorted(known)})


def _show(value: Json) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    return getattr(kind, "__name__", str(kind))


# What the types alone do not say

ARGUMENTS = ("self", "n", "seed", "start", "raw")
"""What `generate` takes besides conditions."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_path(path: str, where: str) -> None:
    """Raise UnsafePath unless `path` is relative, forward, plain ASCII, and a file name on every system."""
    parts = path.split("/")
    if not all(NAME.fullmatch(p) and not p.endswith(".") and not _RESERVED.fullmatch(p) for p in parts):
        raise UnsafePath(
            f"read {where}",
            f"the path {_show(path)} could leave the bundle's folder or is no portable file name",
            "Do not use this bundle unless you trust who made it; export it again",
        )


def _validate(m: Manifest, where: str) -> None:
    def must(true: bool, found: str) -> None:
        if not true:
            raise ManifestError(f"read {where}", found, _AGAIN)

    for path, entry in m.files.items():
        check_path(path, where)
        must(path not in (MANIFEST, SIGNATURE), f"it lists {path} itself")
        must(
            0 <= entry.bytes < 1 << 63 and bool(_SHA256.fullmatch(entry.sha256)), f"size or hash of {path} is malformed"
        )
    must(len({path.casefold() for path in m.files}) == len(m.files), "two files differ only in case")
    must(m.program.graph in m.graphs, f"the program runs the graph {m.program.graph!r}, which is not there")
    for role, graph in m.graphs.items():
        must(bool(NAME.fullmatch(role)), f"{role!r} is no name for a graph")
        must(bool(graph.inputs) and bool(graph.outputs), f"graph {role} has no inputs or no outputs")
        must(
            all(1 <= a.min <= a.max < 1 << 31 for a in graph.axes.values()),
            f"graph {role} has an axis that ends before it starts",
        )
        specs = (*graph.inputs, *graph.outputs)
        must(len({s.name for s in specs}) == len(specs), f"graph {role} uses a name twice")
        for spec in specs:
            fine = all(d in graph.axes if isinstance(d, str) else 0 <= d < 1 << 31 for d in spec.shape)
            must(fine, f"graph {role}: the shape of {spec.name} has an axis that is not declared")
        for name, variant in graph.variants.items():
            must(bool(NAME.fullmatch(name)), f"{name!r} is no name for a variant")
            missing = sorted({variant.file, *variant.data} - m.files.keys())
            must(not missing, f"variant {role}/{name} needs {missing}, which the manifest does not list")
            must(
                (variant.engine is None) == (variant.format == "onnx"),
                f"variant {role}/{name}: engine and format disagree",
            )
            must(
                variant.source is None or variant.source in graph.variants,
                f"variant {role}/{name} has an unknown source",
            )
    if isinstance(m.program, Feedforward):
        _validate_feedforward(m.program, m.main_graph, must)
    for claim in m.evidence:
        known = claim.graph is None or claim.graph in m.graphs
        must(known, f"there is evidence on the graph {claim.graph!r}, which is not there")
        if claim.graph is not None and claim.variant is not None:
            must(
                claim.variant in m.graphs[claim.graph].variants,
                f"there is evidence on the unknown variant {claim.variant!r}",
            )


def _validate_feedforward(program: Feedforward, graph: Graph, must: Callable[[bool, str], None]) -> None:
    fed = [*program.noise, *(c.input for c in program.conditions.values())]
    must(
        sorted(fed) == sorted(s.name for s in graph.inputs),
        f"the program feeds {sorted(fed)}, the graph takes other inputs",
    )
    batch = graph.inputs[0].shape[0] if graph.inputs[0].shape else None
    must(isinstance(batch, str), "the first axis of the graph's inputs is not a dynamic batch")
    must(
        graph.axes[str(batch)].min == 1,
        f"the batch begins at {graph.axes[str(batch)].min}, so one sample cannot be made",
    )
    for name, noise in program.noise.items():
        spec = graph.input(name)
        must(
            spec.shape == (batch, *noise.shape),
            f"noise {name} has the shape {noise.shape}, the graph wants {spec.shape}",
        )
        must(spec.dtype == "float32", f"noise {name} is float32, the graph wants {spec.dtype}")
        must(noise.stream >= 0, f"noise {name} has a negative stream")
    streams = [n.stream for n in program.noise.values()]
    must(len(set(streams)) == len(streams), "two inputs draw from one stream of noise")
    for name, condition in program.conditions.items():
        must(name not in ARGUMENTS, f"a condition cannot be called {name}: generate has that argument already")
        fits = graph.input(condition.input).dtype == condition.dtype
        must(fits, f"condition {name} is {condition.dtype}, the graph wants {graph.input(condition.input).dtype}")
        must(graph.input(condition.input).shape == (batch,), f"condition {name} is not one value a sample")
        must(condition.low <= condition.high, f"condition {name} ends before it starts")
        must(len(condition.names) <= condition.high - condition.low + 1, f"condition {name} has more names than values")
        within = condition.default is None or condition.low <= condition.default <= condition.high
        must(within, f"the default of condition {name} is out of its range")
    must(
        program.media.output in {s.name for s in graph.outputs},
        f"there is no output {program.media.output!r}",
    )
    shape = graph.output(program.media.output).shape
    must(shape[:1] == (batch,), "the output's first axis is not the batch")
    must(
        program.media.kind != "image" or (len(shape) == 4 and program.media.layout in ("NCHW", "NHWC")),
        "no image layout",
    )
    must(
        program.media.kind != "audio" or (len(shape) == 3 and program.media.layout in ("NCT", "NTC")),
        "no audio layout",
    )
    must(program.media.kind != "audio" or (program.media.sample_rate_hz or 0) > 0, "the audio has no sample rate")
    must(program.media.kind == "array" or program.media.low < program.media.high, "the output's range is empty")
