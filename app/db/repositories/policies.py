"""Which checkpoint a policy reference names."""

from sqlalchemy import case, select
from sqlalchemy.orm import Session

from app.db.models import Checkpoint, Run


def refer(session: Session, run: Run, reference: str) -> Checkpoint | None:
    """The checkpoint of ``run`` that ``reference`` names, if there is one.

    ``best``: the best so far, else the final one, else the newest; ``final``; or a checkpoint's id.
    """
    query = select(Checkpoint).where(Checkpoint.run_id == run.id)
    if reference == "best":
        rank = case((Checkpoint.id == run.best_checkpoint_id, 0), (Checkpoint.kind == "final", 1), else_=2)
        query = query.order_by(rank, Checkpoint.env_steps.desc())
    elif reference == "final":
        query = query.where(Checkpoint.kind == "final").order_by(Checkpoint.env_steps.desc())
    else:
        query = query.where(Checkpoint.id == reference)
    return session.scalars(query.limit(1)).one_or_none()
