import pytest
from pipemax_worker.errors import PreflightError
from pipemax_worker.planner.detection.gpus import ListedGpu, known_card, list_gpus

CARD = "NVIDIA GeForce RTX 4090, 24564, 450.00"
TWO = f"GPU-a, {CARD}\nGPU-b, {CARD.replace('450', '400')}\n"


def test_every_gpu_is_listed_with_its_memory_and_power() -> None:
    gpus = list_gpus(lambda _: TWO)
    assert gpus[0] == ListedGpu("NVIDIA GeForce RTX 4090", 24564 << 20, 450.0)
    assert [gpu.power_watts for gpu in gpus] == [450.0, 400.0]


def test_those_that_cuda_may_use_in_its_order() -> None:
    """``nvidia-smi`` lists all, whatever CUDA_VISIBLE_DEVICES says."""
    assert [gpu.power_watts for gpu in list_gpus(lambda _: TWO, ("GPU-b", "GPU-a"))] == [400, 450]
    assert [gpu.power_watts for gpu in list_gpus(lambda _: TWO, ("GPU-b", "GPU-c"))] == [400]
    assert list_gpus(lambda _: TWO, ()) == ()


def test_what_it_does_not_tell_is_not_made_up() -> None:
    (gpu,) = list_gpus(lambda _: "GPU-a, NVIDIA A10, 23028, [N/A]\n")
    assert gpu.power_watts is None


@pytest.mark.parametrize(
    "said", [None, "", "No devices were found\n", "failed, very, badly, here\n"]
)
def test_without_gpus_there_are_none(said: str | None) -> None:
    assert list_gpus(lambda _: said) == ()


def test_two_kinds_are_refused_by_name() -> None:
    with pytest.raises(PreflightError, match="NVIDIA A10, NVIDIA L20"):
        list_gpus(lambda _: "GPU-a, NVIDIA L20, 46068, 275\nGPU-b, NVIDIA A10, 23028, 150\n")


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA GeForce RTX 5090", "5090"),
        ("NVIDIA L20", "l20"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A100-SXM4-80GB", None),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
    ],
)
def test_a_card_is_known_by_a_word_of_its_name(name: str, card: str | None) -> None:
    assert known_card(name) == card
