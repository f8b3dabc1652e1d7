from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import aigc_rt
from aigc_rt import errors

LIGHT = """
import sys
import numpy.random  # numpy loads it lazily, and Cython's helpers with it
standard = set(sys.modules)
import aigc_rt
aigc_rt.load
added = {name.partition(".")[0] for name in set(sys.modules) - standard} - sys.stdlib_module_names - {"numpy"}
print(sorted(added))
"""

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxscript", "PIL", "typer", "safetensors"):
            raise ImportError(f"{name} must not be imported by the runtime")
sys.meta_path.insert(0, Block())
import aigc_rt
with aigc_rt.load(sys.argv[1]) as generator:
    samples = generator.generate(3, seed=7)
    samples.save(sys.argv[2])
    print(samples.array.shape, "fp32" in str(generator.plan))
from aigc_rt.verify import verify
print(verify(sys.argv[1]).passed)
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", *arguments], capture_output=True, text=True, check=True)


def test_importing_the_runtime_loads_numpy_and_the_standard_library() -> None:
    assert python(LIGHT).stdout == "['aigc_rt']\n"


def test_the_runtime_works_with_torch_and_onnx_blocked_and_says_nothing(images: Path, tmp_path: Path) -> None:
    run = python(BLOCKED, str(images), str(tmp_path / "grid.png"))
    assert run.stdout == "(3, 4, 5, 3) True\nTrue\n"
    assert run.stderr == ""
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_the_engine_builder_imports_neither_torch_nor_onnx() -> None:
    code = "import sys, aigc_rt.export.engine; print({'torch', 'onnx', 'onnxscript'} & set(sys.modules))"
    assert python(code).stdout == "set()\n"


WITHOUT_TORCH = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "torch" else find(name, *more)
sys.modules["torch"] = None
{code}
"""


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("from aigc_rt.export import export", "export,cpu"),
        ("import aigc_rt.train", "train"),
    ],
)
def test_without_torch_the_error_names_the_command_that_installs_it(code: str, extra: str) -> None:
    program = WITHOUT_TORCH.format(code=code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "MissingDependency" in done.stderr.splitlines()[-1]
    assert f"pip install 'aigc-rt[{extra}]'" in done.stderr.splitlines()[-1]


def test_the_bench_runs_without_torch_and_says_what_installs_it(images: Path) -> None:
    code = (
        "from pathlib import Path\nfrom aigc_rt.bench.measure import BenchOptions, bench\n"
        "options = BenchOptions(peers=('torch-eager', 'onnxruntime'), batches=(1,), seconds=0.1, blocks=1)\n"
        f"print(bench(Path({str(images)!r}), options)['rows'][0]['reason'])"
    )
    done = python(WITHOUT_TORCH.format(code=code))
    assert done.stdout == "torch is not installed: pip install 'aigc-rt[bench]'\n"


def test_the_public_names() -> None:
    assert aigc_rt.__all__ == ["AigcRtError", "Bundle", "Generator", "Plan", "Samples", "errors", "load"]
    for name in aigc_rt.__all__:
        assert getattr(aigc_rt, name) is not None
    assert set(aigc_rt.__all__) <= set(dir(aigc_rt))
    assert aigc_rt.__version__.count(".") == 2
    assert not hasattr(aigc_rt, "tensorflow")


def classes() -> list[type[errors.AigcRtError]]:
    found = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.AigcRtError)]
    assert len(found) > 20
    return found


def test_every_error_says_what_was_asked_what_is_there_and_how_to_mend_it() -> None:
    import pickle

    for kind in classes():
        error = kind("open x", "it is not there", "Give another")
        assert str(error) == "open x: it is not there. Give another."
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes: errors cross process boundaries
        assert (type(again), str(again), again.mend) == (kind, str(error), "Give another")


def test_every_error_has_a_code_of_its_own_and_stands_in_the_tree() -> None:
    codes = [kind.code for kind in classes()]
    assert len(set(codes)) == len(codes)
    assert errors.__doc__ is not None
    for kind in classes():
        assert f" {kind.__name__}" in errors.__doc__


def test_noise_is_what_numpy_gives_here() -> None:
    bits = np.random.Philox(key=np.array([7, 1], np.uint64), counter=np.array([0, 0, 3, 0], np.uint64))
    assert aigc_rt.noise.words(7, 1, 3, 1, 9)[0].tolist() == bits.random_raw(9).tolist()
