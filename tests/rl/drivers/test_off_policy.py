"""The off-policy driver: cadence of updates, warm-up, cuts at checkpoints, going on from a state."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec as Registered
from gymnasium.spaces import Box

from app.schemas.environments import BoxSpace, DiscreteSpace
from tests.rl.toys import Toy, spec
from worker.rl.algorithms import dqn
from worker.rl.drivers import off_policy, train
from worker.rl.envs import EnvSpec
from worker.rl.noise import Noise
from worker.rl.replay.prioritized import Prioritized
from worker.rl.reporter import MemoryReporter, Order, State
from worker.rl.types import Transition, Update

SMALL: dict[str, dict[str, Any]] = {
    "dqn": {"name": "dqn", "hidden_sizes": [8], "batch_size": 4, "learning_starts": 6, "buffer_size": 26},
    "rainbow": {"name": "rainbow", "hidden_sizes": [8], "batch_size": 4, "learning_starts": 6, "buffer_size": 26},
    "sac": {"name": "sac", "hidden_sizes": [8], "batch_size": 4, "learning_starts": 6, "buffer_size": 26},
}
ENVIRONMENT = {"dqn": "CartPole-v1", "rainbow": "CartPole-v1", "sac": "Pendulum-v1"}


@pytest.mark.parametrize("num_envs", [1, 3, 8])
@pytest.mark.parametrize("train_every", [1, 4, 5])
@pytest.mark.parametrize("learning_starts", [0, 1, 10, 16])
def test_a_round_of_updates_for_every_so_many_env_steps(num_envs: int, train_every: int, learning_starts: int) -> None:
    done = 0
    for env_step in range(num_envs, 30 * num_envs, num_envs):
        done += off_policy.rounds(env_step, num_envs, train_every, learning_starts)
        assert done == sum(k % train_every == 0 for k in range(learning_starts + 1, env_step + 1))


@pytest.mark.parametrize("num_envs", [1, 2])
def test_as_many_updates_as_configured(num_envs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    update = dqn.DQN.update

    def counted(self: dqn.DQN, batch: Transition, noise: Noise) -> Update:
        seen.append(self.env_step)
        return update(self, batch, noise)

    monkeypatch.setattr(dqn.DQN, "update", counted)
    config = SMALL["dqn"] | {"train_every": 4, "gradient_steps": 3}
    train(spec("CartPole-v1", config, num_envs=num_envs, total=40), [1, 2], MemoryReporter([1, 2]))
    assert len(seen) == 3 * 9  # after env steps 8, 12, …, 40


def test_errors_come_back_to_a_prioritized_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is drawn after the errors of the one before, with weights that correct more as the run goes on."""
    log: list[object] = []
    update, sample = Prioritized.update, Prioritized.sample

    def rated(self: Prioritized, priority: torch.Tensor | None) -> None:
        assert priority is not None and priority.shape == (2, 4) and bool((priority >= 0).all())
        log.append("rated")
        update(self, priority)

    def drawn(self: Prioritized, noise: Noise, batches: int, size: int, done: float) -> Iterator[Transition]:
        assert (self.alpha, self.beta, self.epsilon, self.n_step) == (0.5, 0.4, 1e-6, 3)
        for batch in sample(self, noise, batches, size, done):
            assert batch.weight is not None
            log.append(done)
            yield batch

    monkeypatch.setattr(Prioritized, "update", rated)
    monkeypatch.setattr(Prioritized, "sample", drawn)
    config = SMALL["rainbow"] | {"train_every": 4, "gradient_steps": 2}
    train(spec("CartPole-v1", config, num_envs=2, total=20), [1, 2], MemoryReporter([1, 2]))
    assert log == [entry for done in (0.4, 0.6, 0.8, 1.0) for entry in (done, "rated") * 2]


def test_warm_up_actions_are_uniform_over_the_space() -> None:
    obs = BoxSpace(shape=(1,), low=(0,), high=(1,))
    box = EnvSpec("box", obs, BoxSpace(shape=(2,), low=(-2, 0), high=(2, 1)))
    drawn = off_policy.random_action(box, Noise([1, 2]), 4000)
    assert drawn.shape == (2, 4000, 2)
    torch.testing.assert_close(drawn.mean(1), torch.tensor([[0.0, 0.5]] * 2), atol=0.1, rtol=0)
    assert bool((drawn >= torch.tensor([-2.0, 0.0])).all()) and bool((drawn <= torch.tensor([2.0, 1.0])).all())
    choices = off_policy.random_action(EnvSpec("discrete", obs, DiscreteSpace(n=3, start=5)), Noise([1]), 3000)
    assert torch.bincount(choices[0]).min() > 900 and choices.max() == 2


