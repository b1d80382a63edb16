"""The example in docs/async-map.md runs, and prints what the document says."""

from __future__ import annotations

import subprocess
import sys

from tests.docs.test_docs import ROOT, blocks

DOCUMENT = (ROOT / "docs" / "async-map.md").read_text(encoding="utf-8")


def test_example_prints_what_is_said() -> None:
    (example,) = blocks(DOCUMENT, "python")
    # A process of its own, as a reader would run it: it leaves no thread and no class behind in ours.
    ran = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == blocks(DOCUMENT, "text")[-1]
