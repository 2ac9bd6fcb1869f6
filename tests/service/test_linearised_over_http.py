"""The linearised whole network, over HTTP with a real service process: forgotten with a stated mu, and nothing leaves without it."""

from __future__ import annotations

import json
import re
import time
import uuid
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from scipy.stats import chi2
from torch import Tensor

from models import gaussian
from models.data import Samples
from models.linear.curvature import measure
from models.linear.tangent import jacobian, prepare
from models.linear.whole import WholeCore, logits, quadratic
from models.linear.whole_file import load_user, load_whole
from models.nets import Architecture
from tests.digits import Digits, parquet
from tests.live import Live
from tests.service.forms import BOTH_FORMS
from tests.service.test_forget_over_http import statement
from tests.service.test_statistics import with_scopes
from workers.artifacts import in_final_half

DOCUMENT = (Path(__file__).parents[2] / "CERTIFICATE.md").read_text(encoding="utf-8")

FORM: dict[str, Any] = {
    "architecture": {"name": "convnet", "hidden": [6, 6, 8, 8]},
    "training": {"epochs": 4},
    "linearize": "all",
    "release": {"rank": 256},
    "ridge": 3.0,
}
SIGMA = {"rank": 256, "sigma": 0.1}


def fresh(live: Live, data: Digits, directory: Path, **more: Any) -> str:
    """A new linearised model on an upload of its own; sigma is given unless a test is about its choice."""
    name = uuid.uuid4().hex[:12]
    live.upload(name, parquet(data, directory / f"{name}.parquet"))
    live.fit(name, name, **(FORM | {"release": SIGMA} | more))
    return name


def guarantee(live: Live, model: str) -> dict[str, Any]:
    (entry,) = statement(live, model)["predicate"]["guarantee"]
    found: dict[str, Any] = entry
    return found


def tensors(live: Live, model: str, file: str) -> dict[str, Tensor]:
    return load_tensors(live.client.get(f"/models/{model}/versions/@latest-certified/files/{file}").raise_for_status().content)


def loaded(live: Live, model: str, layers: tuple[str, ...] | None = None) -> tuple[WholeCore, Tensor]:
    """The core and the user weights of a model's latest version, as the mathematics takes them."""
    form = Architecture(name="convnet", input_shape=(1, 8, 8), classes=10, hidden=(6, 6, 8, 8))
    core = load_whole(form, layers, tensors(live, model, "core.safetensors"))
    return core, load_user(core.tangent, tensors(live, model, "user.safetensors"))


def samples(data: Digits, ids: list[str]) -> Samples:
    places = [data.ids.index(i) for i in ids]
    return Samples(torch.from_numpy(data.images[places])[:, None], torch.tensor([data.labels[p] for p in places]), tuple(ids))


def dense_refit(core: WholeCore, data: Digits, users: list[str]) -> Tensor:
    """The exact minimiser over these user rows, by one dense factorisation in float64."""
    exact, kept = core.tangent.double(), samples(data, users)
    rows, core_rows = (prepare(core.tangent, part.inputs) for part in (kept, samples(data, data.of(role="core"))))
    J, J_core = jacobian(exact, rows), jacobian(exact, core_rows)
    H = J.T @ J + J_core.T @ J_core + core.ridge * torch.eye(J.shape[1], dtype=torch.float64)
    missed = quadratic(core, rows, kept.labels, core_rows).missed
    return torch.cholesky_solve((J.T @ missed.reshape(-1))[:, None], torch.linalg.cholesky(H))[:, 0]


def in_units_of_noise(core: WholeCore, data: Digits, apart: Tensor, *, rank: int, seed: int = 0) -> float:
    """v^T M v / sigma^2, with M measured again."""
    rows = prepare(core.tangent, samples(data, data.of(role="core")).inputs)
    M = measure(core.tangent.double(), rows, ridge=core.ridge, rank=rank, seed=seed)
    return float(M.ridge * apart.square().sum() + (M.values * M.along(apart).square()).sum()) / core.sigma**2


