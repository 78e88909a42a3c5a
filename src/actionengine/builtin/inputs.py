"""Types of the fields that the inputs of the library's own services share: each has a bound."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from actionengine.storage.records import MAX_ID_LENGTH

Id = Annotated[str, Field(max_length=MAX_ID_LENGTH)]
"""The id of a document or a row, or the cursor of a page."""
