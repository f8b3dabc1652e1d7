"""ONNX in, a TensorRT engine of proven precision out: one builder for `tensorrt-rtx` and for `tensorrt` 10.3 and later.

Precision lies in the graph's types: networks are strongly typed, no builder flag changes one. The module imports an
engine library and numpy only, so that it runs where engines must be built: on the device too.

`build` builds in this process. `build_in_child` runs `python -m aigc_rt.export.engine`, which can be killed; take it
unless you are that process. With a driver, `inspect` adds the engine inspector's word.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_rt import errors
from aigc_rt.backends import trt_library
from aigc_rt.backends.driver import compute_capability
from aigc_rt.backends.trt_library import Library
from aigc_rt.errors import AigcRtError, BackendUnavailable, EngineError, InputError
from aigc_rt.export import engine_network, engine_proof
from aigc_rt.export.engine_network import Profiles
from aigc_rt.export.scratch import scratch
from aigc_rt.files import write_whole
from aigc_rt.manifest import Engine, Precision, Profile

PRECISIONS = ("fp32", "fp16", "bf16")
"""What `build` can prove."""
_LOGGED = 20
"""Lines of the builder's warnings that evidence keeps."""
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class BuildOptions:
    """How to build; the defaults suit most.

    Attributes:
        targets: compute capabilities such as ("sm86", "sm89"), or ("portable",); empty is the flavour's own: portable
            for tensorrt-rtx (Ampere and later), the GPU at hand for tensorrt.
        parameters: of the module, for the evidence; what is judged are the weights in the network.
        least_share: of the arithmetic that must be of the precision asked for, by number of layers and by weights.
        tf32: let fp32 products round their inputs to 10 bits of mantissa, the libraries' own default; off here.
    """

    targets: tuple[str, ...] = ()
    parameters: int | None = None
    least_share: float = 0.8
    tf32: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        if not 0 <= self.least_share <= 1:
            raise InputError(f"least_share={self.least_share}", "it is a share", "Give a number from 0 to 1")


@dataclass(frozen=True)
class Built:
    """An engine, what the manifest says of it, and the details of its precision claim at the level "typed"."""

    engine: bytes
    spec: Engine
    evidence: dict[str, Any]


def build(
    model: bytes | str | os.PathLike[str],
    *,
    flavour: str,
    precision: Precision,
    profiles: Profiles,
    name: str,
    options: BuildOptions | None = None,
) -> Built:
    """Build an engine in this process, which nothing can interrupt; see `build_in_child`.

    Args:
        model: the ONNX model, or its path; weights in files beside it need the path.
        flavour: "tensorrt-rtx" or "tensorrt".
        precision: what the graph is typed in and the engine must come out as: "fp32", "fp16" or "bf16".
        profiles: one dict a profile, from each input with a dynamic axis to its shapes.
        name: of the network, for messages and profilers.
        options: see `BuildOptions`.

    Raises:
        InputError: an unknown flavour, precision or target; profiles that do not fit the graph; no file at the path.
        MissingDependency: the library is not installed.
        EngineError: the parser or the builder refused, in its own words.
        PrecisionLost: the engine is not of the precision asked for.
    """
    options = options or BuildOptions()
    _check_words(flavour, precision, name)
    library = trt_library.load(flavour)
    targets = _targets(library, options.targets)
    with _ONE_AT_A_TIME:  # the library has one log
        mark, began = library.log.mark(), time.perf_counter()
        parsed = engine_network.parse(library, model, name)
        engine_network.check_profiles(parsed.network, profiles, name)
        data, healed, weights = engine_network.build_healing(parsed, profiles, targets, options.tf32)
        typed = engine_proof.read(library.trt, parsed.network)
        seconds = time.perf_counter() - began
        warnings = library.log.since(mark, ("WARNING", "ERROR", "INTERNAL_ERROR"))
    size = engine_proof.Bytes(len(data), weights, typed.parameters, len(profiles))
    engine_proof.judge(typed, size, precision, options.least_share, name)
    evidence = engine_proof.evidence(typed, size, precision) | {
        "least_share": options.least_share,
        "library": str(library),
        "targets": list(targets),
        "tf32": options.tf32,
        "healed": healed,
        "build_s": round(seconds, 3),
        "warnings": [line[:500] for line in warnings[:_LOGGED]],
    }
    if options.parameters is not None:
        evidence["module_parameters"] = options.parameters
    place = "any" if library.flavour.portable else trt_library.here()
    return Built(data, Engine(str(library), targets, place, tuple(map(dict, profiles))), evidence)


