from typing import Any

import pytest

from app.schemas.experiment import ExperimentSpec, resolve
from app.schemas.packing import pack_size, threads


def spec(
    algorithm: dict[str, Any], environment: str = "CartPole-v1", seeds: int = 10, **resources: Any
) -> ExperimentSpec:
    return resolve(
        ExperimentSpec.model_validate(
            {
                "environment": {"id": environment},
                "algorithm": algorithm,
                "seeds": list(range(seeds)),
                "resources": resources,
            }
        )
    )


@pytest.mark.parametrize(
    ("algorithm", "environment", "size"),
    [
        ({"name": "ppo"}, "CartPole-v1", 8),
        ({"name": "ppo", "hidden_sizes": [128, 128]}, "CartPole-v1", 4),
        ({"name": "ppo", "hidden_sizes": [256, 64]}, "CartPole-v1", 1),
        ({"name": "ppo"}, "CarRacing-v3", 1),
        ({"name": "dqn"}, "MinAtar/Breakout-v1", 1),
        ({"name": "dqn", "batch_size": 32}, "MinAtar/Breakout-v1", 4),
        ({"name": "dqn"}, "CartPole-v1", 4),
        ({"name": "dqn", "hidden_sizes": [64]}, "CartPole-v1", 8),
        ({"name": "qr_dqn", "hidden_sizes": [64], "num_quantiles": 10}, "CartPole-v1", 8),
        ({"name": "qr_dqn", "hidden_sizes": [64], "num_quantiles": 25}, "CartPole-v1", 4),
        ({"name": "qr_dqn", "hidden_sizes": [64]}, "CartPole-v1", 1),
        ({"name": "qr_dqn", "batch_size": 32, "num_quantiles": 200}, "MinAtar/Breakout-v1", 1),
        ({"name": "iqn", "hidden_sizes": [64]}, "CartPole-v1", 4),
        ({"name": "iqn"}, "CartPole-v1", 1),
        ({"name": "sac"}, "Pendulum-v1", 1),
        ({"name": "dyna_q"}, "Taxi-v4", 8),
        ({"name": "sac", "preset": "auto"}, "Pendulum-v1", 8),
    ],
)
def test_small_products_are_packed(algorithm: dict[str, Any], environment: str, size: int) -> None:
    assert pack_size(spec(algorithm, environment)) == size


def test_a_number_is_obeyed_and_a_pack_holds_no_more_than_there_are() -> None:
    assert pack_size(spec({"name": "sac"}, "Pendulum-v1", pack=3)) == 3
    assert pack_size(spec({"name": "ppo"}, seeds=2, pack=64)) == 2
    assert pack_size(spec({"name": "ppo"}, seeds=3)) == 3


def test_threads_follow_the_work_of_all_runs() -> None:
    assert [threads(spec({"name": "ppo"}), runs) for runs in (1, 8, 9, 16)] == [1, 1, 1, 2]
    assert threads(spec({"name": "sac"}, "Pendulum-v1"), 1) == 2
    assert threads(spec({"name": "ppo"}, "CarRacing-v3"), 1) == 2
    assert threads(spec({"name": "iqn"}), 1) == 2
    assert threads(spec({"name": "qr_dqn", "hidden_sizes": [64]}), 1) == 1
    assert threads(spec({"name": "dqn", "batch_size": 32}, "MinAtar/Breakout-v1"), 1) == 1
    assert threads(spec({"name": "ppo"}, threads=5), 1) == 5
