"""Pictures and tables of the results that ``learning.py`` has collected."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.cases import CASES, PAGES, Case, Page, Task
from trainyard.statistics import interval

SIZE = (6.4, 3.4)
"""Inches."""
PALETTE = (*mpl.colormaps["tab20"].colors[::2], *mpl.colormaps["tab20"].colors[1::2])
"""The light ones follow the dark ones."""
INTRODUCTION = """\
# Results

Every row is an experiment of the service, posted, collected and drawn by `benchmarks/learning.py`
([how](../benchmarks/README.md#learning)); its link leads to the resolved spec and the numbers. Curves are the mean of
the evaluations' returns over seeds, the shades of thick ones its 95 % bootstrap interval, dashed lines the bars. The
pages of the [algorithms](algorithms.md) have the same curves, each its own in the foreground.

What counts for the bar is one checkpoint of each seed, downloaded and played again on fresh episodes in environments of
its own. "time" is that of the jobs of all seeds on the clock, one after another, evaluations and checkpoints included;
other work may have shared the machine.
"""


@dataclass(frozen=True)
class Result:
    """A case and what ``learning.collect`` has written of it."""

    case: Case
    numbers: dict[str, Any]


def draw(docs: Path) -> None:
    """Write ``results.md`` and the pictures of ``algorithms/`` from ``results/*.json``; say which a page lacks."""
    files = {name: docs / "results" / f"{name}.json" for name in CASES}
    results = [Result(CASES[name], json.loads(path.read_text())) for name, path in files.items() if path.exists()]
    tasks = {result.case.task.name: result.case.task for result in results}
    sections = [INTRODUCTION]
    for task in tasks.values():
        here = [result for result in results if result.case.task is task]
        shown = {name: chosen for name, page in PAGES.items() if (chosen := _chosen(here, page))}
        for name, chosen in shown.items():
            target = docs / "algorithms" / _picture_of(name, task)
            target.parent.mkdir(exist_ok=True)
            picture(task, here, chosen, PAGES[name].own, target)
            text = target.with_name(f"{name}.md")
            if text.exists() and f"({target.name})" not in text.read_text():
                print(f"{text} does not show {target.name} yet")
        section = [*_section(task, here), ""]
        if shown:
            fullest = max(shown, key=lambda name: len(shown[name]))
            section.append(f"![Learning curves on {task.environment}](algorithms/{_picture_of(fullest, task)})\n")
        sections.append("\n".join(section))
    (docs / "results.md").write_text("\n".join(sections))


def picture(task: Task, here: list[Result], chosen: list[Result], own: tuple[str, ...], target: Path) -> None:
    """Mean return over env steps: a line for each of the chosen results, thick and with a shade for ``own`` methods.

    A method has the same colour in all pictures of a task, by its place among all the results ``here``.
    """
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "trainyard", "font.size": 9, "legend.frameon": False}):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        for result in chosen:
            _curve(axes, result, PALETTE[here.index(result)], own=result.case.method in own)
        for bar in {result.case.bar for result in chosen if result.case.bar is not None}:
            axes.axhline(bar, color="gray", linestyle="--", linewidth=0.8)
        axes.set_title(task.environment)
        axes.set_xlabel("env steps")
        axes.set_ylabel("return")
        if task.logarithmic:
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter("{x:,.0f}")
        if task.lowest is not None:
            highest = max(max(line.get_ydata()) for line in axes.lines)
            axes.set_ylim(task.lowest, highest + 0.05 * (highest - task.lowest))
        figure.legend(loc="outside right upper")
        figure.savefig(target, metadata={"Date": None})


def _picture_of(page: str, task: Task) -> str:
    return f"{page}-{task.name}.svg"


def _chosen(results: list[Result], page: Page) -> list[Result]:
    """What a page's picture shows; nothing if none of it is the page's own."""
    if not any(result.case.method in page.own for result in results):
        return []
    return [result for result in results if result.case.method in page.own + page.beside]


def _curve(axes: Axes, result: Result, color: tuple[float, float, float], *, own: bool) -> None:
    curve = result.numbers["curve"]
    evaluations = list(zip(*curve["returns"], strict=True))
    means = [fmean(values) for values in evaluations]
    axes.plot(curve["env_steps"], means, label=result.case.method, color=color, linewidth=1.8 if own else 0.8)
    if own:
        low, high = zip(*(interval(values, fmean) for values in evaluations), strict=True)
        axes.fill_between(curve["env_steps"], low, high, color=color, alpha=0.15, linewidth=0)


def _section(task: Task, results: list[Result]) -> Iterator[str]:
    """Heading and table of a task."""
    yield f"## {task.environment}\n"
    checkpoint = {"best": "best", "final": "last"}[task.judged]
    over = "exactly at the bar" if task.exact else "over the bar"
    yield f"The {checkpoint} checkpoint of each seed, {task.episodes:,} fresh episodes.\n"
    yield f"| method | env steps | bar | seeds {over} | mean return [95 %] | worst to best seed | time | processor |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for result in results:
        yield _row(result)


def _row(result: Result) -> str:
    case, numbers = result.case, result.numbers
    returns = numbers["returns"]
    low, high = interval(returns, fmean)
    reached = f"{sum(map(case.reached, returns))} of {len(returns)}" if case.bar is not None else "–"
    cells = [
        f"[{case.method}](results/{case.name}.json)",
        f"{numbers['spec']['training']['total_env_steps']:,}",
        "–" if case.bar is None else f"{case.bar:g}",
        reached,
        f"{_short(fmean(returns))} [{_short(low)}, {_short(high)}]",
        f"{_short(min(returns))} to {_short(max(returns))}",
        _time(numbers["seconds"]),
        f"{numbers['processor']}, jobs: {numbers['jobs']}, threads of each: {numbers['threads']}",
    ]
    return f"| {' | '.join(cells)} |"


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
