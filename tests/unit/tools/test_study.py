"""The study's tool, on nodes and models of its own small size where it simulates."""

from pathlib import Path

import msgspec
import pytest
from pipemax_worker.planner.workload import Workload
from planner_study import ablations, cells, document, many_nodes, running, tables
from planner_study.cells import Cell
from planner_study.running import Outcome, Trial

GROUND = ("8x4090", "Llama-2-70B", "sharegpt")
FUSED = Cell(*GROUND, "fused")


def trial(seconds: float, tokens: int = 256) -> Trial:
    return Trial(
        max_batched_tokens=tokens,
        seconds=seconds,
        num_prompt_tokens=3000,
        num_output_tokens=2000,
        steady_seconds=0.8 * seconds,
        steady_prompt_tokens=2700,
        steady_output_tokens=1800,
        mean_batch_tokens=50.0,
        busy=0.9,
        device_kv_tokens=1000,
        host_kv_tokens=2000,
        num_recomputed_tokens=0,
        loaded_bytes=0,
        shares=None,
        cpu_seconds=1.0,
    )


def outcome(cell: Cell, seconds: float, num_requests: int = 10) -> Outcome:
    return Outcome(cell, num_requests, trial(seconds))


def test_every_ground_has_every_system_and_names_are_unique() -> None:
    every = cells.all_cells()
    assert len({cell.name for cell in every}) == len(every)
    natural = {cell for cell in every if cell.kv == "bf16" and cell.ablation == "whole"}
    for ground in tables.grounds():
        for system in cells.SYSTEMS:
            assert tables.natural_cell(*ground, system) in natural
    assert {cell.ablation for cell in every} == {"whole", *cells.ABLATIONS}


def test_cells_are_chosen_by_patterns() -> None:
    chosen = cells.select(cells.all_cells(), "8x4090_Llama-2-70B_sharegpt_fused_bf16_*_whole,none")
    assert [cell.host for cell in chosen] == [True, False]


def test_grounds_ask_for_profiles_and_shapes_that_exist() -> None:
    for hardware, model in cells.GROUNDS:
        settings = running.cell_settings(Cell(hardware, model, "sharegpt", "fused"))
        assert settings.geometry.num_stages == 8
        assert settings.geometry.num_host_slots > 0
        assert running.cell_settings(Cell(hardware, model, "sharegpt", "vllm")).geometry


def test_fp8_doubles_the_room_and_no_host_tier_has_none() -> None:
    plain, narrow = (running.cell_settings(Cell(*GROUND, "fused", kv)) for kv in ("bf16", "fp8"))
    assert narrow.geometry.num_device_slots == pytest.approx(
        2 * plain.geometry.num_device_slots, abs=2
    )
    bare = running.cell_settings(msgspec.structs.replace(FUSED, host=False))
    assert bare.geometry.num_host_slots == 0


def test_ablations_change_what_they_name() -> None:
    whole = running.cell_settings(FUSED)

    def ablated(name: str) -> running.SimulationSettings:
        return running.cell_settings(msgspec.structs.replace(FUSED, ablation=name))

    assert ablated("static-15").scheduler.static_prefetch_ratio == 0.15
    assert ablated("count-balancing").scheduler.balances_counts
    assert ablated("no-ordering").scheduler.order_window == 0
    loads = whole.node.link.host_to_device_bytes_per_second
    slow = ablated("layer-first").node.link
    assert slow.host_to_device_bytes_per_second == pytest.approx(loads / 3)
    assert slow.device_to_host_bytes_per_second == whole.node.link.device_to_host_bytes_per_second
    assert ablated("no-write-through") == whole
    work = Workload(((5, 3), (5, 9)))
    assert ablations.ablate_workload(work, "hidden-lengths").hidden_max_tokens == 9
    assert ablations.ablate_workload(work, "no-ordering") == work
    with pytest.raises(ValueError, match="unknown"):
        ablations.ablate(whole, "no-such-thing")


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    folder = running.Folder(tmp_path, 10)
    assert folder.read(FUSED) is None
    folder.write(outcome(FUSED, 5.0))
    assert folder.read(FUSED) == outcome(FUSED, 5.0)
    heard: list[Outcome] = []
    running.run_cells([FUSED], folder, running.Effort(10, 1), heard.append)
    assert heard == []
    assert list(folder.read_all()) == [outcome(FUSED, 5.0)]


