"""promtool, and rules as it reads them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.k8s.tools import tool


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it; the caller judges how it ended."""
    return subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)
