"""Bodies of action requests: what is taken, what is refused, and where the refusal points."""

import json
from typing import Any

import numpy as np
import pytest

from app.errors import Invalid
from app.serving.requests import MAX_BATCH, MAX_SEED, ActionRequest

ZEROS = [0.0, 0.0, 0.0, 0.0]


def refused(
    body: Any, shape: tuple[int, ...] = (4,), *, pixels: range | None = None, states: range | None = None
) -> list[tuple[str, str]]:
    """Pointer and message of everything a body is refused for."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Invalid) as caught:
        ActionRequest.parse(content).array(shape, pixels=pixels, states=states)
    return [(error.pointer, error.message) for error in caught.value.errors]


class TestParse:
    def test_defaults(self) -> None:
        request = ActionRequest.parse(b'{"observation": [1, 2]}')
        assert request == ([[1, 2]], True, True, None, "best")

    def test_every_field(self) -> None:
        body = {"observations": [[1], [2]], "deterministic": False, "seed": MAX_SEED, "checkpoint": "ckpt_0abc"}
        assert ActionRequest.parse(json.dumps(body).encode()) == ([[1], [2]], False, False, MAX_SEED, "ckpt_0abc")

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[1]", b"7", b"null", b'{"observation": [NaN, 0, 0, 0]}', b'{"observation": [1e999, 0, 0, 0]}'],
        ids=["empty", "cut", "list", "number", "null", "NaN", "1e999"],
    )
    def test_what_is_no_json_object(self, body: bytes) -> None:
        assert [pointer for pointer, _ in refused(body)] == [""]

    @pytest.mark.parametrize(
        ("fields", "pointer"),
        [
            ({"deterministic": 1}, "/deterministic"),
            ({"deterministic": None}, "/deterministic"),
            ({"seed": -1}, "/seed"),
            ({"seed": MAX_SEED + 1}, "/seed"),
            ({"seed": 1.0}, "/seed"),
            ({"seed": True}, "/seed"),
            ({"checkpoint": "worst"}, "/checkpoint"),
            ({"checkpoint": "ckpt_../x"}, "/checkpoint"),
            ({"checkpoint": None}, "/checkpoint"),
            ({"checkpoint": ["best"]}, "/checkpoint"),
            ({"observations": [ZEROS]}, "/observations"),
            ({"a/b~c": 1}, "/a~1b~0c"),
        ],
    )
    def test_wrong_fields(self, fields: dict[str, Any], pointer: str) -> None:
        assert [where for where, _ in refused({"observation": ZEROS} | fields)] == [pointer]

    @pytest.mark.parametrize("observations", [[], {}, "x", 1, [ZEROS] * (MAX_BATCH + 1)])
    def test_batches(self, observations: Any) -> None:
        assert refused({"observations": observations})[0][0] == "/observations"

    def test_neither_observation_nor_observations(self) -> None:
        assert refused({}) == [("", "needs 'observation' or 'observations'")]
        assert refused({"observations": None}) == [("", "needs 'observation' or 'observations'")]

    def test_every_error_is_named_and_unknown_fields_get_a_suggestion(self) -> None:
        with pytest.raises(Invalid) as caught:
            ActionRequest.parse(b'{"observatoin": [1], "observation": [1], "seed": "x"}')
        unknown, seed = caught.value.errors
        assert (unknown.pointer, unknown.suggestion, seed.pointer) == ("/observatoin", "observation", "/seed")


class TestArray:
    def array(self, body: dict[str, Any], shape: tuple[int, ...], *, pixels: range | None = None) -> np.ndarray:
        return ActionRequest.parse(json.dumps(body).encode()).array(shape, pixels=pixels)

    def test_vectors(self) -> None:
        array = self.array({"observations": [[1, 2.5], [-3e38, 1e-50]]}, (2,))
        assert array.dtype == np.float32
        assert np.array_equal(array, np.array([[1, 2.5], [-3e38, 0]], np.float32))

    def test_images(self) -> None:
        image = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4) * 11
        array = self.array({"observation": image.tolist()}, (2, 3, 4), pixels=range(256))
        assert array.dtype == np.uint8
        assert np.array_equal(array[0], image)

    @pytest.mark.parametrize(
        ("observation", "pointer"),
        [
            ([0.0], "/observation"),
            ([0.0] * 5, "/observation"),
            (0.0, "/observation"),
            (None, "/observation"),
            ({"0": 1}, "/observation"),
            ([0, 0, 0, "a"], "/observation/3"),
            ([0, None, 0, 0], "/observation/1"),
            ([0, 0, True, 0], "/observation/2"),
            ([0, 0, [0], 0], "/observation/2"),
            ([0, 0, 0, 1e39], "/observation/3"),
            ([0, 0, 0, -1e300], "/observation/3"),
        ],
    )
    def test_one_wrong_observation(self, observation: Any, pointer: str) -> None:
        assert [where for where, _ in refused({"observation": observation})] == [pointer]

    @pytest.mark.parametrize(
        ("third", "pointer"), [([0], "/observations/2"), (7, "/observations/2"), ([0, 0, 0, "1"], "/observations/2/3")]
    )
    def test_a_wrong_one_in_a_batch(self, third: Any, pointer: str) -> None:
        assert [where for where, _ in refused({"observations": [ZEROS, ZEROS, third, [0]]})] == [pointer]

    @pytest.mark.parametrize(
        ("image", "pointer"),
        [
            ([[[0], [256]]], "/observation/0/1/0"),
            ([[[0], [-1]]], "/observation/0/1/0"),
            ([[[0.5], [0]]], "/observation/0/0/0"),
            ([[[True], [0]]], "/observation/0/0/0"),
            ([[[0], [0], [0]]], "/observation/0"),
            ([[[0], []]], "/observation/0/1"),
            ([[0, 0]], "/observation/0/0"),
        ],
    )
    def test_wrong_images(self, image: Any, pointer: str) -> None:
        assert [where for where, _ in refused({"observation": image}, (1, 2, 1), pixels=range(256))] == [pointer]

    def test_integers(self) -> None:
        request = ActionRequest.parse(b'{"observations": [-2, 0, 47]}')
        array = request.array((), pixels=None, states=range(-2, 48))
        assert array.dtype == np.int64 and array.tolist() == [-2, 0, 47]

    @pytest.mark.parametrize("state", [-1, 48, 2**63, -(2**63), True, 3.0, "3", None, [3], {}])
    def test_wrong_integers(self, state: Any) -> None:
        states = range(48)
        assert [where for where, _ in refused({"observation": state}, (), states=states)] == ["/observation"]
        body = {"observations": [0, 47, state, -1]}
        assert [where for where, _ in refused(body, (), states=states)] == ["/observations/2"]

    def test_a_pixel_brighter_than_the_images_it_learned_from(self) -> None:
        assert self.array({"observation": [[[1]]]}, (1, 1, 1), pixels=range(2)).tolist() == [[[[1]]]]
        assert refused({"observations": [[[[1]]], [[[2]]]]}, (1, 1, 1), pixels=range(2)) == [
            ("/observations/1/0/0/0", "must be an integer from 0 to 1, is 2")
        ]

    def test_messages_say_what_was_seen(self) -> None:
        assert refused({"observation": 48}, (), states=range(48))[0][1] == "must be an integer from 0 to 47, is 48"
        assert refused({"observation": [0, 0]})[0][1] == "must be a list of 4 numbers, is a list of 2"
        assert refused({"observation": [0, 0, 0, None]})[0][1] == "must be a number, is null"
        assert refused({"observation": [[[300]]]}, (1, 1, 1), pixels=range(256))[0][1] == (
            "must be an integer from 0 to 255, is 300"
        )
