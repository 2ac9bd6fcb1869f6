"""A network's form, written down: enough to build it again and to check a file of weights against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.nets.adapter import Adapter, adapter_of

ACTIVATIONS = ("leaky_relu", "relu", "tanh")
SMALLEST_IMAGE = 8  # pixels a side: two halvings leave the 2 x 2 that the smallest pooled tap needs


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A named network at one input size and number of classes."""

    name: str
    """A key of `models.nets.NETS`."""

    input_shape: tuple[int, ...]
    """`(C, H, W)` for uint8 images, or `(k,)` for float32 features."""

    classes: int
    """Length of the declared list of classes, at least 2."""

    activation: str = "leaky_relu"
    """One of `ACTIVATIONS`."""

    taps: tuple[str, ...] | None = None
    """Names from `named_modules` whose outputs are the features of `exact`; None takes the network's own choice."""

    bottleneck: str | None = None
    """One name from `named_modules`; None takes the pooled penultimate layer."""

    hidden: tuple[int, ...] | None = None
    """Widths of `mlp`'s hidden layers, or channels of `convnet`'s four stages; None takes the network's own choice."""

    adapter: Adapter | None = None
    """What everything after the bottleneck is computed from; None where no attribute was removed."""

    def __post_init__(self) -> None:
        """Refuse a form that no network has.

        Raises:
            ValueError: naming the field.
        """
        if len(self.input_shape) not in (1, 3) or any(size < 1 for size in self.input_shape):
            raise ValueError(f"input_shape is (k,) or (C, H, W), not {self.input_shape}")
        if self.classes < 2:
            raise ValueError(f"classes must be at least 2, not {self.classes}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}, not {self.activation}")
        if self.taps is not None and (not self.taps or len(set(self.taps)) != len(self.taps)):
            raise ValueError("taps name at least one layer, each once")
        if self.hidden is not None and (not self.hidden or any(width < 1 for width in self.hidden)):
            raise ValueError(f"hidden holds positive widths, not {self.hidden}")

    @classmethod
    def read(cls, form: Mapping[str, Any]) -> Architecture:
        """Read `architecture` of a version's model.json.

        Raises:
            TypeError, ValueError: it is no network's form.
        """
        given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in form.items()}
        return cls(**given | ({"adapter": adapter_of(form["adapter"])} if form.get("adapter") else {}))

    @property
    def is_image(self) -> bool:
        """True where inputs are uint8 images."""
        return len(self.input_shape) == 3
