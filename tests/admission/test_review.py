"""AdmissionReviews: golden questions and answers, what is no review, and what the API server's limits leave."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admission.handler import Handler
from admission.review import Denial, Reason, Review, Verdict, format_answer, parse_review
from sriov.errors import InputError
from tests.admission.pods import pod, review
from tests.admission.source import known_nads
from tests.cni.test_protocol import json_values
from tests.deviceplugin.harness import run

GOLDEN = Path(__file__).parents[1] / "data/admission"
CASES = sorted(path.name.removesuffix(".request.json") for path in GOLDEN.glob("*.request.json"))


def answer(verdict, uid="u"):
    document = json.loads(format_answer(uid, verdict))
    assert {key: document[key] for key in ("apiVersion", "kind")} == {
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
    assert set(document) == {"apiVersion", "kind", "response"}
    return document["response"]


def readable(body: bytes) -> dict[str, Any]:
    """The answer with its patch as JSON."""
    document: dict[str, Any] = json.loads(body)
    if "patch" in document["response"]:
        document["response"]["patch"] = json.loads(base64.b64decode(document["response"]["patch"], validate=True))
    return document


def ask(body: bytes) -> dict[str, Any]:
    answers = []

    async def scenario() -> None:
        async with known_nads() as nads:
            answers.append(readable(await Handler(nads).mutate(body)))

    run(scenario)
    return answers[0]


@pytest.mark.parametrize("case", CASES)
def test_golden_answers(case):
    """With VFPOOL_UPDATE_GOLDEN set, the files are written anew, to be read before they are committed."""
    got = ask((GOLDEN / f"{case}.request.json").read_bytes())
    expected = GOLDEN / f"{case}.answer.json"
    if os.environ.get("VFPOOL_UPDATE_GOLDEN"):
        expected.write_text(json.dumps(got, indent=2, ensure_ascii=False) + "\n")
    assert got == json.loads(expected.read_text())


def test_there_are_golden_cases():
    assert len(CASES) >= 6


# ---- questions ------------------------------------------------------------------------------------------


def test_review():
    document = review(pod(), namespace="n", uid="u-2", name=None, subResource="status")
    assert parse_review(json.dumps(document).encode()) == Review(
        uid="u-2", operation="CREATE", resource="pods/status", namespace="n", name="", object=pod())


@pytest.mark.parametrize(("body", "problem"), [
    (b"", "expected an AdmissionReview, got what is not JSON: "),
    (b"{", "expected an AdmissionReview, got what is not JSON: "),
    (b"\xff\x00", "expected an AdmissionReview, got what is not JSON: "),
    (b"[" * 100_000, "expected an AdmissionReview, got what is not JSON: "),
    (b"[]", "expected an AdmissionReview, got list"),
    (b"{}", "expected admission.k8s.io/v1 AdmissionReview, got None None"),
    (b'{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}',
     "expected admission.k8s.io/v1 AdmissionReview, got admission.k8s.io/v1beta1 AdmissionReview"),
    (b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}', "AdmissionReview: request is missing"),
    (b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": ""}}',
     "AdmissionReview: request.uid is missing"),
])
def test_what_is_no_review(body, problem):
    with pytest.raises(InputError) as caught:
        parse_review(body)
    assert caught.value.message.startswith(problem)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("request_", [
    {"operation": "UPDATE"}, {"operation": "DELETE", "object": None}, {"subResource": "status"},
    {"resource": {"group": "apps", "version": "v1", "resource": "deployments"}}, {"resource": None}])
def test_what_is_not_the_creation_of_a_pod_is_allowed(request_):
    document = review(pod("no,,sense"), **request_)
    assert ask(json.dumps(document).encode())["response"] == {"uid": "u-1", "allowed": True}


@given(st.dictionaries(
    st.sampled_from(["operation", "resource", "subResource", "namespace", "name", "object"]), json_values))
def test_any_review_has_an_answer(request_):
    document = review(pod("fast"), **request_)
    response = ask(json.dumps(document).encode())["response"]
    assert response["uid"] == "u-1"
    assert response["allowed"] or response["status"]["code"] in (400, 422)


def test_what_is_not_a_pod_is_denied():
    assert ask(json.dumps(review({"spec": {"containers": {}}})).encode())["response"]["status"] == {
        "status": "Failure", "code": 400, "reason": "BadRequest",
        "message": "the object is not a Pod: spec.containers is not a list"}


def test_an_error_of_ours_is_answered_and_logged(caplog):
    class Broken:
        async def find(self, keys):
            raise ZeroDivisionError("oh")

    async def scenario() -> None:
        body = json.dumps(review(pod("fast"), uid="u-77")).encode()
        response = readable(await Handler(Broken()).mutate(body))["response"]  # type: ignore[arg-type]
        assert response == {"uid": "u-77", "allowed": False, "status": {
            "status": "Failure", "code": 500, "reason": "InternalError",
            "message": "internal error of vfpool-webhook, its log has the details (request u-77)"}}

    run(scenario)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "u-77" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


# ---- answers --------------------------------------------------------------------------------------------


def test_patch_and_patch_type_go_together():
    assert answer(Verdict()) == {"uid": "u", "allowed": True}
    patch = ({"op": "add", "path": "/x", "value": "é\ud800"},)
    response = answer(Verdict(patch=patch))
    assert response["patchType"] == "JSONPatch"
    assert json.loads(base64.b64decode(response["patch"])) == list(patch)
    denied = answer(Verdict(patch=patch, denial=Denial(reason=Reason.INVALID, message="no")))
    assert denied == {"uid": "u", "allowed": False, "status": {
        "status": "Failure", "code": 422, "reason": "Invalid", "message": "no"}}


def test_warnings_within_the_limits():
    """The API server cuts at 256 characters, drops what has control characters, and stops at 4,096 in all."""
    assert answer(Verdict(warnings=("a", "b", "a")))["warnings"] == ["a", "b"]
    assert answer(Verdict(warnings=("a\nb\x00",)))["warnings"] == ["a\ufffdb\ufffd"]
    (cut,) = answer(Verdict(warnings=("x" * 300,)))["warnings"]
    assert (len(cut), cut[-3:]) == (256, "...")
    many = answer(Verdict(warnings=tuple(f"{n}" + "é" * 240 for n in range(100))))["warnings"]
    assert sum(len(warning.encode()) for warning in many) <= 4096
    assert many[-1] == f"and {100 - len(many) + 1} more warnings"


@given(st.text(), st.lists(st.text(max_size=400), max_size=40), st.text())
def test_any_text_can_be_said(uid, warnings, message):
    response = answer(Verdict(warnings=tuple(warnings), denial=Denial(reason=Reason.INVALID, message=message)), uid)
    assert (response["uid"], response["status"]["message"]) == (uid, message)
    assert sum(len(warning.encode("utf-8", "replace")) for warning in response.get("warnings", ())) <= 4096
