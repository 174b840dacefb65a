"""Prompts shared in a pack: every row reads and predicts what it does by itself, packs are full, few and alike."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nemo_forking.data.batches import Document, Layout, MicroBatch, Row, build, deal
from nemo_forking.data.sharing import deal_rows, shared
from nemo_forking.errors import UserError

LONGEST = 30


@st.composite
def layouts(draw) -> Layout:
    context = draw(st.sampled_from([1, 1, 2, 3]))
    return Layout(
        packing=True,
        tokens=draw(st.integers(LONGEST + 2 * context, 120)),
        micro_batch_size=1,
        data_ranks=draw(st.integers(1, 3)),
        context_ranks=context,
        multiple=draw(st.sampled_from([1, 4])) * context * (2 if context > 1 else 1),
        group=draw(st.sampled_from([1, 1, 2])),
        one_time=draw(st.booleans()),
        crossover=draw(st.sampled_from([np.inf, 20.0])),
        share=True,
    )


@st.composite
def questions(draw) -> list[Row]:
    """Rows of a few questions, question after question; every token of a case is another one, but for the prompts'."""
    rows, fresh = [], iter(range(1, 100_000))
    for group in range(draw(st.integers(1, 5))):
        prompt = [next(fresh) for _ in range(draw(st.integers(1, 14)))]
        for _ in range(draw(st.integers(1, 7))):
            rest = [next(fresh) for _ in range(draw(st.integers(2, LONGEST - len(prompt))))]
            first = draw(st.integers(len(prompt), len(prompt) + len(rest) - 1))
            ids = np.array(prompt + rest)
            rows.append(Row(ids, first, 0.5, index=100 + len(rows), prompt=len(prompt), group=group))
    return rows


def everywhere(rows: list[Row], layout: Layout) -> list[tuple[MicroBatch, ...]]:
    """All micro-batches, each as the parts of its context ranks."""
    plan, found = deal_rows(rows, layout), []
    for data in range(layout.data_ranks):
        on_rank = [replace(layout, data_rank=data, context_rank=rank) for rank in range(layout.context_ranks)]
        found += zip(*(build(rows, plan, one) for one in on_rank), strict=True)
    return found


def whole(parts: tuple[MicroBatch, ...]) -> tuple[np.ndarray, np.ndarray, dict[int, tuple]]:
    """Tokens and positions of a pack in natural order, and {place: (label, weight, row)}: context slices undone."""
    ranks, time = len(parts), sum(part.tokens.size(1) for part in parts)
    tokens, positions, asked = np.full(time, -1), np.full(time, -1), {}
    for rank, part in enumerate(parts):
        places, begin = [], 0
        for document in part.documents:
            for length in (document.trunk, *document.branches):
                chunks = np.arange(begin, begin + length).reshape(2 * ranks if ranks > 1 else 1, -1)
                places += [chunks[i] for i in ((rank, 2 * ranks - 1 - rank) if ranks > 1 else (0,))]
                begin += length
        places = np.concatenate(places)
        tokens[places], positions[places] = part.tokens[0], part.positions
        for place, label, weight, owner in zip(part.places, part.labels, part.weights, part.row, strict=True):
            assert int(places[place]) not in asked
            asked[int(places[place])] = (int(label), float(weight), part.rows[int(owner)])
    return tokens, positions, asked


@given(questions(), layouts())
def test_along_trunk_and_branch_every_row_reads_and_predicts_what_it_does_by_itself(rows, layout):
    by_tokens, found = {tuple(row.ids[:-1]): row for row in rows}, []
    for parts in everywhere(rows, layout):
        tokens, positions, asked = whole(parts)
        begin = 0
        for document in parts[0].documents:
            trunk = list(range(begin, begin + document.trunk))
            begin += document.length
            ends = begin - np.cumsum([0, *document.branches[::-1]])[:-1][::-1]
            branches = [range(end - n, end) for end, n in zip(ends, document.branches, strict=True)]
            for branch in branches or [()]:
                seen = [*trunk, *branch]  # by the branch's last token
                assert positions[seen].tolist() == list(range(len(seen)))
                row = by_tokens.get(tuple(tokens[seen][tokens[seen] > 0]))
                if row is None:
                    assert not tokens[seen].any() and not branches  # padding
                    continue
                predicted = {place: asked.pop(seen[place]) for place in range(len(seen)) if seen[place] in asked}
                labels = {
                    row.first - 1 + i: (int(label), 0.5, row.index) for i, label in enumerate(row.ids[row.first :])
                }
                assert predicted == labels
                found.append(row.index)
        assert begin == len(tokens) and not asked
    assert sorted(found) == [row.index for row in rows]