def _check_words(flavour: str, precision: str, name: str) -> None:
    trt_library.flavour(flavour)
    if precision not in PRECISIONS:
        raise InputError(
            f"build {name} in {precision}", f"the builder can prove {', '.join(PRECISIONS)}", "Give one of them"
        )


def _targets(library: Library, asked: tuple[str, ...]) -> tuple[str, ...]:
    offered = library.targets()
    if not library.flavour.portable:
        here = compute_capability(0)
        if here is None:
            reason = trt_library.unusable(library.flavour.name)
            raise EngineError(
                f"build with {library}",
                f"it builds for the GPU at hand, and there is none: {reason}",
                "Build on the device, or with the flavour tensorrt-rtx, which needs no GPU",
            )
        offered = (here,)
    default = ("portable",) if library.flavour.portable else offered
    if asked in ((), default):
        return default
    if unknown := [t for t in asked if t not in offered]:
        raise InputError(
            f"build for {', '.join(unknown)}",
            f"{library} offers {', '.join(dict.fromkeys((*default, *offered)))}",
            "Give some of these",
        )
    return tuple(dict.fromkeys(asked))


def inspect(engine: bytes, flavour: str) -> dict[str, Any]:
    """What the library says of a finished engine, for evidence at the level "inspected". Needs a driver and a GPU.

    Returns:
        "validity" and "diagnostics" where the library has `get_engine_validity`, "layers" by output type, and the
        inspector's own document as "inspector".

    Raises:
        BackendUnavailable: no library, driver or device, with the reason.
        EngineError: the engine does not load here, in the library's words.
    """
    if reason := trt_library.unusable(flavour):
        raise BackendUnavailable(
            f"inspect an engine of {flavour}", reason, "Inspect it on a machine with an NVIDIA GPU"
        )
    library = trt_library.load(flavour)
    trt, mark = library.trt, library.log.mark()
    runtime, found = trt.Runtime(library.logger), dict[str, Any]()
    if hasattr(runtime, "get_engine_validity"):
        validity, diagnostics = runtime.get_engine_validity(engine)
        found |= {"validity": validity.name.lower(), "diagnostics": int(diagnostics)}
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:
        raise EngineError(
            f"inspect an engine with {library}",
            library.log.words(mark, "it does not load"),
            "Build it for this machine",
        )
    document = json.loads(loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
    return found | {"library": str(library), "layers": engine_proof.inspected(document), "inspector": document}


# The child process


def build_in_child(
    model: bytes | str | os.PathLike[str],
    *,
    flavour: str,
    precision: Precision,
    profiles: Profiles,
    name: str,
    options: BuildOptions | None = None,
    limit_s: float = 600.0,
) -> Built:
    """`build` in a child process: it ends with its parent, on Ctrl-C, and after `limit_s` seconds.

    Raises:
        EngineError: also when the limit passed, or the child died (its last words are quoted).
        Others: as `build`.
    """
    _check_words(flavour, precision, name)
    with scratch("engine") as folder:
        onnx, out, report = (folder / part for part in ("model.onnx", "engine", "report.json"))
        if isinstance(model, bytes):
            onnx.write_bytes(model)
        command = [sys.executable, "-m", "aigc_rt.export.engine", "--until-stdin-closes", "--flavour", flavour]
        command += ["--onnx", str(onnx if isinstance(model, bytes) else Path(model).absolute()), "--out", str(out)]
        command += ["--precision", precision, "--name", name, "--report", str(report)]
        command += ["--profiles", _profiles_to_json(profiles)]
        command += ["--options", json.dumps(dataclasses.asdict(options or BuildOptions()))]
        code, said = _run(command, folder / "stderr", limit_s)
        if not report.is_file():
            found = (
                f"the build took longer than {limit_s:g} s" if code is None else f"the builder died ({code}): {said}"
            )
            mend = "Allow it more time, or build a smaller graph" if code is None else "Report this with the graph"
            raise EngineError(f"build {name} with {flavour}", found, mend)
        document = json.loads(report.read_bytes())
        if wrong := document.get("error"):
            raise getattr(errors, wrong["class"])(wrong["asked"], wrong["found"], wrong["mend"])
        spec = document["engine"]
        spec = Engine(
            spec["library"],
            tuple(spec["targets"]),
            spec["platform"],
            _profiles_from_json(json.dumps(spec["profiles"])),
        )
        return Built(out.read_bytes(), spec, document["evidence"])


def _run(command: list[str], stderr: Path, limit_s: float) -> tuple[int | None, str]:
    """The child's exit status, None past the limit, and the end of what it wrote to stderr. It never outlives this."""
    home = str(Path(errors.__file__).parent.parent)  # so that the child finds the aigc_rt that this is
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths)}
    with stderr.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            env=env,
            start_new_session=True,  # Ctrl-C comes to the parent, which ends the child
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
    return code, stderr.read_bytes().decode(errors="replace").strip()[-800:]


