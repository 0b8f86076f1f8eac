"""Minimum cuts: the cheapest assignment of one of two labels to every variable."""

from __future__ import annotations

from collections import deque

INFINITE = 1 << 60


class MinCut:
    """Costs over variables with label 0 or 1; ``solve`` finds labels of least total cost (Dinic's maximum
    flow).
    """

    def __init__(self) -> None:
        self._arcs: list[list[int]] = [[], []]
        self._head: list[int] = []
        self._room: list[int] = []

    def variable(self) -> int:
        """A new variable. 0 and 1 are the constants of those labels."""
        self._arcs.append([])
        return len(self._arcs) - 1

    def add(self, a: int, b: int, cost: int) -> None:
        """``cost`` (a non-negative integer) is paid when ``a`` is labelled 0 and ``b`` 1."""
        if cost <= 0 or a == b:
            return
        for tail, head, room in ((a, b, cost), (b, a, 0)):
            self._arcs[tail].append(len(self._head))
            self._head.append(head)
            self._room.append(room)

    def tie(self, a: int, b: int) -> None:
        """``a`` and ``b`` get the same label."""
        self.add(a, b, INFINITE)
        self.add(b, a, INFINITE)

    def solve(self) -> list[int]:
        """The label of every variable; 0 where it makes no difference... to the total."""
        while True:
            level = self._levels()
            if level[1] < 0:
                break
            position = [0] * len(self._arcs)
            while self._augment(level, position):
                pass
        # Everything still reachable from label 0's constant is on its side; ties go to label 1, the sink's
        # side.
        return [0 if depth >= 0 else 1 for depth in self._levels()]

    def _levels(self) -> list[int]:
        level = [-1] * len(self._arcs)
        level[0] = 0
        queue = deque([0])
        while queue:
            node = queue.popleft()
            for arc in self._arcs[node]:
                head = self._head[arc]
                if self._room[arc] > 0 and level[head] < 0:
                    level[head] = level[node] + 1
                    queue.append(head)
        return level

    def _augment(self, level: list[int], position: list[int]) -> bool:
        """Send flow along one path of increasing levels, found without recursion."""
        path: list[int] = []
        node = 0
        while node != 1:
            arcs = self._arcs[node]
            while position[node] < len(arcs):
                arc = arcs[position[node]]
                if self._room[arc] > 0 and level[self._head[arc]] == level[node] + 1:
                    break
                position[node] += 1
            if position[node] == len(arcs):
                if not path:
                    return False
                node = self._head[path.pop() ^ 1]
                position[node] += 1
                continue
            path.append(arcs[position[node]])
            node = self._head[path[-1]]
        room = min(self._room[arc] for arc in path)
        for arc in path:
            self._room[arc] -= room
            self._room[arc ^ 1] += room
        return True
