"""Loading bundles: what is verified, and what a loaded policy answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.schemas.bundle import PolicyBundle
from app.schemas.environments import DiscreteSpace
from app.serving.policy import DamagedBundle, Policy, load
from tests.serving.bundles import Service, box, linear_graph, manifest, table_graph

Files = tuple[Path, list[dict[str, Any]]]

WEIGHT = np.eye(4)[:, :2]


class TestLoad:
    @pytest.fixture
    def bundle(self, service: Service) -> Files:
        bundle = manifest()
        return service.files(service.checkpoint(service.run(), bundle, linear_graph(bundle, logits=WEIGHT)))

    def test_a_good_bundle(self, bundle: Files) -> None:
        policy = load("ckpt_1", *bundle)
        assert (policy.checkpoint_id, policy.shape, policy.pixels) == ("ckpt_1", (4,), None)

    @pytest.mark.parametrize("name", ["policy.onnx", "bundle.json"])
    def test_a_changed_byte(self, bundle: Files, name: str) -> None:
        file = bundle[0] / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(DamagedBundle, match=f"{name} differs"):
            load("ckpt_1", *bundle)

    def test_a_missing_file(self, bundle: Files) -> None:
        (bundle[0] / "policy.onnx").unlink()
        with pytest.raises(DamagedBundle, match=r"policy\.onnx is gone"):
            load("ckpt_1", *bundle)

    def test_a_file_that_is_not_in_the_manifest(self, bundle: Files) -> None:
        with pytest.raises(DamagedBundle, match="not in the checkpoint's manifest"):
            load("ckpt_1", bundle[0], [])

    def test_a_graph_that_is_none(self, service: Service) -> None:
        with pytest.raises(DamagedBundle, match="does not run"):
            load("ckpt_1", *service.files(service.checkpoint(service.run(), manifest(), b"no graph")))

    def test_a_graph_without_the_outputs_of_its_distribution(self, service: Service) -> None:
        bundle = manifest()
        checkpoint_id = service.checkpoint(service.run(), bundle, linear_graph(bundle, q_values=WEIGHT))
        with pytest.raises(DamagedBundle, match="does not run"):
            load("ckpt_1", *service.files(checkpoint_id))

    def test_a_manifest_of_another_format(self, service: Service) -> None:
        bundle = manifest()
        other = bundle.model_copy(update={"format": 2})
        checkpoint_id = service.checkpoint(service.run(), other, linear_graph(bundle, logits=WEIGHT))
        with pytest.raises(DamagedBundle, match=r"bundle\.json is not understood"):
            load("ckpt_1", *service.files(checkpoint_id))


def test_a_bundle_of_before_frames_were_counted_is_understood() -> None:
    bundle = manifest()
    assert PolicyBundle.model_validate_json(bundle.model_dump_json(exclude={"frame_stack"})) == bundle


class TestPolicy:
    def test_images(self) -> None:
        bundle = manifest(observation=box(2, 2, 1, dtype="uint8"))
        policy = Policy("ckpt_1", linear_graph(bundle, logits=WEIGHT), bundle)
        images = np.array([[9, 200, 0, 0], [200, 9, 0, 0]], np.uint8).reshape(2, 2, 2, 1)
        assert policy.pixels == range(256)
        assert policy.act(images, seed=None).tolist() == [1, 0]

    def test_integers(self) -> None:
        bundle = manifest(observation=DiscreteSpace(n=3, start=5), distribution="epsilon_greedy", epsilon=0.5)
        policy = Policy("ckpt_1", table_graph(np.array([[0, 1], [1, 0], [0, 2]]), start=5), bundle)
        assert (policy.shape, policy.pixels, policy.states) == ((), None, range(5, 8))
        states = np.array([5, 6, 7, 5])
        assert policy.act(states, seed=None).tolist() == [1, 0, 1, 1]
        sampled = policy.act(np.full(400, 6), seed=1)
        assert sampled.tolist() == policy.act(np.full(400, 6), seed=1).tolist()
        assert 60 < sampled.sum() < 140

    def test_a_seed_decides_the_sample(self) -> None:
        bundle = manifest()
        policy = Policy("ckpt_1", linear_graph(bundle, logits=WEIGHT * 0), bundle)
        observations = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
        sampled = policy.act(observations, seed=1)
        assert (sampled == policy.act(observations, seed=1)).all()
        assert (sampled[::-1] == policy.act(observations[::-1].copy(), seed=1)).all()
        assert 50 < (sampled != policy.act(observations, seed=2)).sum() < 150

    def test_the_warm_up_tells_the_cost_of_a_batch(self) -> None:
        bundle = manifest()
        policy = Policy("ckpt_1", linear_graph(bundle, logits=WEIGHT), bundle)
        assert 0 < policy.seconds(1) < policy.seconds(10**6)
