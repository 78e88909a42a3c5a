"""The input that actions on a job share, and their resource."""

from pydantic import BaseModel


class JobReference(BaseModel):
    job_id: str


def job_resource(data: JobReference) -> str:
    return f"jobs/{data.job_id}"
