"""Object stores for tests: in memory, failing on demand, and one that breaks the house's rule."""

from __future__ import annotations

from pipemax_worker.dataset.object_store import ObjectNotFoundError
from pipemax_worker.errors import OutputError


class MemoryStore:
    """An ObjectStore in a dictionary; ``writes`` lists the keys in the order of their creation."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.writes: list[str] = []

    @property
    def place(self) -> str:
        return "memory"

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if key in self.objects:
            return False
        self.put(key, data)
        return True

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data
        self.writes.append(key)

    def get(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise ObjectNotFoundError(f"memory/{key}: not found") from None

    def exists(self, key: str) -> bool:
        return key in self.objects

    def list(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def probe(self) -> None:
        pass


class OverwritingStore(MemoryStore):
    """Broken on purpose: put_if_absent replaces what is there and claims to have created it."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.put(key, data)
        return True


class FailingStore(MemoryStore):
    """Writes fail while ``is_failing``; with ``fails_after_write`` the write has landed by then."""

    def __init__(self) -> None:
        super().__init__()
        self.is_failing = False
        self.fails_after_write = False

    def put(self, key: str, data: bytes) -> None:
        if self.is_failing and not self.fails_after_write:
            raise OutputError(f"memory/{key}: the store fails")
        super().put(key, data)
        if self.is_failing:
            raise OutputError(f"memory/{key}: the answer was lost")


class ManualClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds
