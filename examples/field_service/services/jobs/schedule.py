"""Fix the day of a job."""

from datetime import date

from returns.functions import tap
from returns.result import Result

from actionengine import ActionContext, ActionError, ActionHooks, HookDefinition, create_action
from examples.field_service.db.models.jobs import lock_job, schedule
from examples.field_service.db.schema import Job
from examples.field_service.services.jobs.reference import JobReference, job_resource


class Appointment(JobReference):
    day: date


def _handler(data: Appointment, ctx: ActionContext) -> Result[Job, ActionError]:
    scheduled = lock_job(ctx, data.job_id).bind(lambda job: schedule(ctx, job, data.day))
    return scheduled.map(tap(lambda job: ctx.emit("jobs.scheduled", job, subject=f"jobs/{job.id}")))


schedule_job_action = create_action(
    name="schedule",
    description="Fix the day of a job: not a Sunday",
    handler=_handler,
    validation=Appointment,
    hooks=ActionHooks(before=(HookDefinition("jobs", "check_day"),)),
    permission="jobs.schedule",
    emits=["jobs.scheduled"],
    resource=job_resource,
)
