"""``python -m benchmarks.latency``: how long users wait for the service.

POST to the first training step with a warm spare; cancel to cancelled; worker killed with -9 to training again.
"""

import statistics
import time

from benchmarks.service import Service, cartpole, service


def first_step(running: Service) -> float:
    """Seconds from sending the POST to the trainer being about to take its first step."""
    running.await_spare()
    began = time.time()
    [run_id] = running.post(cartpole(2_000))
    running.await_status(run_id, "succeeded")
    return dict(running.status_times(run_id))["running"] - began


def cancel(running: Service) -> float:
    """Seconds from sending the order to the run being cancelled, its final checkpoint kept."""
    [run_id] = running.post(cartpole(100_000_000))
    running.await_status(run_id, "running")
    time.sleep(1)
    began = time.time()
    running.ask(f"/v1/runs/{run_id}/cancel", {})
    running.await_status(run_id, "cancelled")
    return dict(running.status_times(run_id))["cancelled"] - began


def recovery(running: Service) -> float:
    """Seconds from killing the worker to the run's training again."""
    [run_id] = running.post(cartpole(100_000_000, checkpoint_every=20_000))
    running.await_status(run_id, "running")
    time.sleep(3)
    began = time.time()
    running.child("worker").kill()
    while len(running.status_times(run_id)) < 6:  # queued starting running queued starting running
        time.sleep(0.1)
    took = running.status_times(run_id)[5][1] - began
    running.ask(f"/v1/runs/{run_id}/kill", {})
    running.await_status(run_id, "cancelled")
    return took


def main() -> None:
    """Print the figures."""
    with service() as running:
        times = [first_step(running) for _ in range(11)]
        listed = " ".join(f"{1000 * t:.0f}" for t in times)
        print(f"POST to first training step: median {1000 * statistics.median(times):.0f} ms ({listed})")
        times = [cancel(running) for _ in range(5)]
        print(f"cancel to cancelled: median {statistics.median(times):.2f} s, longest {max(times):.2f} s")
        print(f"worker killed to training again: {recovery(running):.1f} s")


if __name__ == "__main__":
    main()
