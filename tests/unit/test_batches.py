"""Rows to micro-batches: nothing lost, nothing twice, the same shape and number on every rank, work evenly dealt."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_forking.config import load
from nemo_forking.data.batches import Layout, Row, build, deal
from nemo_forking.data.packing import pass_layout
from nemo_forking.errors import UserError

LONGEST = 40


@st.composite
def layouts(draw) -> Layout:
    context = draw(st.sampled_from([1, 1, 2, 3]))
    sequence = draw(st.sampled_from([1, 2, 4]))
    return Layout(
        packing=draw(st.booleans()),
        tokens=draw(st.integers(LONGEST + 2 * context, 150)),
        micro_batch_size=draw(st.integers(1, 5)),
        data_ranks=draw(st.integers(1, 4)),
        context_ranks=context,
        multiple=sequence * context * (2 if context > 1 else 1),
        group=draw(st.sampled_from([1, 1, 2, 3])),
        one_time=draw(st.booleans()),
        crossover=draw(st.sampled_from([np.inf, 40.0, 4.0])),
    )


lengths_of_rows = st.lists(st.integers(1, LONGEST), min_size=1, max_size=30)


@st.composite
def row_lists(draw) -> list[Row]:
    rows = []
    for number, length in enumerate(draw(lengths_of_rows)):
        ids = np.arange(length + 1, dtype=np.int64) + 1000 * (number + 1)  # every token of a case is another one
        first = draw(st.integers(1, length))
        rows.append(Row(ids, first, weight=draw(st.floats(0.01, 2)), index=7 * number + 3))
    return rows


def on_rank(layout: Layout, data: int, context: int) -> Layout:
    return replace(layout, data_rank=data, context_rank=context)


def rounded(length: int, layout: Layout) -> int:
    return -(-length // layout.row_multiple) * layout.row_multiple


def fill(bin: list[int], lengths: list[int], layout: Layout) -> int:
    return sum(rounded(lengths[row], layout) for row in bin)


@given(lengths_of_rows, layouts())
def test_every_row_is_dealt_exactly_once(lengths, layout):
    plan = deal(lengths, layout)
    dealt = [row for rank in plan.micro_batches for bin in rank for row in bin]
    assert sorted(dealt) == list(range(len(lengths)))


@given(lengths_of_rows, layouts())
def test_every_rank_has_the_same_number_of_micro_batches_and_the_pipeline_its_multiple(lengths, layout):
    plan = deal(lengths, layout)
    assert len(plan.micro_batches) == layout.data_ranks
    (count,) = {len(rank) for rank in plan.micro_batches}
    assert count >= 1 and count % layout.group == 0
    assert plan.rows_max == max(sum(len(bin) for bin in rank) for rank in plan.micro_batches)


@given(lengths_of_rows, layouts())
def test_every_micro_batch_fits_its_shape_which_is_no_larger_than_it_needs(lengths, layout):
    plan, unit = deal(lengths, layout), np.lcm(layout.multiple, layout.row_multiple)
    for rank, times in zip(plan.micro_batches, plan.times, strict=True):
        needed = []
        for rows in rank:
            longest = max((rounded(lengths[row], layout) for row in rows), default=0)
            needed.append(fill(rows, lengths, layout) if layout.packing else longest)
            assert len(rows) <= layout.micro_batch_size or needed[-1] <= layout.tokens and layout.packing
        wanted = [max(needed)] * len(rank) if layout.one_time else needed
        assert times == [max(1, -(-n // unit)) * unit for n in wanted]
        assert needed == sorted(needed, reverse=True)


@given(lengths_of_rows, layouts())
def test_packs_of_rows_without_attention_to_balance_differ_by_no_more_than_one_row(lengths, layout):
    layout = replace(layout, packing=True, crossover=np.inf)
    plan = deal(lengths, layout)
    longest = rounded(max(lengths), layout)
    fills = [[fill(bin, lengths, layout) for bin in rank] for rank in plan.micro_batches]
    assert max(np.ptp(rank) for rank in fills) <= longest
    assert np.ptp([sum(rank) for rank in fills]) <= longest


@given(lengths_of_rows, layouts())
def test_costs_are_those_of_every_place_and_every_pair_that_attention_meets(lengths, layout):
    plan, c = deal(lengths, layout), layout.crossover
    for rank, times, costs in zip(plan.micro_batches, plan.times, plan.costs, strict=True):
        for rows, time, cost in zip(rank, times, costs, strict=True):
            documents = [rounded(lengths[row], layout) for row in rows]
            documents.append(time - sum(documents))  # padding
            packed = time + sum(n**2 for n in documents) / c
            assert cost == pytest.approx(packed if layout.packing else plan.batch * (time + time**2 / c))
    ranks = [sum(rank) for rank in plan.costs]
    assert plan.imbalance == pytest.approx(max(ranks) / np.mean(ranks) - 1)


@given(lengths_of_rows, layouts())
def test_packed_micro_batches_are_half_full_at_worst_but_for_one_round(lengths, layout):
    """Worst fit on falling lengths: were the bins fewer by a round, the emptiest would lack room for some row."""
    layout = replace(layout, packing=True)
    count = sum(len(rank) for rank in deal(lengths, layout).micro_batches)
    step = layout.data_ranks * layout.group
    total = sum(rounded(length, layout) for length in lengths)
    assert count <= step + max(step, 2 * -(-total // layout.tokens))


@given(
    st.lists(st.integers(1, LONGEST), min_size=1, max_size=7), st.integers(2, 3), st.sampled_from([np.inf, 40.0, 4.0])
)
def test_the_dearest_rank_costs_at_most_a_third_more_than_in_the_best_of_all_deals(lengths, ranks, crossover):
    """Graham's bound, which holds where every rank has room; there the longest row comes first to the cheapest."""
    layout = Layout(True, tokens=LONGEST * 7, micro_batch_size=1, data_ranks=ranks, crossover=crossover)
    cost = [n + n**2 / crossover for n in lengths]
    best = min(
        max(sum(c for c, owner in zip(cost, owners, strict=True) if owner == rank) for rank in range(ranks))
        for owners in itertools.product(range(ranks), repeat=len(lengths))
    )
    dealt = [sum(cost[row] for rows in rank for row in rows) for rank in deal(lengths, layout).micro_batches]
    assert max(dealt) <= best * (4 / 3 - 1 / (3 * ranks)) * (1 + 1e-12)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_of_realistic_rows_are_nearly_as_dear_as_one_another_and_packs_hold_what_they_may(ranks):
    """Traces of 8k tokens in the mean, up to 32k, Qwen2.5-1.5B; no deal is cheaper than the longest row or the mean."""
    random = np.random.default_rng(0)
    layout = Layout(True, tokens=32768, micro_batch_size=1, data_ranks=ranks, crossover=30464)
    for _ in range(10):
        lengths = np.minimum(32768, random.lognormal(np.log(8192) - 0.245, 0.7, 128)).astype(int)
        plan, cost = deal(lengths, layout), lengths + lengths**2 / 30464
        dearest = max(map(sum, plan.costs))
        assert dearest < 1.03 * max(cost.max(), cost.sum() / ranks)
        assert max(map(max, plan.times)) <= 32768


