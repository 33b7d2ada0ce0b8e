"""Places: the forms, what is refused, and where they are mounted in a pod."""

import pytest
from pipemax_worker.job import Place, PlaceKind, claim_mount_path, mount_path, parse_place
from pipemax_worker.job.places import is_hub_id
from pydantic_core import PydanticCustomError


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("models/tiny", Place(PlaceKind.PATH, "models/tiny")),
        ("/data/x", Place(PlaceKind.PATH, "/data/x")),
        ("file:///data/a%20b", Place(PlaceKind.PATH, "/data/a b")),
        ("file://localhost/data", Place(PlaceKind.PATH, "/data")),
        ("hostPath:///models/x", Place(PlaceKind.HOST_PATH, "/models/x")),
        ("hostpath:///models/x", Place(PlaceKind.HOST_PATH, "/models/x")),
        ("pvc://datasets/reviews/*.jsonl", Place(PlaceKind.CLAIM, "reviews/*.jsonl", "datasets")),
        ("pvc://datasets", Place(PlaceKind.CLAIM, "", "datasets")),
        ("s3://results/reviews/", Place(PlaceKind.S3, "reviews/", "results")),
    ],
)
def test_a_place_is_taken_apart(uri: str, place: Place) -> None:
    assert parse_place(uri) == place


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("hostPath://models/x", "hostPath:///models/x"),
        ("hostPath:///a/../etc", "without '..'"),
        ("file://models/x", "file:///models/x"),
        ("pvc:///x", "name of a PersistentVolumeClaim"),
        ("pvc://Data_Set/x", "name of a PersistentVolumeClaim"),
        ("pvc://data/../../etc", "without '..'"),
        ("s3://x", "s3://bucket/key"),
        ("https://host/x", "hostPath:///path"),
        (" out", "without spaces around it"),
        ("", "without spaces around it"),
        ("a\x00b", "without spaces around it"),
    ],
)
def test_a_wrong_place_is_refused_with_the_right_form(uri: str, expected: str) -> None:
    with pytest.raises(PydanticCustomError) as refused:
        parse_place(uri)
    assert expected in refused.value.message()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("hostPath:///models/x", "/mnt/pipemax/host/models/x"),
        ("hostPath:///", "/mnt/pipemax/host"),
        ("pvc://datasets/reviews/*.jsonl", "/mnt/pipemax/pvc/datasets/reviews/*.jsonl"),
        ("pvc://datasets/", "/mnt/pipemax/pvc/datasets"),
        ("s3://results/x", None),
        ("/data/x", None),
        ("organisation/name", None),
    ],
)
def test_the_path_in_the_pod(uri: str, path: str | None) -> None:
    assert mount_path(uri) == path


def test_all_places_of_a_claim_lie_under_its_one_mount() -> None:
    assert str(mount_path("pvc://data/a/b")).startswith(claim_mount_path("data") + "/")


def test_claims_and_stores_are_shared_by_all_nodes() -> None:
    uris = ("pvc://data/x", "s3://results/x", "hostPath:///x", "/x", "x")
    assert [parse_place(uri).is_shared for uri in uris] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("organisation/name-1.5B", True),
        ("gpt2", True),
        ("./models", False),
        ("/models", False),
        ("a/b/c", False),
        ("file:///x", False),
        ("~/models", False),
    ],
)
def test_which_texts_can_be_hub_ids(text: str, is_one: bool) -> None:
    assert is_hub_id(text) is is_one