def tokens_read(rows: list[Row], layout: Layout) -> int:
    return sum(row.length for row in rows) - sum(deal_rows(rows, layout).spared)


@given(questions(), layouts())
def test_packs_fit_are_as_few_as_rows_in_order_allow_and_read_each_prompt_once(rows, layout):
    assume(any(row.prompt > layout.row_multiple for row in rows))
    plan, step = deal_rows(rows, layout), layout.data_ranks * layout.group
    packs = [pack for rank in plan.micro_batches for pack in rank]
    assert sorted(number for pack in packs for number in pack) == list(range(len(rows)))
    sizes = [size(pack, rows, layout) for pack in packs]
    assert max(sizes) <= layout.tokens
    least = fewest(rows, layout.tokens, layout)
    assert len(packs) == -(-least // step) * step
    capacity = max(sizes)  # none smaller would do
    assert capacity == 1 or fewest(rows, capacity - 1, layout) > len(packs)
    assert {len(rank) for rank in plan.micro_batches} == {len(packs) // layout.data_ranks}
    assert tokens_read(rows, layout) == sum(
        (part.tokens > 0).sum() for parts in everywhere(rows, layout) for part in parts
    )


def size(pack: list[int], rows: list[Row], layout: Layout) -> int:
    """Tokens of a pack: rows rounded up, less the prompts that a row of the same question has read before."""
    unit, total, read = layout.row_multiple, 0, set()
    for number in pack:
        row = rows[number]
        trunk = (row.prompt - 1) // unit * unit if row.group in read else 0
        total += -(-row.length // unit) * unit - trunk
        read.add(row.group)
    return total


def fewest(rows: list[Row], capacity: int, layout: Layout) -> float:
    """Fewest packs of neighbouring rows: the best over every place the last one may begin."""
    best = [0.0]
    for end in range(1, len(rows) + 1):
        fits = (begin for begin in range(end) if size(range(begin, end), rows, layout) <= capacity)
        best.append(1 + min((best[begin] for begin in fits), default=np.inf))
    return best[-1]


def test_a_question_cut_by_a_packs_edge_reads_its_prompt_in_both():
    rows = [Row(np.arange(1, 9), 6, prompt=5, group=0) for _ in range(4)]  # 7 tokens read, 4 of them shared
    layout = Layout(True, tokens=13, micro_batch_size=1, share=True)
    assert deal_rows(rows, layout).micro_batches == [[[0, 1], [2, 3]]]
    documents = [[d for _, d in shared([rows[i] for i in pack], layout)] for pack in ([0, 1], [2, 3])]
    assert documents == [[Document(4, (3, 3))]] * 2
    assert tokens_read(rows, layout) == 20 < sum(row.length for row in rows)
    assert documents[0][0].length == 10 and documents[0][0].area == 4**2 + 2 * 2 * (3 * 4 + 3**2 / 2)


@given(questions(), layouts())
def test_rows_share_nothing_unless_asked_to(rows, layout):
    apart = replace(layout, share=False)
    assert deal_rows(rows, apart) == deal([row.length for row in rows], apart)
    assert not any(part.documents[0].branches for parts in everywhere(rows, apart) for part in parts)
    assert tokens_read(rows, apart) == sum(row.length for row in rows)
    forks = [Row(row.ids, len(row.ids) - 1, choices=(7, 8)) for row in rows]  # of no group
    assert deal_rows(forks, layout) == deal([row.length for row in forks], layout)


def test_a_row_longer_than_a_pack_is_refused():
    rows = [Row(np.arange(67), 6, prompt=5, group=0)] * 2
    with pytest.raises(UserError, match="a row of 66 tokens does not fit"):
        deal_rows(rows, Layout(True, tokens=65, micro_batch_size=1, share=True))
