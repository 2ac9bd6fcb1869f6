"""Forget everything: the user weights become 0, which is what fitting to no user row gives."""

from __future__ import annotations

import torch

from models.forget.exact import Removal
from models.linear.core import Core
from models.linear.statistics import Statistics


def forget(begun: Statistics, core: Core) -> Removal:
    """Return the model without any user row: w_u = 0 and the sums over the core rows alone.

    Equal, by digest, to forgetting all user ids with `exact`, and to refitting on an empty set.

    Args:
        begun: `core_statistics` of the same core.

    Raises:
        ValueError: if the statistics hold user rows.
    """
    if begun.rows or bool(begun.B.any()):
        raise ValueError(f"the statistics of a core alone hold no user row; these hold {begun.rows}")
    return Removal(begun, torch.zeros(core.d, core.classes, dtype=torch.float64))
