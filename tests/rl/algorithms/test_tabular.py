"""Tables against slow references, identities between the algorithms, and what they must not get wrong."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from pydantic import ValidationError
from torch import Tensor

from app.schemas import algorithms as configs
from app.schemas.environments import DiscreteSpace
from tests.rl.toys import Toy, spec
from worker.rl import envs
from worker.rl.algorithms import tabular
from worker.rl.algorithms.tabular import Model, Tabular
from worker.rl.drivers import train
from worker.rl.envs.spaces import EnvSpec
from worker.rl.noise import Noise
from worker.rl.reporter import MemoryReporter
from worker.rl.types import Transition

R, S, A, FIRST, TOTAL = 3, 5, 4, 2, 1000
SEEDS = [1, 2, 3]
SPACE = EnvSpec("toy", DiscreteSpace(n=S, start=FIRST), DiscreteSpace(n=A))
ALL: list[dict[str, Any]] = [
    {"name": "q_learning"},
    {"name": "sarsa"},
    {"name": "sarsa", "expected": True},
    {"name": "dyna_q", "planning_steps": 4},
]


class Maze(Toy):
    """Where one can be numbered from 7 on; both actions and chance decide what comes next. Ends in state 10."""

    def __init__(self, slips: bool = True) -> None:
        super().__init__(Discrete(5, start=7), Discrete(2))
        self.slips, self.place = slips, 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        moved = (2 * int(action) - 1) * (-1 if self.slips and self.np_random.random() < 0.2 else 1)
        self.place = (self.place + moved) % 4
        return self._obs(), float(self.place == 3) - 0.1, self.place == 3, False, {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(3))
        return self._obs(), {}

    def _obs(self) -> int:
        return 7 + self.place


class One(Toy):
    """The one-state world: reward 1 for ever, in episodes of five steps."""

    def __init__(self) -> None:
        super().__init__(Discrete(1), Discrete(2))


for name, entry, limit in (("Maze", Maze, 20), ("One", One, 5)):
    if f"{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"{name}-v0", entry, max_episode_steps=limit)


def agent(config: dict[str, Any], *, num_envs: int = 1) -> Tabular:
    made = tabular.build(configs.Tabular(**config), SPACE, SEEDS, torch.device("cpu"), TOTAL, num_envs)
    made.q.copy_(torch.rand(R, S, A, generator=torch.Generator().manual_seed(0)))
    return made


def experience(n: int, seed: int = 1) -> Transition:
    """Transitions of n copies, (R, n), a third of them terminal."""
    g = torch.Generator().manual_seed(seed)
    terminated = torch.rand(R, n, generator=g) < 0.3
    return Transition(
        torch.randint(FIRST, FIRST + S, (R, n), generator=g),
        torch.randint(0, A, (R, n), generator=g),
        torch.randn(R, n, generator=g),
        0.9 * ~terminated,
        torch.randint(FIRST, FIRST + S, (R, n), generator=g),
        episode_end=terminated | (torch.rand(R, n, generator=g) < 0.2),
    )


def trained(config: dict[str, Any], environment: str = "Maze-v0", total: int = 400, **kwargs: Any) -> MemoryReporter:
    reporter = MemoryReporter(SEEDS)
    train(spec(environment, config, num_envs=1, total=total, every=total // 2, kwargs=kwargs), SEEDS, reporter)
    return reporter


def table(reporter: MemoryReporter) -> Tensor:
    return reporter.states[-1][1].tensors["agent/q"]


@pytest.mark.parametrize("config", ALL[:3], ids=["q_learning", "sarsa", "expected"])
def test_an_update_is_the_books(config: dict[str, Any]) -> None:
    """Copies teach the table one after the other: number by number, in Python."""
    config = config | {"learning_rate": 0.3, "epsilon_start": 0.4, "epsilon_end": 0.4}
    ours, batch = agent(config, num_envs=6), experience(6)
    q = ours.q.double().numpy().copy()
    following = agent(config)._choose(batch.next_obs - FIRST, Noise(SEEDS), 0.4)  # drawn before anything is learned
    ours.update(batch, Noise(SEEDS))
    for r in range(R):
        for i in range(6):
            s, a, s2 = int(batch.obs[r, i]) - FIRST, int(batch.action[r, i]), int(batch.next_obs[r, i]) - FIRST
            if config["name"] == "q_learning":
                value = max(q[r, s2])
            elif config.get("expected"):
                value = sum(q[r, s2][b] * (0.1 + 0.6 * (b == q[r, s2].argmax())) for b in range(A))
            else:
                value = q[r, s2, int(following[r, i])]
            q[r, s, a] += 0.3 * (float(batch.reward[r, i]) + float(batch.discount[r, i]) * value - q[r, s, a])
    np.testing.assert_allclose(ours.q.numpy(), q, atol=1e-5)


@pytest.mark.parametrize("expected", [False, True], ids=["sarsa", "expected"])
def test_sarsa_without_exploration_updates_like_q_learning(expected: bool) -> None:
    greedy = {"epsilon_start": 0.0, "epsilon_end": 0.0}
    ours, other = agent({"name": "sarsa", "expected": expected, **greedy}), agent({"name": "q_learning", **greedy})
    for seed in range(20):
        ours.update(experience(1, seed), Noise(SEEDS))
        other.update(experience(1, seed), Noise(SEEDS))
    torch.testing.assert_close(ours.q, other.q, rtol=0, atol=1e-6)


def test_dyna_q_without_planning_is_q_learning_bit_for_bit() -> None:
    without, plain = trained({"name": "dyna_q", "planning_steps": 0}), trained({"name": "q_learning"})
    ours, theirs = without.states[-1][1], plain.states[-1][1]
    assert ours.tensors.keys() == theirs.tensors.keys() and ours.meta == theirs.meta
    assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in ours.tensors.items())
    assert not torch.equal(table(trained({"name": "dyna_q", "planning_steps": 3})), table(plain))


def test_planning_replays_the_last_outcome_of_what_was_tried() -> None:
    model, noise = Model(torch.zeros(R, S, A)), Noise(SEEDS)
    last: list[dict[tuple[int, int], tuple[float, ...]]] = [{} for _ in SEEDS]
    for seed in range(60):
        batch = experience(1, seed)
        fields = [x[:, 0] for x in (batch.obs - FIRST, batch.action, batch.reward, batch.discount, batch.next_obs)]
        s, a, reward, discount, s2 = fields
        model.remember(s, a, reward, discount, s2 - FIRST)
        for r in range(R):
            last[r][int(s[r]), int(a[r])] = float(reward[r]), float(discount[r]), float(s2[r] - FIRST)
        drawn: list[set[tuple[int, int]]] = [set() for _ in SEEDS]
        for outcome in model.recall(noise, 200):
            for r in range(R):
                pair = int(outcome[0][r]), int(outcome[1][r])
                assert last[r][pair] == tuple(float(x[r]) for x in outcome[2:])
                drawn[r].add(pair)
        if seed == 5:
            assert [len(pairs) for pairs in drawn] == [len(known) for known in last], "every pair has its turn"
    assert model.count.tolist() == [len(known) for known in last]
    assert any(discount == 0 for known in last for _, discount, _ in known.values())


def test_a_pair_is_planned_with_as_often_as_any_other() -> None:
    model = Model(torch.zeros(1, S, A))
    for pair, times in ((3, 50), (7, 1), (19, 1)):
        for _ in range(times):
            state, action = torch.tensor([pair // A]), torch.tensor([pair % A])
            model.remember(state, action, torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    pairs = [int(s) * A + int(a) for s, a, *_ in model.recall(Noise([5]), 6000)]
    counts = [pairs.count(pair) for pair in (3, 7, 19)]
    assert sum(counts) == 6000 and all(abs(count - 2000) < 200 for count in counts)


@pytest.mark.parametrize("config", ALL, ids=["q_learning", "sarsa", "expected", "dyna_q"])
def test_a_time_limit_is_no_end_of_the_world(config: dict[str, Any]) -> None:
    """Reward 1 for ever, cut every 5 steps: V = 1 / (1 - 0.9). Bootstrapping by "done" would stop at 4.1."""
    values = table(trained(config | {"gamma": 0.9, "epsilon_end": 1.0}, "One-v0", 600))
    torch.testing.assert_close(values, torch.full_like(values, 10.0), rtol=0, atol=0.05)


def test_q_learning_finds_the_values_of_a_world_of_chance() -> None:
    """Rates of 1 / N^0.6 and random behaviour: the optimal values by value iteration, though never acted on."""
    config = {"name": "q_learning", "gamma": 0.8, "epsilon_end": 1.0, "learning_rate": 1.0}
    values = table(trained(config | {"learning_rate_schedule": "visits"}, total=8000)).double()
    q = np.zeros((4, 2))
    for _ in range(200):
        for s in range(3):
            for a in range(2):
                q[s, a] = 0.0
                for chance, move in ((0.8, 2 * a - 1), (0.2, 1 - 2 * a)):
                    s2 = (s + move) % 4
                    q[s, a] += chance * (0.9 if s2 == 3 else -0.1 + 0.8 * q[s2].max())
    assert np.abs(values[:, :3].numpy() - q[:3]).max() < 0.1


def test_sarsa_takes_the_action_it_learned_from() -> None:
    """Through the driver: whatever an update bootstraps from is what the environment gets next."""
    config = configs.Tabular(name="sarsa", epsilon_end=1.0)
    task = spec("Maze-v0", {"name": "sarsa"}, num_envs=4, total=1)
    env = envs.make(task.environment, SEEDS, 4)
    ours = tabular.build(config, env.spec, SEEDS, torch.device("cpu"), TOTAL, 4)
    noise, obs, promised = Noise(SEEDS), env.reset(0), torch.full((R, 4), -1)
    for _ in range(30):
        now = torch.tensor(obs)
        action = ours.act(now, noise, explore=True).action
        assert torch.equal(action[promised >= 0], promised[promised >= 0])
        step = env.step(action.numpy())
        ended = torch.from_numpy(step.terminated | step.truncated)
        fields = (torch.tensor(x) for x in (step.reward, np.float32(0.9) * ~step.terminated, step.next_obs))
        ours.update(Transition(now, action, *fields, episode_end=ended), noise)
        promised = ours.following.clone()
        assert torch.equal(promised < 0, ended)
        obs = step.obs
    ours.act(torch.tensor(obs), noise, explore=False)
    assert torch.equal(ours.following, promised), "an evaluation leaves no trace"


def test_equal_values_are_chosen_between_at_random() -> None:
    ours = agent({"name": "q_learning"}, num_envs=9000)
    ours.q[:] = torch.tensor([1.0, 0.0, 1.0, 1.0])
    action = ours.act(torch.full((R, 9000), FIRST), Noise(SEEDS), explore=False).action
    for row in action:
        counts = row.bincount(minlength=A)
        assert counts[1] == 0 and (counts[[0, 2, 3]] - 3000).abs().max() < 250


def test_explores_with_probability_epsilon() -> None:
    ours = agent({"name": "q_learning", "epsilon_start": 0.4, "epsilon_end": 0.4}, num_envs=9000)
    obs = torch.full((R, 9000), FIRST)
    greedy = ours.q[:, 0].argmax(-1, keepdim=True)
    assert torch.equal(ours.act(obs, Noise(SEEDS), explore=False).action, greedy.expand(R, 9000))
    deviating = (ours.act(obs, Noise(SEEDS), explore=True).action != greedy).float().mean(1)
    torch.testing.assert_close(deviating, torch.full((R,), 0.3), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("schedule", "expected"), [("linear", [1.0, 0.505, 0.01, 0.01]), ("exponential", [1.0, 0.1, 0.01, 0.01])]
)
def test_epsilon_falls_with_env_steps_then_stays(schedule: str, expected: list[float]) -> None:
    ours = agent({"epsilon_schedule": schedule, "epsilon_end": 0.01, "epsilon_fraction": 0.4})
    for env_step, epsilon in zip((0, 200, 400, 900), expected, strict=True):
        ours.env_step = env_step
        assert ours.exploration == pytest.approx(epsilon)


def test_learning_rates() -> None:
    state, action = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])

    def rate(env_step: int, **config: Any) -> Any:
        ours = agent({"learning_rate": 0.5, **config})
        ours.env_step = env_step
        ours.visits[torch.arange(R), state, action] = torch.tensor([1, 100, 10**9])
        return ours._rate(state, action)

    assert rate(700) == 0.5
    linear = [rate(t, learning_rate_schedule="linear", learning_rate_floor=0.1) for t in (0, 500, 1000, 1001)]
    assert linear == pytest.approx([0.5, 0.3, 0.1, 0.1])
    by_visits = rate(0, learning_rate_schedule="visits", visit_exponent=0.5, learning_rate_floor=0.01)
    torch.testing.assert_close(by_visits, torch.tensor([0.5, 0.05, 0.01]))


def test_visits_are_counted_and_planning_is_none() -> None:
    ours = agent({"name": "dyna_q", "planning_steps": 7}, num_envs=6)
    batch = experience(6)
    ours.update(batch, Noise(SEEDS))
    assert ours.visits.sum((1, 2)).tolist() == [6] * R
    assert ours.visits[1, batch.obs[1, 0] - FIRST, batch.action[1, 0]] >= 1


def test_replicas_are_dropped_and_copied_with_all_they_know() -> None:
    config = {"name": "dyna_q", "planning_steps": 5}
    whole, part, batch = agent(config), agent(config), experience(1)
    keep = [2, 2, 0, 0, 1]
    part.select(keep)
    for seed in range(5):
        batch = experience(1, seed)
        whole.update(batch, Noise(SEEDS))
        part.update(Transition(*(x[keep] for x in batch[:5])), Noise([SEEDS[r] for r in keep]))
    for name, value in whole.state().items():
        other = part.state()[name]
        assert isinstance(value, Tensor) and isinstance(other, Tensor) and torch.equal(value[keep], other)


def test_the_policy_is_one_replicas_table() -> None:
    ours = agent({})
    before = ours.q[1].clone()
    policy = ours.policy(1)
    ours.q.zero_()
    assert torch.equal(policy(torch.arange(FIRST, FIRST + S)), before)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "q_learning", "planning_steps": 5}, "planning_steps"),
        ({"name": "sarsa", "planning_steps": 5}, "planning_steps"),
        ({"name": "dyna_q", "expected": True}, "expected"),
        ({"name": "q_learning", "expected": True}, "expected"),
        ({"epsilon_schedule": "exponential", "epsilon_end": 0.0}, "epsilon_end"),
        ({"epsilon_schedule": "exponential", "epsilon_start": 0.0}, "epsilon_end"),
        ({"learning_rate": 0.1, "learning_rate_floor": 0.2}, "learning_rate_floor"),
        ({"hidden_sizes": [64]}, "hidden_sizes"),
    ],
)
def test_switches_that_contradict_each_other_are_errors(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        configs.Tabular.model_validate(fields)
    assert [error["loc"] for error in refusal.value.errors()] == [(field,)]


def test_names_bring_their_defaults_and_survive_being_stored() -> None:
    steps = {name: configs.Tabular(name=name).planning_steps for name in ("q_learning", "sarsa", "dyna_q")}
    assert steps == {"q_learning": 0, "sarsa": 0, "dyna_q": 10}
    for config in ALL:
        made = configs.Tabular(**config)
        assert configs.Tabular.model_validate(made.model_dump()) == made
