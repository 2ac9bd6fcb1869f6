"""What stands between a network's bottleneck and all that is computed from it, written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

KINDS = ("identity", "affine", "mlp", "quantized", "noise", "chain")
STOCHASTIC = ("quantized", "noise")
WIDEST = 4096
"""Values of a bottleneck that an adapter takes: an affine map of more would be larger than most networks."""

MOST_BITS = 1024
MOST_LINKS = 8


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One map of a bottleneck's d values to d values. Maps `[C, H, W]` are flattened before and restored after it.

    identity    y = x: everything still passes here, so taps before it are refused
    affine      y = W x + b
    mlp         y = skip * x + an MLP of (x - mean) / scale
    quantized   z = E (x - mean) / scale + e, theta = sigmoid(6 z) cut to [1e-4, 1 - 1e-4], T ~ Bernoulli(theta), y = D T + c
    noise       y = x + sigma eps
    chain       one after the other

    The draws of `quantized` and `noise` are a function of the input and a secret key (`models.nets.draws`).
    """

    kind: str
    """One of `KINDS`."""

    hidden: tuple[int, ...] = ()
    """`mlp`: widths of the layers between, at least one; leaky-ReLU after each."""

    code: int = 0
    """`mlp`: width of a linear layer before the last one: all that passes is a linear map of so many values; 0 = no such layer. Linear,
    because half of a code of one value would vanish in a leaky-ReLU."""

    skip: bool = False
    """`mlp`: whether x itself is added."""

    bits: int = 0
    """`quantized`: number of binary neurons."""

    sigma: float = 0.0
    """`noise`: standard deviation of each value's noise."""

    links: tuple[Adapter, ...] = ()
    """`chain`: at least one, none of them a chain."""

    def __post_init__(self) -> None:
        """Refuse a form that no adapter has.

        Raises:
            ValueError: naming the field.
        """
        if self.kind not in KINDS:
            raise ValueError(f"an adapter is one of {', '.join(KINDS)}, not {self.kind!r}")
        given = {"mlp": ("hidden", "skip", "code"), "quantized": ("bits",), "noise": ("sigma",), "chain": ("links",)}.get(self.kind, ())
        for field in ("hidden", "skip", "code", "bits", "sigma", "links"):
            if getattr(self, field) and field not in given:
                raise ValueError(f"an adapter of kind {self.kind} has no {field}")
        if self.kind == "mlp" and (not self.hidden or not all(1 <= width <= WIDEST for width in self.hidden)):
            raise ValueError(f"hidden holds widths from 1 to {WIDEST}, not {self.hidden}")
        if not 0 <= self.code <= WIDEST:
            raise ValueError(f"code lies between 0 and {WIDEST}, not at {self.code}")
        if self.kind == "quantized" and not 1 <= self.bits <= MOST_BITS:
            raise ValueError(f"bits lies between 1 and {MOST_BITS}, not at {self.bits}")
        if self.kind == "noise" and not (self.sigma > 0 and isfinite(self.sigma)):
            raise ValueError(f"sigma must be positive and finite, not {self.sigma}")
        if self.kind == "chain" and not (0 < len(self.links) <= MOST_LINKS and all(link.kind != "chain" for link in self.links)):
            raise ValueError(f"links are 1 to {MOST_LINKS} adapters, none of them a chain")

    @property
    def parts(self) -> tuple[Adapter, ...]:
        """The links of a chain, or this adapter alone."""
        return self.links if self.kind == "chain" else (self,)

    @property
    def is_stochastic(self) -> bool:
        """True where an output is drawn."""
        return any(link.kind in STOCHASTIC for link in self.parts)

    def then(self, link: Adapter) -> Adapter:
        """Return this adapter followed by another."""
        return Adapter(kind="chain", links=(*self.parts, *link.parts))

    def form(self) -> dict[str, Any]:
        """Write the adapter as JSON values, leaving out what its kind does not have."""
        written: dict[str, Any] = {"kind": self.kind}
        if self.hidden:
            written |= {"hidden": list(self.hidden), "skip": self.skip}
        if self.code:
            written["code"] = self.code
        if self.bits:
            written["bits"] = self.bits
        if self.sigma:
            written["sigma"] = self.sigma
        if self.links:
            written["links"] = [link.form() for link in self.links]
        return written


def adapter_of(form: Mapping[str, Any]) -> Adapter:
    """Read what `Adapter.form` wrote.

    Raises:
        ValueError: naming the field that is unknown, of another type, or out of range.
    """
    types = {"kind": str, "hidden": (list, tuple), "skip": bool, "code": int, "bits": int, "sigma": (int, float), "links": (list, tuple)}
    for field, value in form.items():
        if field not in types or not isinstance(value, types[field]) or (isinstance(value, bool) and field != "skip"):  # type: ignore[arg-type]
            raise ValueError(f"an adapter has no {field} {value!r}")
    hidden = tuple(form.get("hidden", ()))
    if not all(isinstance(width, int) and not isinstance(width, bool) for width in hidden):
        raise ValueError(f"hidden holds whole numbers, not {hidden}")
    if not all(isinstance(link, Mapping) for link in form.get("links", ())):
        raise ValueError("links hold adapters")
    return Adapter(
        kind=form.get("kind", ""),
        hidden=hidden,
        skip=form.get("skip", False),
        code=form.get("code", 0),
        bits=form.get("bits", 0),
        sigma=float(form.get("sigma", 0.0)),
        links=tuple(adapter_of(link) for link in form.get("links", ())),
    )
