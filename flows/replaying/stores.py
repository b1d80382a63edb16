"""Folders of a replay: where it builds, and where what it has built belongs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bytewax.recovery import RecoveryConfig

from datastreamx.config import Config
from datastreamx.errors import CrashError, StateMismatchError
from datastreamx.place import Place
from flows.recovery.durable import sync_directory
from flows.recovery.lock import locked
from flows.recovery.manifest import Manifest, manifest_of
from flows.recovery.opening import holds_nothing, open_store, remove_store
from flows.recovery.quarantine import refusal_file
from flows.recovery.swap import unfinished_rescale

ADS = "ads"


@dataclass(frozen=True)
class Site:
    """Paths of one replay.

    Attributes:
        building: The store that the replay writes.
        target: Where it belongs when it is finished; unset for a replay of rows, whose store is of no further use.
        manifest: Of the store at `target`.
    """

    building: Path
    target: Path | None = None
    manifest: Manifest | None = None

    @classmethod
    def of_store(cls, config: Config, place: Place) -> Site:
        """Of the store of the ads flow at `place`."""
        target = Path(config.recovery.directory) / place.store_name(ADS)
        building = target.with_name(f"{target.name}.replay")
        return cls(building, target, manifest_of(ADS, config, place))

    @classmethod
    def of_rows(cls, config: Config, dataset: str) -> Site:
        """Of rows on their way into `dataset`."""
        return cls(Path(config.recovery.directory) / f"replay-{dataset}")

    @property
    def marker(self) -> Path:
        """Tells of the unfinished replay; beside `building`, and written before it."""
        return self.building.with_name(f"{self.building.name}.json")

    def require_vacancy(self) -> None:
        """Check that no store is where the finished one belongs, and none is on its way there. An empty one may be.

        Raises:
            StateMismatchError: There is one.
        """
        if self.target is None:
            return
        replaced = unfinished_rescale(self.target.parent)
        if replaced is not None:
            raise StateMismatchError(replaced)
        if not holds_nothing(self.target):
            raise StateMismatchError(
                f"there is a recovery store in {self.target}: if it is sound, `datastreamx run ads` goes on with it, "
                "and nothing has to be replayed. If it is not, stop the flow, move the folder away and start the "
                "replay again"
            )

    def clear(self) -> None:
        """Remove what a replay that was given up has left."""
        shutil.rmtree(self.building, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the flow and other replays out.

        Raises:
            CrashError: One of them is at work.
        """
        held = self.target or self.building
        with locked(held):
            yield

    def open(self) -> RecoveryConfig:
        """The store that is being built; raises what `open_store` does."""
        return open_store(self.building, self.manifest)

    def install(self) -> None:
        """Move the finished store to its place; nothing tells of the replay any more.

        Done again after a crash in between, it does the rest.

        Raises:
            StateMismatchError: A store has appeared there meanwhile.
            CrashError: The store cannot be moved.
        """
        if self.target is None:
            self.clear()
        else:
            if self.building.exists():
                self.require_vacancy()
                try:
                    remove_store(self.target)
                    self.building.replace(self.target)
                    sync_directory(self.target.parent)
                except OSError as error:
                    raise CrashError(f"{self.building} cannot be moved to {self.target} ({error})") from error
            refusal_file(self.target).unlink(missing_ok=True)
        self.marker.unlink(missing_ok=True)
