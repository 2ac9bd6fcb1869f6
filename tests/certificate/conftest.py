"""The fixtures of one certified version: its rows, key, facts and files."""

from pathlib import Path

import numpy as np
import pytest
from certified import ARCHITECTURE, CLASSES, FEATURE_SCALE, FORGOTTEN, RIDGE, SEED, TARGET_SCALE, Rows, certify, safetensors, sha256, write
from cryptography.hazmat.primitives.asymmetric import ec

from expunge import canonical, merkle
from service import certificates
from service.certificates import Signer
from service.facts import (
    EXACT_POLICY,
    Accuracy,
    AuxiliaryState,
    Facts,
    Hardware,
    Method,
    Model,
    Parent,
    Proved,
    Reproduce,
    Request,
    Utility,
)


@pytest.fixture(scope="session")
def rows() -> Rows:
    draw = np.random.default_rng(7)
    core, features = (draw.integers(-32767, 32768, (n, 6)).astype(np.int16) for n in (30, 40))
    core[:, -1] = features[:, -1] = 4096
    return Rows(core, features, draw.integers(-32767, 32768, (40, 3)).astype(np.int16))


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer(ec.derive_private_key(20260101, ec.SECP256R1()))


@pytest.fixture(scope="session")
def weight_files(rows: Rows) -> dict[str, bytes]:
    """The four files that a certificate is about."""
    core = {
        "tap.index": np.arange(5),
        "tap.mean": np.full(5, 0.25),
        "tap.scale": np.full(5, 0.5),
        "feature_scale": np.array(FEATURE_SCALE),
        "target_scale": np.array(TARGET_SCALE),
        "logit_scale": np.array(0.5),
        "ridge": np.array(RIDGE),
        "target": np.array(5.0),
        "core.weight": np.linspace(-1.0, 1.0, 18).reshape(6, 3),
    }
    return {
        "core.safetensors": safetensors(**core),
        "model.json": certificates.model_file(ARCHITECTURE, CLASSES),
        "policy.json": certificates.policy_file(EXACT_POLICY),
        "user.safetensors": safetensors(**{"user.weight": rows.weights()}),
    }


@pytest.fixture(scope="session")
def facts(rows: Rows, weight_files: dict[str, bytes], signer: Signer) -> Facts:
    a, b = rows.statistics()
    commitment = merkle.commit(merkle.values_of(SEED, FORGOTTEN))
    return Facts(
        issuer=signer.issuer,
        issued_at="2026-01-31T12:00:00Z",
        job_id="job-1",
        policy=EXACT_POLICY,
        model=Model(
            name="digits",
            architecture="linear",
            architecture_digest=canonical.digest(ARCHITECTURE),
            core=sha256(weight_files["core.safetensors"]),
            parent=Parent(digest="ab" * 32, disposition="withdrawn, shredded after the rollback window"),
            auxiliary_state=(AuxiliaryState(what="integer rows of the forgotten samples", disposition="destroyed"),),
        ),
        method=Method(
            name="exact",
            solver="Cholesky, float64",
            implementation="cd" * 32,
            hyperparameters={"ridge": "4.0", "target": "5.0"},
            seed="0",
            hardware=Hardware(cpu="x86-64", torch="2.13.0", lapack="OpenBLAS", threads=1),
        ),
        reproduce=Reproduce(command="expunge reproduce", dataset="ef" * 32),
        request=Request(
            ids=("req-1",),
            kind="samples",
            reasons=("gdpr-17",),
            received_at="2026-01-31T11:59:58Z",
            due_at="2026-02-28T11:59:58Z",
            count=commitment.count,
            commitment=commitment.root,
            adaptive=False,
        ),
        dispositions={"forgotten": 25, "not_found": 1},
        guarantees=(
            Proved(
                name="equal_to_refit",
                value={
                    "statistics": sha256(a.tobytes() + b.tobytes()),
                    "weights": sha256(weight_files["user.safetensors"]),
                    "weightValues": sha256(rows.weights().tobytes()),
                    "mu": "0",
                },
                theorem="What is subtracted exactly leaves what was never added.",
                assumptions=("The rows subtracted are those that were added.",),
            ),
        ),
        utility=(
            Utility(
                metric="accuracy",
                split="test",
                before=Accuracy(correct=90, n=100, ci95=("0.825", "0.945")),
                after=Accuracy(correct=89, n=100, ci95=("0.814", "0.937")),
                retrained="withheld",
            ),
        ),
    )


@pytest.fixture(scope="session")
def version_files(facts: Facts, weight_files: dict[str, bytes], signer: Signer) -> dict[str, bytes]:
    return certify(facts, weight_files, signer)


@pytest.fixture
def version(tmp_path: Path, version_files: dict[str, bytes]) -> Path:
    return write(tmp_path / "v2", version_files)


@pytest.fixture
def issuer_key(tmp_path: Path, signer: Signer) -> Path:
    path = tmp_path / "issuer.pub"
    path.write_bytes(signer.public_pem)
    return path
