"""``python -m benchmarks.footprint``: how fast the embedded service starts, and what it takes while idle."""

import statistics
from pathlib import Path

from benchmarks.service import Service, service


def pss(pid: int) -> float:
    """Proportional set size in MB: shared pages count by their share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def idle(running: Service) -> None:
    """Print the memory of each process and of all."""
    running.await_spare()
    total = 0.0
    for process in running.family():
        size = pss(process.pid)
        total += size
        print(f"  {size:6.0f} MB  {' '.join(process.cmdline())[:100]}")
    print(f"idle, spare included: {total:.0f} MB PSS")


def main() -> None:
    """Print the figures."""
    times = []
    for _ in range(5):
        with service() as running:
            times.append(running.start_seconds)
    print(f"start-up to ready: median {statistics.median(times):.2f} s, longest {max(times):.2f} s")
    with service() as running:
        idle(running)


if __name__ == "__main__":
    main()
