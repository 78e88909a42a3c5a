"""List the notes on a job."""

from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.jobs import find_job
from examples.field_service.db.models.notes import notes_on
from examples.field_service.db.schema import Note
from examples.field_service.services.jobs.reference import JobReference


def _handler(data: JobReference, ctx: ActionContext) -> Result[list[Note], ActionError]:
    return find_job(ctx, data.job_id).map(lambda job: notes_on(ctx, job))


list_notes_action = create_action(
    name="notes",
    title="List the notes on a job",
    description="List the notes on a job",
    handler=_handler,
    validation=JobReference,
    permission="jobs.read",
    read_only=True,
)
