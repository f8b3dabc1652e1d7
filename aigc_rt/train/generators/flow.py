"""A learned prior: an invertible network between codes and standard normals, of the couplings of Dinh, Sohl-Dickstein,
Bengio, "Density estimation using Real NVP", 2016.

Encoders do not fill a standard normal: what lies between their codes decodes to nothing that was ever seen. A prior
that takes the shape of the codes mends that (Chen et al., "Variational Lossy Autoencoder", 2016).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEEPEST = 2.0
"""Bound of the logarithm of a coupling's scales."""


class Coupling(nn.Module):
    """Shifts and scales one half of a code by functions of the other half, which comes last in the result.

    It starts as a swap of the halves.
    """

    def __init__(self, latent: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.kept, self.changed = latent - latent // 2, latent // 2
        self.first, self.second = nn.Linear(self.kept, hidden), nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 2 * self.changed)
        self.label = nn.Embedding(classes, hidden) if classes else None
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, code: Tensor, log_variance: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Flow.forward`."""
        kept, changed = code[:, : self.kept], code[:, self.kept :]
        shift, log_scale = self.functions(kept, label)
        added = log_variance[:, self.kept :] + 2.0 * log_scale
        z = torch.cat([(changed + shift) * log_scale.exp(), kept], 1)
        return z, torch.cat([added, log_variance[:, : self.kept]], 1)

    def inverse(self, code: Tensor, label: Tensor | None) -> Tensor:
        """The code that `forward` changed into this one."""
        changed, kept = code[:, : self.changed], code[:, self.changed :]
        shift, log_scale = self.functions(kept, label)
        return torch.cat([kept, changed * (-log_scale).exp() - shift], 1)

    def functions(self, kept: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shift and log scale, (B, changed) each."""
        x = self.first(kept)  # (B, hidden)
        if self.label is not None:
            x = x + self.label(label)
        shift, log_scale = self.last(F.relu(self.second(F.relu(x)))).chunk(2, 1)
        return shift, STEEPEST * torch.tanh(log_scale / STEEPEST)


class Flow(nn.Module):
    """Couplings one after the other; with none of them codes are the standard normals.

    With classes, every class has its own shape; the label, (B,) int64, is then to be given.
    """

    def __init__(self, latent: int, couplings: int, hidden: int, classes: int = 0) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(latent, hidden, classes) for _ in range(couplings))

    def forward(self, code: Tensor, log_variance: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z of a code, and the log variance of the code with what the scaling of each value adds, (B, latent) each.

        Half the sum of what is added, over the values, is the log determinant of dz / dcode.
        """
        for coupling in self.couplings:
            code, log_variance = coupling(code, log_variance, label)
        return code, log_variance

    def inverse(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """The code of z."""
        for coupling in reversed(self.couplings):
            assert isinstance(coupling, Coupling)
            z = coupling.inverse(z, label)
        return z
