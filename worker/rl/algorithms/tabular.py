"""Tables of action values: Q-learning, SARSA, expected SARSA, Dyna-Q (Sutton & Barto 2018, chapters 6 and 8).

Deviations from the book: only termination takes the bootstrap away, so that a time limit is no end of the world. Where
an episode of SARSA is cut, an action drawn for its final state stands for the one that would have been taken. Several
copies of the environment teach one table in turn. Dyna-Q's model is the book's: the last outcome of every action tried,
which suits environments without chance.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from app.schemas import algorithms as configs
from app.schemas.environments import DiscreteSpace
from worker.rl.algorithms.agent import Agent, Value
from worker.rl.envs.spaces import EnvSpec
from worker.rl.functional import schedules, td
from worker.rl.noise import Noise
from worker.rl.types import Act, Transition, Update

WINDOW = 1000
"""Env steps that the reported loss averages over, roughly."""


class Bootstrap(Protocol):
    """What the next state is worth: (R, A) action values there and the action (R,) to follow -> (R,)."""

    def __call__(self, next_q: Tensor, next_action: Tensor, epsilon: float) -> Tensor: ...


def best(next_q: Tensor, next_action: Tensor, epsilon: float) -> Tensor:
    """Q-learning: whatever is done next, the best could be (equation 6.8)."""
    return next_q.amax(-1)


def taken(next_q: Tensor, next_action: Tensor, epsilon: float) -> Tensor:
    """SARSA: the action that is really taken next (equation 6.7)."""
    return next_q.gather(-1, next_action.unsqueeze(-1)).squeeze(-1)


def expected(next_q: Tensor, next_action: Tensor, epsilon: float) -> Tensor:
    """Expected SARSA: what the policy does on average (equation 6.9)."""
    return td.expected_value(next_q, epsilon)


def build(
    config: configs.Tabular,
    env_spec: EnvSpec,
    seeds: Sequence[int],
    device: torch.device,
    total_env_steps: int,
    num_envs: int,
) -> "Tabular":
    """A new agent, alike for all seeds: what sets runs apart is what they see and how they explore."""
    states = env_spec.observation_space
    assert isinstance(states, DiscreteSpace)
    on_policy = config.name == "sarsa"
    bootstrap = (expected if config.expected else taken) if on_policy else best
    q = torch.full((len(seeds), states.n, env_spec.action_dim), config.initial_value, device=device)
    return Tabular(config, q, states.start, bootstrap, on_policy, total_env_steps, num_envs)


class Tabular(Agent):
    saved = ("q", "visits", "following", "loss", "model")
    driver = "tabular"
    distribution = "epsilon_greedy"

    def __init__(
        self,
        config: configs.Tabular,
        q: Tensor,
        first_state: int,
        bootstrap: Bootstrap,
        on_policy: bool,
        total_env_steps: int,
        num_envs: int,
    ) -> None:
        self.config, self.first_state, self.bootstrap, self.on_policy = config, first_state, bootstrap, on_policy
        self.epsilon = config.evaluation_epsilon
        self._total = total_env_steps
        replicas = len(q)
        self.q = q
        self.visits = torch.zeros_like(q, dtype=torch.int64)
        # The action an on-policy agent has bound itself to take next, (R, N); -1: none.
        self.following = torch.full((replicas, num_envs), -1, device=q.device)
        self.loss = torch.zeros(replicas, device=q.device)
        self.model = Model(q) if config.planning_steps else None
        self._replica = torch.arange(replicas, device=q.device)

    @property
    def exploration(self) -> float:
        """Epsilon now."""
        start, end = self.config.epsilon_start, self.config.epsilon_end
        share = self.env_step / (self.config.epsilon_fraction * self._total)
        fall = schedules.exponential if self.config.epsilon_schedule == "exponential" else schedules.linear
        return fall(start, end, share)

    def act(self, obs: Tensor, noise: Noise, *, explore: bool) -> Act:
        action = self._choose(obs - self.first_state, noise, self.exploration if explore else self.epsilon)
        if explore and self.on_policy:
            action = torch.where(self.following < 0, action, self.following)
        return Act(action, {})

    def update(self, batch: Transition, noise: Noise) -> Update:
        """Learn from one step of each copy, (R, N), one copy after the other."""
        state, next_state = batch.obs - self.first_state, batch.next_obs - self.first_state
        next_action = batch.action
        if self.on_policy:
            assert batch.episode_end is not None
            next_action = self._choose(next_state, noise, self.exploration)
            self.following = next_action.masked_fill(batch.episode_end, -1)
        columns = (state, batch.action, batch.reward, batch.discount, next_state, next_action)
        for s, a, reward, discount, s2, a2 in zip(*(column.unbind(1) for column in columns), strict=True):
            self.visits[self._replica, s, a] += 1
            td_error = self._learn(s, a, reward, discount, s2, a2)
            self.loss.lerp_(td_error.square(), 1 / WINDOW)
            if self.model is not None:
                self.model.remember(s, a, reward, discount, s2)
                for outcome in self.model.recall(noise, self.config.planning_steps):
                    self._learn(*outcome, a2)
        epsilon = torch.full_like(self.loss, self.exploration)
        return Update({"losses/td": self.loss, f"{self.config.name}/epsilon": epsilon})

    def policy(self, replica: int) -> nn.Module:
        return GreedyPolicy(self.q[replica].clone(), self.first_state)

    def finite(self) -> Tensor:
        return self.q.isfinite().all(2).all(1)

    def select(self, keep: Sequence[int]) -> None:
        super().select(keep)
        self._replica = torch.arange(len(keep), device=self.q.device)

    def _choose(self, state: Tensor, noise: Noise, epsilon: float) -> Tensor:
        """Epsilon-greedy actions (R, N); the highest draw decides between actions of equal value."""
        q = self.q[self._replica.unsqueeze(1), state]
        candidates = q == q.amax(-1, keepdim=True)
        if epsilon:
            candidates |= noise.uniform("epsilon", state.shape[1], 1) < epsilon
        draws = noise.uniform("choice", *q.shape[1:])
        return torch.where(candidates, draws, -1.0).argmax(-1)

    def _learn(
        self, state: Tensor, action: Tensor, reward: Tensor, discount: Tensor, next_state: Tensor, next_action: Tensor
    ) -> Tensor:
        """Q(s, a) += alpha * (r + discount * v(s') - Q(s, a)), one transition of each replica; the TD error, (R,)."""
        here = self._replica, state, action
        value = self.bootstrap(self.q[self._replica, next_state], next_action, self.exploration)
        old = self.q[here]
        td_error = td.target(reward, discount, value) - old
        self.q[here] = old + self._rate(state, action) * td_error
        return td_error

    def _rate(self, state: Tensor, action: Tensor) -> Tensor | float:
        """Learning rate of each replica's (s, a)."""
        rate, floor = self.config.learning_rate, self.config.learning_rate_floor
        match self.config.learning_rate_schedule:
            case "constant":
                return rate
            case "linear":
                return schedules.linear(rate, floor, self.env_step / self._total)
            case "visits":
                visits = self.visits[self._replica, state, action]
                return (rate * visits.float().pow(-self.config.visit_exponent)).clamp_min(floor)


class Model:
    """What the last try of each action in each state led to, per replica; and which have been tried, in order."""

    def __init__(self, q: Tensor) -> None:
        replicas, states, self.actions = q.shape
        pairs = states * self.actions
        self.reward = torch.zeros(replicas, pairs, device=q.device)
        self.discount = torch.zeros_like(self.reward)
        self.next_state = torch.zeros_like(self.reward, dtype=torch.int64)
        self.tried = torch.zeros_like(self.next_state)
        """Numbers ``s * A + a`` of the pairs, the first ``count`` of them, (R, S * A)."""
        self.known = torch.zeros_like(self.reward, dtype=torch.bool)
        self.count = torch.zeros(replicas, dtype=torch.int64, device=q.device)
        self._replica = torch.arange(replicas, device=q.device)

    def remember(self, state: Tensor, action: Tensor, reward: Tensor, discount: Tensor, next_state: Tensor) -> None:
        """Keep one outcome of each replica, (R,) each; a discount of zero says that it is the end."""
        r, pair = self._replica, state * self.actions + action
        self.reward[r, pair], self.discount[r, pair], self.next_state[r, pair] = reward, discount, next_state
        place = self.count.clamp_max(self.tried.shape[1] - 1)
        new = ~self.known[r, pair]
        self.tried[r, place] = torch.where(new, pair, self.tried[r, place])
        self.known[r, pair] = True
        self.count += new

    def recall(self, noise: Noise, steps: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """So many of the tried pairs drawn uniformly: (state, action, reward, discount, next state), (R,) each."""
        r = self._replica.unsqueeze(1)
        pair = self.tried[r, noise.integers("planning", 2**62, steps) % self.count.unsqueeze(1)]
        state, action = pair // self.actions, pair % self.actions
        columns = (state, action, self.reward[r, pair], self.discount[r, pair], self.next_state[r, pair])
        return list(zip(*(column.unbind(1) for column in columns), strict=True))

    def state(self) -> dict[str, Value]:
        return {name: getattr(self, name) for name in ("reward", "discount", "next_state", "tried", "known", "count")}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, value in state.items():
            getattr(self, name).copy_(value)

    def select(self, keep: Sequence[int]) -> None:
        """Keep (or repeat) these replicas, in this order."""
        for name, value in self.state().items():
            assert isinstance(value, Tensor)
            setattr(self, name, value[list(keep)])
        self._replica = torch.arange(len(keep), device=self.count.device)


class GreedyPolicy(nn.Module):
    """obs (B,) -> action values (B, A)."""

    def __init__(self, q: Tensor, first_state: int) -> None:
        super().__init__()
        self.register_buffer("q", q)
        self.first_state = first_state

    def forward(self, obs: Tensor) -> Tensor:
        return embedding(obs - self.first_state, self.get_buffer("q"))
