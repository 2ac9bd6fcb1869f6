"""What stands for the mathematics: steps that read, write and fail as the real ones do, on sets of names instead of tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from service.blobs import BlobError, Vault
from workers.process import ChildDied

HARDWARE = {"cpu": "simulated", "torch": "none", "lapack": "none", "threads": 1}
SPEC = {"architecture": {"name": "linear"}, "core": "train", "classes": ["a", "b"], "resolved": {}}
PARTS = 3
"""What a retraining is split into."""
POISON = "poison"
"""A sample whose forgetting crashes, however often it is tried."""

Message = dict[str, Any]


class Shelf:
    """Writes a claim's blobs under the names that the real one gives them."""

    def __init__(self, vault: Vault, prefix: str) -> None:
        self.vault, self.prefix, self.written = vault, prefix, 0

    def put(self, value: Any) -> str:
        self.written += 1
        return self.vault.put(f"{self.prefix}{self.written}", json.dumps(value).encode()).blob_id

    def file(self, value: Any) -> dict[str, Any]:
        data = json.dumps(value).encode()
        return {"blob": self.put(value), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}

    def read(self, blob: str) -> Any:
        return json.loads(self.vault.read(blob))


def weights_of(names: list[str]) -> list[str]:
    """The model that was fitted on these samples: a function of the set alone, as the real one is."""
    return ["weights", *sorted(names)]


def steps(plan: Mapping[str, Any], vault: Vault) -> Iterator[Message]:
    """Carry out a plan: messages with a phase, then one with an outcome or a crash."""
    shelf = Shelf(vault, plan["prefix"])
    yield {"phase": "loading", "progress": 0.1}
    outcome = _STEPS[plan["kind"]](plan, shelf)
    yield {"phase": "writing", "progress": 0.9}
    yield outcome


def _facts(names: list[str]) -> dict[str, Any]:
    said = hashlib.sha256(json.dumps(weights_of(names)).encode()).hexdigest()
    value = {"mu": "0", "statistics": said, "weightValues": said, "weights": said}
    proved = {"name": "equal_to_refit", "value": value, "theorem": "simulated", "assumptions": ["simulated"]}
    return {"classes": ["a", "b"], "input_shape": [1], "guarantees": [proved]}


def _fit(plan: Mapping[str, Any], shelf: Shelf) -> Message:
    names = shelf.read(plan["dataset"]["index"])
    state = {"statistics": shelf.put(names), "core_statistics": shelf.put("core"), "index": shelf.put(names)}
    files = {"core.safetensors": shelf.file("core"), "user.safetensors": shelf.file(weights_of(names))}
    blocks = [{"number": 0, "blob": shelf.put(names), "rows": len(names)}]
    outcome = {"files": files, "state": state, "blocks": blocks, "spec": SPEC, "utility": [], "method": "fit"}
    return {"outcome": outcome | {"facts": _facts(names), "seconds": {}}}


