import torch
from torch.distributions import Categorical, Independent, Normal

from app.schemas.environments import BoxSpace, DiscreteSpace, MultiDiscreteSpace
from worker.rl.nets.policies import epsilon_greedy, policy_for
from worker.rl.noise import Noise

BOX = BoxSpace(shape=(2,), low=(-1, -1), high=(1, 1))


def test_categorical() -> None:
    policy, logits = policy_for(DiscreteSpace(n=4)), torch.randn(2, 5, 4)
    action = policy.sample(logits, None, Noise([0, 1]))
    log_prob, entropy = policy.evaluate(logits, None, action)
    reference = Categorical(logits=logits)
    torch.testing.assert_close(log_prob, reference.log_prob(action))
    torch.testing.assert_close(entropy, reference.entropy())
    assert torch.equal(policy.mode(logits), logits.argmax(-1))


def test_multi_categorical_is_a_product() -> None:
    policy, logits = policy_for(MultiDiscreteSpace(nvec=(2, 3))), torch.randn(2, 5, 5)
    parts = [Categorical(logits=logits[..., :2]), Categorical(logits=logits[..., 2:])]
    action = policy.sample(logits, None, Noise([0, 1]))
    assert action.shape == (2, 5, 2) and int(action[..., 0].max()) < 2 and int(action[..., 1].max()) < 3
    log_prob, entropy = policy.evaluate(logits, None, action)
    torch.testing.assert_close(log_prob, sum(p.log_prob(action[..., i]) for i, p in enumerate(parts)))
    torch.testing.assert_close(entropy, sum(p.entropy() for p in parts))
    mode = policy.mode(logits)
    assert torch.equal(mode[..., 1], logits[..., 2:].argmax(-1))


def test_gaussian_is_stored_as_drawn() -> None:
    policy, mean, log_std = policy_for(BOX), torch.randn(2, 5, 2), torch.full((2, 1, 2), 1.0)
    action = policy.sample(mean, log_std, Noise([0, 1]))
    assert float(action.abs().max()) > 1, "not clipped here"
    log_prob, entropy = policy.evaluate(mean, log_std, action)
    reference = Independent(Normal(mean, log_std.exp().expand_as(mean)), 1)
    torch.testing.assert_close(log_prob, reference.log_prob(action))
    torch.testing.assert_close(entropy, reference.entropy())


def test_epsilon_greedy_deviates_by_a_share_and_draws_nothing_at_zero() -> None:
    q, noise = torch.randn(2, 1, 4).expand(2, 5000, 4), Noise([0, 1])
    greedy = q.argmax(-1)
    assert torch.equal(epsilon_greedy(q, 0.0, noise), greedy) and noise.state() == {}
    deviating = (epsilon_greedy(q, 0.4, noise) != greedy).float().mean(1)
    torch.testing.assert_close(deviating, torch.full((2,), 0.3), atol=0.03, rtol=0)
