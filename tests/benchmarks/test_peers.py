"""The comparison with other libraries measures what it says; how fast anybody is, is not tested."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from app.schemas.experiment import ExperimentSpec, resolve

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``peers.py`` as a script sees itself."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers

    return peers


def test_every_case_can_be_trained(peers: ModuleType) -> None:
    from trainings import LIBRARIES, experiment

    for case in peers.CASES.values():
        spec = resolve(ExperimentSpec.model_validate(experiment(case.order)))
        given = spec.algorithm.model_dump(mode="json")
        assert given | case.order.settings == given
        assert case.order.warm_up < case.order.env_steps
        assert {contender.library for contender in case.contenders} <= set(LIBRARIES)


def test_the_clocks_run_between_the_two_env_steps(peers: ModuleType) -> None:
    from trainings import Order, Stopwatch

    watch = Stopwatch(Order("ppo", "CartPole-v1", {}, warm_up=20, env_steps=40, seeds=3))
    for env_step in (10, 19):
        watch.reached(env_step)
    assert watch.began is None
    watch.reached(20)
    began = watch.began
    watch.reached(30)
    assert watch.began == began is not None
    assert watch.ended is None
    watch.reached(40)
    ended = watch.ended
    watch.reached(50)
    assert watch.ended == ended is not None
    timing = watch.timing()
    assert (timing.env_steps, timing.wall) == (3 * 20, ended[0] - began[0])


def test_a_training_of_ours_is_timed_in_a_process_of_its_own(peers: ModuleType) -> None:
    order = peers.replace(peers.NARROW, warm_up=100, env_steps=300)
    timing = peers.measure(peers.Contender("Trainyard", seeds=2), order, sys.executable)
    assert timing.env_steps == 2 * 200
    assert min(timing.wall, timing.processor, timing.mebibytes) > 0


def test_ratios_are_of_medians_and_the_goal_against_the_fastest(
    peers: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    case = peers.CASES["dqn"]
    ours = peers.Result("Trainyard", 1, wall=[100.0, 300.0, 200.0], processor=[200.0] * 3, mebibytes=1)
    slow = peers.Result("Slow", 1, wall=[50.0, 50.0, 50.0], processor=[50.0] * 3, mebibytes=1)
    fast = peers.Result("Fast", 1, wall=[100.0, 100.0, 160.0], processor=[160.0] * 3, mebibytes=1)
    peers.report(case, [ours, slow, fast])
    printed = capsys.readouterr().out
    assert "| Slow | 1 | 50 | 50 | 4.00 (2.00 to 6.00) | 4.00 | 1 |" in printed
    assert f"2.00 times Fast; goal {case.goal}" in printed