def _profiles_to_json(profiles: Profiles) -> str:
    return json.dumps([{key: dataclasses.asdict(p) for key, p in profile.items()} for profile in profiles])


def _options_from_json(text: str) -> BuildOptions:
    try:
        return BuildOptions(**json.loads(text))
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        known = ", ".join(f.name for f in dataclasses.fields(BuildOptions))
        raise InputError("--options", f"it is no JSON object of build options: {error}", f"There are {known}") from None


def _profiles_from_json(text: str) -> tuple[dict[str, Profile], ...]:
    try:
        return tuple(
            {key: Profile(*(tuple(map(int, p[part])) for part in ("min", "opt", "max"))) for key, p in profile.items()}
            for profile in json.loads(text)
        )
    except (TypeError, KeyError, ValueError, AttributeError):
        raise InputError(
            "--profiles",
            "it is no list of profiles",
            'Give JSON such as [{"z": {"min": [1, 100], "opt": [8, 100], "max": [64, 100]}}]',
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m aigc_rt.export.engine`: build one engine into a file. 0 done, 1 refused; the report says why."""
    parser = argparse.ArgumentParser(prog="python -m aigc_rt.export.engine", description=main.__doc__)
    parser.add_argument("--onnx", type=Path, required=True, help="the model, weights beside it allowed")
    parser.add_argument("--out", type=Path, required=True, help="the engine; written in one step, or not at all")
    parser.add_argument("--report", type=Path, required=True, help="JSON: engine and evidence, or error")
    parser.add_argument("--flavour", required=True, choices=sorted(trt_library.FLAVOURS))
    parser.add_argument("--precision", required=True, choices=PRECISIONS)
    parser.add_argument("--profiles", default="[]", help='[{"z": {"min": [1, 100], "opt": ..., "max": ...}}]')
    parser.add_argument("--options", default="{}", help="the fields of BuildOptions")
    parser.add_argument("--name", default=None, help="of the network; the file's name when not given")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when the parent does")
    given = parser.parse_args(arguments)
    if given.until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        built = build(
            given.onnx,
            flavour=given.flavour,
            precision=given.precision,
            profiles=_profiles_from_json(given.profiles),
            name=given.name or given.onnx.stem,
            options=_options_from_json(given.options),
        )
        write_whole(given.out, built.engine)
    except AigcRtError as error:
        wrong = {"class": type(error).__name__, "asked": error.asked, "found": error.found, "mend": error.mend}
        write_whole(given.report, json.dumps({"error": wrong}).encode())
        return 1
    document = {"engine": dataclasses.asdict(built.spec), "evidence": built.evidence}
    write_whole(given.report, json.dumps(document).encode())
    return 0


def _end_with_stdin() -> None:
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 4096):
            pass
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
