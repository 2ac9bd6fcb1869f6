"""What an audit statement may say: one shape, answers that follow from the numbers, and no guarantee anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from expunge import canonical
from expunge.statement import BadStatement, count, decimal, many, mapping, mapping_of, matching, maybe, moment, one_of, record, text

PREDICATE_TYPE = "urn:expunge:audit:v1"

ANSWERS = ("void", "refused", "passed", "reported")
"""From the worst: an audit that saw no planted leak can say nothing; one that found more than its threshold; less; or set no threshold."""

LIMITATIONS = (
    "An audit measures on a finite sample. It can find a leak; it never proves that there is none.",
    "This statement guarantees nothing. What is proved of a version stands in its certificate alone.",
    "A decoder's figures are estimates, and no bounds of information: two imperfect decoders are compared.",
    "A signature proves who asserts this and that nothing was altered since; it cannot prove good faith.",
)

_SHA256 = record(sha256=matching(r"[0-9a-f]{64}", "a sha256 in hex"))
_FINDING = record(
    audit=text,
    access=text,
    metric=text,
    value=decimal,
    ci95=maybe(many(decimal)),
    n=count,
    threshold=maybe(decimal),
    null=maybe(record(mean=decimal, limit=decimal)),
    reference=maybe(decimal),
    power=maybe(record(planted=count, caught=count)),
    answer=one_of(*ANSWERS),
    says=text,
)
_PREDICATE = mapping_of(
    {
        "kind": one_of("audit"),
        "answer": one_of(*ANSWERS),
        "issuer": matching(r"[a-z][a-z0-9+.-]*:\S+", "a URI"),
        "issuedAt": moment,
        "jobId": text,
        "model": record(name=text, version=count, statement=_SHA256),
        "policy": record(name=text, digest=_SHA256, document=mapping(lambda value, where: None)),
        "asked": record(audits=many(text), attribute=maybe(text), counts=mapping(count)),
        "method": record(
            implementation=record(digest=_SHA256), seed=text, hardware=record(cpu=text, torch=text, lapack=text, threads=count)
        ),
        "findings": many(_FINDING),
        "limitations": many(text),
        "evidence": many(record(name=text, digest=_SHA256)),
    }
)
_STATEMENT = record(
    _type=one_of("https://in-toto.io/Statement/v1"),
    subject=many(record(name=text, digest=_SHA256)),
    predicateType=one_of(PREDICATE_TYPE),
    predicate=_PREDICATE,
)


def check(value: Any) -> None:
    """Require the shape of an audit statement, and answers that follow from its own numbers.

    Raises:
        BadStatement: naming the first place that does not fit.
    """
    _STATEMENT(value, "statement")
    said = value["predicate"]
    if canonical.digest(said["policy"]["document"]) != said["policy"]["digest"]["sha256"]:
        raise BadStatement("statement.predicate.policy: the document has another digest")
    if not said["findings"]:
        raise BadStatement("statement.predicate.findings: nothing was found out")
    for place, finding in enumerate(said["findings"]):
        follows = answer_of(finding)
        if finding["answer"] not in follows:
            raise BadStatement(f"statement.predicate.findings[{place}].answer: {finding['answer']} does not follow from the numbers")
    if said["answer"] != whole(finding["answer"] for finding in said["findings"]):
        raise BadStatement("statement.predicate.answer: not the worst of the findings")


def answer_of(finding: Mapping[str, Any]) -> tuple[str, ...]:
    """The answers that a finding's numbers allow."""
    power = finding["power"]
    blind = power is None or power["caught"] == 0 or power["caught"] > power["planted"]
    if finding["threshold"] is None:
        return ("reported", "void") if power is not None else ("reported",)
    within = Decimal(finding["value"]) <= Decimal(finding["threshold"])
    return ("void",) if blind else ("passed", "void") if within else ("refused", "void")


def whole(answers: Any) -> str:
    """The worst of some answers."""
    given = set(answers)
    return next(answer for answer in ANSWERS if answer in given)
