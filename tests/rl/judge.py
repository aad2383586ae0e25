"""Training seeds and having them judged: the best checkpoint of each, played again on fresh episodes."""

from app.schemas.experiment import ExperimentSpec
from benchmarks.judge import play
from worker.rl.drivers import train
from worker.rl.reporter import MemoryReporter


def trained(spec: ExperimentSpec, seeds: list[int], *, packed: bool) -> MemoryReporter:
    """Train the seeds, together or one by one."""
    reporter = MemoryReporter(seeds)
    if packed:
        train(spec, seeds, reporter)
        return reporter
    for seed in seeds:
        alone = MemoryReporter([seed])
        train(spec, [seed], alone)
        reporter.checkpoints |= alone.checkpoints
        reporter.finished |= alone.finished
    return reporter


def returns(spec: ExperimentSpec, reporter: MemoryReporter, *, episodes: int = 100) -> dict[int, float]:
    """Mean return of each run's best checkpoint over so many fresh episodes, by seed."""
    best = {
        seed: [files for _, kind, files, _ in saved if kind == "best"][-1]
        for seed, saved in reporter.checkpoints.items()
    }
    return {seed: float(play(spec.environment, files, episodes).mean()) for seed, files in best.items()}