@pytest.fixture(scope="module")
def model(live: Live, data: Digits, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose sigma the service chose; several tests forget from it."""
    return fresh(live, data, tmp_path_factory.mktemp("linearised"), release={"rank": 256})


@BOTH_FORMS
def test_forgetting_by_auto_publishes_user_weights_alone_with_their_mu(live: Live, data: Digits, model: str, tmp_path: Path) -> None:
    from expunge.client import Client
    from expunge.verify import verify

    first, users = live.version(model), data.of(role="user")
    core = live.sha256(model, "core.safetensors")

    answer = live.forget(model, ids=users[:5]).json()
    ended = live.request(answer["id"])

    assert (answer["method"], ended["state"], ended["dispositions"]["ids"]) == ("cg", "fulfilled", ["forgotten"] * 5)
    assert "conjugate gradients" in answer["why"]
    assert answer["guarantee"] == {"asked": None, "given": None}
    entry = guarantee(live, model)
    assert (entry["name"], entry["value"]["mu"], entry["value"]["noise"]) == ("gaussian_indistinguishable", "0.2", "core curvature")
    assert ended["guarantee"]["given"] == {"name": entry["name"]} | {k: v for k, v in entry["value"].items() if k != "weights"}
    assert live.sha256(model, "core.safetensors") == core
    gone = live.client.get(f"/models/{model}/versions/1/files/user.safetensors")
    assert (gone.status_code, gone.json()["code"]) == (410, "version_withdrawn")
    spare = {v["metric"] for v in live.version(model)["utility"]}
    assert "accuracy with further noise of the same size, mean of 4 draws" in spare
    before, after = (v["utility"][0]["after"]["correct"] for v in (first, live.version(model)))
    assert abs(before - after) <= 10  # of about 100: the noise was chosen to cost little
    with Client(str(live.client.base_url), live.client.headers["Authorization"].split()[1]) as client:
        report = verify(client.download(model, out=tmp_path / "v"), fingerprint=client.signing_keys()[0]["fingerprint"])
    assert report.ok, report.failed
    assert "gaussian_indistinguishable proved, mu = 0.2" in report.steps[5].detail


def test_the_release_lies_from_the_dense_refit_as_far_as_its_noise_explains(live: Live, data: Digits, tmp_path: Path) -> None:
    model, users = fresh(live, data, tmp_path), data.of(role="user")
    core, before = loaded(live, model)
    fitted = dense_refit(core, data, users)

    live.request(live.forget(model, ids=users[:40]).json()["id"])
    released = loaded(live, model)[1]
    refit = dense_refit(core, data, users[40:])

    assert in_units_of_noise(core, data, before - fitted, rank=256) <= 0.2**2
    assert in_units_of_noise(core, data, before - refit, rank=256) > 4 * 0.2**2  # before, the rows show
    low, high = chi2.ppf([0.0005, 0.9995], core.tangent.p)
    assert low <= in_units_of_noise(core, data, released - refit, rank=256) <= high + 2 * 0.2 * high**0.5


def test_wishes_become_a_smaller_mu_that_certificate_and_answer_state(live: Live, data: Digits, tmp_path: Path) -> None:
    model, users = fresh(live, data, tmp_path), data.of(role="user")
    wishes: list[dict[str, float]] = [{"nats": 0.005}, {"epsilon": 0.5, "delta": 1e-5}, {"epsilon": 8.0, "delta": 1e-5}]

    found = []
    for place, wish in enumerate(wishes):
        answer = live.forget(model, ids=[users[place]], guarantee=wish).json()
        ended = live.request(answer["id"])
        found.append((answer["guarantee"]["asked"], ended["guarantee"]["given"]["mu"], guarantee(live, model)["value"]["mu"]))

    assert [asked for asked, _, _ in found] == wishes
    assert [mu for _, mu, _ in found] == [mu for _, _, mu in found]
    assert (found[0][1], found[2][1]) == ("0.1", "0.2")
    assert 0.12 < float(found[1][1]) < 0.2
    assert gaussian.delta(float(found[1][1]), 0.5) <= 1e-5 * (1 + 1e-9) < gaussian.delta(float(found[1][1]) + 1e-4, 0.5)


@pytest.mark.slow
def test_two_requests_of_one_job_take_the_smaller_mu_and_the_larger_limit(live: Live, data: Digits, tmp_path: Path) -> None:
    model, users = fresh(live, data, tmp_path), data.of(role="user")
    body = {"name": f"{model}-slow", "dataset": model, "architecture": {"name": "convnet"}, "training": {"epochs": 10}}
    busy = live.client.post("/models", json=body)  # one job a data set: the requests below wait for it, together

    wishes: list[dict[str, Any]] = [{"guarantee": {"nats": 0.005}, "options": {"most_passes": 3}}, {}]
    answers = [live.forget(model, ids=[users[i]], **wish).json() for i, wish in enumerate(wishes)]
    live.job(busy)
    ended = [live.request(a["id"]) for a in answers]

    assert answers[0]["job"] == answers[1]["job"]
    assert [e["state"] for e in ended] == ["fulfilled", "fulfilled"]
    assert [e["guarantee"]["given"]["mu"] for e in ended] == ["0.1", "0.1"]


def test_a_guarantee_that_is_not_met_is_refused_and_signed_and_nothing_goes(live: Live, data: Digits, tmp_path: Path) -> None:
    model, users = fresh(live, data, tmp_path), data.of(role="user")

    answer = live.forget(model, ids=users[:40], guarantee={"nats": 1e-6}, options={"most_passes": 4}).json()
    job, ended = live.end_of(f"/jobs/{answer['job']}"), live.request(answer["id"])
    bundle = live.client.get(f"/jobs/{answer['job']}/certificate").json()
    said = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))["predicate"]

    assert (job["state"], job["error"]["code"], ended["state"]) == ("refused", "guarantee_not_met", "refused")
    assert ended["dispositions"]["ids"] == ["refused"] * 40
    assert ended["guarantee"] == {"asked": {"nats": 1e-6}, "given": None}
    assert (said["verdict"], said["refusal"], said["policy"]["name"]) == ("REFUSED", job["error"], "linearised-v1")
    assert "Asked for mu 0.00141421; after 4 passes" in job["error"]["detail"]
    assert live.version(model)["number"] == 1
    assert live.client.get(f"/datasets/{model}").json()["summary"]["rows"] == 1797
    equality = live.forget(model, ids=users[:1], guarantee={"epsilon": 0.0, "delta": 1e-9}).json()
    assert "equality alone meets" in live.end_of(f"/jobs/{equality['job']}")["error"]["detail"]
    untried = live.client.get(f"/jobs/{equality['job']}/solver")
    assert (untried.status_code, untried.json()["code"]) == (404, "solver_record_not_found")
    again = live.request(live.forget(model, ids=users[:40]).json()["id"])
    assert again["dispositions"]["ids"] == ["forgotten"] * 40
    assert live.client.get(f"/datasets/{model}").json()["summary"]["rows"] == 1757


def test_naming_every_user_id_is_the_same_as_everything(live: Live, data: Digits, tmp_path: Path) -> None:
    model = fresh(live, data, tmp_path, linearize=["fc"])

    ended = live.request(live.forget(model, ids=data.of(role="user")).json()["id"])

    assert ended["guarantee"]["given"] == {"name": "equal_to_refit", "mu": "0"}
    assert not any(bool(value.any()) for value in tensors(live, model, "user.safetensors").values())


@pytest.mark.slow
def test_retrain_forgets_a_core_sample_and_a_later_forget_composes(live: Live, data: Digits, tmp_path: Path) -> None:
    gone, users = data.of(role="core")[:2], data.of(role="user")
    model = fresh(live, data, tmp_path)
    core = live.sha256(model, "core.safetensors")

    refused = live.forget(model, ids=gone).json()
    job = live.end_of(f"/jobs/{refused['job']}")
    retrained = live.request(live.forget(model, ids=[*gone, users[0]], method="retrain").json()["id"])
    name = guarantee(live, model)["name"]
    later = live.request(live.forget(model, ids=users[1:3]).json()["id"])
    last = live.request(live.forget(model, ids=users[3:5]).json()["id"])
    said = statement(live, model)["predicate"]

    assert (job["state"], job["error"]["code"]) == ("refused", "core_sample")
    assert (retrained["dispositions"]["ids"], name) == (["forgotten"] * 3, "equal_to_retrain")
    assert live.sha256(model, "core.safetensors") != core
    assert [r["state"] for r in (later, last)] == ["fulfilled"] * 2
    assert said["guarantee"][0]["value"]["mu"] == "0.2"
    assert len(said["stillInForce"]) == 2
    assert "post-processing: it adds nothing" in said["assumptions"][0]


def test_a_layer_that_the_network_lacks_fails_the_fit_by_name(live: Live) -> None:
    body = FORM | {"name": uuid.uuid4().hex[:12], "dataset": "digits", "linearize": ["stage4", "stage9"]}

    job = live.job(live.client.post("/models", json=body), state="failed")

    assert job["error"] == {"code": "architecture", "detail": "convnet has no layer 'stage9' with parameters"}


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [({"linearize": None}, "/release"), ({"core": "none", "classes": list(range(10)), "ridge": 1.0, "range": 255.0}, "/linearize"),
     ({"architecture": FORM["architecture"] | {"taps": ["stage4"]}}, "/linearize"),
     ({"linearize": []}, "/linearize"), ({"linearize": ["fc", "fc"]}, "/linearize"), ({"release": {"mu_max": 0}}, "/release/mu_max"),
     ({"release": {"noise": "pink"}}, "/release/noise"), ({"release": {"seed": 1}}, "/release/seed")],
)  # fmt: skip
def test_forms_that_cannot_be_are_refused_naming_the_field(live: Live, wrong: dict[str, Any], pointer: str) -> None:
    answer = live.client.post("/models", json=FORM | {"name": "never", "dataset": "digits"} | wrong)

    assert answer.status_code == 422
    assert pointer in [e["pointer"] for e in answer.json()["errors"]], answer.text


def test_methods_are_for_the_form_that_they_fit(live: Live, data: Digits, model: str, tmp_path: Path) -> None:
    exact = f"e-{uuid.uuid4().hex[:8]}"
    live.upload(exact, parquet(data, tmp_path / "e.parquet"))
    live.fit(exact, exact)

    on_linearised = live.forget(model, ids=["a"], method="exact")
    on_exact = [live.forget(exact, ids=["a"], method=method) for method in ("cg", "sgd")]
    options = live.forget(exact, ids=["a"], options={"most_passes": 5})
    wishes = [live.forget(model, ids=["a"], guarantee=g) for g in ({"epsilon": 1.0}, {"nats": 1.0, "epsilon": 1.0, "delta": 0.1}, {})]
    met = live.request(live.forget(exact, ids=data.of(role="user")[:1], guarantee={"nats": 1e-9}).json()["id"])

    assert [r.status_code for r in (on_linearised, *on_exact, options, *wishes)] == [422] * 7
    assert {r.json()["code"] for r in (on_linearised, *on_exact)} == {"method_unsupported"}
    assert on_linearised.json()["detail"] == "This request on this model allows: auto, cg, sgd, retrain."
    assert options.json()["code"] == "options_unsupported"
    assert {r.json()["errors"][0]["pointer"] for r in wishes} == {"/guarantee"}
    assert met["guarantee"] == {"asked": {"nats": 1e-9}, "given": {"name": "equal_to_refit", "mu": "0"}}
    sums = live.client.get(f"/models/{model}/statistics")
    assert (sums.status_code, sums.json()["code"]) == (404, "statistics_not_found")


def test_how_it_was_solved_is_for_auditors_and_in_no_certificate(live: Live, data: Digits, tmp_path: Path) -> None:
    model = fresh(live, data, tmp_path)
    live.request(live.forget(model, ids=data.of(role="user")[:3]).json()["id"])
    url = f"/models/{model}/versions/2/solver"

    readers = [with_scopes(live, *scopes) for scopes in (("model:read",), ("model:read", "model:download"))]
    version, denied = readers[0].get(f"/models/{model}/versions/2"), [reader.get(url) for reader in readers]
    record = with_scopes(live, "model:admin").get(url).raise_for_status().json()

    assert version.status_code == 200
    assert [(answer.status_code, answer.json()["code"]) for answer in denied] == [(403, "scope_missing")] * 2
    assert record["method"] == "cg" and record["reached"] and 0 < record["error"] <= record["target"] == pytest.approx(0.2 * 0.1)
    assert record["passes"] >= len(record["history"]) > 1
    assert record["history"][0] > 5 * record["target"] and 0 < record["history"][-1] <= record["target"]
    assert 0 < record["seconds"] < 60
    public = json.dumps(statement(live, model)) + json.dumps(live.version(model))
    assert not any(repr(record[name]) in public for name in ("error", "residual"))
    assert not any(word in public for word in ("passes", "residual", "history"))


def test_how_far_a_refused_job_came_is_for_auditors_too(live: Live, data: Digits, tmp_path: Path) -> None:
    model, users = fresh(live, data, tmp_path), data.of(role="user")
    refused = live.forget(model, ids=users[:40], guarantee={"nats": 1e-6}, options={"most_passes": 4}).json()["job"]
    assert live.end_of(f"/jobs/{refused}")["state"] == "refused"
    done = live.request(live.forget(model, ids=users[:3]).json()["id"])["job"]
    auditor = with_scopes(live, "model:admin")

    denied = with_scopes(live, "model:read", "forget:read").get(f"/jobs/{refused}/solver")
    record, of_job, of_version = (
        auditor.get(url).raise_for_status().json()
        for url in (f"/jobs/{refused}/solver", f"/jobs/{done}/solver", f"/models/{model}/versions/2/solver")
    )

    assert (denied.status_code, denied.json()["code"]) == (403, "scope_missing")
    assert (record["method"], record["reached"], record["passes"], record["shared"]) == ("cg", False, 4, False)
    assert record["target"] == pytest.approx(2e-6**0.5 * 0.1, rel=1e-5) and record["error"] > record["target"] and record["residual"] > 0
    assert 1 < len(record["history"]) <= 4 and record["history"][0] > record["history"][-1] and 0 < record["seconds"] < 60
    assert of_job == of_version and of_job["reached"]


@pytest.mark.parametrize("form", ["layers", "isotropic", pytest.param("upload", marks=pytest.mark.slow), "sgd"])
def test_every_form_forgets(live: Live, data: Digits, tmp_path: Path, form: str) -> None:
    more: dict[str, Any] = {
        "layers": {"linearize": ["stage4", "fc"]},
        "isotropic": {"linearize": ["fc"], "release": {"noise": "isotropic", "sigma": 0.05}},
        "sgd": {"linearize": ["fc"], "release": {"sigma": 2.0, "mu_max": 1.0}, "ridge": 1000.0},
        "upload": {},
    }[form]
    if form == "upload":
        trained = tensors(live, fresh(live, data, tmp_path), "core.safetensors")
        weights = save({name[4:]: value for name, value in trained.items() if name.startswith("net.")})
        model = uuid.uuid4().hex[:12]
        live.upload(model, parquet(data, tmp_path / "upload.parquet"))
        body = FORM | {"release": SIGMA, "name": model, "dataset": model, "core": "upload"}
        assert live.client.post("/models", json=body).status_code == 202
        live.job(live.client.put(f"/models/{model}/core", content=weights))
    else:
        model = fresh(live, data, tmp_path, **more)

    request = live.forget(model, ids=data.of(role="user")[:5], **({"method": "sgd"} if form == "sgd" else {})).json()
    ended = live.request(request["id"])

    assert ended["state"] == "fulfilled", live.end_of(f"/jobs/{request['job']}")
    value = guarantee(live, model)["value"]
    assert value["noise"] == ("isotropic" if form == "isotropic" else "core curvature")
    layers = tuple(more["linearize"]) if "linearize" in more else None
    core, w = loaded(live, model, layers)
    assert {name.split(".")[0] for name in core.tangent.names} == set(layers or (*core.tangent.net.parts[1:5], "fc"))
    assert bool(w.any())


@pytest.mark.slow
def test_a_service_killed_while_it_solves_finishes_after_restart(own_live: Live, data: Digits) -> None:
    live = own_live
    live.fit("m", "digits", **(FORM | {"release": SIGMA | {"mu_max": 0.001}}))
    answer = live.forget("m", ids=data.of(role="user")[:3])
    latest = time.monotonic() + 60
    while live.client.get(answer.headers["Location"]).json()["phase"] != "forgetting":
        assert time.monotonic() < latest
        time.sleep(0.01)
    live.kill()
    live.start()

    ended = live.request(answer.json()["id"])
    job = live.end_of(answer.headers["Location"])

    assert (ended["state"], job["state"], job["version"]) == ("fulfilled", "done", 2)
    assert live.client.get(f"/jobs/{job['id']}/events").text.count("event: claimed") == 2
    assert len(live.client.get("/models/m/versions").json()["items"]) == 2


def test_the_documented_function_gives_the_services_accuracy_figures(live: Live, data: Digits, tmp_path: Path) -> None:
    model = fresh(live, data, tmp_path)
    live.request(live.forget(model, ids=data.of(role="user")[:5]).json()["id"])
    for file in ("model.json", "core.safetensors", "user.safetensors"):
        content = live.client.get(f"/models/{model}/versions/2/files/{file}").raise_for_status().content
        (tmp_path / "v2").mkdir(exist_ok=True)
        (tmp_path / "v2" / file).write_bytes(content)
    text = next(t for t in re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE) if "def load_linearised(" in t)
    scope: dict[str, Any] = {}
    exec(text, scope)
    audited = samples(data, [i for i in data.of(role="audit") if in_final_half(i)])

    found = scope["load_linearised"](tmp_path / "v2")(audited.inputs)

    core, w = loaded(live, model)
    certified = live.version(model)["utility"][0]
    assert int((found.argmax(dim=1) == audited.labels).sum()) == certified["after"]["correct"]
    assert len(audited) == certified["after"]["n"]
    assert float((found - logits(core, w, audited.inputs)).abs().max()) <= 1e-4 * float(found.abs().max())
    table = DOCUMENT[DOCUMENT.index("## The weights of a linearised model") :]
    names = {*tensors(live, model, "core.safetensors"), *tensors(live, model, "user.safetensors")}
    families = {"net.": "net.<name>", "linear.": "linear.<parameter>", "user.": "user.<parameter>"}
    assert all(f"`{next((f for p, f in families.items() if name.startswith(p)), name)}`" in table for name in names)
