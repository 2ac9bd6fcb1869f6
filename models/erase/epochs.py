"""The loop of all removals: epochs over rows in a drawn order, watched, stopped within a batch, and gone on with to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Protocol

import torch
from torch import Tensor, nn

from models.progress import Progress, Stop, check, never, silent
from models.train import threads

PHASE = "remove attribute"


class Watch(Protocol):
    """Who is told after every epoch: keeps checkpoints, and stops early."""

    def epoch(self, number: int, state: Mapping[str, Tensor]) -> bool:
        """Take the state after an epoch.

        Args:
            number: epochs done.
            state: all that going on needs: pass it as `resume`. `net.*` are the erased network's tensors. Copies: keep or drop them.

        Returns:
            True to end here; the network is then what it is after this epoch.
        """


class Unwatched:
    """Nobody is told."""

    def epoch(self, number: int, state: Mapping[str, Tensor]) -> bool:
        return False


@dataclass
class Learning:
    """Everything that changes while a network unlearns an attribute. What a checkpoint holds is exactly this."""

    modules: Mapping[str, nn.Module]
    """By name; `net` is the erased network."""

    optimisers: Mapping[str, torch.optim.Optimizer]

    generator: torch.Generator
    """Draws the order of the rows, and all that a step draws."""

    numbers: dict[str, float] = field(default_factory=dict)
    """Plain numbers that outlive an epoch, such as the rate of a schedule that looks at the loss."""

    done: int = 0
    """Epochs done."""

    over: bool = False
    """Whether the method's own rule ended it there: who goes on from that state has nothing left to do."""

    def state(self) -> dict[str, Tensor]:
        """Return copies of everything, by name."""
        out = {f"{name}.{key}": value for name, module in self.modules.items() for key, value in module.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for number, values in optimiser.state_dict()["state"].items():
                out |= {f"optimiser.{name}.{number}.{key}": torch.as_tensor(value) for key, value in values.items() if value is not None}
        out |= {f"number.{name}": torch.tensor(value, dtype=torch.float64) for name, value in self.numbers.items()}
        out |= {"generator": self.generator.get_state(), "done": torch.tensor(self.done), "over": torch.tensor(self.over)}
        return {name: value.detach().clone().contiguous() for name, value in out.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state` was taken.

        Raises:
            KeyError, RuntimeError: if the state is of another network or other parameters.
        """
        for name, module in self.modules.items():
            module.load_state_dict({key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}.")})
        for name, optimiser in self.optimisers.items():
            found: dict[int, dict[str, Tensor]] = {}
            for key, value in state.items():
                if key.startswith(f"optimiser.{name}."):
                    number, entry = key[len(f"optimiser.{name}.") :].split(".")
                    found.setdefault(int(number), {})[entry] = value.clone()
            optimiser.load_state_dict({"state": found, "param_groups": optimiser.state_dict()["param_groups"]})
        self.numbers.update({key[len("number.") :]: float(value) for key, value in state.items() if key.startswith("number.")})
        self.generator.set_state(state["generator"].clone())
        self.done, self.over = int(state["done"]), bool(state["over"])


def rate(optimiser: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = value


def run(
    learning: Learning,
    step: Callable[[Tensor, float], None],
    rows: int,
    *,
    epochs: int,
    batch: int,
    after: Callable[[int], bool] = lambda _: False,
    resume: Mapping[str, Tensor] | None = None,
    watch: Watch | None = None,
    progress: Progress = silent,
    stop: Stop = never,
) -> None:
    """Take steps over the rows, epoch by epoch, on one thread: the same seed gives the same bits, interrupted or not.

    Args:
        step: given row numbers `[b]` and the fraction of all steps done; moves the modules.
        rows: how many there are; parts of an epoch are nearly equal, since batch normalisation cannot work on a last batch of one.
        after: asked after every epoch with its number, before the watch; True ends.
        resume: a state that a watch was given.

    Raises:
        Stopped: when `stop` answers True, asked before every step.
        ValueError: if a parameter is no longer finite.
    """
    if resume is not None:
        learning.restore(resume)
    watch = watch if watch is not None else Unwatched()
    steps = ceil(rows / batch)
    with threads(1):
        while learning.done < epochs and not learning.over:
            order = torch.randperm(rows, generator=learning.generator)
            for number, some in enumerate(torch.tensor_split(order, steps)):
                check(stop)
                fraction = (learning.done + number / steps) / epochs
                step(some, fraction)
                progress(PHASE, fraction)
            learning.done += 1
            refuse_diverged(learning)
            learning.over = after(learning.done)
            if watch.epoch(learning.done, learning.state()):
                break
    progress(PHASE, 1.0)


def refuse_diverged(learning: Learning) -> None:
    """Raise ValueError if a parameter is not finite."""
    for name, module in learning.modules.items():
        for key, value in module.named_parameters():
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"the removal diverged: {name}.{key} is not finite; try a smaller rate")
