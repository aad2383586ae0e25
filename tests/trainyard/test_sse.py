from trainyard.sse import Event, parse


def test_events_end_at_empty_lines() -> None:
    lines = ["id: 1", "event: status", 'data: {"status": "running"}', "", "event: metrics", 'data: {"a": 1}', ""]
    assert list(parse(lines)) == [Event("1", "status", {"status": "running"}), Event(None, "metrics", {"a": 1})]


def test_comments_and_what_is_cut_off_are_dropped() -> None:
    assert list(parse([": heartbeat", "", "event: status", 'data: {"status": "running"}'])) == []


def test_data_may_span_lines_and_need_no_space() -> None:
    assert list(parse(["data:{", 'data: "a": 2}', ""])) == [Event(None, "message", {"a": 2})]