@given(row_lists(), layouts())
def test_ranks_together_hold_every_token_label_weight_and_owner(rows, layout):
    """Undo it all: put the context slices of every micro-batch together and read the rows off again."""
    plan = deal([row.length for row in rows], layout)
    seen: dict[int, list] = {}
    for data in range(layout.data_ranks):
        slices = [list(build(rows, plan, on_rank(layout, data, context))) for context in range(layout.context_ranks)]
        for time, *parts in zip(plan.times[data], *slices, strict=True):
            for name, tokens in read_off(parts, (plan.batch, time), layout).items():
                assert name not in seen
                seen[name] = tokens
    assert seen == {row.index: expected(row) for row in rows}


def expected(row: Row) -> list[tuple]:
    """(position, token, label or None, weight) of every place of a row."""
    places = []
    for position in range(row.length):
        counted = position + 1 >= row.first
        label = int(row.ids[position + 1]) if counted else None
        places.append((position, int(row.ids[position]), label, float(np.float32(row.weight)) if counted else None))
    return places


def read_off(parts, shape: tuple[int, int], layout: Layout) -> dict[int, list[tuple]]:
    """The rows of one micro-batch, from the parts of its context-parallel ranks."""
    rows: dict[int, list[tuple]] = {}
    for part in parts:
        batch, time = part.tokens.shape
        assert (batch, time * layout.context_ranks) == shape
        assert part.rows == parts[0].rows and part.documents == parts[0].documents
        assert sum(d.length for d in part.documents) == (shape[1] if layout.packing else 0)
        labels = {}
        for place, label, weight, owner in zip(part.places, part.labels, part.weights, part.row, strict=True):
            t, b = divmod(int(place), batch)  # as hidden states lie, [T, B, H]
            assert (t, b) not in labels
            labels[t, b] = (int(label), float(weight), part.rows[int(owner)])
        for b in range(batch):
            for t in range(time):
                token = int(part.tokens[b, t])
                label, weight, owner = labels.pop((t, b), (None, None, None))
                if token == 0:  # padding predicts nothing
                    assert label is None
                    continue
                name = 7 * (token // 1000 - 1) + 3
                assert owner in (None, name)
                rows.setdefault(name, []).append((int(part.positions[t]), token, label, weight))
        assert not labels
    return {name: sorted(places) for name, places in rows.items()}


@given(row_lists(), layouts())
def test_context_ranks_hold_the_two_chunks_that_even_out_causal_attention(rows, layout):
    """Rank r of n holds chunks r and 2n-1-r of every document, in order."""
    plan = deal([row.length for row in rows], layout)
    ranks = layout.context_ranks
    for context in range(ranks):
        parts = build(rows, plan, on_rank(layout, 0, context))
        for part, time in zip(parts, plan.times[0], strict=True):
            wanted = []
            for length in [d.length for d in part.documents] or [time]:
                chunk = length // (2 * ranks) if ranks > 1 else length
                chunks = (context, 2 * ranks - 1 - context) if ranks > 1 else (0,)
                wanted += [i * chunk + place for i in chunks for place in range(chunk)]
            assert part.positions.tolist() == wanted


@given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=12), layouts())
def test_the_deal_does_not_depend_on_the_rank_that_asks(lengths, layout):
    assert deal(lengths, layout) == deal(lengths, on_rank(layout, layout.data_ranks - 1, layout.context_ranks - 1))


