"""Every command of CERTIFICATE.md is run, in order, against a version that the model code itself made; every field is documented."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from certified import FINDING, FORGOTTEN, SEED, certify, payload, sha256, write
from safetensors.torch import save

from expunge import canonical, merkle
from models.data import Samples
from models.forget import exact
from models.linear import solve, statistics
from models.linear.core import Core, core_statistics, core_tensors, encode, fit_core, logits
from models.nets import Architecture
from models.train import Training
from service import certificates
from service.certificates import Signer
from service.facts import Facts, Proved

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "CERTIFICATE.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)( cli)?\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)


def samples(n: int, seed: int, prefix: str) -> Samples:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=draw)
    inputs = torch.randint(0, 80, (n, 1, 8, 8), generator=draw) + 80 * labels.view(-1, 1, 1, 1)
    return Samples(inputs=inputs.to(torch.uint8), labels=labels, ids=tuple(f"{prefix}{i}" for i in range(n)))


@dataclasses.dataclass(frozen=True)
class Workplace:
    """A directory with `v2`, `issuer.pub` and the auditor's files, as the document assumes."""

    path: Path
    core: Core
    weights: torch.Tensor
    inputs: torch.Tensor

    def run(self, *command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(command, cwd=self.path, env=environment, input=text, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def workplace(facts: Facts, weight_files: dict[str, bytes], signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Fit, forget 25 samples, certify: with the model code, so that the document is compared with what runs."""
    form = Architecture(name="convnet", input_shape=(1, 8, 8), classes=3, hidden=(4, 4, 4, 4))
    training = Training(epochs=2, batch=16, rate=0.05, seed=1)
    core_samples, user = samples(60, 1, "c-"), samples(65, 2, "s-")
    core = fit_core(form, core_samples, training, expected_rows=65, ridge=10.0)
    rows = encode(core, user.inputs, user.labels)
    gone, kept = (statistics.Rows(rows.features[part], rows.targets[part]) for part in (slice(25), slice(25, None)))
    whole = statistics.add(core_statistics(core, core_samples.inputs), rows)
    after = statistics.subtract(whole, gone)
    weights = solve.solve(after, feature_scale=core.feature_scale, target_scale=core.target_scale, ridge=core.ridge)
    written = json.loads(canonical.dumps({k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(form).items()}))
    files = {
        "core.safetensors": save(core_tensors(core)),
        "model.json": certificates.model_file(written, ["boat", "cat", "tree"]),
        "policy.json": weight_files["policy.json"],
        "user.safetensors": save({"user.weight": weights}),
    }
    stated = dataclasses.asdict(exact.proved(after, weights))
    proved = Proved(**stated | {"value": stated["value"] | {"weights": sha256(files["user.safetensors"])}})
    model = dataclasses.replace(facts.model, core=sha256(files["core.safetensors"]), architecture_digest=canonical.digest(written))
    path = tmp_path_factory.mktemp("document")
    write(path / "v2", certify(dataclasses.replace(facts, model=model, guarantees=(proved,)), files, signer))
    (path / "issuer.pub").write_bytes(signer.public_pem)
    np.save(path / "inputs.npy", user.inputs.numpy())
    core_rows = encode(core, core_samples.inputs, core_samples.labels).features
    np.savez(path / "rows.npz", core=core_rows.numpy(), features=kept.features.numpy(), targets=kept.targets.numpy())
    receipt = merkle.receipt(SEED, "s-17", merkle.values_of(SEED, FORGOTTEN))
    (path / "receipt.json").write_text(json.dumps(dataclasses.asdict(receipt)))
    return Workplace(path, core, weights, user.inputs)


@pytest.fixture(scope="module")
def printed(workplace: Workplace) -> str:
    """What the shell blocks print; statement.json, which later blocks read, is their work."""
    return shell(workplace)


def shell(workplace: Workplace) -> str:
    """Run the shell blocks in the document's order, stopping at the first that fails."""
    script = "set -euo pipefail\n" + "".join(text for kind, cli, text in BLOCKS if kind == "sh" and not cli)
    done = workplace.run("bash", text=script)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(*wanted: str) -> str:
    """Join the Python blocks that contain a phrase, in the order given."""
    blocks = [text for kind, _, text in BLOCKS if kind == "python"]
    return "\n".join(next(text for text in blocks if phrase in text) for phrase in wanted)


def test_every_block_of_the_document_is_run_by_a_test_here() -> None:
    kinds = [(kind, cli) for kind, cli, _ in BLOCKS]

    assert DOCUMENT.count("\n```") == 2 * len(BLOCKS)
    assert {kind for kind, _ in kinds} == {"sh", "python"}
    assert kinds.count(("python", "")) == 6  # `load_linearised` and the ten lines are run on versions that the service made
    assert kinds.count(("sh", " cli")) == 1


def test_the_shell_commands_verify_signature_digests_log_and_model_signature(printed: str, signer: Signer) -> None:
    assert signer.fingerprint in printed
    assert printed.count("Verified OK") == 2
    assert printed.count(": OK") == 4


@pytest.mark.parametrize("name", ["certificate.sigstore.json", "user.safetensors", "inclusion.json", "model.sig"])
def test_the_shell_commands_refuse_a_changed_file(name: str, workplace: Workplace, tmp_path: Path) -> None:
    copy = dataclasses.replace(workplace, path=tmp_path / "copy")
    shutil.copytree(workplace.path, copy.path)
    data = (copy.path / "v2" / name).read_bytes()
    mark = {"inclusion.json": b"\\n11\\n", "user.safetensors": b"data_offsets"}.get(name, b'"payload":"')
    place = data.index(mark) + 40
    (copy.path / "v2" / name).write_bytes(data[:place] + (b"B" if data[place : place + 1] == b"A" else b"A") + data[place + 1 :])

    with pytest.raises(AssertionError):
        shell(copy)


def test_the_python_call_verifies_the_version(workplace: Workplace) -> None:
    done = workplace.run(sys.executable, "-", text=python("expunge.verify"))

    assert done.returncode == 0, done.stderr


def test_numpy_alone_recomputes_the_statistics_and_the_weights(workplace: Workplace, printed: str) -> None:
    done = workplace.run(sys.executable, "-", text=python("numpy.linalg.solve"))

    assert done.returncode == 0, done.stderr
    assert "largest difference" in done.stdout


def test_the_recomputation_refuses_rows_that_still_hold_a_forgotten_sample(workplace: Workplace, printed: str, tmp_path: Path) -> None:
    copy = dataclasses.replace(workplace, path=tmp_path / "copy")
    shutil.copytree(workplace.path, copy.path)
    rows = dict(np.load(copy.path / "rows.npz"))
    features, targets = (np.vstack([rows[name], rows[name][:1]]) for name in ("features", "targets"))
    np.savez(copy.path / "rows.npz", core=rows["core"], features=features, targets=targets)

    assert "AssertionError" in copy.run(sys.executable, "-", text=python("numpy.linalg.solve")).stderr
    rows["features"][0, 0] ^= 1
    np.savez(copy.path / "rows.npz", core=rows["core"], features=rows["features"], targets=rows["targets"])
    assert "AssertionError" in copy.run(sys.executable, "-", text=python("numpy.linalg.solve")).stderr


def test_the_documented_function_gives_the_models_own_logits(workplace: Workplace) -> None:
    (workplace.path / "expected.npy").unlink(missing_ok=True)
    np.save(workplace.path / "expected.npy", logits(workplace.core, workplace.weights, workplace.inputs).numpy())
    check = """
found, wanted = load("v2")(torch.from_numpy(numpy.load("inputs.npy"))).numpy(), numpy.load("expected.npy")
step = 8 * abs(numpy.load("expected.npy")).max() * 2.0**-12
assert found.dtype == numpy.float64 and abs(found - wanted).max() <= step, abs(found - wanted).max()
assert abs(wanted).max() > 1
"""

    done = workplace.run(sys.executable, "-", text="import numpy\n" + python("def load(") + check)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tensor([")


def test_a_persons_receipt_is_accepted_for_that_person_only(workplace: Workplace, printed: str) -> None:
    text = "import json\n" + python("verify_receipt")

    assert workplace.run(sys.executable, "-", text=text).returncode == 0
    assert workplace.run(sys.executable, "-", text=text.replace("s-17", "s-18")).returncode == 1


def test_the_command_line_verifies_the_version(workplace: Workplace) -> None:
    command = next(text for _, cli, text in BLOCKS if cli)
    if not (Path(sys.executable).parent / "expunge").exists() or importlib.util.find_spec("expunge.cli") is None:
        pytest.skip("the command `expunge` is not installed in this environment")

    done = workplace.run("bash", "-ec", command)

    assert done.returncode == 0, done.stdout + done.stderr


def names(value: Any) -> set[str]:
    """All field names in a JSON value, those of free-form maps left out."""
    if isinstance(value, list):
        return set().union(*map(names, value))
    if not isinstance(value, dict):
        return set()
    return set(value) | set().union(*(names(item) for key, item in value.items() if key != "hyperparameters"))


def test_every_field_of_every_file_is_documented(
    facts: Facts, weight_files: dict[str, bytes], signer: Signer, workplace: Workplace
) -> None:
    files = certify(dataclasses.replace(facts, findings=(FINDING,)), weight_files, signer)
    found = names(json.loads((workplace.path / "v2" / "model.json").read_bytes()))
    for name, data in files.items():
        if name.endswith(("sigstore.json", ".sig")):
            found |= names(json.loads(data)) | names(payload(data))
        elif name.endswith(".json"):
            found |= names(json.loads(data))

    documented = {word for text in re.findall(r"`([^`\n]+)`", DOCUMENT) for word in re.findall(r"\w+", text)}
    # Named once for all the places where they occur, in the shape that the format itself gives them.
    given_by_others = {"sha256", "algorithm", "method", "hash_type", "allow_symlinks"}
    assert found - documented - given_by_others == set()


def test_every_tensor_of_a_version_is_documented(workplace: Workplace) -> None:
    table = DOCUMENT[DOCUMENT.index("## The weights") : DOCUMENT.index("One function loads")]

    for name in core_tensors(workplace.core):
        assert "`net.<name>`" in table if name.startswith("net.") else f"`{name}`" in table


def test_the_layouts_of_the_digests_are_those_of_the_model_code(workplace: Workplace) -> None:
    a, b = np.arange(9).reshape(3, 3), np.arange(-3, 3).reshape(3, 2)
    sums = statistics.Statistics(torch.from_numpy(a), torch.from_numpy(b), 4)

    assert statistics.digest(sums) == hashlib.sha256(a.astype("<i8").tobytes() + b.astype("<i8").tobytes()).hexdigest()
    assert solve.digest(workplace.weights) == hashlib.sha256(workplace.weights.numpy().astype("<f8").tobytes()).hexdigest()
