"""What is known of GPUs without loading torch."""

import ctypes
import importlib.util
import runpy
from collections.abc import Sequence
from pathlib import Path

DRIVER = "libcuda.so.1"


class DeviceMissing(RuntimeError):
    """A device that was configured is not there; the message says which and why."""


def count() -> int:
    """GPUs that a trainer can use; 0 where torch was built without CUDA."""
    return driver_count() if torch_has_cuda() else 0


def check(devices: Sequence[str]) -> None:
    """Find out whether trainers could use these devices, ``cpu`` or ``cuda:N``.

    Raises:
        DeviceMissing: not all of them.
    """
    wanted = [device for device in devices if device != "cpu"]
    if not wanted:
        return
    if not torch_has_cuda():
        raise DeviceMissing(f"{wanted[0]} cannot be used: torch is not installed here, or was built without CUDA")
    shown = driver_count()
    for device in wanted:
        if int(device.removeprefix("cuda:")) >= shown:
            raise DeviceMissing(f"{device} is not there: GPUs that the driver shows: {shown}")


def torch_has_cuda() -> bool:
    """Whether the torch that trainers load was built for CUDA; its version file alone is read."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return False
    return runpy.run_path(str(Path(torch.origin).with_name("version.py"))).get("cuda") is not None


def driver_count() -> int:
    """GPUs that the driver shows to this process, hidden ones left out; WSL2 has no device files to count instead."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return 0
    found = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(found)):
        return 0
    return found.value
