"""What of the harness can be checked without Java."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datastreamx.errors import CrashError

from .jars import fetch_with_maven, find_java, java_feature_version, resolve_jars
from .properties import Ports, server_properties


class CountingFetch:
    def __init__(self, jar: str = "server.jar") -> None:
        self.calls = 0
        self._jar = jar

    def __call__(self, project: Path) -> None:
        self.calls += 1
        jars = project / "target" / "jars"
        jars.mkdir(parents=True)
        (jars / self._jar).touch()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pom.xml").write_text("<project>1</project>")
    return tmp_path


def test_jars_are_fetched_once_per_pom(project: Path) -> None:
    fetch = CountingFetch()

    assert resolve_jars(project, fetch) == resolve_jars(project, fetch)

    assert fetch.calls == 1


def test_changed_pom_replaces_the_jars(project: Path) -> None:
    resolve_jars(project, CountingFetch("old.jar"))
    (project / "pom.xml").write_text("<project>2</project>")

    jars = resolve_jars(project, CountingFetch("new.jar"))

    assert [jar.name for jar in jars.iterdir()] == ["new.jar"]


def test_interrupted_fetch_is_repeated_from_an_empty_folder(project: Path) -> None:
    def interrupted(project: Path) -> None:
        CountingFetch("half.jar")(project)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve_jars(project, interrupted)

    assert [jar.name for jar in resolve_jars(project, CountingFetch()).iterdir()] == ["server.jar"]


def test_fetch_that_brings_nothing_is_an_error(project: Path) -> None:
    with pytest.raises(CrashError, match="is empty after a fetch"):
        resolve_jars(project, lambda _: None)


def test_missing_tools_say_what_to_install(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CrashError, match="install Java 17 or newer"):
        find_java()
    with pytest.raises(CrashError, match="install Maven"):
        fetch_with_maven(project)


def test_old_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(tmp_path / "java", """echo 'openjdk version "11.0.2" 2019-01-15' >&2""")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(CrashError, match="is Java 11, but Apache Kafka 4 needs 17"):
        find_java()


def test_failed_maven_shows_its_output(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(tmp_path / "mvn", "echo 'could not resolve'; exit 3")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(CrashError, match=r"(?s)failed with code 3.*could not resolve"):
        fetch_with_maven(project)


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "25" 2025-09-16', 25),
    ],
)
def test_java_version_is_read_from_its_banner(banner: str, version: int) -> None:
    assert java_feature_version(banner) == version


@pytest.mark.parametrize(("nodes", "replicas", "in_sync"), [(1, 1, 1), (3, 3, 2)])
def test_replication_follows_the_number_of_nodes(nodes: int, replicas: int, in_sync: int) -> None:
    ports = {node: Ports(9_000 + node, 9_100 + node) for node in range(1, nodes + 1)}

    settings = dict(line.split("=", 1) for line in server_properties(1, ports, Path("/data")).splitlines())

    assert settings["default.replication.factor"] == settings["offsets.topic.replication.factor"] == str(replicas)
    assert settings["min.insync.replicas"] == str(in_sync)
    assert settings["controller.quorum.voters"].count("@") == nodes
    assert settings["message.max.bytes"] == settings["replica.fetch.max.bytes"] == "10485760"


def test_clients_are_served_on_the_address_that_was_given() -> None:
    text = server_properties(1, {1: Ports(9_001, 9_101)}, Path("/data"), "10.1.2.3")

    settings = dict(line.split("=", 1) for line in text.splitlines())
    assert settings["advertised.listeners"] == "BROKER://10.1.2.3:9001"
    assert settings["listeners"] == "BROKER://10.1.2.3:9001,CONTROLLER://127.0.0.1:9101"


def write_script(path: Path, command: str) -> Path:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
    return path
