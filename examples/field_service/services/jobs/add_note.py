"""Write a note on a job."""

from pydantic import Field
from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.jobs import find_job
from examples.field_service.db.models.notes import add_note
from examples.field_service.db.schema import Note
from examples.field_service.services.jobs.reference import JobReference, job_resource


class NewNote(JobReference):
    text: str = Field(min_length=1, max_length=2000, description="The text of the note.")


def _handler(data: NewNote, ctx: ActionContext) -> Result[Note, ActionError]:
    return find_job(ctx, data.job_id).map(lambda job: add_note(ctx, job, data.text))


add_note_action = create_action(
    name="add_note",
    title="Add a note to a job",
    description="Write a note on a job",
    handler=_handler,
    validation=NewNote,
    permission="jobs.note",
    resource=job_resource,
    destructive=False,
    examples=[{"job_id": "01890a5d-ac96-774b-bcce-b302099a8057", "text": "The customer has a dog."}],
)
