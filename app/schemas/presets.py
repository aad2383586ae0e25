"""Tuned numbers per (algorithm, environment). A preset is numbers and nothing else; explicit fields win over it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from app.schemas.algorithms import AnyAlgorithm
from app.schemas.base import FieldError, SpecError

if TYPE_CHECKING:
    from app.schemas.experiment import EnvironmentSpec

_DQN_CARTPOLE: dict[str, Any] = {
    "hidden_sizes": (256, 256),
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "train_every": 256,
    "gradient_steps": 128,
    "target_update_every": 128,
    "epsilon_end": 0.04,
    "epsilon_fraction": 0.16,
}

_DQN_STEADY: dict[str, Any] = {
    "hidden_sizes": (128, 128),
    "learning_rate": 5e-4,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "train_every": 4,
    "gradient_steps": 2,
    "target_update_every": 1,
    "tau": 0.005,
}
_EXPLORING = {"epsilon_end": 0.02, "epsilon_fraction": 0.25}
_ACROBOT_RETURNS = {"v_min": -100.0, "v_max": 0.0}

PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("ppo", "CartPole-v1"): {
        "origin": "rl-baselines3-zoo",
        "num_envs": 8,
        "num_steps": 32,
        "num_minibatches": 1,
        "epochs": 20,
        "gamma": 0.98,
        "gae_lambda": 0.8,
        "learning_rate": 1e-3,
        "learning_rate_schedule": "linear",
        "clip_range_schedule": "linear",
    },
    ("ppo", "Pendulum-v1"): {
        "origin": "tuned here: five of five seeds between -150 and -175 after 200,000 env steps",
        "num_envs": 4,
        "num_steps": 256,
        "num_minibatches": 16,
        "epochs": 10,
        "gamma": 0.95,
        "learning_rate": 1e-3,
        "learning_rate_schedule": "linear",
        "normalize_reward": True,
    },
    ("ppo", "LunarLander-v3"): {
        "origin": "after rl-baselines3-zoo; five of five seeds between 249 and 268 within 300,000 env steps",
        "num_envs": 8,
        "num_steps": 256,
        "num_minibatches": 16,
        "epochs": 6,
        "gamma": 0.999,
        "gae_lambda": 0.98,
        "learning_rate": 1e-3,
        "learning_rate_schedule": "linear",
        "entropy_coefficient": 0.01,
        "normalize_reward": True,
    },
    ("ppo", "HalfCheetah-v5"): {
        "origin": "after CleanRL; one seed at 1,240 within 300,000 env steps",
        "num_envs": 8,
        "num_steps": 256,
        "num_minibatches": 8,
        "epochs": 10,
        "learning_rate_schedule": "linear",
        "normalize_observation": True,
        "normalize_reward": True,
    },
    ("dqn", "CartPole-v1"): {
        "origin": "rl-baselines3-zoo; its target interval of 10 env steps comes to one update per round of 128",
        **_DQN_CARTPOLE,
    },
    ("double_dqn", "CartPole-v1"): {
        "origin": "DQN's; five of five seeds at 500 within 100,000 env steps",
        **_DQN_CARTPOLE,
    },
    ("dueling_dqn", "CartPole-v1"): {
        "origin": "DQN's; five of five seeds at 500 within 100,000 env steps",
        **_DQN_CARTPOLE,
    },
    ("c51", "CartPole-v1"): {
        "origin": "DQN's, with the range of discounted returns; five of five seeds at 500 within 100,000 env steps",
        **_DQN_CARTPOLE,
        "v_min": 0.0,
        "v_max": 100.0,
    },
    ("qr_dqn", "CartPole-v1"): {
        "origin": "rl-baselines3-zoo, as DQN's; five of five seeds at 500 within 100,000 env steps",
        **_DQN_CARTPOLE,
        "num_quantiles": 10,
    },
    ("iqn", "CartPole-v1"): {
        "origin": "DQN's; five of five seeds at 500 within 100,000 env steps",
        **_DQN_CARTPOLE,
    },
    ("rainbow", "CartPole-v1"): {
        "origin": "tuned here: five of five seeds at 499 or 500 within 100,000 env steps",
        "hidden_sizes": (128, 128),
        "learning_rate": 1e-3,
        "batch_size": 64,
        "train_every": 4,
        "gradient_steps": 2,
        "target_update_every": 250,
        "v_min": 0.0,
        "v_max": 100.0,
    },
    ("dqn", "Acrobot-v1"): {
        "origin": "tuned here: five of five seeds between -77 and -85 within 100,000 env steps",
        **_DQN_STEADY,
        **_EXPLORING,
    },
    ("double_dqn", "Acrobot-v1"): {
        "origin": "DQN's; five of five seeds between -76 and -86 within 100,000 env steps",
        **_DQN_STEADY,
        **_EXPLORING,
    },
    ("dueling_dqn", "Acrobot-v1"): {
        "origin": "DQN's; five of five seeds between -77 and -82 within 100,000 env steps",
        **_DQN_STEADY,
        **_EXPLORING,
    },
    ("c51", "Acrobot-v1"): {
        "origin": "DQN's, with returns from -100; five of five seeds between -71 and -83 within 100,000 env steps",
        **_DQN_STEADY,
        **_EXPLORING,
        **_ACROBOT_RETURNS,
    },
    ("qr_dqn", "Acrobot-v1"): {
        "origin": "DQN's; five of five seeds between -79 and -85 within 100,000 env steps",
        **_DQN_STEADY,
        **_EXPLORING,
        "num_quantiles": 10,
    },
    ("iqn", "Acrobot-v1"): {
        "origin": "DQN's; five of five seeds between -78 and -90 within 100,000 env steps",
        **_DQN_STEADY,
        **_EXPLORING,
    },
    ("rainbow", "Acrobot-v1"): {
        "origin": "DQN's, with returns from -100; five of five seeds between -73 and -84 within 100,000 env steps",
        **_DQN_STEADY,
        **_ACROBOT_RETURNS,
    },
    ("dqn", "MountainCar-v0"): {
        "origin": "rl-baselines3-zoo; five of five seeds between -102 and -117 within 120,000 env steps",
        "hidden_sizes": (256, 256),
        "gamma": 0.98,
        "learning_rate": 4e-3,
        "batch_size": 128,
        "buffer_size": 10_000,
        "learning_starts": 1_000,
        "train_every": 16,
        "gradient_steps": 8,
        "target_update_every": 300,
        "epsilon_end": 0.07,
        "epsilon_fraction": 0.2,
    },
    ("sac", "Pendulum-v1"): {
        "origin": "tuned here: solved by 15,000 env steps",
        "hidden_sizes": (64, 64),
        "activation": "silu",
        "learning_rate": 1e-3,
        "batch_size": 128,
    },
    ("pqn", "CartPole-v1"): {
        "origin": "tuned here: five of five seeds at 500 within 100,000 env steps, eight of eight above 495 in 50,000",
        "learning_rate": 3e-3,
    },
    ("pqn", "Acrobot-v1"): {
        "origin": "tuned here: five of five seeds between -80 and -95 within 200,000 env steps",
        "epsilon_fraction": 0.4,
    },
    ("ppo", "Acrobot-v1"): {
        "origin": "the defaults: five of five seeds between -82 and -92 within 200,000 env steps",
        "num_envs": 8,
    },
    ("double_dqn", "LunarLander-v3"): {
        "origin": "tuned here with prioritized replay: five of five seeds between 212 and 257 within 300,000 env steps",
        **_DQN_STEADY,
        **_EXPLORING,
    },
    ("pqn", "LunarLander-v3"): {
        "origin": "tuned here: five of five seeds between 238 and 258 within 500,000 env steps",
        "num_envs": 16,
        "num_minibatches": 8,
        "q_lambda": 0.8,
        "epsilon_fraction": 0.2,
    },
    ("q_learning", "CliffWalking-v1"): {
        "origin": "Sutton & Barto 2018, example 6.6; tuned here: ten of ten seeds at -13 after 30,000 env steps",
        "gamma": 1.0,
        "learning_rate": 0.5,
        "epsilon_start": 0.1,
        "epsilon_end": 0.1,
    },
    ("q_learning", "Taxi-v4"): {
        "origin": "tuned here: ten of ten seeds between 7.6 and 7.8 after 200,000 env steps",
        "learning_rate": 0.4,
        "epsilon_fraction": 0.3,
    },
    ("q_learning", "FrozenLake-v1"): {
        "origin": "tuned here: ten of ten seeds at 0.74 after 150,000 env steps",
        "learning_rate": 1.0,
        "learning_rate_schedule": "visits",
        "learning_rate_floor": 0.01,
        "epsilon_end": 0.1,
    },
    ("q_learning", "FrozenLake8x8-v1"): {
        "origin": "tuned here: best evaluations of five seeds between 0.78 and 0.92 within 600,000 env steps",
        "learning_rate": 1.0,
        "learning_rate_schedule": "visits",
        "learning_rate_floor": 0.01,
        "epsilon_end": 0.1,
    },
    ("sarsa", "CliffWalking-v1"): {
        "origin": "Sutton & Barto 2018, example 6.6; tuned here: ten of ten seeds at -17 after 30,000 env steps",
        "gamma": 1.0,
        "learning_rate": 0.5,
        "learning_rate_schedule": "linear",
        "learning_rate_floor": 0.01,
        "epsilon_start": 0.1,
        "epsilon_end": 0.1,
    },
    ("dyna_q", "CliffWalking-v1"): {
        "origin": "tuned here: ten of ten seeds at -13 after 600 env steps",
        "planning_steps": 50,
        "learning_rate": 0.5,
        "epsilon_start": 0.1,
        "epsilon_end": 0.1,
    },
    ("dyna_q", "Taxi-v4"): {
        "origin": "tuned here: ten of ten seeds between 7.0 and 7.7 after 30,000 env steps",
        "planning_steps": 20,
        "learning_rate": 0.5,
        "epsilon_start": 0.1,
        "epsilon_end": 0.1,
    },
}
"""``(algorithm, environment id)`` -> algorithm fields, ``num_envs`` and ``origin``, where the numbers come from."""


def apply(algorithm: AnyAlgorithm, environment: "EnvironmentSpec") -> tuple[AnyAlgorithm, "EnvironmentSpec"]:
    """Fill the fields the user left open with the preset's numbers, when the preset is asked for and there is one: the
    algorithm's ``preset`` is null where there is none.

    Raises:
        SpecError: the user's numbers and the preset's contradict one another.
    """
    wanted = algorithm.preset == "auto" and not environment.kwargs  # with arguments it is another task
    preset = PRESETS.get((algorithm.name, environment.id), {}) if wanted else {}
    mine = algorithm.model_fields_set | {"num_envs", "origin"}
    tuned = {field: value for field, value in preset.items() if field not in mine and algorithm.takes(field)}
    if environment.num_envs is None and "num_envs" in preset:
        environment = environment.model_copy(update={"num_envs": preset["num_envs"]})
    try:
        complete = type(algorithm).model_validate(algorithm.model_dump() | tuned | {"preset": None})
    except ValidationError as error:
        raise SpecError([_beside_the_preset(row, tuned) for row in error.errors()]) from None
    return complete.model_copy(update={"preset": "auto" if preset else None}), environment


def _beside_the_preset(row: Mapping[str, Any], tuned: Mapping[str, Any]) -> FieldError:
    message = row["msg"].removeprefix("Value error, ")
    context = "does not go with the preset's other numbers: " if tuned else ""
    return FieldError(f"/algorithm/{row['loc'][0]}", context + message)
