"""The command `doctor`."""

from __future__ import annotations

import typer

from datastreamx.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from datastreamx.cli.output import Exit, emit
from datastreamx.cli.terminal import next_step, show, working


def doctor(config: ConfigOption = DEFAULT_CONFIG, *, as_json: JsonOption = False) -> None:
    """Check everything that the service needs, from here: configuration, network, topics, tables, disk, clock.

    Each line is ok, warn, fail or skip, with what to do. Exit code 3: the configuration is wrong; 4: something does
    not answer; 1: something else must be fixed. Run it where the flows will run.

    Examples:
    - `datastreamx doctor --config datastreamx.toml`

    - `datastreamx doctor --json | jq '.findings[] | select(.state == "fail")'`
    """
    from datastreamx.cli.doctor.checks import examine  # noqa: PLC0415  heavy, not needed for --help
    from datastreamx.cli.doctor.report import exit_code, render, summary  # noqa: PLC0415  likewise
    from datastreamx.clock import SystemClock  # noqa: PLC0415  likewise

    with working("examining ..."):
        findings = examine(config, SystemClock())
    code = exit_code(findings)
    if as_json:
        emit({"ok": code is Exit.OK, "summary": summary(findings), "findings": findings})
    else:
        show(*render(findings))
    next_step("repair the first failure, then again" if code is not Exit.OK else "`datastreamx run warehouse`")
    if code is not Exit.OK:
        raise typer.Exit(code)
