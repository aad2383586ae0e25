from app.schemas.environments import catalogue, kind
from worker.rl.envs import catalogue as generator


def test_the_file_is_what_the_pinned_gymnasium_says() -> None:
    assert generator.text() == generator.PATH.read_text()


def test_it_knows_the_usual_environments() -> None:
    known = catalogue()
    assert kind(known["CartPole-v1"].action_space) == "discrete"
    assert kind(known["Pendulum-v1"].action_space) == "vector"
    assert kind(known["CarRacing-v3"].observation_space) == "image"
    assert kind(known["Blackjack-v1"].observation_space) == "other"
    assert known["HalfCheetah-v5"].max_episode_steps == 1000
    assert "HalfCheetah-v4" not in known and "CartPole-v0" not in known


def test_arguments_are_data_and_none_reaches_the_screen_or_the_disk() -> None:
    properties = {entry.id: entry.kwargs_schema["properties"] for entry in catalogue().values()}
    assert properties["LunarLander-v3"]["gravity"] == {"type": "number", "default": -10.0}
    assert properties["HalfCheetah-v5"]["frame_skip"]["type"] == "integer"
    assert not {"render_mode", "xml_file"} & {name for names in properties.values() for name in names}
