"""What exact resume depends on: recorded with every attempt."""

import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from worker.rl import precision

PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "box2d", "onnx", "onnxruntime")


@cache
def versions() -> dict[str, str]:
    """Version of every installed library that decides the weights."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def gather(*, pack: int, device: str) -> dict[str, Any]:
    """The facts of a job that is about to train ``pack`` runs on ``device`` in this process."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name(device) if device.startswith("cuda") else _cpu_model(),
        "threads": torch.get_num_threads(),
        "precision": precision.of_large_products(),
        "pack": pack,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
