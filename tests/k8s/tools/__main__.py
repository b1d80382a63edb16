"""Fetch every tool that our locks pin: `python -m tests.k8s.tools`; or only those that are named."""

from __future__ import annotations

import sys

from tests.k8s import tools


def main() -> int:
    """Fetch one tool after the other and print where each is; the status is 1 if one cannot be had."""
    failed = False
    for name in sys.argv[1:] or tools.names(fetched=True):
        try:
            print(f"{name:<24} {tools.tool(name)}", flush=True)  # noqa: T201  what this command is for
        except tools.ToolError as error:
            print(f"{name:<24} {error}", file=sys.stderr, flush=True)  # noqa: T201  likewise
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
