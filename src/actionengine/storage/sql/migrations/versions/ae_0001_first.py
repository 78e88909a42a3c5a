"""Tables, row-level security and functions of actionengine."""

from actionengine.storage.sql.migrations.scripts import run_script

revision = "ae_0001"
down_revision = None
branch_labels = ("actionengine",)
depends_on = None


def upgrade() -> None:
    """Make everything."""
    run_script("0001")
