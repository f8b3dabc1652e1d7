"""What is used of Opacus (Yousefpour et al., "Opacus: User-Friendly Differential Privacy Library in PyTorch", 2021).

Importing Opacus takes seconds and sets up the root logger, so only private runs import this, and the logger is put
back as it was.
"""

from __future__ import annotations

import logging

from aigc_rt.errors import MissingDependency

_handlers = list(logging.root.handlers)
try:
    from opacus import __version__ as VERSION
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent
    from opacus.accountants.utils import get_noise_multiplier
    from opacus.grad_sample.grad_sample_module import GradSampleHooks
    from opacus.optimizers import DPOptimizer
    from opacus.validators import ModuleValidator
except ModuleNotFoundError as error:
    raise MissingDependency(
        "train with differential privacy", f"the package {error.name} is not installed", "pip install 'aigc-rt[train]'"
    ) from None
finally:
    for handler in [h for h in logging.root.handlers if h not in _handlers]:
        logging.root.removeHandler(handler)

__all__ = [
    "VERSION",
    "DPOptimizer",
    "GradSampleHooks",
    "ModuleValidator",
    "RDPAccountant",
    "compute_rdp",
    "get_noise_multiplier",
    "get_privacy_spent",
]
