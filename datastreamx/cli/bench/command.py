"""`datastreamx bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from datastreamx.cli.options import JsonOption

if TYPE_CHECKING:
    from collections.abc import Callable

    from datastreamx.cli.bench.report import Measured


def bench(
    *,
    boxes: Annotated[int, typer.Option(min=1, max=2_000_000, help="Size of the fleet that is measured.")] = 100_000,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3_600, help="How long the state is measured; making the events comes before.")
    ] = 10.0,
    aggregators: Annotated[int, typer.Option(min=0, help="Called in each auction; 0 leaves auctions out.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine: how many boxes does it carry? Needs no configuration, no Kafka and no account.

    On one core the state of a fleet is kept as the ads flow does it, with recovery, as fast as it goes; then auctions
    are made with a local aggregator. From CPU and memory of both follows what all cores carry at half their power. Let
    nothing else run meanwhile.

    Examples:
    - `datastreamx bench`

    - `datastreamx bench --boxes 1000000 --seconds 30 --json`
    """
    # Its absence is told by whoever started us, and not as the end of the measuring process.
    import simulator  # noqa: F401, PLC0415
    from datastreamx.cli.bench.render import render  # noqa: PLC0415  only what --help needs is loaded for it
    from datastreamx.cli.bench.report import report_of  # noqa: PLC0415  likewise
    from datastreamx.cli.output import emit  # noqa: PLC0415  likewise
    from datastreamx.cli.progress import progress  # noqa: PLC0415  likewise
    from datastreamx.cli.terminal import show  # noqa: PLC0415  likewise
    from flows.bench.machine import cores, machine  # noqa: PLC0415  likewise

    with progress("starting") as tell:
        measured = _measure(boxes, seconds, tell)
    report = report_of(measured, machine(), len(cores()), aggregators)
    if as_json:
        emit(report)
    else:
        show(*render(report))


def _measure(boxes: int, seconds: float, tell: Callable[[str], None]) -> Measured:
    """Run the measuring process: on one core, and with nothing of this one in its memory."""
    import subprocess  # noqa: PLC0415  see above
    import sys  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    import msgspec  # noqa: PLC0415

    from datastreamx.cli.bench.report import Measured  # noqa: PLC0415
    from datastreamx.errors import CrashError  # noqa: PLC0415
    from datastreamx.parenthood import die_with_parent  # noqa: PLC0415

    argv = [sys.executable, "-m", "datastreamx.cli.bench.worker", str(boxes), str(seconds)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as said,
        subprocess.Popen(  # noqa: S603  our own
            argv,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509  safe here, see die_with_parent
        ) as child,
    ):
        try:
            for line in child.stdout or ():
                found = msgspec.json.decode(line, type=str | Measured)
                if isinstance(found, Measured):
                    return found
                tell(found)
            code = child.wait()
        finally:
            child.terminate()
        said.seek(0)
        why = said.read().strip()[-2_000:]
        raise CrashError(f"the measuring process ended with code {code}: {why or 'it said nothing; was memory short?'}")
