"""A worker that behaves as it is told: `bad_worker.py DIRECTORY BEHAVIOUR [--permit]`."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from datastreamx.pulse import Pulse


@dataclass
class _Life:
    """A worker's side of it."""

    directory: Path
    pulse: Pulse
    stopping: bool = False

    def stop_on_sigterm(self) -> None:
        def stop(*_: object) -> None:
            self.stopping = True

        signal.signal(signal.SIGTERM, stop)

    def work(self) -> None:
        self.pulse.ran()
        self.pulse.lag("reader", 0, 0)
        self.pulse.snapshot_is_durable()
        while not self.stopping:
            self.pulse.beat()
            time.sleep(0.01)
        print("stopped cleanly", flush=True)  # noqa: T201  read by the tests

    def is_first(self) -> bool:
        marker = self.directory / "was-here"
        try:
            marker.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)  # noqa: T201  as the command line does
    sys.exit(code)


def _live(directory: Path, behaviour: str) -> None:  # noqa: C901, PLR0912  one branch per misdeed
    life = _Life(directory, Pulse.from_environment())
    if behaviour == "early":
        # No handler yet: a signal ends this process.
        time.sleep(3600)
    life.stop_on_sigterm()
    life.pulse.enter("restoring", "loading state")
    match behaviour:
        case "crash":
            life.pulse.ran()
            _fail("the disk is on fire", 4)
        case "crash_once" if life.is_first():
            life.pulse.ran()
            _fail("once", 1)
        case "hang_once" if life.is_first():
            life.pulse.ran()
            time.sleep(3600)
        case "hopeless":
            life.pulse.give_up()
            _fail("somebody has to change something", 1)
        case "exit_2":
            _fail("wrong usage", 2)
        case "exit_3":
            _fail("wrong configuration", 3)
        case "die":
            life.pulse.ran()
            os.kill(os.getpid(), signal.SIGKILL)
        case "end":
            life.pulse.ran()
            return
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "slow_start":
            while True:
                life.pulse.beat()
                time.sleep(0.01)
        case _:
            pass
    if behaviour == "measured":
        _show_metrics(life.pulse)
    life.work()


def _show_metrics(pulse: Pulse) -> None:
    from datastreamx.metrics import DECISIONS, serve_metrics  # noqa: PLC0415  the other workers start the faster

    DECISIONS.labels("won").inc(7)
    server, _ = serve_metrics("127.0.0.1", 0)
    pulse.serves_metrics(f"http://127.0.0.1:{server.server_port}/metrics")


if __name__ == "__main__":
    if "--permit" in sys.argv:
        print("permitted", flush=True)  # noqa: T201  read by the tests
    _live(Path(sys.argv[1]), sys.argv[2])
