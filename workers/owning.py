"""A method's own private heads, judged on the rows of the fresh probes: shown beside them, deciding nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.audit.planted import OwnHead, own_head
from models.audit.probe import Held
from models.erase.heads import of_state
from workers.judging import SEED


def own_head_of(tensors: Mapping[str, Tensor], kind: str, test: Held, *, values: int, classes: int) -> OwnHead | None:
    """Judge the head that answers most. None where the method has none.

    Args:
        tensors: of all heads, as the method's state names them.
        kind: linear or mlp.
        test: the rows and features that the fresh probes are judged on.
    """
    judged = []
    for head in of_state(dict(tensors), "mlp" if kind == "mlp" else "linear", test.features.shape[1], values):
        with torch.no_grad():
            logits = head(test.features)
        judged.append(own_head(logits, test.values, test.labels, classes=classes, seed=SEED))
    return max(judged, key=lambda one: one.v_information) if judged else None
