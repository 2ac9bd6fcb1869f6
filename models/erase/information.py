"""Mutual information between an attribute and a head's answers, estimated on a minibatch."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor
from torch.nn import functional

TINY = 1e-30  # below any product of two shares that float32 holds; an empty cell then adds exactly 0


def answered(scores: Tensor, values_of: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return I(v; answer) / ln K, in [0, 1], of the head's softmax on these rows.

        P_jk = mean_n 1[v_n = j] softmax(scores_n)_k      p_j = sum_k P_jk      q_k = sum_j P_jk
        I = 1/ln K * sum_jk P_jk ln( P_jk / (p_j q_k) )

    An estimate for this head alone: what other readers find is up to fresh probes. In float32 at least: products of shares underflow
    in half precision.

    Args:
        scores: `[n, K]`.
        values_of: `[n]` int64 below K; no missing values.
        weights: `[n]` >= 0, how much each row counts; None counts all alike.

    Source: Tartaglione, BMVC 2022, section 3. https://arxiv.org/abs/2210.00891
    """
    values = scores.shape[1]
    wide = scores if scores.dtype == torch.float64 else scores.float()
    chosen = functional.one_hot(values_of, values).to(wide)
    if weights is not None:
        chosen = chosen * weights.to(wide)[:, None]
    joint = chosen.T @ wide.softmax(dim=1)  # [K, K]
    joint = joint / joint.sum()
    outer = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0, keepdim=True)
    return (joint * (joint.clamp_min(TINY) / outer.clamp_min(TINY)).log()).sum() / log(values)
