"""A request goes on where another engine left it: in a restarted pipeline, or in a later run."""

import random

import pytest
from kit.engine import Harness, make_config, make_geometry, random_requests

REQUESTS = random_requests(random.Random(11), 12, max_prompt=20, max_output=16)


@pytest.mark.parametrize("num_stages", [1, 3])
@pytest.mark.parametrize("run_ahead", [False, True])
def test_texts_are_the_same_and_nothing_is_generated_twice(
    num_stages: int, run_ahead: bool
) -> None:
    config = make_config(make_geometry(num_stages=num_stages, device=200), run_ahead=run_ahead)
    whole = Harness(config)
    expected = {key: one.token_ids for key, one in whole.run(REQUESTS).items()}

    first = Harness(config)
    for request in REQUESTS:
        first.engine.add_request(request)
    finished = [one for _ in range(12) for one in first.engine.step()]
    progress = {(one.key, one.choice): one for one in first.engine.progress()}
    assert progress, "nothing was under way"

    second = Harness(config)
    for request in first.engine.unfinished_requests():
        second.engine.add_request(request, None, progress.get((request.key, request.choice)))
    found = {key: one.token_ids for key, one in second.run().items()}
    found |= {(one.key.offset, one.choice): one.token_ids for one in finished}
    assert found == expected
    second.settle()

    num_known = sum(len(one.output_token_ids) for one in progress.values())
    num_generated = second.engine.statistics.num_generated_tokens
    assert num_generated <= whole.engine.statistics.num_generated_tokens - num_known
    assert num_known
    assert second.engine.statistics.num_recomputed_tokens > 0