def test_longer_rows_share_padded_micro_batches_with_long_ones():
    plan = deal([1, 9, 2, 8, 3, 7], Layout(packing=False, tokens=0, micro_batch_size=2))
    assert plan.micro_batches == [[[1, 3], [5, 4], [2, 0]]]


@pytest.mark.parametrize(
    "without_gradient, tokens, size, share",
    [(True, 700, 5, True), (False, 100, 2, False)],
    ids=["matching", "training"],
)
def test_a_pass_that_keeps_no_activations_has_micro_batches_of_its_own_size_and_alone_shares_prompts(
    without_gradient, tokens, size, share
):
    config = load(["experiment=tiny"])
    sizes = {"tokens": 100, "match_tokens": 700, "micro_batch_size": 2, "match_micro_batch_size": 5}
    batch = replace(config.batch, packing=True, share_prompts=True, **sizes)
    found = pass_layout(batch, config.layout, without_gradient=without_gradient)
    assert (found.tokens, found.micro_batch_size, found.share) == (tokens, size, share)


def test_a_row_longer_than_a_packed_micro_batch_is_refused_with_the_keys_to_change():
    with pytest.raises(
        ValueError, match=r"a row of 65 tokens .* micro-batch of 64: raise batch.tokens \(or batch.match"
    ):
        deal([3, 65], Layout(packing=True, tokens=64, micro_batch_size=1))
    deal([3, 64], Layout(packing=True, tokens=64, micro_batch_size=1))


def test_a_row_that_only_context_parallel_rounding_makes_too_long_is_refused_too():
    with pytest.raises(UserError, match="a row of 64 tokens"):
        deal([61], Layout(packing=True, tokens=62, micro_batch_size=1, context_ranks=2, multiple=4))


@given(lengths_of_rows, layouts(), st.integers(1, 6))
def test_a_fork_predicts_every_choice_at_the_rows_last_place_under_its_own_name(lengths, layout, count):
    choices = tuple(range(50, 50 + count))
    rows = [Row(np.arange(n + 1) + 1000 * (q + 1), n, 0.5, index=q, choices=choices) for q, n in enumerate(lengths)]
    plan, found = deal(lengths, layout), []
    for data in range(layout.data_ranks):
        for context in range(layout.context_ranks):
            for part in build(rows, plan, on_rank(layout, data, context)):
                before = part.tokens.T.flatten()[part.places]  # the last token read, in the order hidden states lie
                names = [part.rows[owner] for owner in part.row]
                found += zip(names, part.labels.tolist(), before.tolist(), part.weights.tolist(), strict=True)
    expected = [
        (q * count + i, choice, 1000 * (q + 1) + n - 1, 0.5)
        for q, n in enumerate(lengths)
        for i, choice in enumerate(choices)
    ]
    assert sorted(found) == expected
