"""A workload as a job: what is written for it, and what is read of it. The run itself is one of the
acceptance run's parts (``test_gpu_acceptance``)."""

from __future__ import annotations

import argparse
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import gpu_job
import pytest
from pipemax_worker.contract.model_config import load_model_config
from pipemax_worker.job.inference_job import InferenceJob
from pipemax_worker.prompts.tokenizer import load_tokenizer
from pipemax_worker.runner.bench_work import BenchWork

WORK = BenchWork(((5, 6, 7), (8,)), (4, 90))


def options(**changes: object) -> argparse.Namespace:
    fields = {
        "device": "cpu",
        "stages": 1,
        "max_num_requests": None,
        "max_batched_tokens": 256,
        "memory_fraction": 0.97,
        "host": None,
    }
    return argparse.Namespace(**fields | changes)


def test_every_token_of_the_shape_is_text(root: Path, tmp_path: Path) -> None:
    folder = gpu_job.write_model(root / "tools" / "shapes" / "Qwen2.5-7B", tmp_path / "model")
    tokenizer, vocab_size = load_tokenizer(folder), load_model_config(folder).vocab_size
    assert vocab_size > 150_000
    for token_id in (700, 150_000, vocab_size - 1):
        assert tokenizer.is_visible(token_id)
        assert tokenizer.token_bytes(token_id) == f" w{token_id}".encode()
    assert not tokenizer.is_visible(vocab_size)


def test_prompts_are_token_ids_with_exact_lengths(tmp_path: Path) -> None:
    gpu_job.write_prompts(gpu_job.limited(WORK, 2), tmp_path / "prompts.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [line["body"]["prompt"] for line in lines] == [[5, 6], [8]]
    assert [line["body"]["max_tokens"] for line in lines] == [2, 2]
    assert all(line["body"]["min_tokens"] == line["body"]["max_tokens"] for line in lines)
    assert gpu_job.limited(WORK, None) is WORK


@pytest.mark.parametrize("host", [None, "0", "1Gi"])
def test_the_job_is_one(host: str | None) -> None:
    job = InferenceJob.model_validate(gpu_job.job_of(options(host=host)))
    assert job.spec.engine.max_batched_tokens == 256
    assert job.spec.engine.memory_fraction == 0.97
    if host is not None:
        assert job.spec.kv_cache.host == (1 << 30 if host == "1Gi" else 0)


def test_a_metric_has_data_above_zero() -> None:
    text = '# HELP pipemax_gpu_a x\npipemax_gpu_a{gpu="0"} 3.5\npipemax_gpu_b 0.0\npipemax_c 1e3\n'
    assert gpu_job.with_data(text) == {"pipemax_gpu_a", "pipemax_c"}
    assert {"pipemax_gpu_power_watts", "pipemax_gpu_energy_joules_total"} <= gpu_job.panel_metrics()


def test_pages_are_kept_as_they_were_while_tokens_were_made() -> None:
    in_flight = 3

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            progress = {"requests": {"inFlight": in_flight}, "powerWatts": 100.0 * in_flight}
            body = json.dumps(progress) if self.path == "/progress" else f"pipemax_a {in_flight}\n"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    seen = gpu_job.Seen()
    gpu_job.look(server.server_port, seen)
    in_flight = 0
    gpu_job.look(server.server_port, seen)
    server.shutdown()
    thread.join()
    server.server_close()
    gpu_job.look(server.server_port, seen)  # nobody is there any more
    assert (seen.progress["powerWatts"], seen.metrics) == (300.0, "pipemax_a 3\n")
    assert [text for _, text in seen.scrapes] == ["pipemax_a 3\n", "pipemax_a 0\n"]
