from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from aigc_rt import noise
from aigc_rt.errors import InputError

MASK = (1 << 64) - 1


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x64-10 by the paper's definition, in Python's integers: what the fast path is held to."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (high >> 64) ^ b ^ k, high & MASK, (low >> 64) ^ d ^ m, low & MASK
        k, m = (k + 0x9E3779B97F4A7C15) & MASK, (m + 0xBB67AE8584CAA73B) & MASK
    return a, b, c, d


# The known answers that the authors publish with Random123 (kat_vectors, philox 4x64, 10 rounds).
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0,) * 4, (0,) * 2, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
        ((MASK,) * 4, (MASK,) * 2, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
        (
            (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
            (0x452821E638D01377, 0xBE5466CF34E90C6C),
            "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
        ),
    ],
)
def test_the_definition_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: str
) -> None:
    assert philox(counter, key) == tuple(int(word, 16) for word in words.split())


@pytest.mark.parametrize(("seed", "stream", "start"), [(0, 0, 0), (7, 3, 41), (MASK, MASK, MASK - 1)])
def test_words_are_philox_of_block_and_index(seed: int, stream: int, start: int) -> None:
    expected = [
        [word for block in (1, 2, 3) for word in philox((block, 0, index, 0), (seed, stream))][:10]
        for index in (start, start + 1)
    ]
    assert noise.words(seed, stream, start, 2, 10).tolist() == expected


GOLDEN = [0.7421742081642151, -0.11199068278074265, 2.0020911693573, -0.06412258744239807, 1.2058528661727905]
GOLDEN_SHA256 = "0a19955e1096"

MANY = """
import hashlib
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
from aigc_rt import noise
print([f for f in __cpu_dispatch__ if __cpu_features__[f]])
print(hashlib.sha256(noise.normal(7, 0, 3, 3000, (999,)).tobytes()).hexdigest())
"""


@pytest.mark.parametrize("level", [0, 1, 2])
def test_normals_are_the_golden_values_whatever_the_instruction_set(level: int) -> None:
    assert noise.normal(7, 0, 3, 1, (5,))[0].tolist() == GOLDEN
    dispatched = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, check=True).stdout
    features = json.loads(dispatched.splitlines()[0].replace("'", '"'))
    kept = features[: -level * 2] if level else features  # from all, to all but the newest two, to all but four
    disabled = " ".join(f for f in features if f not in kept)
    run = subprocess.run(
        [sys.executable, "-c", MANY],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled},
        capture_output=True,
        text=True,
        check=True,
    )
    active, digest = run.stdout.splitlines()
    assert active == str(kept)
    assert digest.startswith(GOLDEN_SHA256)


def test_a_sample_does_not_depend_on_its_batch_nor_a_value_on_the_shape() -> None:
    batch = noise.normal(7, 1, 10, 16, (3, 5))
    alone = np.concatenate([noise.normal(7, 1, 10 + i, 1, (3, 5)) for i in range(16)])
    assert np.array_equal(batch, alone)
    assert np.array_equal(noise.normal(7, 1, 10, 16, (15,)), batch.reshape(16, 15))
    assert np.array_equal(noise.normal(7, 1, 10, 16, (8,)), batch.reshape(16, 15)[:, :8])


def test_seeds_and_streams_differ() -> None:
    drawn = [noise.normal(s, t, 0, 1, (4,)).tobytes() for s in range(4) for t in range(4)]
    assert len(set(drawn)) == 16


def test_normals_are_normal_and_uniforms_uniform() -> None:
    normals = noise.normal(1, 0, 0, 1000, (1000,)).astype(np.float64)
    moments = [np.mean(normals**k) for k in (1, 2, 3, 4)]
    assert np.allclose(moments, [0, 1, 0, 3], atol=0.02)
    uniforms = noise.uniform(1, 0, 0, 1000, (1000,))
    assert 0 <= uniforms.min() < 1e-5 < 1 - 1e-5 < uniforms.max() < 1
    assert np.allclose(np.histogram(uniforms, 10, (0, 1))[0] / 1e6, 0.1, atol=2e-3)


def test_threads_do_not_disturb_each_other() -> None:
    expected = [noise.normal(5, 0, i, 2, (64,)).tobytes() for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda i: noise.normal(5, 0, i, 2, (64,)).tobytes(), range(200)))
    assert drawn == expected


@pytest.mark.parametrize("bad", [-1, 1 << 64, 1.5, "7", None, True])
def test_a_seed_that_is_none_is_refused(bad: object) -> None:
    with pytest.raises(InputError, match="seed="):
        noise.normal(bad, 0, 0, 1, (4,))  # type: ignore[arg-type]


def test_the_last_sample_of_a_seed_is_there_and_the_one_after_it_is_not() -> None:
    assert noise.normal(0, 0, MASK, 1, (4,)).shape == (1, 4)
    with pytest.raises(InputError, match="start="):
        noise.normal(0, 0, MASK, 2, (4,))
