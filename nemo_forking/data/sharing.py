"""Rows of one question that lie in the same pack share their prompt: it is read once, as the trunk of their branches.

Rows stay in the order they are given, question after question, and fill one pack after the other; a question cut by a
pack's edge reads its prompt once more. Without torch, so that a plan can ask too.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

from nemo_forking.data.packing import Deal, Document, Layout, Row, check_fits, deal, describe, round_up, to_ranks


def deal_rows(rows: Sequence[Row], layout: Layout) -> Deal:
    """Deal rows to ranks by their lengths (packing.deal), or in packs of shared prompts where the layout says so."""
    if not (layout.share and any(_trunk(row, layout) for row in rows)):
        return deal([row.length for row in rows], layout)
    check_fits(max(_padded(row, layout) for row in rows), layout)
    count = round_up(len(_fill(rows, layout.tokens, layout)), layout.data_ranks * layout.group)
    low, high = 1, layout.tokens  # so many packs there are in any case; the least capacity evens them out
    while low < high:
        middle = (low + high) // 2
        packs = _fill(rows, middle, layout)
        low, high = (low, middle) if packs is not None and len(packs) <= count else (middle + 1, high)
    packs = _fill(rows, high, layout)
    packs += [[] for _ in range(count - len(packs))]

    def documents(pack: list[int]) -> list[Document]:
        return [document for _, document in shared([rows[i] for i in pack], layout)]

    costs = [sum(d.length + d.area / layout.crossover for d in documents(pack)) for pack in packs]
    return describe(to_ranks(packs, costs, layout.data_ranks), documents, layout)


def shared(rows: Sequence[Row], layout: Layout) -> Iterator[tuple[list[Row], Document]]:
    """The documents of a pack, in order, each with its rows: one branch for each, or the trunk for a row by itself."""
    for _, neighbours in groupby(enumerate(rows), lambda place: _key(*place, layout)):
        members = [row for _, row in neighbours]
        if len(members) == 1:
            yield members, Document(_padded(members[0], layout))
        else:
            trunk = _trunk(members[0], layout)
            yield members, Document(trunk, tuple(_padded(row, layout) - trunk for row in members))


def _trunk(row: Row, layout: Layout) -> int:
    """Tokens it may share: its prompt but for the last, whose hidden state may predict; in whole context chunks."""
    if not layout.share or row.group < 0:
        return 0
    return (row.prompt - 1) // layout.row_multiple * layout.row_multiple if row.prompt else 0


def _key(place: int, row: Row, layout: Layout) -> tuple[str, int]:
    return ("group", row.group) if _trunk(row, layout) else ("row", place)


def _padded(row: Row, layout: Layout) -> int:
    return round_up(row.length, layout.row_multiple)


def _fill(rows: Sequence[Row], capacity: int, layout: Layout) -> list[list[int]] | None:
    """Row numbers of packs filled one after the other; None where a row is too long. No order-keeping way has fewer."""
    packs, fill, before = [], capacity, None
    for number, row in enumerate(rows):
        whole, key = _padded(row, layout), _key(number, row, layout)
        more = whole - (_trunk(row, layout) if key == before else 0)
        if fill + more > capacity:
            packs.append([])
            fill, more = 0, whole
        if more > capacity:
            return None
        packs[-1].append(number)
        fill, before = fill + more, key
    return packs
