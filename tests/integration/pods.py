"""A pipeline whose processes have a volume each, as pods have, and one folder together."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from datastreamx.place import place_of
from simulator.processes import Child
from tests.integration.brokers import Broker
from tests.integration.pipeline import FlowName, Pipeline, Servers, environment

COMMAND_S = 300.0
"""Longest that a command may take, on a machine that does a lot besides."""


class Pods(Pipeline):
    """Started as pods are: `prepare`, then `run`."""

    def __init__(self, directory: Path, broker: Broker, servers: Servers, *, cells: int) -> None:
        super().__init__(directory, broker, servers, cells=cells, edit=lambda text: self._with_folder(directory, text))

    @staticmethod
    def _with_folder(directory: Path, text: str) -> str:
        return text.replace("[recovery]\n", f'[recovery]\nhandover = "{directory / "handover"}"\n')

    def volume(self, name: FlowName, ordinal: int) -> Path:
        return self.directory / f"volume-{name}-{ordinal}"

    def store(self, name: FlowName, ordinal: int = 0) -> Path:
        return self.volume(name, ordinal) / place_of(self.config, ordinal).store_name(name)

    def config_of(self, name: FlowName, ordinal: int) -> Path:
        return self.directory / f"{name}-{ordinal}.toml"

    def command(self, verb: str, *options: str, config: Path | None = None) -> list[str]:
        argv = [sys.executable, "-m", "datastreamx.cli", verb, "--config", str(config or self.config_path)]
        return [*argv, *options]

    def of_pod(self, verb: str, name: FlowName, ordinal: int, *options: str) -> Child:
        """A command in a pod."""
        argv = self.command(verb, name, "--ordinal", str(ordinal), *options, config=self.config_of(name, ordinal))
        log_path = self.directory / f"{verb}-{name}-{ordinal}.log"
        return Child(f"{verb} {name}-{ordinal}", argv, log_path=log_path, env=environment())

    def prepare(self, *names: FlowName) -> dict[str, Any]:
        """What each pod's `prepare` reports, by store."""
        places = [(name, ordinal) for name in names for ordinal in range(self.cells)]
        with ThreadPoolExecutor(2) as pool:
            reports = pool.map(lambda place: self.prepare_one(*place), places)
            return {f"{name}-{ordinal}": report for (name, ordinal), report in zip(places, reports, strict=True)}

    def prepare_one(self, name: FlowName, ordinal: int) -> Any:
        argv = self.command("prepare", name, "--ordinal", str(ordinal), "--json", config=self.config_of(name, ordinal))
        done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=COMMAND_S, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.logs()}"
        return json.loads(done.stdout)

    def rescale(self, cells: int) -> None:
        done = subprocess.run(
            self.command("rescale", "--cells", str(cells), "--handed-over"),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.logs()}"
        self.say_cells(cells)

    def say_cells(self, cells: int) -> None:
        """Change the configuration alone."""
        text = self.config_path.read_text(encoding="utf-8")
        self._write_config(text.replace(f"\ncells = {self.cells}\n", f"\ncells = {cells}\n"))

    def lose_volume(self, name: FlowName, ordinal: int) -> None:
        shutil.rmtree(self.volume(name, ordinal))

    def _write_config(self, text: str) -> None:
        super()._write_config(text)
        for name in self._names:
            for ordinal in range(self.cells):
                line = f'directory = "{self.directory / "recovery"}"'
                assert line in text
                own = text.replace(line, f'directory = "{self.volume(name, ordinal)}"')
                self.config_of(name, ordinal).write_text(own, encoding="utf-8")

    def _flow(self, name: FlowName, ordinal: int) -> Child:
        argv = self.command("run", name, "--ordinal", str(ordinal), config=self.config_of(name, ordinal))
        log_path = self.directory / f"flow-{name}-{ordinal}.log"
        return Child(f"flow {name}-{ordinal}", argv, log_path=log_path, env=environment())
