from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aigc_rt.errors import IntegrityError, ManifestError, SchemaVersionError, UnsafePath
from aigc_rt.manifest import (
    Axis,
    Condition,
    Engine,
    Evidence,
    Feedforward,
    File,
    Graph,
    Manifest,
    Media,
    Noise,
    Profile,
    TensorSpec,
    Variant,
)
from aigc_rt.manifest_json import canonical, decode, encode

GOLDEN = Path(__file__).parent / "golden" / "manifest-1.json"


def manifest() -> Manifest:
    """Every class of schema 1, every optional field once given and once null."""
    portrait = {"z": Profile((1, 4), (8, 4), (64, 4)), "label": Profile((1,), (8,), (64,))}
    return Manifest(
        name="golden",
        program=Feedforward(
            graph="generator",
            noise={"z": Noise(0, "normal", (4,))},
            media=Media("image", "image", "NCHW", -1, 1),
            conditions={"label": Condition("label", "int64", 0, 9, 3, ("zéro",))},
        ),
        graphs={
            "generator": Graph(
                inputs=(TensorSpec("z", "float32", ("batch", 4)), TensorSpec("label", "int64", ("batch",))),
                outputs=(TensorSpec("image", "float32", ("batch", 1, 2, 2)),),
                axes={"batch": Axis(1, 64)},
                parameters=20,
                variants={
                    "fp16": Variant("fp16", "onnx", "a/g.onnx", ("a/g.data",), opset=20),
                    "fp16-tensorrt-rtx": Variant(
                        "fp16",
                        "tensorrt-rtx",
                        "g.engine",
                        source="fp16",
                        engine=Engine("tensorrt-rtx 1.7", ("portable",), "any", (portrait,)),
                    ),
                },
            )
        },
        files={name: File(3, hashlib.sha256(b"abc").hexdigest()) for name in ("a/g.onnx", "a/g.data", "g.engine")},
        evidence=(
            Evidence("parity", "device", {"max_abs": 1e-05, "finite": True}, "generator", "fp16", True),
            Evidence("note", "typed", {}),
        ),
        made={"with": {"torch": "2.13.0"}},
    )


def document() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(GOLDEN.read_bytes())
    return read


def sign(changed: dict[str, Any]) -> bytes:
    """The document as canonical JSON with the digest that fits it: only its meaning is wrong."""
    changed.pop("digest", None)
    return canonical({**changed, "digest": hashlib.sha256(canonical(changed)).hexdigest()})


def test_the_golden_bytes() -> None:
    assert encode(manifest()) == GOLDEN.read_bytes()
    assert decode(GOLDEN.read_bytes(), "golden") == manifest()


