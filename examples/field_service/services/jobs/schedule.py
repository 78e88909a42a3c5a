"""Set the day of a job."""

from datetime import date

from pydantic import Field
from returns.functions import tap
from returns.result import Result

from actionengine import ActionContext, ActionError, ActionHooks, HookDefinition, create_action
from examples.field_service.db.models.jobs import lock_job, schedule
from examples.field_service.db.schema import Job
from examples.field_service.events import JobScheduled, job_scheduled
from examples.field_service.services.jobs.reference import JobReference, job_resource


class Appointment(JobReference):
    day: date = Field(description="The day of the job.")


def _handler(data: Appointment, ctx: ActionContext) -> Result[Job, ActionError]:
    scheduled = lock_job(ctx, data.job_id).bind(lambda job: schedule(ctx, job, data.day))
    return scheduled.map(tap(lambda job: ctx.emit(job_scheduled, _news(job, data.day), subject=f"jobs/{job.id}")))


def _news(job: Job, day: date) -> JobScheduled:
    return JobScheduled(job_id=job.id, title=job.title, day=day)


schedule_job_action = create_action(
    name="schedule",
    title="Schedule a job",
    description="Set the day of a job, but not a Sunday",
    handler=_handler,
    validation=Appointment,
    hooks=ActionHooks(before=(HookDefinition("jobs", "check_day"),)),
    permission="jobs.schedule",
    emits=[job_scheduled],
    resource=job_resource,
    destructive=False,
    examples=[{"job_id": "01890a5d-ac96-774b-bcce-b302099a8057", "day": "2030-01-31"}],
)
