"""Ids: prefixed, unguessable, in order."""

import re
from concurrent.futures import ThreadPoolExecutor

from app.db.ids import new_id


class TestNewId:
    def test_shape(self) -> None:
        assert re.fullmatch(r"run_[0-9a-hjkmnp-tv-z]{26}", new_id("run"))

    def test_sort_in_the_order_they_were_made(self) -> None:
        made = [new_id("run") for _ in range(1000)]
        assert made == sorted(made)

    def test_differ_between_threads(self) -> None:
        with ThreadPoolExecutor(4) as pool:
            made = [
                one
                for future in [pool.submit(lambda: [new_id("run") for _ in range(500)]) for _ in range(4)]
                for one in future.result()
            ]
        assert len(set(made)) == 2000
