"""What actions on one job have in common: their input, and the name of the thing that they are about."""

from pydantic import BaseModel


class JobReference(BaseModel):
    job_id: str


def job_resource(data: JobReference) -> str:
    return f"jobs/{data.job_id}"
