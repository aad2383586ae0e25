import pytest

from app.schemas.environments import catalogue, kind
from app.schemas.experiment import EnvironmentSpec
from worker.rl import envs
from worker.rl.envs import catalogue as generator

PACKAGES = sorted(set(generator.PACKAGES.values()))


@pytest.mark.parametrize("package", [p if p != "ale-py" else pytest.param(p, marks=pytest.mark.slow) for p in PACKAGES])
def test_the_file_is_what_the_pinned_packages_say(package: str) -> None:
    ours = [entry for entry in catalogue().values() if entry.package == package]
    assert generator.text(ours) == generator.text(generator.entries(package))


def test_the_file_is_written_by_the_generator() -> None:
    assert generator.text(list(catalogue().values())) == generator.PATH.read_text()


def test_it_knows_the_usual_environments() -> None:
    known = catalogue()
    assert kind(known["CartPole-v1"].action_space) == "discrete"
    assert kind(known["Pendulum-v1"].action_space) == "vector"
    assert kind(known["CarRacing-v3"].observation_space) == "image"
    assert kind(known["Blackjack-v1"].observation_space) == "other"
    assert known["HalfCheetah-v5"].max_episode_steps == 1000
    assert kind(known["MinAtar/Breakout-v1"].observation_space) == "image"
    assert known["ALE/Pong-v5"].frame_stack == 4 and known["ALE/Pong-v5"].max_episode_steps == 27_000
    assert "HalfCheetah-v4" not in known and "CartPole-v0" not in known


def test_arguments_are_data_and_none_reaches_the_screen_or_the_disk() -> None:
    properties = {entry.id: entry.kwargs_schema["properties"] for entry in catalogue().values()}
    gravity = {"type": "number", "default": -10.0, "exclusiveMinimum": -12, "exclusiveMaximum": 0}
    assert properties["LunarLander-v3"]["gravity"] == gravity
    assert properties["FrozenLake-v1"]["map_name"]["enum"] == ["4x4", "8x8"]
    assert properties["ALE/Pong-v5"]["mode"] == {"type": "integer", "default": 0, "enum": [0, 1]}
    assert properties["HalfCheetah-v5"]["frame_skip"]["type"] == "integer"
    assert not {"render_mode", "xml_file", "game"} & {name for names in properties.values() for name in names}


@pytest.mark.parametrize(
    ("env_id", "kwargs", "frame_stack"),
    [
        ("CarRacing-v3", {"continuous": False}, None),
        ("CarRacing-v3", {"continuous": False}, 2),
        ("LunarLander-v3", {"continuous": True}, None),
        ("LunarLanderContinuous-v3", {"continuous": False}, None),
        ("FrozenLake-v1", {"map_name": "8x8"}, None),
        ("Ant-v5", {"include_cfrc_ext_in_observation": False}, None),
        ("ALE/Pong-v5", {"full_action_space": True}, None),
        ("ALE/Pong-v5", {"full_action_space": False}, 2),
    ],
)
def test_it_knows_the_spaces_an_agent_sees(env_id: str, kwargs: dict[str, object], frame_stack: int | None) -> None:
    entry = catalogue()[env_id]
    made = envs.make(EnvironmentSpec(id=env_id, kwargs=kwargs, frame_stack=frame_stack), [0], 1)
    expected = entry.made_with(kwargs, frame_stack)
    assert made.spec.observation_space == expected.observation_space
    assert made.spec.action_space == expected.action_space
    assert made.spec.frame_stack == expected.frame_stack
    made.close()
