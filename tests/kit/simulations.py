"""Simulated nodes of round numbers."""

from __future__ import annotations

from typing import Any

from pipemax_worker.contract.geometry import KVGeometry
from pipemax_worker.contract.model_config import ModelConfig, parse_model_config
from pipemax_worker.engine.config import SchedulerConfig
from pipemax_worker.performance.node_profile import NodeProfile, parse_node_profile
from pipemax_worker.planner.simulation import SimulationSettings

NODE_YAML = """\
name: round
title: round numbers
num_gpus: {num_gpus}
gpu:
  memory_bytes: 1000000000
  memory_bandwidth_bytes_per_second: 1.0e+9
  memory_efficiency: 1.0
  flops_per_second: 1.0e+12
  flops_efficiency: 1.0
  step_overhead_seconds: 0.001
  power_watts: 400
  idle_power_watts: 100
  price_per_hour: 1.0
link:
  host_to_device_bytes_per_second: {link}
  device_to_host_bytes_per_second: {link}
  hop_latency_seconds: 0.0001
  hop_bytes_per_second: 1.0e+9
host:
  memory_bytes: 1000000000
  copy_bytes_per_second: 1.0e+9
  nvme_read_bytes_per_second: 1.0e+6
  nvme_write_bytes_per_second: 1.0e+6
  power_watts: 200
sources: [made up]
"""

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def make_node(num_gpus: int = 4, link_bytes_per_second: float = 1.0e8) -> NodeProfile:
    text = NODE_YAML.format(num_gpus=num_gpus, link=f"{link_bytes_per_second:.1e}")
    return parse_node_profile(text, "round.yaml")


def make_model() -> ModelConfig:
    return parse_model_config(MODEL, "config.json")


def make_settings(
    *,
    policy: str = "fused",
    num_stages: int = 4,
    device: int = 200,
    host: int = 0,
    link_bytes_per_second: float = 1.0e8,
    look_ahead: int = 1024,
    **scheduler: Any,
) -> SimulationSettings:
    model = make_model()
    geometry = KVGeometry(
        block_tokens=4,
        kv_dtype="bfloat16",
        num_kv_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
        layers_of_stage=(model.num_hidden_layers // num_stages,) * num_stages,
        num_device_slots=device,
        num_host_slots=host,
        num_nvme_slots=0,
    )
    options: dict[str, Any] = {
        "num_micro_batches": num_stages,
        "max_batched_tokens": 32,
        "run_ahead": True,
        "prefix_sharing": False,
        "growth_reserve_ratio": 0.0,
        "expected_output_tokens": 16,
    }
    return SimulationSettings(
        node=make_node(num_stages, link_bytes_per_second),
        model=model,
        scheduler=SchedulerConfig(geometry=geometry, **(options | scheduler)),
        policy=policy,
        look_ahead=look_ahead,
    )
