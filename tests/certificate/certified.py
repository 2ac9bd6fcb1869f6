"""A small certified version, made from integer rows with numpy alone, so that every claim in it can be checked against its source."""

import base64
import hashlib
import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge import checkpoint, merkle
from service import certificates
from service.certificates import Signer
from service.facts import Facts, Finding

FEATURE_SCALE, TARGET_SCALE, RIDGE = 2.0**-12, 2.0**-13, 4.0
CLASSES = ("boat", "cat", "tree")
ARCHITECTURE = {"name": "linear", "input_shape": [5], "classes": 3, "activation": "leaky_relu"}
SEED = bytes(range(32))
FORGOTTEN = tuple(f"s-{i}" for i in range(25))


@dataclass(frozen=True)
class Rows:
    """Integer rows as the service stores them."""

    core: NDArray[np.int16]  # [30, 6]
    features: NDArray[np.int16]  # [40, 6]
    targets: NDArray[np.int16]  # [40, 3]

    def statistics(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        q, r, k = (part.astype(np.int64) for part in (self.features, self.targets, self.core))
        return k.T @ k + q.T @ q, q.T @ r

    def weights(self) -> NDArray[np.float64]:
        a, b = self.statistics()
        return np.linalg.solve(FEATURE_SCALE**2 * a + RIDGE * np.eye(len(a)), FEATURE_SCALE * TARGET_SCALE * b)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def safetensors(**arrays: NDArray[np.float64] | NDArray[np.int64]) -> bytes:
    """The format by hand, so that no reader is tested against its own writer."""
    header, body = {}, b""
    for name, array in arrays.items():
        data = array.tobytes()
        kind = {"float64": "F64", "int64": "I64"}[str(array.dtype)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + body


FINDING = Finding(
    audit="membership",
    access="weights",
    metric="auc",
    value="0.5012",
    ci95=("0.48", "0.52"),
    n=500,
    threshold="0.55",
    passed=True,
    planted=3,
    caught=3,
    reference="refit",
)


def certify(facts: Facts, weight_files: dict[str, bytes], signer: Signer) -> dict[str, bytes]:
    """All nine files, the certificate being entry 5 of a log of 11."""
    files = certificates.version_bundle(facts, {name: sha256(data) for name, data in weight_files.items()}, signer)
    return {**weight_files, **files, "inclusion.json": inclusion(files["certificate.sigstore.json"], signer)}


def inclusion(certificate: bytes, signer: Signer) -> bytes:
    leaf = certificates.log_leaf(certificate)
    hashes = [merkle.leaf_hash(leaf if i == 5 else b"%d" % i) for i in range(11)]
    seen = checkpoint.Checkpoint(origin="expunge.example/log", size=11, root=merkle.root(hashes))
    note = checkpoint.sign(seen, sign=signer.sign, key=signer.public)
    return certificates.inclusion_file(leaf, index=5, size=11, path=merkle.inclusion_path(hashes, 5), checkpoint=note)


def write(directory: Path, files: dict[str, bytes]) -> Path:
    """Write a version's files, alone, into a directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


def payload(bundle: bytes) -> dict[str, Any]:
    """The statement, read by other means than ours."""
    value: dict[str, Any] = json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))
    return value
