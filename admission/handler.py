"""From the bytes of an AdmissionReview to the bytes of its answer."""

from __future__ import annotations

import logging
from dataclasses import replace

from admission.mutation import plan, read_networks
from admission.nads import NadCache
from admission.pod import Pod, parse_pod
from admission.review import Denial, Reason, Review, Verdict, format_answer, parse_review
from sriov.errors import InputError

log = logging.getLogger(__name__)


class Handler:
    def __init__(self, nads: NadCache) -> None:
        self._nads = nads

    async def mutate(self, body: bytes) -> bytes:
        """Raises InputError where `body` is no AdmissionReview v1; everything else has an answer."""
        review = parse_review(body)
        try:
            pod = _read_pod(review)
            # A document of 3 MiB may be 30 times that in memory: not while the API server is waited for.
            review = replace(review, object=None)
            verdict = await self._decide(pod, review.namespace) if pod is not None else Verdict()
        except InputError as error:
            message = f"the object is not a Pod: {error.message}"
            verdict = Verdict(denial=Denial(reason=Reason.BAD_OBJECT, message=message))
        except Exception:
            # Whatever it is: without an answer, the failure policy would decide, and nobody would learn why.
            log.exception("request %s: internal error", review.uid)
            message = f"internal error of vfpool-webhook, its log has the details (request {review.uid})"
            verdict = Verdict(denial=Denial(reason=Reason.INTERNAL, message=message))
        _log(review, verdict)
        return format_answer(review.uid, verdict)

    async def _decide(self, pod: Pod, namespace: str) -> Verdict:
        networks = read_networks(pod, namespace)
        if isinstance(networks, Verdict):
            return networks
        nads = await self._nads.find({(ref.namespace, ref.name): None for ref in networks.refs})
        return plan(pod, networks, nads)


def _read_pod(review: Review) -> Pod | None:
    """The pod that is to be made. Later on nothing can be added: extended resources of a pod do not change."""
    return parse_pod(review.object) if (review.operation, review.resource) == ("CREATE", "pods") else None


def _log(review: Review, verdict: Verdict) -> None:
    if verdict.denial is not None:
        log.info("request %s: denied %s in %s: %s", review.uid, review.name or "a pod", review.namespace,
                 verdict.denial.message)
    elif log.isEnabledFor(logging.DEBUG):
        log.debug("request %s: allowed %s in %s: patch %s, warnings %s", review.uid, review.name or "a pod",
                  review.namespace, verdict.patch, verdict.warnings)
