"""Jobs, and how they move on: new, scheduled (and moved), completed, paid."""

from returns.result import Failure, Result

from actionengine import ActionContext, ActionError, ErrorCode
from examples.field_service.db.collection import Collection
from examples.field_service.db.schema import Job

jobs = Collection("jobs", Job, "job")


def schedule(ctx: ActionContext, job: Job, day: str) -> Result[Job, ActionError]:
    """Fix, or move, the day of a job that is not done yet."""
    if job.status not in ("new", "scheduled"):
        return _wrong_status(job, "scheduled")
    return jobs.update(ctx, job, status="scheduled", scheduled_for=day)


def complete(ctx: ActionContext, job: Job) -> Result[Job, ActionError]:
    """Finish a scheduled job."""
    if job.status != "scheduled":
        return _wrong_status(job, "completed")
    return jobs.update(ctx, job, status="completed")


def settle(ctx: ActionContext, job: Job) -> Result[Job, ActionError]:
    """Mark a completed job as paid: no job is paid twice, whoever captures at the same time."""
    if job.status != "completed":
        return _wrong_status(job, "paid")
    return jobs.update(ctx, job, status="paid")


def _wrong_status(job: Job, wanted: str) -> Result[Job, ActionError]:
    message = f"the job {job.id} is {job.status} and cannot be {wanted}"
    return Failure(ActionError(ErrorCode.CONFLICT, message, {"job_id": job.id, "status": job.status}))
