"""The DQN union: what names stand for, what may be set otherwise, and what contradicts itself."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from app.schemas.algorithms import DQN
from app.schemas.base import SpecError
from app.schemas.experiment import ExperimentSpec, resolve
from app.schemas.presets import PRESETS
from app.services import catalogue

NAMES = get_args(DQN.model_fields["name"].annotation)
OFF: dict[str, Any] = {
    "double": False,
    "dueling": False,
    "prioritized": False,
    "n_step": 1,
    "noisy": False,
    "distribution": "none",
}


def resolved(**algorithm: Any) -> Any:
    spec = {"environment": {"id": "CartPole-v1"}, "algorithm": algorithm}
    return resolve(ExperimentSpec.model_validate(spec)).algorithm


@pytest.mark.parametrize(
    ("name", "on"),
    [
        ("dqn", {}),
        ("double_dqn", {"double": True}),
        ("dueling_dqn", {"dueling": True}),
        ("c51", {"distribution": "c51"}),
        ("qr_dqn", {"distribution": "quantile"}),
        ("iqn", {"distribution": "implicit"}),
        (
            "rainbow",
            {"double": True, "dueling": True, "prioritized": True, "n_step": 3, "noisy": True, "distribution": "c51"},
        ),
    ],
)
def test_a_name_sets_switches_and_a_spec_sets_them_otherwise(name: str, on: dict[str, Any]) -> None:
    given = DQN(name=name)
    assert {switch: getattr(given, switch) for switch in OFF} == OFF | on
    assert {switch: getattr(DQN(name=name, **OFF), switch) for switch in OFF} == OFF


def test_all_names_are_told_apart() -> None:
    assert {*DQN.variants, "dqn"} == set(NAMES)
    assert len({DQN(name=name).model_copy(update={"name": ""}).model_dump_json() for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_belongs_to_a_part_that_is_off_is_null(name: str) -> None:
    config = resolved(name=name)
    for field in DQN.parts:
        assert (getattr(config, field) is not None) == config.takes(field), field


@pytest.mark.parametrize(("name", "distribution", "count"), [("iqn", "quantile", 50), ("dqn", "implicit", 8)])
def test_how_many_quantiles_goes_by_the_distribution(name: str, distribution: str, count: int) -> None:
    assert resolved(name=name, distribution=distribution).num_quantiles == count


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_spec_can_be_read_again(name: str) -> None:
    config = resolved(name=name, preset="auto")
    assert DQN.model_validate_json(config.model_dump_json()) == config
    spec = ExperimentSpec.model_validate({"environment": {"id": "CartPole-v1"}, "algorithm": {"name": name}})
    assert resolve(resolve(spec)) == resolve(spec)


@pytest.mark.parametrize(
    ("algorithm", "field", "words"),
    [
        ({"name": "rainbow", "epsilon_start": 0.5}, "epsilon_start", "set noisy to false"),
        ({"name": "dqn", "noisy": True, "epsilon_fraction": 0.5}, "epsilon_fraction", "set noisy to false"),
        ({"name": "dqn", "noisy_std": 0.1}, "noisy_std", "set noisy to true"),
        ({"name": "dqn", "v_min": 0.0}, "v_min", 'set distribution to "c51"'),
        ({"name": "iqn", "num_atoms": 51}, "num_atoms", 'set distribution to "c51"'),
        ({"name": "c51", "loss": "huber"}, "loss", 'set distribution to "none"'),
        ({"name": "c51", "huber_kappa": 1.0}, "huber_kappa", '"quantile" or "implicit"'),
        ({"name": "qr_dqn", "num_policy_quantiles": 8}, "num_policy_quantiles", '"implicit"'),
        ({"name": "rainbow", "prioritized": False, "priority_beta": 0.5}, "priority_beta", "set prioritized to true"),
        ({"name": "c51", "v_min": None}, "v_min", "may not be null"),
        ({"name": "c51", "v_min": 20.0}, "v_max", "must lie above v_min, which is 20"),
        ({"name": "c51", "v_min": 1.0, "v_max": 1.0}, "v_max", "must lie above v_min"),
        ({"name": "c51", "v_min": 0.0, "v_max": 0.0}, "v_max", "must lie above v_min"),
        ({"name": "c51", "v_min": 1e6, "v_max": 1e6 + 1}, "v_max", "by a thousandth"),
        ({"name": "c51", "v_max": 1e39}, "v_max", "less than or equal to"),
    ],
)
def test_contradictions_name_the_field_and_how_to_mend_it(algorithm: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DQN.model_validate(algorithm)
    (error,) = [row for row in caught.value.errors() if row["type"] != "default_factory_not_called"]
    assert error["loc"] == (field,) and words in error["msg"]


def test_the_users_word_counts_before_the_presets_and_that_before_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"origin": "here", "n_step": 5, "noisy_std": 0.1, "priority_exponent": 0.3, "learning_rate": 0.02}
    monkeypatch.setitem(PRESETS, ("rainbow", "CartPole-v1"), numbers)
    config = resolved(name="rainbow", preset="auto", learning_rate=0.01)
    assert (config.learning_rate, config.n_step, config.noisy_std, config.priority_exponent) == (0.01, 5, 0.1, 0.3)
    assert (config.double, config.priority_beta) == (True, 0.4)
    assert resolved(name="rainbow").priority_exponent == 0.5 and resolved(name="rainbow").n_step == 3


def test_a_preset_leaves_alone_what_the_user_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, ("rainbow", "CartPole-v1"), {"origin": "here", "noisy_std": 0.1, "v_max": 100.0})
    config = resolved(name="rainbow", preset="auto", noisy=False)
    assert config.noisy_std is None and config.v_max == 100.0 and config.epsilon_start == 1.0


def test_numbers_that_do_not_go_with_the_presets_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, ("c51", "CartPole-v1"), {"origin": "here", "v_min": 5.0})
    with pytest.raises(SpecError) as caught:
        resolved(name="c51", preset="auto", v_max=3.0)
    (error,) = [row for row in caught.value.errors if row.pointer == "/algorithm/v_max"]
    assert "preset" in error.message and "v_min, which is 5" in error.message


def test_a_number_may_rely_on_the_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, ("c51", "CartPole-v1"), {"origin": "here", "v_max": 100.0})
    config = resolved(name="c51", preset="auto", v_min=20.0)
    assert (config.preset, config.v_min, config.v_max) == ("auto", 20.0, 100.0)
    monkeypatch.delitem(PRESETS, ("c51", "CartPole-v1"))
    with pytest.raises(SpecError, match="must lie above v_min") as caught:
        resolved(name="c51", preset="auto", v_min=20.0)
    assert [row.pointer for row in caught.value.errors] == ["/algorithm/v_max"] and "preset" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_shows_each_names_own_defaults(name: str) -> None:
    shown = catalogue.algorithm(name)
    properties = shown.parameters["properties"]
    assert {field: entry["default"] for field, entry in properties.items()} == DQN(name=name).model_dump(mode="json")
    assert all(entry.get("description") for field, entry in properties.items() if field in ("n_step", "v_min"))


def test_the_catalogue_says_what_each_name_is() -> None:
    shown = [catalogue.algorithm(name) for name in NAMES]
    assert len({row.summary for row in shown}) == len({row.paper for row in shown}) == len(NAMES)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "qr_dqn", "batch_size": 65_536, "num_quantiles": 512}, "num_quantiles"),
        ({"name": "c51", "hidden_sizes": [4096, 4096, 3000], "num_atoms": 512}, "hidden_sizes"),
    ],
)
def test_what_no_machine_would_hold_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError, match="are allowed") as caught:
        resolved(**fields)
    assert [row.pointer for row in caught.value.errors] == [f"/algorithm/{field}"]
