"""The controller of one Job: pods one after another until one has done the work."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import Literal

from tests.k8s.podlet.events import EventLog
from tests.k8s.podlet.kubelet import Pod
from tests.k8s.podlet.manifest import Resource

Outcome = Literal["Complete", "Failed"]

_LOOK_EVERY_S = 0.05
_BACK_OFF_S = 10.0
_BACK_OFF_MAX_S = 360.0


class Job(threading.Thread):
    """Runs a Job to its end.

    Attributes:
        outcome: `None` while it runs.
        pods: That it has made, in order.
    """

    def __init__(
        self, manifest: Resource, make: Callable[[Resource, str, str], Pod], events: EventLog, time_scale: float
    ) -> None:
        super().__init__(name=f"job {manifest['metadata']['name']}", daemon=True)
        self.outcome: Outcome | None = None
        self.pods: tuple[Pod, ...] = ()
        self._manifest = manifest
        self._make = make
        self._events = events
        self._time_scale = time_scale
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End its pod, and make no more."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """Make pods until one succeeds, or too many have failed, or it takes too long."""
        name, spec = self._manifest["metadata"]["name"], self._manifest["spec"]
        deadline_s = time.monotonic() + spec.get("activeDeadlineSeconds", float("inf"))
        limit, failures = spec.get("backoffLimit", 6), 0
        while failures <= limit and not self._stopped.is_set():
            pod = self._next()
            while not pod.gone.wait(_LOOK_EVERY_S):
                if self._stopped.is_set():
                    pod.delete(0)
                elif failures + pod.restarts > limit or time.monotonic() > deadline_s:
                    pod.delete()
            if pod.phase == "Succeeded":
                self._end("Complete")
                return
            failures += 1 + pod.restarts
            if pod.exit_codes and pod.exit_codes[-1] in _hopeless(spec):
                break
            if time.monotonic() > deadline_s:
                break
            delay_s = min(_BACK_OFF_S * 2 ** (failures - 1), _BACK_OFF_MAX_S) / self._time_scale
            if failures <= limit:
                self._events.note(name, "back_off", f"{delay_s:g} s")
                self._stopped.wait(delay_s)
        self._end("Failed")

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._events.note(self._manifest["metadata"]["name"], "completed", outcome)

    def _next(self) -> Pod:
        metadata = self._manifest["metadata"]
        template = copy.deepcopy(self._manifest["spec"]["template"])
        inner = template.setdefault("metadata", {})
        inner["name"] = f"{metadata['name']}-{len(self.pods)}"
        inner["namespace"] = metadata.get("namespace", "default")
        inner["labels"] = inner.get("labels", {}) | {"batch.kubernetes.io/job-name": metadata["name"]}
        pod = self._make(template, "", "a")
        self.pods += (pod,)
        pod.start()
        return pod


def _hopeless(spec: Resource) -> set[int]:
    """Exit codes after which its policy does not try again."""
    rules = spec.get("podFailurePolicy", {}).get("rules", [])
    return {
        code
        for rule in rules
        if rule["action"] == "FailJob" and rule.get("onExitCodes", {}).get("operator") == "In"
        for code in rule["onExitCodes"]["values"]
    }
