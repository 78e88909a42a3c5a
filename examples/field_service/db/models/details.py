"""The details of jobs: documents of the record type `job`, under the id of the job."""

from collections.abc import Mapping

from pydantic import JsonValue

from actionengine import ActionContext, Record
from examples.field_service.db.schema import JobDetails
from examples.field_service.db.tables import JobRow


def set_details(ctx: ActionContext, job: JobRow, details: Mapping[str, JsonValue]) -> JobDetails:
    """Replace the details of a job, which is locked."""
    records = ctx.records("job")
    known = records.get(job.id)
    if known is None:
        return _details(records.insert(details, id=job.id))
    return _details(records.update(job.id, details, known.version))


def details_of(ctx: ActionContext, job: JobRow) -> dict[str, JsonValue]:
    known = ctx.records("job").get(job.id)
    return dict(known.data) if known is not None else {}


def _details(record: Record) -> JobDetails:
    return JobDetails(id=record.id, version=record.version, details=dict(record.data))
