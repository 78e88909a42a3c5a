"""Fix the day of a job."""

from datetime import date

from returns.result import Result

from actionengine import ActionContext, ActionError, ActionHooks, HookDefinition, create_action
from examples.field_service.db.models.jobs import jobs, schedule
from examples.field_service.db.schema import Job
from examples.field_service.services.jobs.reference import JobReference, job_resource


class Appointment(JobReference):
    day: date


def _handler(data: Appointment, ctx: ActionContext) -> Result[Job, ActionError]:
    return jobs.get(ctx, data.job_id).bind(lambda job: schedule(ctx, job, data.day.isoformat()))


schedule_job_action = create_action(
    name="schedule",
    description="Fix the day of a job: not a Sunday",
    handler=_handler,
    validation=Appointment,
    hooks=ActionHooks(before=(HookDefinition("jobs", "check_day"),)),
    permission="jobs.schedule",
    resource=job_resource,
)