def test_each_size_of_a_step_is_tried_on_all_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[int, int]] = []

    def pretend(cell: Cell, tokens: int, workload: Workload) -> Trial:
        ran.append((tokens, len(workload.lengths)))
        return trial(abs(tokens - 400), tokens)

    monkeypatch.setattr(running, "_try_out", pretend)
    found = running.run_cell(Cell(*GROUND, "vllm", host=False), 4000)
    assert ran == [(256, 4000), (512, 4000), (2048, 4000), (128, 4000)]
    assert found.best is not None
    assert found.best.cpu_seconds == 4 * trial(1.0).cpu_seconds
    assert found.best.max_batched_tokens == 512


def test_a_knee_beyond_all_steps_leaves_the_usual_ones() -> None:
    mixture = Cell("8xh100", "Qwen3-235B-A22B", "longbench", "fused")
    assert running.step_sizes_of(mixture) == (2048, 512)
    assert running.step_sizes_of(msgspec.structs.replace(mixture, system="vllm")) == (512, 2048)


def test_a_cell_is_simulated_or_says_why_not() -> None:
    found = running.run_cell(msgspec.structs.replace(FUSED, ablation="no-write-through"), 3, 1)
    assert found.best is not None
    assert found.best.num_output_tokens > 0
    alone = Cell("1x4090", "Llama-2-70B", "sharegpt", "fused")
    refused = running.run_cell(alone, 3)
    assert refused.best is None
    assert "no room for KV" in refused.fault


def test_ratios_compare_runs_of_the_same_size() -> None:
    rival = Cell(*GROUND, "pipemax")
    results = tables.Results([outcome(FUSED, 5.0), outcome(rival, 10.0), outcome(FUSED, 1.0, 50)])
    assert results.ratio(FUSED, rival) == pytest.approx(2.0)
    assert results.size(FUSED) == 50
    assert results.ratio(FUSED, Cell(*GROUND, "tdpipe")) is None


def test_tables_show_what_was_run_beside_the_paper() -> None:
    ground = ("8x5090", "Llama-2-70B", "sharegpt")
    systems = {"pipemax": 10.0, "tdpipe-predictor": 15.0, "fused": 8.0}
    results = tables.Results(
        outcome(tables.natural_cell(*ground, system), seconds)
        for system, seconds in systems.items()
    )
    (row,) = [line for line in tables.paper_table(results) if line.startswith("| tdpipe-p")]
    assert "1.42" in row
    assert "1.50" in row
    rates = tables.rates_table(results, "bf16")
    assert len(rates) == 3
    assert "**625**" in rates[2]
    assert tables.rates_table(results, "fp8") == ["Nothing of this was run at this size."]
    assert "| 1.25 |" in tables.ours_table(results)[2]


def test_an_ablation_is_told_as_what_is_left() -> None:
    static = msgspec.structs.replace(FUSED, ablation="static-5")
    lines = tables.ablations_table(tables.Results([outcome(FUSED, 5.0), outcome(static, 10.0)]))
    assert lines[2].startswith("| static-5 | 0.50 |")


def test_words_around_the_tables_stay(tmp_path: Path) -> None:
    text = "before\n<!-- study:x -->\nold\n<!-- /study:x -->\nafter\n"
    new = document.replace_part(text, "x", ["one", "two"])
    assert new == "before\n<!-- study:x -->\none\ntwo\n<!-- /study:x -->\nafter\n"
    with pytest.raises(ValueError, match="no part 'y'"):
        document.replace_part(text, "y", [])


def test_the_documents_markers_are_those_that_are_written(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study.md"
    copy.write_text((root / "docs" / "study.md").read_text())
    document.write_tables(copy, [])
    assert "Nothing of this was run" in copy.read_text()


def test_more_nodes_take_less_time_and_lose_little() -> None:
    node = many_nodes.NodeRate(10.0, 60.0, 1500.0, 1300.0)
    rows = [many_nodes.share(node, num_nodes, 60_000) for num_nodes in (1, 4)]
    assert rows[0].seconds > 3 * rows[1].seconds
    assert all(0.8 < row.efficiency <= 1.0 for row in rows)
    assert rows[1].store_bytes_per_second > 3 * rows[0].store_bytes_per_second
