"""The service as Python sees it: one method an address, problems as exceptions, and only what is safe to repeat is repeated."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from expunge import follow
from expunge.download import download
from expunge.follow import Event
from expunge.unpacking import unpack

DEFAULT_URL = "http://127.0.0.1:8000"
FINAL_REQUEST = frozenset({"fulfilled", "partial", "refused", "cancelled", "failed"})

_PASSING = frozenset({429, 502, 503, 504})
"""Statuses that say nothing about the request itself."""
_PIECE = 1 << 18  # bytes of a file sent at once

Json = dict[str, Any]


class Problem(Exception):
    """The service says no (RFC 9457). `code` is stable and meant for programs, `detail` is one sentence for people."""

    def __init__(self, status: int, code: str, detail: str, errors: list[dict[str, str]], document: Mapping[str, Any]) -> None:
        super().__init__(f"{detail} ({code})")
        self.status, self.code, self.detail, self.errors = status, code, detail, errors
        self.document = dict(document)


class Unreachable(Exception):
    """No answer came from the service's address."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"{url} does not answer: {why}")
        self.url, self.why = url, why


class Client:
    """A connection to one service. Answers are the service's JSON as dicts.

    Args:
        url: address of the service; EXPUNGE_URL, else http://127.0.0.1:8000.
        key: API key; EXPUNGE_API_KEY. Some addresses need none.
        timeout: seconds without any byte before a try is given up.
        retries: further tries after one that failed without an answer, or with 429, 502, 503 or 504.
        transport: another way to carry requests, for tests.
    """

    def __init__(self, url: str | None = None, key: str | None = None, *, timeout: float = 60.0, retries: int = 3,
                 transport: httpx.BaseTransport | None = None) -> None:
        self.url = (url or os.environ.get("EXPUNGE_URL") or DEFAULT_URL).rstrip("/")
        self._retries = retries
        key = (key or os.environ.get("EXPUNGE_API_KEY") or "").strip()
        self._http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"} if key else {},
                                  timeout=httpx.Timeout(timeout, connect=10.0), transport=transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # Data sets and models

    def upload_dataset(self, path: Path | str, name: str, *, idempotency_key: str | None = None,
                       progress: Callable[[int, int], None] = lambda sent, size: None) -> Json:
        """Upload a Parquet file. Answers with the data set, still `validating`; its `job` says when its rows are checked.

        Args:
            progress: told how many bytes are sent, of how many.
        """
        return self._send("POST", "/datasets", params={"name": name}, file=Path(path), progress=progress, key=idempotency_key)

    def datasets(self) -> list[Json]:
        return self._pages("/datasets")

    def dataset(self, name: str) -> Json:
        return self._get(f"/datasets/{_part(name)}")

    def create_model(self, name: str, dataset: str, architecture: str | Mapping[str, Any], *, core: str = "train",
                     core_weights: Path | str | None = None, idempotency_key: str | None = None, **options: Any) -> Json:
        """Create a model and fit its first version; its `job` says when it is certified.

        Args:
            architecture: a network's name, or its name with options.
            core: `train`, `upload` (give `core_weights`, a safetensors file) or `none`.
            options: `training`, `expected_rows`, `classes`, `ridge`, `target`, `range`, `linearize`, `release`, as POST /models takes them.
        """
        form = {"name": architecture} if isinstance(architecture, str) else dict(architecture)
        body = {"name": name, "dataset": dataset, "architecture": form, "core": core} | {k: v for k, v in options.items() if v is not None}
        model = self._send("POST", "/models", json=body, key=idempotency_key)
        return model if core_weights is None else self.put_core(name, core_weights)

    def put_core(self, model: str, path: Path | str) -> Json:
        """Give the network weights (safetensors) that a model created with `core: upload` waits for."""
        return self._send("PUT", f"/models/{_part(model)}/core", file=Path(path))

    def models(self) -> list[Json]:
        return self._pages("/models")

    def model(self, name: str) -> Json:
        return self._get(f"/models/{_part(name)}")

    # Forgetting

    def remove_attribute(self, model: str, name: str, *, method: str = "auto", budget: Mapping[str, float] | None = None,
                         data: str | None = None, claim: str | None = None, options: Mapping[str, Any] | None = None,
                         reason: str | None = None, reference: str | None = None, idempotency_key: str | None = None) -> Json:
        """Ask for a version whose bottleneck says as little as possible about an attribute. No row is forgotten.

        Args:
            method: `auto`, `irene`, `lnl`, `quantized` or `leace`.
            budget: `max_accuracy_drop`, a fraction, and `max_leakage_nats`.
            data: `core`, or `all` to train on user rows too.
            claim: `linear` where only linear readers are to be kept out, or `any`.
            options: of the method, as POST /forget takes them.
        """
        body = {"model": model, "forget": {"kind": "attribute", "name": name}, "method": method, "budget": dict(budget or {}) or None,
                "data": data, "claim": claim, "options": dict(options or {}) or None, "reason": reason, "reference": reference}
        return self._send("POST", "/forget", json=body, key=idempotency_key)

    def evidence(self, job_id: str, file: str) -> bytes:
        """One file of a job's evidence, such as `trade-off.csv`; the job lists them."""
        return self.fetch(f"/jobs/{_part(job_id)}/evidence/{_part(file)}")

    def policies(self) -> list[Json]:
        """What versions need before they may be called PASSED: the kinds of policies, then each model's."""
        return self._pages("/policies")

    def forget(self, model: str, *, ids: Iterable[str] = (), subjects: Iterable[str] = (), label: int | str | None = None,
               where: Mapping[str, Any] | None = None, everything: bool = False, method: str = "auto",
               guarantee: Mapping[str, float] | None = None, options: Mapping[str, Any] | None = None, reason: str | None = None,
               reference: str | None = None, audits: Iterable[str] = (), idempotency_key: str | None = None) -> Json:
        """Ask a model to forget samples, or everything. Answers at once with the request and the `job` that carries it out.

        Args:
            ids, subjects, label, where: united, but for `label` and `where` (attribute values), which a row must all equal.
            everything: all user rows; nothing else may be named then.
            method: `auto`, `exact`, `retrain` or `zero`; `cg`, `sgd` or `retrain` of a linearised model.
            guarantee: `epsilon` and `delta`, or `nats`: what a linearised model's release must keep to.
            options: `most_passes` of `cg` and `sgd`.
            audits: beside the proof, in the job's evidence: `membership`, the attack before and after; but for `retrain` `differencing`,
                what whoever holds both versions can tell, and `decoder`, what both versions' answers show of images.
        """
        if everything:
            asked: Json = {"kind": "everything"}
        else:
            asked = {"kind": "samples", "ids": list(ids), "subjects": list(subjects)}
            if label is not None or where:
                asked["where"] = {"label": label, "attributes": dict(where or {})}
        body = {"model": model, "forget": asked, "method": method, "guarantee": guarantee or None, "options": options or None,
                "reason": reason, "reference": reference, **({"audits": list(audits)} if audits else {})}
        return self._send("POST", "/forget", json=body, key=idempotency_key)

    def requests(self, *, state: str | None = None, model: str | None = None) -> list[Json]:
        return self._pages("/forget", state=state, model=model)

    def request(self, request_id: str) -> Json:
        return self._get(f"/forget/{_part(request_id)}")

    def cancel_request(self, request_id: str) -> Json:
        return self._answer(self._once("POST", f"/forget/{_part(request_id)}/cancel"))

    def receipts(self, request_id: str, ids: Iterable[str]) -> Json:
        """Proofs that samples were in a request's forget set: `{commitment, receipts}`, null for a sample that was not."""
        return self._answer(self._once("POST", f"/forget/{_part(request_id)}/receipts", json={"ids": list(ids)}))

    # Jobs

    def jobs(self, *, state: str | None = None) -> list[Json]:
        return self._pages("/jobs", state=state)

    def job(self, job_id: str, *, wait: float = 0.0) -> Json:
        """A job now; with `wait` (seconds, up to 60), as soon as it ends or after that long."""
        return self._get(f"/jobs/{_part(job_id)}", wait=wait)

    def events(self, job_id: str, *, last: str | None = None) -> Iterator[Event]:
        """What happens to a job as it happens, up to its end. A broken stream is resumed; without streams the job is polled."""
        return follow.events(self, job_id, last=last)

    def wait(self, job_id: str, *, on_event: Callable[[Event], None] = lambda event: None) -> Json:
        """Follow a job to its end and return it. Look at its `state`: it may have failed."""
        for event in self.events(job_id):
            on_event(event)
        return self.job(job_id)

    def wait_request(self, request_id: str, *, timeout: float = 60.0) -> Json:
        """Wait until a request has ended: after its job, the rows' keys are destroyed. After `timeout` seconds, as it is then."""
        deadline = time.monotonic() + timeout
        while (request := self.request(request_id))["state"] not in FINAL_REQUEST and time.monotonic() < deadline:
            time.sleep(0.05)
        return request

    # Audits

    def audit(self, model: str, version: str | int = "@latest-certified", *, audits: Iterable[str], attribute: str | None = None,
              counts: Mapping[str, int] | None = None, idempotency_key: str | None = None) -> Json:
        """Ask for an audit of a version. Answers at once with the job, which ends with a signed statement.

        Args:
            audits: `utility`, `distance`, `membership`, `probes` (give `attribute`), `decoder`.
            counts: `shadow_groups`, `targets`, `decoder_steps`, `pictures`.
        """
        body = {"audits": list(audits), "attribute": attribute, "counts": dict(counts or {})}
        return self._send("POST", f"/models/{_part(model)}/versions/{_part(str(version))}/audit", json=body, key=idempotency_key)

    def unpack_evidence(self, job_id: str, out: Path | str) -> Path:
        """Unpack the evidence of a job, its signed statement included, into a new directory."""
        return unpack(self.fetch(f"/jobs/{_part(job_id)}/evidence"), Path(out))

    # Versions

    def versions(self, model: str) -> list[Json]:
        return self._pages(f"/models/{_part(model)}/versions")

    def version(self, model: str, version: str | int = "@latest-certified") -> Json:
        return self._get(f"/models/{_part(model)}/versions/{_part(str(version))}")

    def download(self, model: str, version: str | int = "@latest-certified", *, out: Path | str,
                 progress: Callable[[int, int], None] = lambda done, size: None) -> Path:
        """Download a version with its proofs into the directory `out`, which appears only once everything in it is complete."""
        return download(self, model, str(version), Path(out), progress=progress)

    def statistics(self, model: str) -> bytes:
        """The sums (A, B) of the latest certified version, a safetensors file; for keys with the scope `model:admin`."""
        return self.fetch(f"/models/{_part(model)}/statistics")

    def solver(self, model: str, version: str | int = "@latest-certified") -> Json:
        """How a linearised version was solved: passes, residual, history; for keys with the scope `model:admin`."""
        return self._get(f"/models/{_part(model)}/versions/{_part(str(version))}/solver")

    def solver_of_job(self, job_id: str) -> Json:
        """The same of a job, also where it was refused: how far its solver came."""
        return self._get(f"/jobs/{_part(job_id)}/solver")

    # Keys and health

    def create_key(self, name: str, scopes: Iterable[str]) -> Json:
        """Make an API key. `key` in the answer is its only copy."""
        return self._answer(self._once("POST", "/keys", json={"name": name, "scopes": list(scopes)}))

    def keys(self) -> list[Json]:
        return list(self._again("GET", "/keys").json())

    def revoke_key(self, key_id: str) -> None:
        self._again("DELETE", f"/keys/{_part(key_id)}")

    def signing_keys(self) -> list[Json]:
        """The public keys that the service signs with. Pin a fingerprint that you got by another way."""
        listed: list[Json] = self._get("/.well-known/expunge-keys.json")["keys"]
        return listed

    def ready(self) -> Json:
        """Whether requests can be carried out."""
        return self._get("/readyz")

    # How requests are sent

    @contextmanager
    def stream(self, path: str, *, headers: Mapping[str, str] | None = None, timeout: float | None = None) -> Iterator[httpx.Response]:
        """Open an answer to read piece by piece, once, without another try.

        Raises:
            Problem, httpx.TransportError.
        """
        with self._http.stream("GET", path, headers=dict(headers or {}), timeout=timeout or self._http.timeout) as response:
            if response.status_code >= 400:
                response.read()
                self._refuse(response)
            yield response

    def fetch(self, path: str) -> bytes:
        """Read an answer whole."""
        return self._again("GET", path).content

    def _get(self, path: str, **params: Any) -> Json:
        return self._answer(self._again("GET", path, params={k: v for k, v in params.items() if v}))

    def _pages(self, path: str, **params: Any) -> list[Json]:
        found: list[Json] = []
        after = None
        while True:
            page = self._get(path, after=after, **params)
            found += page["items"]
            after = page["next"]
            if after is None:
                return found

    def _send(self, method: str, path: str, *, key: str | None = None, file: Path | None = None,
              progress: Callable[[int, int], None] = lambda sent, size: None, **what: Any) -> Json:
        """Send a body. A POST carries an Idempotency-Key, made here unless given, and may so be tried again."""
        headers = {"Idempotency-Key": key or str(uuid.uuid4())} if method == "POST" else {}
        if file is not None:
            headers |= {"Content-Length": str(file.stat().st_size), "Content-Type": "application/octet-stream"}
        call = self._again if method == "POST" else self._once
        return self._answer(call(method, path, headers=headers, body=lambda: None if file is None else _pieces(file, progress), **what))

    def _again(self, method: str, path: str, **what: Any) -> httpx.Response:
        """Send something that may be sent twice, with growing pauses."""
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                return self._once(method, path, **what)
            except Unreachable:
                if last:
                    raise
                pause = 0.2 * 2.0**attempt
            except Problem as problem:
                if last or not (problem.status in _PASSING or problem.code == "idempotency_running"):
                    raise
                pause = max(0.2 * 2.0**attempt, min(10.0, _seconds(problem.document.get("retry_after"))))
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _once(self, method: str, path: str, *, body: Callable[[], Iterator[bytes] | None] = lambda: None, **what: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, content=body(), **what)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Unreachable(self.url, str(error) or type(error).__name__) from error
        if response.status_code >= 400:
            self._refuse(response)
        return response

    def _answer(self, response: httpx.Response) -> Json:
        try:
            return dict(response.json())
        except (TypeError, ValueError) as error:
            raise Unreachable(self.url, "its answer is not JSON; is this an Expunge service?") from error

    def _refuse(self, response: httpx.Response) -> None:
        try:
            document = response.json()
        except ValueError:
            document = {}
        document = document if isinstance(document, dict) else {}
        if "retry-after" in response.headers:
            document["retry_after"] = response.headers["retry-after"]
        raise Problem(response.status_code, str(document.get("code", f"http_{response.status_code}")),
                      str(document.get("detail") or f"The service answered {response.status_code} {response.reason_phrase}."),
                      list(document.get("errors", [])), document)


def _pieces(path: Path, progress: Callable[[int, int], None]) -> Iterator[bytes]:
    size, sent = path.stat().st_size, 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
            sent += len(piece)
            progress(sent, size)


def _part(name: str) -> str:
    """One segment of a path: a name with a slash must not reach another address."""
    return quote(name, safe="@") or "-"


def _seconds(header: Any) -> float:
    try:
        return max(0.0, float(header))
    except (TypeError, ValueError):
        return 0.0
