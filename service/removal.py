"""What a request to remove an attribute may ask for: its budget, and one schema of options a method, with the papers' defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

EraseMethod = Literal["irene", "lnl", "quantized", "leace"]
"""The names in `models/erase`; `auto` tries points of them in order."""

Scope = Literal["bottleneck", "network"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1e4, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Count = Annotated[StrictInt, Field(ge=1, le=10_000)]
Width = Annotated[StrictInt, Field(ge=1, le=4096)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ForgetAttribute(_In):
    """One attribute of the data set: a new version whose bottleneck says as little as possible about it. No row is forgotten."""

    kind: Literal["attribute"]
    name: Annotated[StrictStr, Field(min_length=1, max_length=256)]
    """Without the column's `attr_`."""


class BudgetIn(_In):
    """What removing an attribute may cost, and what may be left. Decided by fresh probes on audit rows that nothing was chosen by."""

    max_accuracy_drop: Share = 0.01
    """Of the right answers on audit rows, against the same model refitted on the same taps with nothing removed."""
    max_leakage_nats: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 0.05
    """The probes' upper 95 % limit: the most that a fresh reader finds, in nats, over rows balanced by label and value."""


class LeaceIn(_In):
    """LEACE, closed form, no random choice: afterwards no linear reader finds the attribute on the rows it was fitted to.

    Source: Belrose et al., 2023. https://arxiv.org/abs/2306.03819
    """

    noise: Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)] | None = None
    """Standard deviation of Gaussian noise that is served with the bottleneck's values, one draw an input from a secret key."""


class _Trained(LeaceIn):
    scope: Scope | Literal["auto"] = "auto"
    """`bottleneck`: an adapter after the bottleneck and the heads are trained, the layers before it stay. `network`: all of it.
    `auto`: the bottleneck first, the network if the probes refuse it."""
    epochs: Count | None = None
    batch: Annotated[StrictInt, Field(ge=2, le=65_536)] | None = None
    seed: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] = 0


class IreneIn(_Trained):
    """IRENE: the information that a private head finds is minimised through the bottleneck.

    Source: Tartaglione, BMVC 2022. https://arxiv.org/abs/2210.00891
    """

    preset: Literal["paper", "strong"] = "strong"
    """`paper`: one linear head, one step each, gamma .2. `strong`: an MLP head with several steps a backbone step, gamma 10."""
    alpha: Weight | None = None
    """Weight of the task's cross-entropy. Paper: .5."""
    gamma: Weight | None = None
    """Weight of the information. Paper: .2."""
    head: Literal["linear", "mlp"] | None = None
    """Paper: linear."""
    head_steps: Count | None = None
    """Steps of the private head for each of the backbone. Paper: 1."""
    heads: Annotated[StrictInt, Field(ge=1, le=16)] | None = None
    heads_first: bool | None = None
    """Step the head, run again, then step the backbone: the authors' later variant. Paper: false."""
    rate: Rate | None = None
    """Paper: .1."""


class LnlIn(_Trained):
    """Learning Not to Learn: the head's uncertainty is raised, then its gradient reversed.

    Source: Kim et al., CVPR 2019. https://arxiv.org/abs/1812.10352
    """

    weight: Weight | None = None
    """Lambda of the entropy. Paper: .01."""
    reversal: Weight | None = None
    """Factor of the reversed gradient. Paper: .1."""
    rate: Rate | None = None
    """Paper: .001."""


class QuantizedIn(_In):
    """A stochastically quantised bottleneck, served with one draw an input from a secret key; thresholding is not offered.

    Source: Koeppel et al., AAAI 2023. https://arxiv.org/abs/2208.02656
    """

    scope: Scope | Literal["auto"] = "auto"
    bits: Annotated[StrictInt, Field(ge=1, le=1024)] | None = None
    """Binary neurons. Up to 14 their joint information is computed exactly; above it is bounded."""
    gamma: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] | None = None
    """The loss is (1 - gamma) times the cross-entropy plus gamma times the information in bits."""
    epochs: Count | None = None
    batch: Annotated[StrictInt, Field(ge=2, le=65_536)] | None = None
    rate: Rate | None = None
    seed: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] = 0


class AutoIn(LeaceIn):
    """Of `auto`, for attributes: the methods' own defaults, their random choices from one seed."""

    epochs: Count | None = None
    """Of every trained point tried, instead of its own number."""
    seed: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] = 0


ERASE_OPTIONS: dict[str, type[BaseModel]] = {
    "auto": AutoIn,
    "irene": IreneIn,
    "lnl": LnlIn,
    "quantized": QuantizedIn,
    "leace": LeaceIn,
}
"""The schema of each method's options."""

EraseOptions = IreneIn | LnlIn | QuantizedIn | AutoIn | LeaceIn


def options_of(method: str, given: Any) -> Any:
    """Read what a caller sent as options by the schema of the method that it names.

    Raises:
        ValidationError: by field.
    """
    schema = ERASE_OPTIONS.get(method)
    return given if schema is None or isinstance(given, BaseModel) else schema.model_validate(given)