def _forget(plan: Mapping[str, Any], shelf: Shelf) -> Message:
    held, known = shelf.read(plan["state"]["index"]), set(plan["tombstones"])
    asked = {r["id"]: shelf.read(r["body"])["ids"] for r in plan["requests"]}
    if any(POISON in ids for ids in asked.values()):
        return {"crash": {"type": "Poison", "where": "computing.py:1"}}
    words = {i: "forgotten" if i in held else "already_forgotten" if i in known else "not_found" for ids in asked.values() for i in ids}
    results = {r: {"dispositions": _dispositions([words[i] for i in ids])} for r, ids in asked.items()}
    gone = sorted(i for i, word in words.items() if word == "forgotten")
    said = {"count": len(gone), "commitment": hashlib.sha256(json.dumps(gone).encode()).hexdigest(), "emptied_classes": [],
            "dispositions": _dispositions(list(words.values()))["counts"]}  # fmt: skip
    if not gone:
        return {"outcome": {"nothing": True, "requests": results, "seconds": {}, "facts": said}}
    kept = [i for i in held if i not in gone]
    if plan["method"] == "retrain" and "parts" not in plan:
        core = shelf.put("core")
        tasks = [{"core": core, "rows": shelf.put(kept[n::PARTS])} for n in range(PARTS)]
        return {"outcome": {"split": {"tasks": tasks, "base": {"core": core}, "phase": "encoding rows", "span": [0.2, 0.8]}, "seconds": {}}}
    parts = plan.get("parts", {}).get("results", [])
    assert sorted(i for part in parts for i in shelf.read(part["blobs"]["statistics"])) == (sorted(kept) if parts else [])
    for result in results.values():
        result["receipts"] = shelf.put(gone)
    still = {i for other in plan["others"] for i in shelf.read(other["index"])}
    rows, leaving = shelf.read(plan["dataset"]["index"]), set(gone) - still
    stay = [i for i in rows if i not in leaving]
    return {"outcome": {
        "files": dict(plan["files"]) | {"user.safetensors": shelf.file(weights_of(kept))},
        "state": dict(plan["state"]) | {"statistics": shelf.put(kept), "index": shelf.put(kept)},
        "blocks": _parts_blocks(parts) or [{"number": 0, "blob": shelf.put(kept), "rows": len(kept)}],
        "dataset_blocks": [{"number": 0, "blob": shelf.put(stay), "rows": len(stay)}] if leaving else [],
        "dataset_index": shelf.put(stay) if leaving else None,
        "summary": {"shape": [1], "text_labels": True, "attributes": {}},
        "spec": SPEC, "utility": [], "facts": _facts(kept) | said, "requests": results, "tombstones": gone,
        "parent": plan["parent"], "method": plan["method"], "seconds": {}}}  # fmt: skip


def _part(plan: Mapping[str, Any], shelf: Shelf) -> Message:
    assert shelf.read(plan["core"]) == "core"
    names = shelf.read(plan["rows"])
    result = {"blocks": [{"number": 0, "blob": shelf.put(names), "rows": len(names)}], "blobs": {"statistics": shelf.put(names)}}
    return {"outcome": {"result": result, "seconds": {}}}


def _parts_blocks(parts: list[Any]) -> list[dict[str, Any]]:
    return [block | {"number": n} for n, part in enumerate(parts) for block in part["blocks"]]


_STEPS: dict[str, Callable[[Mapping[str, Any], Shelf], Message]] = {"fit": _fit, "forget": _forget, "block": _part}


def _dispositions(words: list[str]) -> dict[str, Any]:
    return {"counts": {word: words.count(word) for word in sorted(set(words))}, "words": words}


class SimulatedChild:
    """The child's process as the runner sees it, computing in simulated time."""

    def __init__(self, clock: Callable[[], float], sleep: Callable[[float], None], draw: Callable[[], float], vault: Vault,
                 dies: Callable[[], bool]) -> None:  # fmt: skip
        self._clock, self._sleep, self._draw, self._vault, self._dies = clock, sleep, draw, vault, dies
        self._steps: Iterator[Message] = iter(())
        self._due = 0.0
        self.alive, self.pid, self.hardware = True, 1, dict(HARDWARE)

    def ready(self, timeout: float) -> bool:
        return True

    def send(self, plan: dict[str, Any]) -> None:
        self._steps, self._due = steps(json.loads(json.dumps(plan)), self._vault), self._clock() + self._draw()

    def receive(self, timeout: float) -> Message | None:
        if self._due > self._clock() + timeout:
            self._sleep(timeout)
            return None
        self._sleep(max(0.0, self._due - self._clock()))
        if self._dies():
            self.alive = False
            raise ChildDied
        try:
            message = next(self._steps)
        except BlobError as error:  # as in the real child: an exception becomes a message
            message = {"crash": {"type": type(error).__name__, "where": "computing.py:1"}}
        self._due = self._clock() + self._draw()
        return message

    def kill(self) -> None:
        self.alive, self._steps = False, iter(())
