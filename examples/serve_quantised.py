"""Serve a version with a quantised bottleneck, without Expunge: one draw an input, for ever the same.

    python examples/serve_quantised.py VERSION_DIR INPUTS.npy

For an `mlp` whose adapter is one `quantized` link; INPUTS.npy holds float32 features [n, k]. Prints the most likely class of each row.

The bits hide the attribute only as long as nobody sees a second draw of the same input, or theta itself. So a row's chance is a function
of the version's secret key and of the row's own bytes: asked again, it gives the same bits. Never round theta to a bit instead, never
average draws, never serve with a second key, and keep `core.safetensors`, which holds the key, to yourself.

    seed = HMAC-SHA256(key, "expunge draw 1|0|float32|k|" and the k values, little-endian, with -0 as 0)
    u    = the 8-byte words of SHAKE-256(seed), little-endian, without their 11 lowest bits, plus 1/2, over 2^53
    bit  = u < theta
"""

import hashlib
import hmac
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.functional import leaky_relu


def uniforms(key: bytes, row: np.ndarray, count: int) -> np.ndarray:
    """Draw `count` numbers between 0 and 1 for one row."""
    canonical = (row + np.float32(0)).astype("<f4")
    seed = hmac.digest(key, f"expunge draw 1|0|float32|{len(row)}|".encode() + canonical.tobytes(), "sha256")
    words = np.frombuffer(hashlib.shake_256(seed).digest(8 * count), dtype="<u8")
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def serve(directory: str, inputs: np.ndarray) -> torch.Tensor:
    """Return logits [n, C]."""
    form = json.loads(Path(f"{directory}/model.json").read_bytes())["architecture"]
    if (form["name"], form["activation"], form["adapter"]["kind"], form.get("bottleneck")) != ("mlp", "leaky_relu", "quantized", None):
        raise SystemExit("this script serves an mlp with leaky-ReLU and one quantised link")
    core, user = load_file(f"{directory}/core.safetensors"), load_file(f"{directory}/user.safetensors")

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ core[f"net.{name}.weight"].T + core[f"net.{name}.bias"]

    h = (torch.from_numpy(inputs) - core["net.input.mean"]) / core["net.input.std"]
    depth = 1
    while f"net.layer{depth}.0.weight" in core:
        h, depth = leaky_relu(linear(f"layer{depth}.0", h), 0.01), depth + 1
    z = linear("adapter.0.encode", (h - core["net.adapter.0.mean"]) / core["net.adapter.0.scale"])
    theta = torch.sigmoid(6 * z).clamp(1e-4, 1 - 1e-4)
    key = bytes(core["net.adapter.0.key"].tolist())
    drawn = torch.from_numpy(np.stack([uniforms(key, row, theta.shape[1]) for row in inputs]))
    served = linear("adapter.0.decode", (drawn < theta).float())
    phi = (served[:, core["tap.index"]].double() - core["tap.mean"]) / core["tap.scale"]
    q = (phi / core["feature_scale"]).round().clamp(-32767, 32767)
    q = torch.cat([q, torch.full((len(q), 1), 4096.0, dtype=torch.float64)], dim=1)
    return core["logit_scale"] * linear("fc", served) + core["feature_scale"] * (q @ (core["core.weight"] + user["user.weight"]))


if __name__ == "__main__":
    print(*serve(sys.argv[1], np.load(sys.argv[2])).argmax(dim=1).tolist())
