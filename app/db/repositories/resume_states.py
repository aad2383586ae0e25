"""Resume states: rows that keep the folders they name. A state nobody can go on from is dropped."""

from collections.abc import Sequence

from sqlalchemy import delete, exists, or_, select
from sqlalchemy.orm import Session, aliased

from app.db.clock import now
from app.db.ids import new_id
from app.db.models import Job, ResumeState, Run


def put(session: Session, *, job_id: str, attempt: int, env_steps: int, path: str, run_ids: Sequence[str]) -> str:
    """Store a state and return its id; one that lies in the same folder is the same state, whichever job it is of."""
    found = session.scalar(select(ResumeState.id).where(ResumeState.path == path))
    if found is not None:
        return found
    state = ResumeState(
        id=new_id("state"),
        job_id=job_id,
        attempt=attempt,
        env_steps=env_steps,
        path=path,
        run_ids=list(run_ids),
        created_at=now(),
    )
    session.add(state)
    session.flush()
    return state.id


def get(session: Session, state_id: str | None) -> ResumeState | None:
    return None if state_id is None else session.get(ResumeState, state_id)


def drop_unused(session: Session, experiment_id: str | None = None) -> tuple[str, ...]:
    """Forget the states (of one experiment) that nothing goes on from, and return their folders.

    In use is what a paused run points at, and the state of a job that has not ended or has a run that failed. The last
    that a job published before its runs were paused is kept in case theirs is damaged, until they have a new one; where
    runs are paused again before that, or others of the pack went on, there is none.
    """
    owner, user, heir, later = aliased(Job), aliased(Job), aliased(Job), aliased(ResumeState)
    paused = exists().where(Run.experiment_id == owner.experiment_id, Run.resume_state_id == ResumeState.id)
    failed = exists().where(Run.job_id == user.id, Run.status == "failed")
    current = exists().where(
        user.experiment_id == owner.experiment_id,
        user.resume_state_id == ResumeState.id,
        or_(user.status != "ended", failed),
    )
    at_pause = exists().where(
        later.job_id == owner.id,
        later.id != ResumeState.id,
        later.env_steps >= ResumeState.env_steps,
        or_(
            exists().where(Run.experiment_id == owner.experiment_id, Run.resume_state_id == later.id),
            exists().where(
                heir.experiment_id == owner.experiment_id, heir.resume_state_id == later.id, heir.status != "ended"
            ),
        ),
    )
    spare = (owner.resume_state_id == ResumeState.id) & at_pause
    query = select(ResumeState.id).join(owner, owner.id == ResumeState.job_id).where(~paused, ~current, ~spare)
    if experiment_id is not None:
        query = query.where(owner.experiment_id == experiment_id)
    unused = session.scalars(query.with_for_update(of=ResumeState, skip_locked=True)).all()
    dropped = delete(ResumeState).where(ResumeState.id.in_(unused)).returning(ResumeState.path)
    return tuple(session.scalars(dropped, execution_options={"synchronize_session": False})) if unused else ()
