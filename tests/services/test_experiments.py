"""What a spec may not contain, beyond its schema."""

import pytest

from app.errors import Invalid
from app.schemas.experiment import ExperimentSpec
from app.services.experiments import resolved


def spec(**changes: object) -> ExperimentSpec:
    body = {"environment": {"id": "Pendulum-v1"}, "algorithm": {"name": "ppo"}}
    return ExperimentSpec.model_validate(body | changes)


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"name": "a\0b"}, "/name"),
        ({"tags": {"a\0b": "c"}}, "/tags/a\0b"),
        ({"tags": {"team": "a\0"}}, "/tags/team"),
        ({"environment": {"id": "Pendulum-v1", "kwargs": {"g": [[2**63]]}}}, "/environment/kwargs/g/0/0"),
        ({"environment": {"id": "Pendulum-v1", "kwargs": {"g": {"a/b": ["\ud800"]}}}}, "/environment/kwargs/g/a~1b/0"),
    ],
)
def test_what_cannot_be_stored_is_refused(changes: dict[str, object], pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        resolved(spec(**changes))
    assert pointer in {error.pointer for error in caught.value.errors}


def test_what_can_is_resolved() -> None:
    assert resolved(spec(name="ünï ☃", tags={"a/b~c": "\t"})).environment.num_envs is not None
