"""What users can do to the runs of a pack, and what a reporter hears."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from tests.rl import toys
from worker.rl import envs
from worker.rl.algorithms import ppo
from worker.rl.drivers import loop, train
from worker.rl.drivers.pack import Pack
from worker.rl.envs.vector import LoopVectorEnv
from worker.rl.errors import EnvironmentFailure, IncompatibleState, UnsupportedSpace
from worker.rl.evaluation import Evaluator
from worker.rl.reporter import MemoryReporter, Order, State

PPO = {"name": "ppo", "num_steps": 16, "num_minibatches": 2, "epochs": 2, "hidden_sizes": (16,)}
SEEDS = [1, 2, 3]
STEP = 16 * 4
SPEC = toys.spec("CartPole-v1", PPO, num_envs=4, total=STEP * 12, every=STEP * 4)


def run(seeds: list[int] = SEEDS, spec: Any = SPEC, **kwargs: Any) -> MemoryReporter:
    reporter = MemoryReporter(seeds, orders=kwargs.pop("orders", {}))
    train(spec, seeds, reporter, **kwargs)
    return reporter


@pytest.fixture(autouse=True)
def _whole_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine."""
    monkeypatch.setattr(loop, "ASK_EVERY", np.inf)


def kinds(reporter: MemoryReporter, seed: int) -> list[tuple[int, str]]:
    return [(step // STEP, kind) for step, kind, _, _ in reporter.checkpoints[seed]]


def equal(a: State, b: State) -> bool:
    return a.meta == b.meta and all(torch.equal(t, b.tensors[name]) for name, t in a.tensors.items())


def weights(state: State, replica: int) -> torch.Tensor:
    return state.tensors["agent/parameters/0"][replica]


@pytest.fixture(scope="module")
def whole() -> MemoryReporter:
    return run()


def test_an_undisturbed_pack(whole: MemoryReporter) -> None:
    assert whole.starts == [0]
    assert [step // STEP for step, _ in whole.states] == [4, 8], "none at the end: nothing is left to resume"
    for seed in SEEDS:
        outcome, result, reason = whole.finished[seed]
        assert outcome == "succeeded" and reason is None and result is not None
        evaluations = whole.evaluations[seed]
        assert [step // STEP for step, _, _ in evaluations] == [4, 8, 12]
        means = [float(returns.mean()) for _, returns, _ in evaluations]
        assert result.best_return == max(means) and result.final_return == means[-1]
        assert [k for k in kinds(whole, seed) if k[1] != "best"] == [(4, "scheduled"), (8, "scheduled"), (12, "final")]
        assert whole.checkpoints[seed][0][2].keys() == {"policy.onnx", "bundle.json", "weights.safetensors"}


def test_metrics_have_the_documented_keys_and_are_finite(whole: MemoryReporter) -> None:
    series = whole.series[1]
    assert {
        "train/episode_return",
        "train/episode_length",
        "train/env_steps_per_second",
        "evaluation/return_mean",
    } < set(series)
    assert {"losses/policy", "losses/value", "losses/entropy", "ppo/approx_kl", "evaluation/return_std"} < set(series)
    assert [step // STEP for step, _ in series["losses/value"]] == list(range(1, 13))
    assert all(np.isfinite(value) for points in series.values() for _, value in points)


def test_a_better_evaluation_is_kept_as_best(whole: MemoryReporter) -> None:
    for seed in SEEDS:
        best, expected = -np.inf, []
        for step, returns, _ in whole.evaluations[seed]:
            if returns.mean() > best:
                best = returns.mean()
                expected.append((step, best))
        assert [(step, mean) for step, kind, _, mean in whole.checkpoints[seed] if kind == "best"] == expected


def test_cancel_keeps_a_final_checkpoint_and_leaves_the_others_alone(whole: MemoryReporter) -> None:
    cancelled = run(orders={STEP * 2: {2: "cancel"}})
    outcome, _, reason = cancelled.finished[2]
    assert outcome == "cancelled" and reason is not None and reason.code == "cancelled"
    assert kinds(cancelled, 2) == [(3, "final")]
    for seed in (1, 3):
        assert cancelled.finished[seed][0] == "succeeded"
        for (_, a, _), (_, b, _) in zip(cancelled.evaluations[seed], whole.evaluations[seed], strict=True):
            assert np.array_equal(a, b), "their episodes went on as if nothing had happened"
    left = cancelled.states[-1][1].select([0, 1])
    torch.testing.assert_close(
        left.tensors["agent/parameters/0"], whole.states[-1][1].select([0, 2]).tensors["agent/parameters/0"]
    )


def test_kill_leaves_no_checkpoint() -> None:
    killed = run(orders={STEP: {1: "kill", 3: "kill"}})
    for seed in (1, 3):
        outcome, result, reason = killed.finished[seed]
        assert outcome == "cancelled" and result is None and reason is not None and reason.code == "killed"
        assert killed.checkpoints[seed] == []
    assert killed.finished[2][0] == "succeeded"


def test_all_cancelled_ends_the_driver() -> None:
    reporter = run(orders={STEP: dict.fromkeys(SEEDS, "cancel")})
    assert set(reporter.finished) == set(SEEDS) and reporter.states == [] and reporter.active == []


@pytest.mark.parametrize("order", ["cancel", "kill"])
def test_a_rollout_for_nobody_is_not_finished(monkeypatch: pytest.MonkeyPatch, order: Any) -> None:
    monkeypatch.setattr(loop, "ASK_EVERY", 0.0)
    reporter = run(orders={0: dict.fromkeys(SEEDS, order)})
    assert {outcome for outcome, _, _ in reporter.finished.values()} == {"cancelled"}
    assert [kinds(reporter, seed) for seed in SEEDS] == [[(0, "final")] if order == "cancel" else []] * 3


@pytest.mark.parametrize("order", ["pause", "preempt"])
def test_leaving_a_rollout_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, order: Any) -> None:
    """As if the order had come just before the rollout."""
    waited = run(orders={STEP * 5: dict.fromkeys(SEEDS, order)})
    monkeypatch.setattr(loop, "ASK_EVERY", 0.0)
    left = run(orders={STEP * 6: dict.fromkeys(SEEDS, order)})
    for reporter in (waited, left):
        assert set(reporter.finished) == (set(SEEDS) if order == "pause" else set())
        assert reporter.preempted_at == (STEP * 6 if order == "preempt" else None)
    a, b = ([*r.paused, *(state for _, state in r.states)] for r in (waited, left))
    assert len(a) == len(b) == 2 and all(equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_state_is_published_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "ASK_EVERY", 0.0)
    reporter = run(orders={STEP * 4: dict.fromkeys(SEEDS, "preempt")})
    assert reporter.preempted_at == STEP * 4 and [step for step, _ in reporter.states] == [STEP * 4]


@pytest.mark.parametrize(
    ("order", "saved"), [("preempt", "scheduled"), ("pause", "scheduled"), ("cancel", "final"), ("kill", None)]
)
def test_an_order_at_a_checkpoint_does_not_cost_it(order: Any, saved: str | None) -> None:
    reporter = run(orders={STEP * 3: dict.fromkeys(SEEDS, order)})
    for seed in SEEDS:
        assert [k for k in kinds(reporter, seed) if k[1] != "best"] == ([(4, saved)] if saved else [])
    assert [step // STEP for step, _ in reporter.states] == ([4] if order == "preempt" else [])


def test_the_last_evaluation_is_left_when_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "ASK_EVERY", 0.0)
    reporter = run(orders={STEP * 12: dict.fromkeys(SEEDS, "cancel")})
    for seed in SEEDS:
        assert reporter.finished[seed][0] == "cancelled" and kinds(reporter, seed)[-1] == (12, "final")
        assert [step // STEP for step, _, _ in reporter.evaluations[seed]] == [4, 8]


class OrderedInEvaluation(MemoryReporter):
    """Hears of ``given`` only after a few env steps of the evaluation at ``at``."""

    def __init__(self, seeds: list[int], at: int, given: Mapping[int, Order], patch: pytest.MonkeyPatch) -> None:
        super().__init__(seeds)
        evaluate = Evaluator.run

        def ordered(this: Evaluator, agent: Any, index: int, left: Callable[[], bool]) -> Any:
            asked = iter(range(5))

            def ask() -> bool:
                if index == at and next(asked, None) is None:
                    self.orders = {0: dict(given)}
                return left()

            return evaluate(this, agent, index, ask)

        patch.setattr(loop, "ASK_EVERY", 0.0)
        patch.setattr(Evaluator, "run", ordered)


def told(*reporters: MemoryReporter) -> dict[str, Any]:
    """All that was heard of a training in one or several pieces, but how fast it was."""
    heard: dict[str, Any] = {}
    for seed in SEEDS:
        for reporter in reporters:
            for key, points in reporter.series[seed].items():
                heard.setdefault(f"{seed} {key}", []).extend(points)
            evaluations = [(step, a.tolist(), b.tolist()) for step, a, b in reporter.evaluations[seed]]
            heard.setdefault(f"{seed} evaluations", []).extend(evaluations)
            files = [(s, kind, f, m if kind == "best" else None) for s, kind, f, m in reporter.checkpoints[seed]]
            heard[f"{seed} files"] = sorted(heard.get(f"{seed} files", []) + files, key=lambda file: file[:2])
        heard[f"{seed} end"] = reporters[-1].finished[seed]
        del heard[f"{seed} train/env_steps_per_second"]
    return heard


OFTEN = {"evaluate_every": STEP * 2, "checkpoint_every": STEP * 4, "evaluation_episodes": 20}
DQN = {"name": "dqn", "hidden_sizes": (16,), "batch_size": 8, "learning_starts": 40, "train_every": 8}


@pytest.mark.parametrize("order", ["pause", "preempt"])
@pytest.mark.parametrize("rollouts", [2, 4, 12])
@pytest.mark.parametrize("algorithm", [PPO, DQN], ids=["ppo", "dqn"])
def test_an_evaluation_that_was_left_is_made_up_for(
    monkeypatch: pytest.MonkeyPatch, algorithm: Any, rollouts: int, order: Any
) -> None:
    """Between checkpoints, at one, and at the end: as if the order had waited for it."""
    spec = toys.spec("CartPole-v1", algorithm, num_envs=4, total=STEP * 12)
    spec = spec.model_copy(update={"training": spec.training.model_copy(update=OFTEN)})
    at = STEP * rollouts
    heard_before = at - STEP if algorithm is PPO else at
    waited = [run(spec=spec, orders={heard_before: dict.fromkeys(SEEDS, order)})]
    if rollouts < 12:
        assert waited[0].evaluations[1][-1][0] == at
        waited.append(run(spec=spec, resume=(waited[0].paused or [waited[0].states[-1][1]])[0]))

    with monkeypatch.context() as patch:
        left = OrderedInEvaluation(SEEDS, at, dict.fromkeys(SEEDS, order), patch)
        train(spec, SEEDS, left)
    assert left.evaluations[1][-1:] == [] or left.evaluations[1][-1][0] < at
    assert left.preempted_at == (at if order == "preempt" else None)
    state = left.paused[0] if order == "pause" else left.states[-1][1]
    assert state.env_step == at

    with monkeypatch.context() as patch:
        again = OrderedInEvaluation(SEEDS, at, dict.fromkeys(SEEDS, "preempt"), patch)
        train(spec, SEEDS, again, resume=state)
    assert again.preempted_at == at and again.states == [] and again.series[1] == {}

    resumed = run(spec=spec, resume=state)
    assert resumed.starts == [at] and resumed.evaluations[1][0][0] == at
    assert told(left, resumed) == told(*waited)


def test_an_order_to_one_in_an_evaluation_is_obeyed_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = OrderedInEvaluation(SEEDS, STEP * 4, {2: "cancel"}, monkeypatch)
    train(SPEC, SEEDS, reporter)
    assert kinds(reporter, 2)[-1] == (4, "final") and [step // STEP for step, _, _ in reporter.evaluations[2]] == [4]
    assert reporter.finished[2][0] == "cancelled" and reporter.finished[1][0] == "succeeded"


def test_a_state_of_another_version_is_refused(whole: MemoryReporter) -> None:
    state = whole.states[0][1]
    for name in ("agent/parameters/0", "scores/best"):
        lacking = State({key: value for key, value in state.tensors.items() if not key.startswith(name)}, state.meta)
        assert lacking.tensors.keys() < state.tensors.keys()
        with pytest.raises(IncompatibleState, match="saves other things") as raised:
            run(resume=lacking)
        assert not raised.value.retryable and name.split("/")[0] in raised.value.message


def test_a_device_that_fails_says_nothing_of_the_state(whole: MemoryReporter, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(loop.Scores, "load", fail)
    with pytest.raises(torch.OutOfMemoryError):
        run(resume=whole.states[0][1])


def test_a_crash_after_a_replica_has_left(whole: MemoryReporter) -> None:
    """From the state of a checkpoint that still holds it."""
    left = run(orders={STEP * 5: {2: "cancel"}})
    resumed = run([1, 3], resume=left.states[0][1], replicas=[0, 2])
    assert [step // STEP for step, _ in left.states] == [4, 8] and left.states[-1][1].meta == resumed.states[-1][1].meta
    for name, tensor in left.states[-1][1].tensors.items():
        torch.testing.assert_close(resumed.states[-1][1].tensors[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "algorithm",
    [PPO | {"normalize_observation": True}, {"name": "dqn", "hidden_sizes": (16,), "learning_starts": 10}],
    ids=["ppo", "dqn"],
)
def test_neighbours_whose_episodes_are_truncated_at_other_steps(algorithm: Any) -> None:
    spec = toys.spec("Mortal-v0", algorithm, num_envs=4, total=STEP * 4, every=STEP * 3)
    ours, theirs, alone = (run(seeds, spec).states[0][1] for seeds in ([1, 2, 3], [1, 99, 3], [3]))
    for replica in (0, 2):
        assert torch.equal(weights(ours, replica), weights(theirs, replica))
    assert not torch.equal(weights(ours, 1), weights(theirs, 1))
    torch.testing.assert_close(weights(alone, 0), weights(ours, 2), rtol=1e-3, atol=1e-4)


def test_a_state_of_some_replicas_is_that_state_of_all() -> None:
    env = envs.make(SPEC.environment, SEEDS, 4)
    agent = ppo.build(SPEC.algorithm, env.spec, SEEDS, torch.device("cpu"), STEP * 12, 4)
    pack = Pack(SPEC, SEEDS, agent, env, MemoryReporter(SEEDS), torch.device("cpu"))
    made = loop.Loop(pack, emit_every=STEP)
    made.scores.add(np.array([1.0, 2.0, 3.0]))
    some = made.state([2, 0])
    assert equal(some, made.state().select([2, 0]))
    agent.parameters.buffers[0].zero_()
    assert weights(some, 0).any(), "a copy"


def test_runs_paused_out_of_a_pack_go_on_alone(whole: MemoryReporter) -> None:
    paused = run(orders={STEP * 5: {1: "pause", 3: "pause"}})
    assert paused.finished[1][0] == paused.finished[3][0] == "paused" and paused.finished[2][0] == "succeeded"
    (state,) = paused.paused
    assert state.env_step == STEP * 6 and state.tensors["agent/parameters/0"].shape[0] == 2
    together, alone = run([1, 3], resume=state), run([3], resume=state, replicas=[1])
    assert together.starts == [STEP * 6]
    assert together.finished[3][0] == alone.finished[3][0] == "succeeded"
    torch.testing.assert_close(
        weights(together.states[-1][1], 1), weights(alone.states[-1][1], 0), rtol=1e-4, atol=1e-5
    )


def test_preemption_publishes_and_returns() -> None:
    first = run(orders={STEP * 5: {1: "preempt", 2: "preempt", 3: "preempt"}})
    assert first.preempted_at == first.states[-1][0] == STEP * 6 and first.finished == {}
    second = run(resume=first.states[-1][1])
    assert second.starts == [STEP * 6] and {outcome for outcome, _, _ in second.finished.values()} == {"succeeded"}


def test_a_crash_changes_nothing(whole: MemoryReporter) -> None:
    resumed = run(resume=whole.states[0][1])
    assert equal(resumed.states[-1][1], whole.states[-1][1])
    for seed in SEEDS:
        assert resumed.finished[seed] == whole.finished[seed]
        assert resumed.checkpoints[seed][-1][2] == whole.checkpoints[seed][-1][2]


def test_a_diverged_run_fails_alone(whole: MemoryReporter) -> None:
    state = State({k: v.clone() for k, v in whole.states[0][1].tensors.items()}, whole.states[0][1].meta)
    state.tensors["agent/parameters/0"][1] = float("nan")
    reporter = run(resume=state)
    outcome, _, reason = reporter.finished[2]
    assert (
        outcome == "failed" and reason is not None and reason.code == "diverged" and "learning rate" in reason.message
    )
    assert reporter.finished[1][0] == reporter.finished[3][0] == "succeeded"
    torch.testing.assert_close(weights(reporter.states[-1][1], 0), weights(whole.states[-1][1], 0))


def test_a_run_whose_rewards_are_no_numbers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toys.Endless, "step", lambda self, _action: (self._obs(), np.nan, False, False, {}))
    reporter = run([1], toys.spec("Endless-v0", PPO, num_envs=4, total=STEP * 2))
    outcome, _, reason = reporter.finished[1]
    assert outcome == "failed" and reason is not None and reason.code == "diverged"
    assert loop.BAD_REWARDS in reason.message and "learning rate" not in reason.message


def test_a_diverged_run_is_not_evaluated(whole: MemoryReporter) -> None:
    """Though both are due at the same step, and its neighbour leaves there, too."""
    state = State({k: v.clone() for k, v in whole.states[0][1].tensors.items()}, whole.states[0][1].meta)
    state.tensors["agent/parameters/0"][0] = float("nan")
    often = toys.spec("CartPole-v1", PPO, num_envs=4, total=STEP * 8, every=STEP)
    reporter = run(spec=often, resume=state, orders={0: {2: "cancel"}})
    assert {seed: outcome for seed, (outcome, _, _) in reporter.finished.items()} == {
        1: "failed",
        2: "cancelled",
        3: "succeeded",
    }
    assert reporter.evaluations[1] == [] and "evaluation/return_mean" not in reporter.series[1]
    assert [step // STEP for step, _, _ in reporter.evaluations[2]] == [5]
    assert [step // STEP for step, _, _ in reporter.evaluations[3]] == [5, 6, 7, 8]
    assert reporter.checkpoints[1] == [] and kinds(reporter, 2)[-1] == (5, "final")


def test_a_pack_of_which_nobody_is_left_ends(whole: MemoryReporter) -> None:
    state = State({k: v.clone() for k, v in whole.states[0][1].tensors.items()}, whole.states[0][1].meta)
    state.tensors["agent/parameters/0"][:] = float("nan")
    reporter = run(resume=state)
    assert {outcome for outcome, _, _ in reporter.finished.values()} == {"failed"} and reporter.active == []


@pytest.mark.parametrize("algorithm", [PPO, {"name": "dqn", "hidden_sizes": (16,)}])
@pytest.mark.parametrize("fails", ["step", "build"])
def test_environments_are_closed_whatever_happens(monkeypatch: pytest.MonkeyPatch, algorithm: Any, fails: str) -> None:
    opened: list[LoopVectorEnv] = []
    closed: list[LoopVectorEnv] = []
    allocate, close = LoopVectorEnv._allocate, LoopVectorEnv.close
    monkeypatch.setattr(LoopVectorEnv, "_allocate", lambda self: (opened.append(self), allocate(self))[1])
    monkeypatch.setattr(LoopVectorEnv, "close", lambda self: (closed.append(self), close(self))[1])
    environment, error = ("Toy-v0", EnvironmentFailure) if fails == "step" else ("Tiny-v0", UnsupportedSpace)
    with pytest.raises(error):
        run(spec=toys.spec(environment, algorithm, num_envs=4, total=STEP, kwargs={"fail_at": 3}))
    assert opened and closed == opened


def test_failures_of_the_environment_reach_the_caller() -> None:
    with pytest.raises(EnvironmentFailure, match="motor"):
        run(spec=toys.spec("Toy-v0", PPO, num_envs=4, total=STEP, kwargs={"fail_at": 3}))


def test_arguments_that_change_the_actions_are_noticed() -> None:
    dqn = {"name": "dqn", "hidden_sizes": (16,)}
    with pytest.raises(UnsupportedSpace, match="dqn does not fit LunarLander-v3 as configured"):
        run(spec=toys.spec("LunarLander-v3", dqn, num_envs=1, total=STEP, kwargs={"continuous": True}))
