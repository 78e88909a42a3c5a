"""Finish a job."""

from returns.functions import tap
from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.jobs import complete, lock_job
from examples.field_service.db.schema import Job
from examples.field_service.events import job_completed
from examples.field_service.services.jobs.reference import JobReference, job_resource


def _handler(data: JobReference, ctx: ActionContext) -> Result[Job, ActionError]:
    completed = lock_job(ctx, data.job_id).bind(lambda job: complete(ctx, job))
    return completed.map(tap(lambda job: ctx.emit(job_completed, job, subject=f"jobs/{job.id}")))


complete_job_action = create_action(
    name="complete",
    title="Finish a job",
    description="Finish a scheduled job",
    handler=_handler,
    validation=JobReference,
    permission="jobs.complete",
    emits=[job_completed],
    resource=job_resource,
    destructive=False,
)
