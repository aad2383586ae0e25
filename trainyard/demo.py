"""``trainyard demo``: the whole service on its embedded default, a real experiment, an episode played with it."""

import shlex
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from trainyard import process
from trainyard.client import Client, Json, TrainyardError
from trainyard.policy import RemotePolicy
from trainyard.progress import failures, watch
from trainyard.statistics import interval, iqm

SEEDS = [0, 1, 2, 3]


def demo(data_dir: Path, env_steps: int) -> None:
    """Start, train, show, act, play, stop. Raises ``TrainyardError`` where any of it fails."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    data_dir.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    print("Starting API, worker and broker ...", flush=True)
    with process.service(data_dir, data_dir / "demo.log") as url, Client(url) as client:
        print(f"Ready after {time.monotonic() - began:.1f} s: {url} (API reference: {url}/openapi.json)\n")
        runs = _train(client, env_steps)
        best = max(runs, key=lambda run: float(run["result"]["best_return"]))
        _play(client.policy(best["id"]), best)
        print(
            f"\nWhere to look: {data_dir}/ holds the database, logs and policies."
            f"\n  {process.shell_command()} up --data-dir {shlex.quote(str(data_dir))}"
            f"\nbrings this experiment back at http://127.0.0.1:8000/v1/runs/{best['id']}"
            "\n(API reference: /openapi.json)."
            "\n\nStopping ...",
            flush=True,
        )
    print(f"Stopped after {time.monotonic() - began:.0f} s in all.")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _train(client: Client, env_steps: int) -> list[Json]:
    """Post the experiment, watch it, print its return over seeds; the ended runs."""
    training = {"total_env_steps": env_steps, "evaluate_every": max(1, env_steps // 5)}
    algorithm = {"name": "ppo", "preset": "auto"}
    environment = {"id": "CartPole-v1"}
    spec = {"name": "demo", "environment": environment, "algorithm": algorithm, "training": training, "seeds": SEEDS}
    experiment = client.create(spec)
    print(
        f"POST /v1/experiments: {experiment['id']}, PPO on CartPole-v1, {len(SEEDS)} seeds of {env_steps:,} env steps"
    )
    began = time.monotonic()
    watch(client, experiment["runs"], env_steps)
    seconds = time.monotonic() - began
    runs = [client.wait(run["id"]) for run in experiment["runs"]]
    if bad := failures(runs):
        raise TrainyardError("\n".join(bad))
    returns = [float(run["result"]["final_return"]) for run in runs]
    low, high = interval(returns)
    print(f"\n{len(SEEDS) * env_steps:,} env steps in {seconds:.1f} s.")
    print(f"Final return over {len(SEEDS)} seeds: {iqm(returns):.1f}, 95 % interval [{low:.1f}, {high:.1f}]")
    print("(interquartile mean, percentile bootstrap; CartPole-v1 ends at 500)\n")
    return runs


def _play(policy: RemotePolicy, run: Json) -> None:
    """One episode in an environment of our own, every action fetched over HTTP."""
    try:
        import gymnasium
    except ImportError as error:
        raise TrainyardError("playing an episode needs gymnasium: pip install 'trainyard[worker]'") from error
    example = [0.0, 0.1, 0.02, -0.1]
    print(f"POST /v1/runs/{run['id']}/actions: observation {example} -> action {policy(example)}")
    env: gymnasium.Env[Any, Any] = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=1234)
    total, steps, ended, began = 0.0, 0, False, time.monotonic()
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(policy(observation))
        total, steps, ended = total + float(reward), steps + 1, terminated or truncated
    env.close()
    milliseconds = 1000 * (time.monotonic() - began) / steps
    print(f"Played an episode of {steps} steps over HTTP ({milliseconds:.1f} ms each): return {total:.0f}")
