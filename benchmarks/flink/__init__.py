"""The least state of a box on Apache Flink: built by Maven from what is in this folder, where Java 17 and Maven are."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.contest import Contestant

FOLDER = Path(__file__).parent
VERSION = "1.20.3"
_HEAP = "-Xmx4g"
# Flink's serializers look into classes of Java itself.
_OPENS = ("--add-opens=java.base/java.util=ALL-UNNAMED", "--add-opens=java.base/java.lang=ALL-UNNAMED")


def flink(events: Path, warm_up_share: float, checkpoints: Path) -> list[Contestant]:
    """The contestants, built if they are not yet; none where there is no Java compiler or no Maven.

    One has a core, like everybody. The other has all: with a parallelism of 1 its source, its network threads, its
    compiler and its garbage collector take more than one, so only its CPU per event is comparable.

    Args:
        events: One JSON event per line.
        warm_up_share: Of the events.
        checkpoints: A folder.
    """
    java, maven = shutil.which("java"), shutil.which("mvn")
    if java is None or maven is None or shutil.which("javac") is None:
        sys.stderr.write("Flink is left out: it needs a JDK of Java 17 and Maven on the PATH\n")
        return []
    jar = FOLDER / "target" / "flink-1.jar"
    if not jar.exists():
        subprocess.run([maven, "-q", "-B", "package"], cwd=FOLDER, check=True, stdout=sys.stderr)  # noqa: S603  ours
    classes = f"{jar}:{FOLDER / 'target' / 'jars'}/*"
    arguments = (str(events), str(warm_up_share), str(checkpoints))
    command = (java, _HEAP, *_OPENS, "-cp", classes, "datastreamx.State", *arguments)
    return [Contestant(f"Flink {VERSION}, one core", command), Contestant(f"Flink {VERSION}", command, None)]
