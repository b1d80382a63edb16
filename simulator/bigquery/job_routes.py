"""The REST API's jobs, whose ids work once; these routes go before `bqemulator`'s."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from bqemulator.api.dependencies import AppContext, get_caller
from bqemulator.api.routes import jobs, upload
from bqemulator.domain.errors import AlreadyExistsError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.bigquery.edited_request import EditedRequest

if TYPE_CHECKING:
    from bqemulator.catalog.models import JobMeta

_JOBS = "/bigquery/v2/projects/{project_id}/jobs"


class JobRoutes:
    """`jobs.insert`, by request and by upload, with job ids that work once.

    BigQuery refuses a used job id with 409, which is what makes a retried load job harmless. Stock runs the job again
    and doubles the rows; for uploads it ignores the id altogether.
    """

    _UPLOAD_ID_KEY = "simulatorJobId"

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._claimed: set[tuple[str, str]] = set()
        self._stock_configuration = upload._load_configuration_from_envelope  # noqa: SLF001
        self._stock_load = upload._run_load  # noqa: SLF001

    def routes(self) -> list[Route]:
        """Routes to put before stock's."""
        return [Route(_JOBS, self.insert, methods=["POST"])]

    def install_upload_ids(self) -> None:
        """Let stock's upload endpoints carry the client's job id from the first request to the load."""
        upload._load_configuration_from_envelope = self._configuration_with_id  # noqa: SLF001
        upload._run_load = self._load_once  # noqa: SLF001

    def uninstall_upload_ids(self) -> None:
        """Undo `install_upload_ids`, so that a later server in this process starts from stock."""
        upload._load_configuration_from_envelope = self._stock_configuration  # noqa: SLF001
        upload._run_load = self._stock_load  # noqa: SLF001

    async def insert(self, request: Request) -> Response:
        """Run a job unless its id is taken."""
        body = await request.json()
        project_id = request.path_params["project_id"]
        job_id = (body.get("jobReference") or {}).get("jobId")
        dry_run = (body.get("configuration") or {}).get("dryRun", False)
        if job_id and not dry_run:
            self._claim(project_id, job_id)
        done = await jobs.insert_job(project_id, EditedRequest(body), self._context, get_caller(request))
        return JSONResponse(done)

    def _claim(self, project_id: str, job_id: str) -> None:
        with self._lock:
            key = (project_id, job_id)
            if key in self._claimed or self._context.catalog.get_job(*key) is not None:
                raise AlreadyExistsError(f"Already Exists: Job {project_id}:US.{job_id}")
            self._claimed.add(key)

    def _configuration_with_id(self, envelope: dict[str, Any]) -> dict[str, Any]:
        configuration = dict(self._stock_configuration(envelope))
        job_id = (envelope.get("jobReference") or {}).get("jobId")
        return configuration | {self._UPLOAD_ID_KEY: job_id} if job_id else configuration

    async def _load_once(
        self, *, project_id: str, configuration: dict[str, Any], media_path: str, ctx: AppContext
    ) -> tuple[str, JobMeta]:
        configuration = dict(configuration)
        job_id = configuration.pop(self._UPLOAD_ID_KEY, None)
        if job_id is not None:
            self._claim(project_id, job_id)
        stock_id, job = await self._stock_load(
            project_id=project_id, configuration=configuration, media_path=media_path, ctx=ctx
        )
        if job_id is None:
            return stock_id, job
        job = job.model_copy(update={"job_id": job_id})
        ctx.catalog.delete_job(project_id, stock_id, not_found_ok=True)
        ctx.catalog.upsert_job(job)
        return job_id, job
