"""Load a version from which an attribute was removed, and ask it: `python examples/load_erased.py VERSION_DIR INPUTS.npy`.

INPUTS.npy holds uint8 images [n, C, H, W] or float32 features [n, k]. Prints the most likely class of each row.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from models.nets import Architecture, build

where, inputs = sys.argv[1], torch.from_numpy(np.load(sys.argv[2]))

core, user = load_file(f"{where}/core.safetensors"), load_file(f"{where}/user.safetensors")
net = build(Architecture.read(json.loads(Path(f"{where}/model.json").read_bytes())["architecture"]), 0).eval().requires_grad_(False)
net.load_state_dict({name[4:]: value for name, value in core.items() if name.startswith("net.")})
behind = net.run(inputs, (*net.before, "adapter")).flatten(1)  # all that follows has passed the adapter
phi = (behind[:, core["tap.index"]].double() - core["tap.mean"]) / core["tap.scale"]
q = (phi / core["feature_scale"]).round().clamp(-32767, 32767)
q = torch.cat([q, torch.full((len(q), 1), 4096.0, dtype=torch.float64)], dim=1)
logits = core["logit_scale"] * net(inputs) + core["feature_scale"] * (q @ (core["core.weight"] + user["user.weight"]))

print(*logits.argmax(dim=1).tolist())
