"""A guarantee with a mu above 0: its numbers must follow from it, it must keep to the policy, and only a first version needs none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from certified import certify, sha256, write

from expunge import gaussian
from expunge.statement import BadStatement
from expunge.verify import verify
from models.forget import newton
from service import certificates
from service.certificates import Signer
from service.facts import Facts, Proved, linearised_policy

Files = dict[str, bytes]


def noisy(facts: Facts, files: Files, mu: float, *, mu_max: str = "0.2", **changed: str) -> tuple[Facts, Files]:
    """The facts of a release with this mu, and its files under the policy of linearised models."""
    stated = newton.proved(sigma=0.1, mu_max=mu, isotropic=False)
    value = {**stated.value, "weights": sha256(files["user.safetensors"])} | changed
    proved = Proved(name=stated.name, value=value, theorem=stated.theorem, assumptions=stated.assumptions)
    policy = linearised_policy(mu_max)
    made = files | {"policy.json": certificates.policy_file(policy)}
    return dataclasses.replace(facts, guarantees=(proved,), policy=policy), made


@pytest.mark.parametrize("mu", [1e-3, 0.0123457, 0.1, 0.2, 0.268012, 1.0, 3.0, 10.0])
def test_what_the_mathematics_states_is_what_the_verifier_computes(mu: float) -> None:
    value = dict(newton.proved(sigma=0.1, mu_max=mu, isotropic=True).value)

    assert gaussian.agree(value)
    for name in ("mu", "kl_nats", "advantage", "tpr_at_fpr_0.001"):
        assert not gaussian.agree(value | {name: repr(float(value[name]) * 0.99)}), name
    assert not gaussian.agree(value | {"delta": repr(float(value["delta"]) * 0.9)})


def test_numbers_that_no_guarantee_has_are_refused_without_an_error() -> None:
    value = dict(newton.proved(sigma=0.1, mu_max=0.2, isotropic=True).value)

    for name, number in (("mu", "0"), ("mu", "-0.2"), ("mu", "1" * 40), ("epsilon", "1e999"), ("epsilon", "-1"), ("sigma", "0")):
        assert not gaussian.agree(value | {name: number}), (name, number)


def test_a_release_verifies_with_its_mu(facts: Facts, weight_files: Files, signer: Signer, issuer_key: Path, tmp_path: Path) -> None:
    files = certify(*noisy(facts, weight_files, 0.15), signer)

    report = verify(write(tmp_path / "v", files), key=issuer_key)

    assert report.ok, report.failed
    assert report.steps[5].detail == "PASSED follows from linearised-v1: gaussian_indistinguishable proved, mu = 0.15"


@pytest.mark.parametrize(
    ("mu", "changed", "why"),
    [(0.25, {}, "more than muMax"), (0.15, {"advantage": "0.01"}, "do not follow"), (0.15, {"epsilon": "0.1"}, "do not follow"),
     (0.15, {"kl_nats": "0.01"}, "do not follow")],
)  # fmt: skip
def test_a_signed_release_that_says_too_much_fails_at_step_6(
    facts: Facts, weight_files: Files, signer: Signer, issuer_key: Path, tmp_path: Path, mu: float, changed: dict[str, str], why: str
) -> None:
    files = certify(*noisy(facts, weight_files, mu, **changed), signer)

    failed = verify(write(tmp_path / "v", files), key=issuer_key).failed

    assert failed is not None
    assert (failed.number, why in failed.detail) == (6, True), failed.detail


def test_a_release_has_no_room_for_what_the_solver_reached(facts: Facts, weight_files: Files, signer: Signer) -> None:
    with pytest.raises(BadStatement, match=r"guarantee\[0\].value"):
        certify(*noisy(facts, weight_files, 0.15, residual="0.1"), signer)


def test_only_a_first_version_of_a_linearised_model_may_prove_nothing(
    facts: Facts, weight_files: Files, signer: Signer, issuer_key: Path, tmp_path: Path
) -> None:
    bare, files = noisy(facts, weight_files, 0.15)
    bare = dataclasses.replace(bare, guarantees=())
    fit = dataclasses.replace(bare, request=None, dispositions=None, model=dataclasses.replace(bare.model, parent=None))

    first = verify(write(tmp_path / "v", certify(fit, files, signer)), key=issuer_key)

    assert first.ok, first.failed
    assert first.steps[5].detail == "PASSED follows from linearised-v1: a first version, nothing is forgotten"
    with pytest.raises(ValueError, match="needs a guarantee"):
        certify(bare, files, signer)
    with pytest.raises(ValueError, match="needs a guarantee"):
        certify(dataclasses.replace(fit, policy=facts.policy), weight_files, signer)


def test_an_equality_without_its_sums_is_enough_for_a_linearised_model_only(
    facts: Facts, weight_files: Files, signer: Signer, issuer_key: Path, tmp_path: Path
) -> None:
    bare = dataclasses.replace(facts.guarantees[0], value={"mu": "0", "weights": sha256(weight_files["user.safetensors"])})
    linearised, files = noisy(facts, weight_files, 0.15)

    exact = verify(write(tmp_path / "v", certify(dataclasses.replace(facts, guarantees=(bare,)), weight_files, signer)), key=issuer_key)
    whole = verify(write(tmp_path / "w", certify(dataclasses.replace(linearised, guarantees=(bare,)), files, signer)), key=issuer_key)

    assert exact.failed is not None and exact.failed.number == 6
    assert whole.ok, whole.failed
