"""Jobs. Their states are new, scheduled, completed, paid."""

from datetime import date

from returns.result import Failure, Result

from actionengine import ActionContext, ActionError, ErrorCode
from examples.field_service.db.rows import find, lock, page, save
from examples.field_service.db.schema import Job, JobStatus
from examples.field_service.db.tables import CustomerRow, JobRow


def find_job(ctx: ActionContext, id: str) -> Result[JobRow, ActionError]:
    return find(ctx, JobRow, id, "job")


def lock_job(ctx: ActionContext, id: str) -> Result[JobRow, ActionError]:
    return lock(ctx, JobRow, id, "job")


def list_jobs(ctx: ActionContext, after: str | None, status: JobStatus | None) -> list[Job]:
    return page(ctx, JobRow, Job, after, **({"status": status} if status else {}))


def add_job(ctx: ActionContext, customer: CustomerRow, title: str) -> Result[Job, ActionError]:
    return save(ctx, JobRow(tenant_id=ctx.tenant.id, customer_id=customer.id, title=title), Job)


def schedule(ctx: ActionContext, job: JobRow, day: date) -> Result[Job, ActionError]:
    """Set or move the day of a job that is not completed."""
    if job.status not in ("new", "scheduled"):
        return _wrong_status(job, "scheduled")
    job.status, job.scheduled_for = "scheduled", day
    return save(ctx, job, Job)


def complete(ctx: ActionContext, job: JobRow) -> Result[Job, ActionError]:
    """Finish a scheduled job."""
    if job.status != "scheduled":
        return _wrong_status(job, "completed")
    job.status = "completed"
    return save(ctx, job, Job)


def settle(ctx: ActionContext, job: JobRow) -> Result[Job, ActionError]:
    """Mark a completed job as paid. The lock keeps two captures from paying it twice."""
    if job.status != "completed":
        return _wrong_status(job, "paid")
    job.status = "paid"
    return save(ctx, job, Job)


def _wrong_status(job: JobRow, wanted: str) -> Result[Job, ActionError]:
    message = f"the job {job.id} is {job.status} and cannot be {wanted}"
    return Failure(ActionError(ErrorCode.CONFLICT, message, {"job_id": job.id, "status": job.status}))
