"""What a spec may say of its environment."""

from typing import Any

import pytest

from app.schemas.base import SpecError
from app.schemas.experiment import ExperimentSpec, resolve


def resolved(algorithm: str, environment_id: str, frame_stack: int | None = None, **kwargs: Any) -> ExperimentSpec:
    environment = {"id": environment_id, "kwargs": kwargs, "frame_stack": frame_stack}
    return resolve(ExperimentSpec.model_validate({"environment": environment, "algorithm": {"name": algorithm}}))


def refusal(algorithm: str, environment_id: str, frame_stack: int | None = None, **kwargs: Any) -> tuple[str, str]:
    """The field a spec is refused for, and why."""
    with pytest.raises(SpecError) as refused:
        resolved(algorithm, environment_id, frame_stack, **kwargs)
    (error,) = refused.value.errors
    return error.pointer, error.message


@pytest.mark.parametrize(
    ("environment_id", "name", "value", "message"),
    [
        ("LunarLander-v3", "gravity", 5.0, "must be above -12 and below 0"),
        ("LunarLander-v3", "gravity", -12, "must be above -12 and below 0"),
        ("LunarLander-v3", "gravity", "-10", 'must be number, not "-10"'),
        ("LunarLander-v3", "wind_power", 20.5, "must be at least 0 and at most 20"),
        ("LunarLander-v3", "enable_wind", 1, "must be boolean, not 1"),
        ("FrozenLake-v1", "map_name", "16x16", "is not one of the values allowed"),
        ("FrozenLake-v1", "success_rate", True, "must be number, not true"),
        ("FrozenLake-v1", "reward_schedule", [1, 0], "must hold 3 values, not 2"),
        ("FrozenLake-v1", "reward_schedule", [1, 0, "0"], 'must be number, not "0"'),
        ("Hopper-v5", "frame_skip", 0, "must be at least 1 and at most 1000"),
        ("Hopper-v5", "frame_skip", 2.5, "must be integer, not 2.5"),
        ("ALE/Pong-v5", "mode", 2, "is not one of the values allowed"),
        ("ALE/Pong-v5", "frameskip", 2, "ALE/Pong-v5 takes no argument 'frameskip'"),
        ("MinAtar/Breakout-v1", "sticky_action_prob", -0.1, "must be at least 0 and at most 1"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(environment_id: str, name: str, value: Any, message: str) -> None:
    algorithm = "q_learning" if environment_id == "FrozenLake-v1" else "ppo"
    assert refusal(algorithm, environment_id, **{name: value}) == (f"/environment/kwargs/{name}", message)


def test_an_integer_may_have_a_point() -> None:
    kwargs = resolved("ppo", "Hopper-v5", frame_skip=2.0, reset_noise_scale=1.0).environment.kwargs
    assert kwargs == {"frame_skip": 2, "reset_noise_scale": 1.0}
    assert [type(value) for value in kwargs.values()] == [int, float]


def test_arguments_that_change_the_spaces_change_what_fits() -> None:
    assert refusal("dqn", "LunarLander-v3", continuous=True)[0] == "/algorithm/name"
    assert refusal("sac", "LunarLander-v3")[0] == "/algorithm/name"
    assert refusal("sac", "CarRacing-v3", continuous=False)[0] == "/algorithm/name"
    for algorithm, environment_id, kwargs in (
        ("sac", "LunarLander-v3", {"continuous": True}),
        ("dqn", "LunarLanderContinuous-v3", {"continuous": False}),
        ("dqn", "CarRacing-v3", {"continuous": False}),
        ("dqn", "LunarLander-v3", {"continuous": False}),
    ):
        assert resolved(algorithm, environment_id, **kwargs).environment.kwargs == kwargs


@pytest.mark.parametrize(
    ("algorithm", "environment_id", "ending"),
    [
        ("dqn", "Pendulum-v1", "Pendulum-v1 has continuous vector ones; what fits: ppo, sac"),
        ("dqn", "FrozenLake-v1", "FrozenLake-v1 has discrete ones; what fits: q_learning, sarsa, dyna_q"),
        ("dqn", "Blackjack-v1", "Blackjack-v1 has Tuple ones; no algorithm fits"),
    ],
)
def test_a_refusal_names_the_algorithms_that_fit(algorithm: str, environment_id: str, ending: str) -> None:
    assert refusal(algorithm, environment_id)[1].endswith(ending)


def test_images_are_stacked_as_is_usual_unless_said_otherwise() -> None:
    assert resolved("dqn", "ALE/Pong-v5").environment.frame_stack == 4
    assert resolved("dqn", "ALE/Pong-v5", 1).environment.frame_stack == 1
    assert resolved("dqn", "MinAtar/Breakout-v1").environment.frame_stack == 1
    assert resolved("ppo", "CarRacing-v3", 4).environment.frame_stack == 4
    assert resolved("ppo", "CartPole-v1", 1).environment.frame_stack == 1
    expected = ("/environment/frame_stack", "only images are stacked; CartPole-v1 has continuous vector observations")
    assert refusal("ppo", "CartPole-v1", 2) == expected


def test_a_replay_of_a_million_stacked_frames_is_not_too_large() -> None:
    spec = {"environment": {"id": "ALE/Pong-v5"}, "algorithm": {"name": "dqn", "buffer_size": 1_000_000}}
    assert resolve(ExperimentSpec.model_validate(spec)).environment.frame_stack == 4


@pytest.mark.parametrize(("algorithm", "environment_id"), [("dqn", "CarRacing-v3"), ("sac", "LunarLander-v3")])
def test_a_refusal_names_the_argument_that_would_make_it_fit(algorithm: str, environment_id: str) -> None:
    continuous = algorithm == "sac"
    pointer, message = refusal(algorithm, environment_id)
    assert pointer == "/algorithm/name" and f'with kwargs {{"continuous": {str(continuous).lower()}}}' in message
    assert resolved(algorithm, environment_id, continuous=continuous)


@pytest.mark.parametrize(("name", "void"), [("ppo", True), ("pqn", True), ("rainbow", True), ("sac", False)])
def test_hidden_sizes_that_images_would_make_void_are_refused(name: str, void: bool) -> None:
    environment = "CarRacing-v3" if name in ("sac", "ppo") else "MinAtar/Breakout-v1"
    assert resolved(name, environment).environment.id == environment
    spec = {"environment": {"id": environment}, "algorithm": {"name": name, "hidden_sizes": [32]}}
    if not void:
        assert resolve(ExperimentSpec.model_validate(spec)).algorithm.hidden_sizes == (32,)  # type: ignore[union-attr]
        return
    with pytest.raises(SpecError, match="sizes of its own") as caught:
        resolve(ExperimentSpec.model_validate(spec))
    assert [row.pointer for row in caught.value.errors] == ["/algorithm/hidden_sizes"]
