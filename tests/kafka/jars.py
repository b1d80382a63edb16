"""The Apache Kafka server's jars, resolved once by Maven from the versions that `pom.xml` pins."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from datastreamx.errors import CrashError

JAVA_VERSION_MIN = 17

_COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies"  # version: pom.xml
_MAVEN_TIMEOUT_S = 540
_JAVA_TIMEOUT_S = 30
_OUTPUT_TAIL_CHARS = 2_000


def find_java() -> str:
    """Return the path of a `java` that can run the server.

    Raises:
        CrashError: There is none on the PATH, or it is too old.
    """
    java = shutil.which("java")
    if java is None:
        raise CrashError(
            f"java is not on the PATH, and the Kafka tests run a real broker: install Java {JAVA_VERSION_MIN} or newer"
            " (Debian: apt-get install openjdk-17-jre-headless)"
        )
    banner = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=_JAVA_TIMEOUT_S)
    version = java_feature_version(banner.stderr)
    if version < JAVA_VERSION_MIN:
        raise CrashError(
            f"{java} is Java {version}, but Apache Kafka 4 needs {JAVA_VERSION_MIN} or newer:"
            " install it and put it first on the PATH (Debian: apt-get install openjdk-17-jre-headless)"
        )
    return java


def java_feature_version(banner: str) -> int:
    """Read the feature version (8, 17, ...) from what `java -version` writes to standard error.

    Raises:
        CrashError: The text holds no version.
    """
    # Up to Java 8 the feature version stood second: 1.8.0_392.
    found = re.search(r'version "(?:1\.)?(\d+)', banner)
    if found is None:
        raise CrashError(f"`java -version` names no version; is it a real Java? It printed: {banner[:200]!r}")
    return int(found.group(1))


def fetch_with_maven(project: Path) -> None:
    """Let Maven copy the runtime jars of `project/pom.xml` to `project/target/jars`.

    Raises:
        CrashError: Maven is missing, failed, or did not end in time.
    """
    maven = shutil.which("mvn")
    if maven is None:
        raise CrashError(
            "mvn is not on the PATH, and it fetches the Kafka server of the Kafka tests:"
            " install Maven 3.8 or newer (Debian: apt-get install maven)"
        )
    command = [maven, "-q", "-B", "-f", str(project / "pom.xml"), _COPY_GOAL]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_MAVEN_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise CrashError(
            f"{' '.join(command)} did not end within {_MAVEN_TIMEOUT_S} s: is Maven Central up?"
        ) from error
    if done.returncode != 0:
        output = (done.stdout + done.stderr)[-_OUTPUT_TAIL_CHARS:]
        raise CrashError(
            f"{' '.join(command)} failed with code {done.returncode}; Maven must reach Maven Central"
            f" (a mirror or proxy is set in ~/.m2/settings.xml). It printed:\n{output}"
        )


def resolve_jars(project: Path, fetch: Callable[[Path], None] = fetch_with_maven) -> Path:
    """Return the folder that holds the jars of `project/pom.xml`; fetch them only if the pom changed since.

    The stamp beside the jars is written last and holds the pom's hash, so an interrupted or outdated fetch is
    repeated from an empty folder. A file lock lets parallel test runs share one fetch.

    Args:
        project: The folder of the pom. Everything that is written goes to its `target` folder.
        fetch: Fills `project/target/jars`; a test passes its own.

    Raises:
        CrashError: The fetch failed, or brought no jar.
    """
    target = project / "target"
    jars = target / "jars"
    stamp = target / "jars.sha256"
    pom_hash = hashlib.sha256((project / "pom.xml").read_bytes()).hexdigest()
    target.mkdir(exist_ok=True)
    with (target / "jars.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == pom_hash:
            return jars
        stamp.unlink(missing_ok=True)
        shutil.rmtree(jars, ignore_errors=True)
        fetch(project)
        if not any(jars.glob("*.jar")):
            raise CrashError(f"{jars} is empty after a fetch that reported success: check {project / 'pom.xml'}")
        stamp.write_text(pom_hash)
    return jars
