"""Owns the profiles that a lane keeps in memory."""

from collections import OrderedDict
from collections.abc import Iterable

from cairn.evaluator.evaluation import ProfileState


class ProfileCache:
    """The profiles that a lane keeps in memory, least recently used out first, at most `capacity` bytes by their own count. It may be
    stale, never wrong: the swap tells."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._states: OrderedDict[str, ProfileState] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """What the profiles take, about."""
        return self._bytes

    def get(self, profile_id: str) -> ProfileState | None:
        """The profile as it was last seen, or None."""
        state = self._states.get(profile_id)
        if state is not None:
            self._states.move_to_end(profile_id)
        return state

    def put(self, state: ProfileState) -> None:
        """Keeps a profile that was read or written."""
        before = self._states.pop(state.profile_id, None)
        self._states[state.profile_id] = state
        self._bytes += state.memory - (before.memory if before is not None else 0)
        while self._bytes > self._capacity:
            _, oldest = self._states.popitem(last=False)
            self._bytes -= oldest.memory

    def drop(self, profile_ids: Iterable[str]) -> None:
        """Forgets profiles."""
        for profile_id in profile_ids:
            state = self._states.pop(profile_id, None)
            if state is not None:
                self._bytes -= state.memory
