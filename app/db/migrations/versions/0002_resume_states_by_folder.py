"""Find resume states by their folders."""

from collections.abc import Sequence

from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_index("ix_resume_states_path", "resume_states", ["path"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_resume_states_path", table_name="resume_states")
