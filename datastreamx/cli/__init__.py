"""The command line: `datastreamx`."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `datastreamx` command."""
    from datastreamx.cli.app import main as run  # noqa: PLC0415 - `import datastreamx.cli` stays cheap

    run()
