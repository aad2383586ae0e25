import numpy as np
import torch

from tests.rl import toys
from worker.rl import envs
from worker.rl.replay.rollout import RolloutStorage
from worker.rl.types import Rollout

T, N = 12, 3
CPU = torch.device("cpu")


def filled(cut: list[bool], kwargs: dict[str, int] | None = None) -> tuple[RolloutStorage, np.ndarray, Rollout]:
    """A rollout of an environment that counts to five and is then truncated."""
    spec = toys.spec("Counting-v0", {"name": "ppo"}, num_envs=N, total=1, kwargs=kwargs)
    env = envs.make(spec.environment, [1, 2], N)
    storage = RolloutStorage(2, N, T, ((1,), torch.float32), ((), torch.int64), CPU)
    storage.begin()
    obs = env.reset(0)
    for t in range(T):
        storage.observe(t, obs)
        step = env.step(np.full((2, N), t % 2))
        storage.add(t, torch.full((2, N), t % 2), step.reward, step.terminated, step.truncated, step.next_obs)
        obs = step.obs
    return storage, obs, storage.rollout(obs, np.array(cut))


def test_time_order_and_ends() -> None:
    _, obs, rollout = filled([False, False])
    expected = torch.arange(T) % 5
    assert torch.equal(rollout.obs[0, :, 0, 0], expected.float())
    assert torch.equal(rollout.action[1, :, 2], torch.arange(T) % 2)
    assert torch.equal(rollout.episode_end[0, :, 1], expected == 4) and not rollout.terminated.any()
    assert torch.equal(rollout.last_obs, torch.from_numpy(obs))


def test_final_observations_of_truncated_episodes_have_their_places() -> None:
    _, _, rollout = filled([False, False])
    assert rollout.final_obs.shape == (2, 2 * N, 1) and (rollout.final_obs == 5).all()
    assert rollout.final_index[0].tolist() == [4 * N, 4 * N + 1, 4 * N + 2, 9 * N, 9 * N + 1, 9 * N + 2]


def test_a_terminal_observation_is_not_bootstrapped_from() -> None:
    _, _, rollout = filled([False, False], {"die_at": 5})
    assert rollout.final_obs.shape[1] == 0 and rollout.terminated.any()


def test_only_those_who_are_cut_end() -> None:
    _, _, rollout = filled([True, False])
    assert rollout.episode_end[0, -1].all() and not rollout.episode_end[1, -1].any()


def test_replicas_with_fewer_finals_are_padded_out_of_the_way() -> None:
    storage = RolloutStorage(2, 1, 2, ((1,), torch.float32), ((), torch.int64), CPU)
    nothing = np.zeros((2, 1), bool)
    for t, truncated in enumerate((nothing, np.array([[True], [False]]))):
        storage.observe(t, np.zeros((2, 1, 1), np.float32))
        storage.add(t, torch.zeros(2, 1), np.zeros((2, 1)), nothing, truncated, np.full((2, 1, 1), 7.0, np.float32))
    rollout = storage.rollout(np.zeros((2, 1, 1), np.float32), np.zeros(2, bool))
    assert rollout.final_index.tolist() == [[1], [2]] and rollout.final_obs.flatten().tolist() == [7.0, 0.0]


def test_select_makes_room_for_those_who_stay() -> None:
    storage, obs, _ = filled([False, False])
    storage.select([1])
    storage.begin()
    assert storage.observe(0, obs[[1]]).shape == (1, N, 1) and storage.reward.shape == (1, T, N)