def test_episodes_in_flight_are_cut_and_bootstrapped_at_checkpoints() -> None:
    """Episodes of at most five steps, checkpoints every seven: the observation is the age in the episode."""
    reporter = MemoryReporter([1])
    train(spec("Counting-v0", SMALL["dqn"], num_envs=1, total=21, every=7), [1], reporter)
    for env_step, state in reporter.states:
        ring = {name.removeprefix("replay/"): tensor for name, tensor in state.tensors.items()}
        ages = ring["obs"][0, :env_step, 0, 0].tolist()
        assert ages == ([0, 1, 2, 3, 4, 0, 1] * 3)[:env_step]
        ends = np.flatnonzero(ring["final"][0, :env_step, 0].numpy() >= 0).tolist()
        assert ends == [t for t in range(env_step) if t % 7 in (4, 6)]
        assert not ring["terminated"][0, :env_step].any()
        assert ring["final_obs"][0, : len(ends), 0].tolist() == [5, 2] * (len(ends) // 2)


@pytest.mark.parametrize("algorithm", ["dqn", "rainbow"])
@pytest.mark.parametrize("order", ["cancel", "pause", "preempt"])
def test_a_round_of_updates_is_broken_off_when_all_are_to_leave(algorithm: str, order: Order) -> None:
    """A round of a million updates, between two steps of an episode: what is held of it is cut, as at a checkpoint."""
    experiment = spec("Counting-v0", SMALL[algorithm] | {"gradient_steps": 1_000_000}, num_envs=1, total=21, every=21)
    left = MemoryReporter([1, 2], {7: dict.fromkeys([1, 2], order)})
    train(experiment, [1, 2], left)
    assert left.env_step == 7
    if order == "cancel":
        assert {outcome for outcome, _, _ in left.finished.values()} == {"cancelled"}
        return
    (state,) = left.paused or [state for _, state in left.states]
    assert (
        state.env_step == 7
        and (state.tensors["replay/final"][:, :7, 0] >= 0).tolist() == [[t in (4, 6) for t in range(7)]] * 2
    )
    again = MemoryReporter([1, 2], {8: dict.fromkeys([1, 2], "cancel")})
    train(experiment, [1, 2], again, resume=state)
    assert again.starts == [7] and again.env_step == 8


@pytest.mark.parametrize("algorithm", ["dqn", "rainbow", "sac"])
def test_a_run_that_goes_on_from_a_state_ends_like_one_that_never_stopped(algorithm: str) -> None:
    """With two copies, and a replay that has wrapped around."""
    experiment = spec(ENVIRONMENT[algorithm], SMALL[algorithm], num_envs=2, total=120, every=40)
    whole = MemoryReporter([4, 5])
    train(experiment, [4, 5], whole)
    for env_step, state in whole.states[:-1]:
        resumed = MemoryReporter([4, 5])
        train(experiment, [4, 5], resumed, resume=state)
        assert resumed.starts == [env_step]
        (_, wanted), (_, got) = whole.states[-1], resumed.states[-1]
        assert got.meta == wanted.meta
        for name, tensor in wanted.tensors.items():
            assert torch.equal(got.tensors[name], tensor), name
        for seed in (4, 5):
            assert last_weights(resumed, seed) == last_weights(whole, seed)


class Aging(Toy):
    """Images as bright as the episode is old, from 1."""

    def __init__(self) -> None:
        super().__init__(Box(0, 255, (10, 10, 1), np.uint8))

    def _obs(self) -> np.ndarray:
        return np.full((10, 10, 1), self.age + 1, np.uint8)


def test_stacks_of_frames_are_learned_from_as_they_were_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of at most five steps, cut at checkpoints every seven, and gone on from; at most two steps at once."""
    monkeypatch.setitem(gymnasium.registry, "Aging-v0", Registered("Aging-v0", Aging, max_episode_steps=5))
    update = dqn.DQN.update

    def checked(self: dqn.DQN, batch: Transition, noise: Noise) -> Update:
        assert batch.obs.shape == (2, 4, 10, 10, 3)
        before, after = (obs.amax((2, 3)).int() for obs in (batch.obs, batch.next_obs))
        back = torch.tensor([2, 1, 0])
        assert torch.equal(before, (before[..., -1:] - back).clamp(min=0))
        assert torch.equal(after, (before[..., -1:] + batch.reward.ceil().int()[..., None] - back).clamp(min=0))
        return update(self, batch, noise)

    monkeypatch.setattr(dqn.DQN, "update", checked)
    plain = spec("Aging-v0", SMALL["dqn"] | {"n_step": 2}, num_envs=2, total=84, every=14)
    experiment = plain.model_copy(update={"environment": plain.environment.model_copy(update={"frame_stack": 3})})
    whole, resumed = MemoryReporter([1, 2]), MemoryReporter([1, 2])
    train(experiment, [1, 2], whole)
    env_step, state = whole.states[2]
    assert env_step == 42 and state.tensors["replay/obs"].shape == (2, 16, 2, 1, 10, 10)
    train(experiment, [1, 2], resumed, resume=state)
    for seed in (1, 2):
        assert last_weights(resumed, seed) == last_weights(whole, seed)


def last_weights(reporter: MemoryReporter, seed: int) -> bytes:
    return reporter.checkpoints[seed][-1][2]["weights.safetensors"]


@pytest.mark.parametrize("algorithm", ["dqn", "rainbow"])
def test_replicas_leave_a_pack_with_their_memories(algorithm: str) -> None:
    """One pauses, one is cancelled: the third goes on undisturbed, and the paused one goes on alone."""
    experiment = spec("CartPole-v1", SMALL[algorithm], num_envs=2, total=140, every=60)
    whole, parted = MemoryReporter([1, 2, 3]), MemoryReporter([1, 2, 3])
    parted.orders = {20: {2: "pause"}, 70: {1: "cancel"}}
    train(experiment, [1, 2, 3], whole)
    train(experiment, [1, 2, 3], parted)
    assert {seed: outcome for seed, (outcome, _, _) in parted.finished.items()} == {
        1: "cancelled",
        2: "paused",
        3: "succeeded",
    }
    (_, wanted), (_, got) = whole.states[-1], parted.states[-1]
    for name, tensor in wanted.select([2]).tensors.items():
        torch.testing.assert_close(got.tensors[name], tensor, rtol=1e-4, atol=1e-6)
    (paused,) = parted.paused
    assert paused.env_step == 20
    ends = paused.tensors["replay/final"][0, : paused.env_step // 2] >= 0
    assert bool(ends[-1].all())
    alone = MemoryReporter([2])
    train(experiment, [2], alone, resume=paused)
    assert alone.finished[2][0] == "succeeded" and alone.starts == [paused.env_step]


def test_a_diverged_run_does_not_bring_down_its_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Box2D dies of actions that are no numbers, and a look at the weights comes late."""
    monkeypatch.setattr(off_policy, "EMIT_EVERY", 30)
    experiment = spec("BipedalWalker-v3", SMALL["sac"], num_envs=1, total=100, every=50, episodes=1)
    whole = MemoryReporter([1, 2])
    train(experiment, [1, 2], whole)
    state = State(
        {name: tensor.clone() for name, tensor in whole.states[0][1].tensors.items()}, whole.states[0][1].meta
    )
    for name, tensor in state.tensors.items():
        if name.startswith("agent/actor_parameters"):
            tensor[0] = float("nan")
    broken = MemoryReporter([1, 2])
    train(experiment, [1, 2], broken, resume=state)
    outcome, _, reason = broken.finished[1]
    assert outcome == "failed" and reason is not None and reason.code == "diverged" and broken.evaluations[1] == []
    assert broken.finished[2] == whole.finished[2]
    assert last_weights(broken, 2) == last_weights(whole, 2)


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ["dqn", "sac"])
def test_trains_on_a_cuda_device(algorithm: str) -> None:
    reporter = MemoryReporter([1, 2])
    train(spec(ENVIRONMENT[algorithm], SMALL[algorithm], num_envs=2, total=60), [1, 2], reporter, device="cuda")
    assert {outcome for outcome, _, _ in reporter.finished.values()} == {"succeeded"}
