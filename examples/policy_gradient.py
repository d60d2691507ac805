"""Balance a pole by policy gradient: cross-entropy of the actions, weighted by their advantages.

REINFORCE maximises the mean of advantage times log-probability of the action taken. With a minus
sign that is cross-entropy with `sample_weight=advantage`. If an advantage is negative, its action
becomes less probable. The weights sum to 0 here, so they have no weighted mean: `normalizer` gives
the denominator.

In a checkout: pip install .; python examples/policy_gradient.py
"""

import numpy as np

import fastce

POLES, STEPS, DISCOUNT = 32, 200, 0.99


def moved(state, action):
    """Return the states of cart-poles (Barto, Sutton and Anderson, 1983) after a step of 20 ms."""
    _, v, angle, spin = state.T
    force = np.where(action == 1, 10.0, -10.0)
    sine, cosine = np.sin(angle), np.cos(angle)
    pushed = (force + 0.05 * spin**2 * sine) / 1.1
    turn = (9.8 * sine - cosine * pushed) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    speed_up = pushed - 0.05 * turn * cosine / 1.1
    return state + 0.02 * np.column_stack([v, speed_up, spin, turn])


def play(policy, rng):
    """Return states (STEPS, POLES, 4), actions, and whether each pole still stood at each step."""
    state = rng.uniform(-0.05, 0.05, (POLES, 4))
    stands = np.ones(POLES, bool)
    history = []
    for _ in range(STEPS):
        # The largest of logits and Gumbel noise is a draw from their softmax.
        action = (policy(state) + rng.gumbel(size=(POLES, 2))).argmax(axis=1)
        history.append((state, action, stands))
        state = moved(state, action)
        stands = stands & (abs(state[:, 0]) < 2.4) & (abs(state[:, 2]) < 0.21)
    return map(np.array, zip(*history, strict=True))


def advantages(stands):
    """Discounted number of steps to come, minus its mean at that step, scaled to unit variance."""
    to_come = np.zeros(stands.shape)
    running = np.zeros(POLES)
    for t in reversed(range(STEPS)):
        running = stands[t] * (1 + DISCOUNT * running)
        to_come[t] = running
    count = np.maximum(stands.sum(axis=1, keepdims=True), 1)
    centred = (to_come - to_come.sum(axis=1, keepdims=True) / count) * stands
    return centred / (centred[stands].std() + 1e-9)


def train(rounds=40, rate=0.3):
    """Yield the mean steps that a pole stands and the share of negative advantages, per round."""
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(0, 0.7, (4, 32)), np.zeros((32, 2))
    loss = fastce.SoftmaxCrossEntropy()
    scale = np.array([1.0, 0.5, 10.0, 0.5])  # of position, speed, angle and spin

    def policy(states):
        return np.tanh(states * scale @ w1) @ w2

    for _ in range(rounds):
        states, actions, stands = play(policy, rng)
        x, advantage = states * scale, advantages(stands)
        hidden = np.tanh(x @ w1)
        _, d_logits = loss.value_and_grad(
            hidden @ w2, actions, sample_weight=advantage, normalizer=stands.sum()
        )
        d_hidden = (d_logits @ w2.T) * (1 - hidden**2)
        w2 -= rate * np.einsum("tph,tpa->ha", hidden, d_logits)
        w1 -= rate * np.einsum("tpi,tph->ih", x, d_hidden)
        yield stands.sum() / POLES, (advantage[stands] < 0).mean()


if __name__ == "__main__":
    for number, (steps, negative) in enumerate(train()):
        if number % 10 == 9 or number == 0:
            print(f"round {number + 1:2d}: a pole stands for {steps:5.1f} of {STEPS} steps; "
                  f"{negative:.0%} of the advantages are negative")
