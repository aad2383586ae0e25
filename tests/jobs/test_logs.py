"""Lines of output."""

import pytest

from worker.jobs.logs import MAX_LINE_BYTES, MAX_WAITING, LogBuffer


def test_chunks_become_lines() -> None:
    buffer = LogBuffer()
    assert buffer.split("stdout", b"one\n\ntw") == [b"one"]
    assert buffer.split("stderr", b"other\n") == [b"other"]
    assert buffer.split("stdout", b"o\nthree\n") == [b"two", b"three"]


def test_a_line_without_an_end_is_cut() -> None:
    buffer = LogBuffer()
    lines = buffer.split("stdout", b"x" * (2 * MAX_LINE_BYTES + 1))
    assert [len(line) for line in lines] == [MAX_LINE_BYTES, MAX_LINE_BYTES]


def test_the_newest_lines_are_kept_and_the_rest_is_counted() -> None:
    buffer = LogBuffer()
    for number in range(MAX_WAITING + 5):
        buffer.add("stderr", str(number).encode())
    with buffer.taken() as lines:
        pass
    assert lines[0] == ("stderr", "… 5 lines left out …")
    assert lines[1] == ("stderr", "5")
    assert lines[-1] == ("stderr", str(MAX_WAITING + 4))
    assert buffer.last == str(MAX_WAITING + 4)
    with buffer.taken() as lines:
        assert lines == []


def write_in_vain(buffer: LogBuffer, meanwhile: bytes) -> None:
    with buffer.taken():
        buffer.add("stderr", meanwhile)
        raise ConnectionError


def test_lines_that_could_not_be_written_wait_again() -> None:
    buffer = LogBuffer()
    buffer.add("stderr", b"Traceback")
    with pytest.raises(ConnectionError):
        write_in_vain(buffer, b"later")
    with buffer.taken() as lines:
        assert lines == [("stderr", "Traceback"), ("stderr", "later")]


def test_lines_that_wait_again_leave_out_the_oldest() -> None:
    buffer = LogBuffer()
    for number in range(MAX_WAITING):
        buffer.add("stderr", str(number).encode())
    with pytest.raises(ConnectionError):
        write_in_vain(buffer, b"newest")
    with buffer.taken() as lines:
        assert lines[:2] == [("stderr", "… 1 lines left out …"), ("stderr", "1")]
        assert lines[-1] == ("stderr", "newest")
        assert len(lines) == MAX_WAITING + 1


def test_what_is_no_text_is_shown_as_such() -> None:
    buffer = LogBuffer()
    buffer.add("stdout", b"\xff ok")
    with buffer.taken() as lines:
        assert lines == [("stdout", "\N{REPLACEMENT CHARACTER} ok")]
