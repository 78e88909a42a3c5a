"""The input that actions on a job share, and their resource."""

from pydantic import BaseModel, Field


class JobReference(BaseModel):
    job_id: str = Field(description="The id of the job.")


def job_resource(data: JobReference) -> str:
    return f"jobs/{data.job_id}"
