"""Where a request goes after an instance has failed it."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum

from shared.errors import ProviderError
from worker.places import Instance
from worker.providers.retry import Backoff, is_worth_a_retry


class Verdict(Enum):
    """What a fault says about the instance, and about the others."""

    FINAL = "final"
    """It is the request's: any instance would say the same."""
    NEXT = "next"
    """Another one may do it; this one is well."""
    ASIDE = "aside"
    """Another one may do it; this one is left alone for a while."""


# What is wrong with an instance until somebody mends it, though asking it again at once is of no use.
_BROKEN_CODES = frozenset({"provider_auth", "provider_bad_response", "provider_rate_limited", "provider_error"})
_LACKING_CODES = frozenset({"model_not_found", "unsupported_parameter"})


def judge(error: ProviderError) -> Verdict:
    """What to do about a fault that came before the first delta."""
    # A route that is not there and a redirect are the config's fault, or the server has chat and no completions.
    if error.code in _LACKING_CODES or (
        error.status is not None and (error.status == 404 or 300 <= error.status < 400)
    ):
        return Verdict.NEXT
    if error.retryable or error.code in _BROKEN_CODES:
        return Verdict.ASIDE
    return Verdict.FINAL


class Failover:
    """The way of one request through the instances that serve its model.

    Each is asked once before any is asked again; so no request sits out one instance's pauses while another could
    answer. Where all have failed, those whose faults may pass are asked again, each after its own pause
    (`Retry-After`, or the backoff) and at most `max_retries` times. A single instance does its retries itself.
    """

    def __init__(
        self, *, model: str, instances: Sequence[Instance], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._model = model
        self._instances = instances
        self._clock = clock
        self._faults: dict[Instance, ProviderError] = {}
        self._asked: Counter[Instance] = Counter()
        self._due: dict[Instance, float] = {}
        self.candidates = list(instances)

    @property
    def is_alone(self) -> bool:
        return len(self._instances) == 1

    def pause_after(self, instance: Instance, error: ProviderError) -> float:
        """The seconds to wait before one of `candidates` is asked. Raises ProviderError where none is left."""
        self._faults[instance] = error
        self._asked[instance] += 1
        if self.is_alone or judge(error) is Verdict.FINAL:
            raise error
        backoff = Backoff(max_retries=instance.provider.max_retries)
        self._due[instance] = self._clock() + backoff.wait_s(self._asked[instance] - 1, error.retry_after)
        self.candidates.remove(instance)
        if self.candidates:
            return 0.0
        again = [one for one in self._instances if self._may_be_asked_again(one)]
        if not again:
            raise self.fault() from error
        soonest = min(again, key=lambda one: self._due[one])
        self.candidates.append(soonest)
        return max(0.0, self._due[soonest] - self._clock())

    def fault(self, last: ProviderError | None = None) -> ProviderError:
        """The error for users: what each instance said. `last` is why the others were not asked."""
        faults = [*self._faults.values(), *([] if last is None else [last])]
        if len(faults) == 1:
            return faults[0]
        codes = {fault.code for fault in faults}
        afters = [fault.retry_after for fault in faults if fault.retry_after is not None]
        return ProviderError(
            f"No provider of the model '{self._model}' could answer. {' '.join(fault.message for fault in faults)}",
            provider_id="",
            code=codes.pop() if len(codes) == 1 else "provider_error",
            retryable=any(fault.retryable for fault in faults),
            retry_after=min(afters, default=None),
        )

    def _may_be_asked_again(self, instance: Instance) -> bool:
        fault = self._faults[instance]
        return is_worth_a_retry(fault) and self._asked[instance] <= instance.provider.max_retries
