"""The one version of `bqemulator` whose parts this package replaces, and the proof that they are still there."""

from __future__ import annotations

import importlib
import importlib.metadata

from datastreamx.errors import CrashError

BQEMULATOR_VERSION = "1.4.0"

# Everything that is overridden or replaced elsewhere in this package, as "module:attribute.attribute".
REPLACED = (
    "bqemulator.storage.engine:DuckDBEngine.connection",
    "bqemulator.storage.engine:DuckDBEngine.execute",
    "bqemulator.storage.engine:DuckDBEngine.fetch_arrow",
    "bqemulator.storage.engine:DuckDBEngine._apply_session_pragmas",
    "bqemulator.storage.engine:DuckDBEngine._load_spatial",
    "bqemulator.versioning.snapshots:SnapshotManager.record_change",
    "bqemulator.grpc_api.write_servicer:BigQueryWriteHandler._handle_append_rows",
    "bqemulator.grpc_api.write_servicer:BigQueryWriteHandler._handle_create_write_stream",
    "bqemulator.grpc_api.write_servicer:BigQueryWriteHandler._handle_finalize_write_stream",
    "bqemulator.grpc_api.write_servicer:BigQueryWriteHandler._handle_flush_rows",
    "bqemulator.grpc_api.write_servicer:BigQueryWriteHandler._flush_to_target",
    "bqemulator.sql.translator:SQLTranslator.translate",
    "bqemulator.jobs.executor:_LOAD_FORMAT_HANDLERS",
    "bqemulator.api.routes.tables:insert_table",
    "bqemulator.api.routes.tables:patch_table",
    "bqemulator.api.routes.tables:update_table",
    "bqemulator.api.routes.tables:get_table",
    "bqemulator.api.routes.jobs:insert_job",
    "bqemulator.api.routes.upload:_load_configuration_from_envelope",
    "bqemulator.api.routes.upload:_run_load",
)


class UnsupportedEmulatorError(CrashError):
    """The installed `bqemulator` is not the one that the repairs were written for."""


def check(installed: str | None = None) -> None:
    """Refuse to run on any other version, and on one whose replaced attributes are gone.

    Args:
        installed: The version to judge; `None` asks the installed package.

    Raises:
        UnsupportedEmulatorError: Says what is wrong and what to install.
    """
    try:
        version = installed or importlib.metadata.version("bqemulator")
    except importlib.metadata.PackageNotFoundError as error:
        raise UnsupportedEmulatorError("bqemulator is not installed; install datastreamx[demo]") from error
    if version != BQEMULATOR_VERSION:
        raise UnsupportedEmulatorError(
            f"bqemulator {version} is installed, but the local BigQuery replaces parts of {BQEMULATOR_VERSION}; "
            f"install bqemulator=={BQEMULATOR_VERSION}"
        )
    missing = [name for name in REPLACED if not _exists(name)]
    if missing:
        raise UnsupportedEmulatorError(
            f"bqemulator {version} lacks {', '.join(missing)}; the installation is damaged or was changed, "
            f"reinstall bqemulator=={BQEMULATOR_VERSION}"
        )


def _exists(name: str) -> bool:
    module, _, path = name.partition(":")
    found: object = importlib.import_module(module)
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            return False
        found = getattr(found, attribute)
    return True
