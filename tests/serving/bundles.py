"""A database with runs, and real bundles on disk, whose graphs are built by hand: the service has no torch."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from app.db.engine import Database
from app.db.ids import new_id
from app.db.models import Base, Checkpoint, Experiment, Job, Run
from app.schemas.bundle import PolicyBundle
from app.schemas.environments import BoxSpace, DiscreteSpace

CARTPOLE = BoxSpace(shape=(4,), low=(None,) * 4, high=(None,) * 4)


def box(*shape: int, dtype: str = "float32") -> BoxSpace:
    """An observation space, unbounded but for bytes."""
    low, high = (0.0, 255.0) if dtype == "uint8" else (None, None)
    return BoxSpace(shape=shape, dtype=dtype, low=(low,), high=(high,))


def manifest(**changes: Any) -> PolicyBundle:
    """The manifest of a categorical CartPole policy, with changes."""
    fields = {
        "algorithm": "ppo",
        "environment_id": "CartPole-v1",
        "environment_kwargs": {},
        "observation": CARTPOLE,
        "action": DiscreteSpace(n=2),
        "distribution": "categorical",
        "parity_error": 0.0,
    }
    return PolicyBundle(**fields | changes)


def linear_graph(bundle: PolicyBundle, **outputs: np.ndarray) -> bytes:
    """A graph whose every output is ``observation @ matrix`` with the matrix given for its name."""
    assert isinstance(bundle.observation, BoxSpace)
    shape, pixels = bundle.observation.shape, bundle.observation.dtype == "uint8"
    nodes = [
        helper.make_node("Cast", ["observation"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        *(helper.make_node("MatMul", ["flat", f"{name}_weight"], [name]) for name in outputs),
    ]
    kind = TensorProto.UINT8 if pixels else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", kind, ["batch", *shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", m.shape[1]]) for name, m in outputs.items()],
        [numpy_helper.from_array(matrix.astype(np.float32), f"{name}_weight") for name, matrix in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def table_graph(q_values: np.ndarray, start: int = 0) -> bytes:
    """A graph that looks integers from ``start`` on up in a table (S, A)."""
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["observation", "start"], ["row"]),
            helper.make_node("Gather", ["table", "row"], ["q_values"]),
        ],
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", q_values.shape[1]])],
        [
            numpy_helper.from_array(q_values.astype(np.float32), "table"),
            numpy_helper.from_array(np.array(start, np.int64), "start"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


class Service:
    """A database and an artifact root that tests fill with runs and checkpoints."""

    def __init__(self, root: Path) -> None:
        self.root = root / "artifacts"
        self.database = Database(f"sqlite:///{root / 'trainyard.db'}")
        Base.metadata.create_all(self.database.engine)

    def run(self) -> str:
        """A running run without checkpoints."""
        experiment_id, job_id, run_id = new_id("exp"), new_id("job"), new_id("run")
        with self.database.writing() as session:
            session.add(Experiment(id=experiment_id, name="test", spec={}, spec_hash="", tags={}, created_at=0.0))
            session.flush()
            session.add(Job(id=job_id, experiment_id=experiment_id, queue="default", device="cpu", created_at=0.0))
            session.flush()
            session.add(
                Run(
                    id=run_id,
                    experiment_id=experiment_id,
                    job_id=job_id,
                    position=0,
                    seed=0,
                    status="running",
                    total_env_steps=100,
                    created_at=0.0,
                )
            )
        return run_id

    def checkpoint(
        self, run_id: str, bundle: PolicyBundle, model: bytes, *, kind: str = "scheduled", env_steps: int = 10
    ) -> str:
        """A checkpoint on disk and in the database; ``best`` becomes the run's best."""
        checkpoint_id = new_id("ckpt")
        folder = self.folder(checkpoint_id)
        folder.mkdir(parents=True)
        contents = {"policy.onnx": model, "bundle.json": bundle.model_dump_json().encode()}
        files = []
        for name, content in contents.items():
            (folder / name).write_bytes(content)
            files.append({"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
        with self.database.writing() as session:
            path = str(folder.relative_to(self.root))
            row = Checkpoint(id=checkpoint_id, run_id=run_id, attempt=1, env_steps=env_steps, kind=kind, path=path)
            row.files, row.created_at = files, 0.0
            session.add(row)
            if kind == "best":
                run = session.get(Run, run_id)
                assert run is not None
                run.best_checkpoint_id = checkpoint_id
        return checkpoint_id

    def folder(self, checkpoint_id: str) -> Path:
        """Where the files of a checkpoint lie."""
        return self.root / "runs" / checkpoint_id

    def files(self, checkpoint_id: str) -> tuple[Path, list[dict[str, Any]]]:
        """The folder of a checkpoint and the manifest of its row."""
        with self.database.reading() as session:
            row = session.get(Checkpoint, checkpoint_id)
        assert row is not None
        return self.folder(checkpoint_id), row.files
