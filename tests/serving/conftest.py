"""Fixtures: a service's database and artifacts, and a run to ask."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.serving.bundles import Service, linear_graph, manifest


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.database.dispose()


@pytest.fixture
def cartpole(service: Service) -> str:
    """A run whose best policy goes where the pole leans: action 1 if the angle is positive."""
    run_id = service.run()
    bundle = manifest()
    weight = np.zeros((4, 2))
    weight[2] = -1, 1
    service.checkpoint(run_id, bundle, linear_graph(bundle, logits=weight), kind="best")
    return run_id
