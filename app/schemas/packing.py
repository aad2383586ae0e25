"""How many runs train together in one process, and on how many threads: rules from measurements.

Small products are bound by call overhead, which a pack pays once. Env steps per second on one thread, all runs together
(CartPole-v1, SAC Pendulum-v1; work = batch x width², the multiplications of one hidden layer):

    ===========  =======  ======  ======  ======  ======
    network      work     1 run   4 runs  8 runs  gain
    ===========  =======  ======  ======  ======  ======
    DQN 64-wide    0.3 M   1,370   5,790   8,300  6.1
    SAC 64-wide    0.5 M     520   1,400   2,050  3.9
    PPO 64-wide    1.0 M  48,500  122 k   157 k   3.2
    PPO 128-wide   4.2 M  37,500  66,000  68,000  1.8
    DQN 256-wide   4.2 M     960   1,720   2,120  2.2
    PPO 256-wide    17 M  16,600  24,300  27,000  1.6
    SAC 256-wide    17 M     217     295     302  1.4
    DQN MinAtar    4.2 M     581     871     947  1.6
    ===========  =======  ======  ======  ======  ======

The fractions of an implicit network are rows of its products. The quantile Huber loss compares all quantiles with one
another: eight 64-wide networks learn 3.3 times as much a second as one with 10 quantiles, 1.3 times with 25, and hardly
more with 50.

Where a pack gains little, jobs of their own can run side by side, and large images (whose replicas are a loop) gain
nothing.
"""

from app.schemas.environments import BoxSpace, catalogue, channel_axis, kind
from app.schemas.experiment import ExperimentSpec

SMALL, MEDIUM = 2_000_000, 8_000_000
"""Work up to which packs of eight and of four are made."""
LARGE_IMAGE = 36
"""Pixels on a side from which images pass through the larger convolutional torso."""
SMALL_IMAGE_MAPS, SMALL_IMAGE_FEATURES = 16, 128
"""Of the smaller one, whose dense layer is its widest."""
QUANTILE_PAIR = 60
"""Multiplications that take about as long as to compare two quantiles."""
SHARED = 10_000_000
"""Work of all runs together from which a second thread is worth a core; below, it brings a fifth at best."""


def pack_size(spec: ExperimentSpec) -> int:
    """Runs per job of a resolved spec, at least 1."""
    if not spec.algorithm.packs:
        return 1
    if spec.resources.pack != "auto":
        return min(spec.resources.pack, len(spec.seeds))
    if _large_images(spec) or _work(spec) >= MEDIUM:
        return 1
    return min(8 if _work(spec) < SMALL else 4, len(spec.seeds))


def threads(spec: ExperimentSpec, runs: int) -> int:
    """Threads for a job of so many runs of a resolved spec."""
    if spec.resources.threads != "auto":
        return spec.resources.threads
    return 2 if _large_images(spec) or runs * _work(spec) >= SHARED else 1


def _image(spec: ExperimentSpec) -> tuple[int, int] | None:
    """Height and width, if observations are images."""
    entry = catalogue().get(spec.environment.id)
    if entry is None or not isinstance(entry.observation_space, BoxSpace) or kind(entry.observation_space) != "image":
        return None
    shape = entry.observation_space.shape
    height, width = shape[1:] if channel_axis(shape) == 0 else shape[:2]
    return height, width


def _large_images(spec: ExperimentSpec) -> bool:
    image = _image(spec)
    return image is not None and min(image) >= LARGE_IMAGE


def _work(spec: ExperimentSpec) -> int:
    """Multiplications of the widest hidden layer for one batch of one run; of its loss, if that takes longer."""
    algorithm = spec.algorithm
    rollout = (spec.environment.num_envs or algorithm.default_num_envs) * getattr(algorithm, "num_steps", 0)
    batch: int = getattr(algorithm, "batch_size", 0) or rollout // getattr(algorithm, "num_minibatches", 1)
    quantiles: int = getattr(algorithm, "num_quantiles", None) or 0
    loss = batch * quantiles**2 * QUANTILE_PAIR
    if image := _image(spec):
        return max(loss, batch * SMALL_IMAGE_MAPS * (image[0] - 2) * (image[1] - 2) * SMALL_IMAGE_FEATURES)
    widths: tuple[int, ...] = getattr(algorithm, "hidden_sizes", (1,))  # a table has no layers
    implicit = getattr(algorithm, "distribution", None) == "implicit"
    rows = batch * quantiles if implicit else batch  # behind its first layer each fraction has a row of its own
    return max(loss, rows * max(widths) ** 2)
