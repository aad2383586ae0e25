"""Examples for the OpenAPI document; tests hold them against the schemas."""

from typing import Any

_EXPERIMENT_ID = "exp_0rb8x5c7k2m4n6p8q0s2t4v6w8"
_RUN_ID = "run_0rb8x5c7k2m4n6p8q0s2t4v6wa"
_JOB_ID = "job_0rb8x5c7k2m4n6p8q0s2t4v6wb"
_CHECKPOINT_ID = "ckpt_0rb8x5c7k2m4n6p8q0s2t4v6wc"
_WORKER_ID = "wrk_0rb8x5c7k2m4n6p8q0s2t4v6wd"

SPEC: dict[str, Any] = {
    "name": "cartpole",
    "environment": {"id": "CartPole-v1", "num_envs": 8},
    "algorithm": {"name": "ppo", "learning_rate": 0.0003},
    "training": {"total_env_steps": 100_000, "evaluate_every": 10_000, "checkpoint_every": 20_000},
    "seeds": [0, 1, 2, 3],
    "resources": {"device": "auto", "queue": "default"},
    "tags": {"team": "robotics"},
}
SPEC_MINIMAL: dict[str, Any] = {"environment": {"id": "CartPole-v1"}, "algorithm": {"name": "dqn"}}

PROBLEM: dict[str, Any] = {
    "type": "urn:trainyard:problem:invalid",
    "title": "Invalid request",
    "status": 422,
    "detail": "/environment/id: unknown environment 'CartPol-v1': did you mean CartPole-v1?",
    "errors": [
        {
            "pointer": "/environment/id",
            "message": "unknown environment 'CartPol-v1': did you mean CartPole-v1?",
            "suggestion": "CartPole-v1",
        }
    ],
}

EXPERIMENT: dict[str, Any] = {
    "id": _EXPERIMENT_ID,
    "name": "cartpole",
    "status": "running",
    "spec": SPEC,
    "spec_hash": "sha256:5f1d7a84db00d2fce00b31a7fc73224f1b5e0f5b8f0c2c7f9f6f1a3a5f2b9c11",
    "runs": [{"id": _RUN_ID, "seed": 0, "status": "running"}],
    "tags": {"team": "robotics"},
    "created_at": "2026-01-31T12:00:00.000000Z",
}

RUN: dict[str, Any] = {
    "id": _RUN_ID,
    "experiment_id": _EXPERIMENT_ID,
    "seed": 0,
    "status": "running",
    "desired": "run",
    "reason": None,
    "progress": {"env_steps": 12_000, "total_env_steps": 100_000, "env_steps_per_second": 38_000.0, "eta_seconds": 2.3},
    "latest": {"train/episode_return": {"step": 11_980, "value": 87.5}},
    "result": {"best_checkpoint_id": _CHECKPOINT_ID, "best_return": 212.0, "final_return": None},
    "attempt": 1,
    "worker": _WORKER_ID,
    "device": "cpu",
    "created_at": "2026-01-31T12:00:00.000000Z",
    "started_at": "2026-01-31T12:00:00.090000Z",
    "finished_at": None,
}

METRIC: dict[str, Any] = {
    "key": "train/episode_return",
    "points": 112,
    "nonfinite": 0,
    "latest": {"step": 11_980, "value": 87.5, "time": "2026-01-31T12:00:01.000000Z"},
}

SERIES: dict[str, Any] = {
    "run_id": _RUN_ID,
    "key": "train/episode_return",
    "x": "env_steps",
    "sampled": True,
    "points": 112,
    "nonfinite": 0,
    "step": [1024, 6144, 11_980],
    "value": [21.5, 48.0, 87.5],
    "min": [19.0, 33.5, 87.5],
    "max": [24.0, 61.0, 87.5],
}

EVENT: dict[str, Any] = {
    "id": 2,
    "type": "status",
    "data": {"status": "running"},
    "created_at": "2026-01-31T12:00:00.090000Z",
}

LOG_LINE: dict[str, Any] = {
    "id": "1.7",
    "attempt": 1,
    "stream": "stderr",
    "text": "started on cpu with 1 thread",
    "created_at": "2026-01-31T12:00:00.090000Z",
}

ATTEMPT: dict[str, Any] = {
    "attempt": 1,
    "job_id": _JOB_ID,
    "worker": _WORKER_ID,
    "device": "cpu",
    "resumed_from_env_steps": None,
    "facts": {"threads": 1, "pack": 4},
    "outcome": None,
    "reason": None,
    "started_at": "2026-01-31T12:00:00.050000Z",
    "ended_at": None,
}

CHECKPOINT: dict[str, Any] = {
    "id": _CHECKPOINT_ID,
    "run_id": _RUN_ID,
    "attempt": 1,
    "env_steps": 10_240,
    "kind": "best",
    "return_mean": 212.0,
    "files": [
        {
            "name": "policy.onnx",
            "bytes": 19_213,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        }
    ],
    "created_at": "2026-01-31T12:00:01.000000Z",
}

_PRESET: dict[str, Any] = {
    "algorithm": "ppo",
    "environment_id": "CartPole-v1",
    "origin": "measured here, 5 seeds",
    "values": {"num_steps": 32, "num_envs": 8},
}

ALGORITHM: dict[str, Any] = {
    "name": "ppo",
    "summary": "Proximal policy optimisation with a clipped surrogate objective and GAE.",
    "paper": "https://arxiv.org/abs/1707.06347",
    "observation_spaces": ["vector", "image"],
    "action_spaces": ["discrete", "multi_discrete", "vector"],
    "packs": True,
    "default_num_envs": 8,
    "parameters": {"type": "object", "properties": {"learning_rate": {"type": "number", "default": 0.0003}}},
    "presets": [_PRESET],
}

ENVIRONMENT: dict[str, Any] = {
    "id": "CartPole-v1",
    "package": "gymnasium",
    "observation_space": {
        "type": "box",
        "shape": [4],
        "dtype": "float32",
        "low": [-4.8, None, -0.42, None],
        "high": [4.8, None, 0.42, None],
    },
    "action_space": {"type": "discrete", "n": 2, "start": 0},
    "variants": [],
    "frame_stack": 1,
    "max_episode_steps": 500,
    "reward_threshold": 475.0,
    "kwargs_schema": {"type": "object", "properties": {}, "additionalProperties": False},
    "algorithms": ["ppo", "dqn"],
    "unsupported": None,
    "presets": [_PRESET],
}

WORKER: dict[str, Any] = {
    "id": _WORKER_ID,
    "name": "laptop-4711",
    "status": "live",
    "queues": ["default"],
    "devices": ["cpu"],
    "busy": 1,
    "started_at": "2026-01-31T11:59:00.000000Z",
    "heartbeat_at": "2026-01-31T12:00:01.000000Z",
    "stopped_at": None,
}

READINESS: dict[str, Any] = {"status": "ready", "database": "ok", "migrations": "ok", "broker": "ok"}