def test_the_digest_is_that_of_the_manifest_without_it() -> None:
    read = document()
    digest = read.pop("digest")
    assert (
        digest
        == hashlib.sha256((json.dumps(read, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()).hexdigest()
    )


def test_any_flipped_bit_is_an_error_of_ours() -> None:
    data = GOLDEN.read_bytes()
    for place in range(len(data)):
        for bit in (1, 32):
            broken = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            with pytest.raises((ManifestError, IntegrityError)):
                decode(broken, "broken")


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[]", b"null", b"{}", b"[" * 100_000, GOLDEN.read_bytes()[:-30]])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        decode(data, "no manifest")


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", '"\\ud800"', "[" * 5000 + "]" * 5000])
def test_json_that_nobody_may_write_is_refused(value: str) -> None:
    text = GOLDEN.read_text().replace('"2.13.0"', value)
    with pytest.raises(ManifestError):
        decode(text.encode(), "odd")


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_made_must_be_json(value: object) -> None:
    with pytest.raises(ManifestError, match="no JSON"):
        encode(dataclasses.replace(manifest(), made={"x": value}))


@pytest.mark.parametrize("schema", [0, 2, "1", None, True, 1.0])
def test_another_schema_is_refused_by_name(schema: object) -> None:
    with pytest.raises(SchemaVersionError, match=r"its schema is .* reads 1"):
        decode(sign({**document(), "schema": schema}), "other")


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a//b",
        "a/./b",
        "C:/x",
        "a\\b",
        "..",
        ".hidden",
        "a/.b",
        "nul",
        "a/COM1.onnx",
        "x.",
        "",
        "é",
        "a" * 101,
    ],
)
def test_a_path_that_could_leave_the_folder_is_refused(path: str) -> None:
    changed = document()
    changed["files"][path] = changed["files"]["g.engine"]
    with pytest.raises(UnsafePath, match="could leave"):
        decode(sign(changed), "evil")


Change = Callable[[dict[str, Any]], object]
GRAPH = "generator"


def graph(d: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = d["graphs"][GRAPH]
    return found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda d: d.pop("name"), "missing or unknown"),
        (lambda d: d.update(extra=1), "missing or unknown"),
        (lambda d: d.update(name=3), "3 is not str"),
        (lambda d: d.update(evidence={}), "is not"),
        (lambda d: d["program"].update(kind="telepathic"), "known are feedforward, tensor"),
        (lambda d: d["program"].update(graph="decoder"), "which is not there"),
        (lambda d: d["program"]["noise"]["z"].update(shape=[5]), "the graph wants"),
        (lambda d: d["program"]["noise"]["z"].update(distribution="cauchy"), "one of normal, uniform"),
        (lambda d: d["program"]["noise"]["z"].update(stream=-1), "negative stream"),
        (lambda d: d["program"]["noise"].update(w=d["program"]["noise"]["z"]), "takes other inputs"),
        (lambda d: d["program"]["conditions"]["label"].update(low=10.0), "ends before it starts"),
        (lambda d: d["program"]["conditions"]["label"].update(default=99.0), "out of its range"),
        (lambda d: d["program"]["conditions"]["label"].update(default=3), "is not float"),
        (lambda d: d["program"]["conditions"]["label"].update(dtype="int32"), "the graph wants int64"),
        (lambda d: d["program"]["conditions"]["label"].update(names=["x"] * 11), "more names than values"),
        (lambda d: d["program"]["conditions"].update(seed=d["program"]["conditions"].pop("label")), "that argument"),
        (lambda d: graph(d)["axes"]["batch"].update(min=2), "one sample cannot be made"),
        (lambda d: d["program"]["media"].update(output="sound"), "no output 'sound'"),
        (lambda d: d["program"]["media"].update(layout="NCT"), "no image layout"),
        (lambda d: d["program"]["media"].update(kind="audio"), "no audio layout"),
        (lambda d: d["program"]["media"].update(high=-1.0), "range is empty"),
        (lambda d: graph(d)["axes"]["batch"].update(min=0), "ends before it starts"),
        (lambda d: graph(d)["axes"]["batch"].update(max=True), "true is not int"),
        (lambda d: graph(d)["axes"].clear(), "not declared"),
        (lambda d: graph(d)["inputs"].clear(), "no inputs"),
        (lambda d: graph(d)["outputs"][0].update(name="z"), "uses a name twice"),
        (lambda d: graph(d)["outputs"][0].update(dtype="float8"), "is not one of"),
        (lambda d: graph(d)["variants"]["fp16"].update(file="h.onnx"), "does not list"),
        (lambda d: graph(d)["variants"]["fp16"].update(data=["h.data"]), "does not list"),
        (lambda d: graph(d)["variants"]["fp16"].update(format="tensorrt"), "engine and format disagree"),
        (lambda d: graph(d)["variants"]["fp16-tensorrt-rtx"].update(source="int4"), "unknown source"),
        (lambda d: d["files"].update({"G.ENGINE": d["files"]["g.engine"]}), "differ only in case"),
        (lambda d: d["files"].update({"manifest.json": d["files"]["g.engine"]}), "lists manifest.json itself"),
        (lambda d: d["files"]["g.engine"].update(bytes=-1), "malformed"),
        (lambda d: d["files"]["g.engine"].update(sha256="abc"), "malformed"),
        (lambda d: d["evidence"][0].update(variant="int4"), "unknown variant"),
        (lambda d: d["evidence"][0].update(graph="decoder"), "which is not there"),
        (lambda d: d["evidence"][0].update(level="rumour"), "one of typed, inspected, device"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change: Change, found: str) -> None:
    changed = document()
    change(changed)
    with pytest.raises(ManifestError, match=found):
        decode(sign(changed), "changed")


def test_json_that_is_not_canonical_is_refused() -> None:
    loose = json.dumps(document(), sort_keys=True).encode()
    with pytest.raises(ManifestError, match="canonical"):
        decode(loose, "loose")


def test_encode_refuses_what_decode_would() -> None:
    wrong = dataclasses.replace(manifest(), files={})
    with pytest.raises(ManifestError, match="does not list"):
        encode(wrong)


def test_a_gate_is_failed_by_one_claim() -> None:
    def claims(*passed: bool | None) -> Manifest:
        made = tuple(Evidence("parity", "device", {}, GRAPH, "fp16", answer) for answer in passed)
        return dataclasses.replace(manifest(), evidence=made)

    assert claims().gate(GRAPH, "fp16") is None
    assert claims(None).gate(GRAPH, "fp16") is None
    assert claims(True, None).gate(GRAPH, "fp16") is True
    assert claims(True, False).gate(GRAPH, "fp16") is False
    assert claims(False).gate(GRAPH, "fp16-tensorrt-rtx") is None
