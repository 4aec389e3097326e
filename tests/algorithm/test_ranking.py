"""Rankings: by hand, and against torchmetrics."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.retrieval import RetrievalMRR, RetrievalNormalizedDCG

from regionr1.algorithm.ranking import (
    entity_ranking,
    first_positive_rank,
    margin,
    mrr,
    ndcg,
    order,
)
from regionr1.errors import UserError


def pool(scores, positives=(), padding=()):
    labels = torch.zeros(len(scores), dtype=torch.bool)
    valid = torch.ones(len(scores), dtype=torch.bool)
    labels[list(positives)] = True
    valid[list(padding)] = False
    return torch.tensor(scores), labels, valid


@st.composite
def distinct_pools(draw, batch=3):
    """Distinct scores, all above 0, because torchmetrics' MRR takes any other for a miss."""
    k = draw(st.integers(1, 12))
    ranks = torch.tensor([draw(st.permutations(range(k))) for _ in range(batch)])
    row = st.lists(st.booleans(), min_size=k, max_size=k)
    labels = torch.tensor([draw(row) for _ in range(batch)])
    return (ranks + 1) / 16, labels, torch.ones_like(labels)


@given(distinct_pools())
def test_mrr_and_ndcg_are_those_of_torchmetrics(pools):
    scores, labels, valid = pools
    queries = torch.arange(len(scores))[:, None].expand_as(scores)
    theirs = RetrievalMRR()(scores, labels, indexes=queries)
    assert mrr(scores, labels, valid).mean() == pytest.approx(theirs.item(), abs=1e-6)
    theirs = RetrievalNormalizedDCG()(scores, labels, indexes=queries)
    assert ndcg(scores, labels, valid).mean() == pytest.approx(theirs.item(), abs=1e-6)


@given(distinct_pools(), st.integers(1, 4), st.booleans())
def test_padding_changes_no_metric(pools, n_padding, label):
    scores, labels, valid = pools
    wide = torch.nn.functional.pad(scores, (0, n_padding), value=99.0)
    loud = torch.nn.functional.pad(labels, (0, n_padding), value=label)
    padded = torch.nn.functional.pad(valid, (0, n_padding), value=False)
    for metric in (first_positive_rank, mrr, ndcg, margin):
        assert metric(wide, loud, padded).allclose(metric(scores, labels, valid))
    assert order(wide, padded)[:, : scores.shape[1]].equal(order(scores, valid))


def test_by_hand():
    query = pool([0.1, 0.9, 0.5, 0.3], positives=[0, 2])  # ranked 1, 2, 3, 0; positives at 2 and 4
    assert order(query[0], query[2]).tolist() == [1, 2, 3, 0]
    assert first_positive_rank(*query) == 2
    assert mrr(*query) == 0.5
    ideal = 1 + 1 / math.log2(3)
    assert ndcg(*query) == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert margin(*query) == pytest.approx(0.3 - 0.9)
    assert margin(*query, positive="max") == pytest.approx(0.5 - 0.9)


def test_ties_keep_the_input_order():
    assert order(torch.full((40,), 0.5), torch.ones(40, dtype=torch.bool)).tolist() == list(
        range(40)
    )
    assert first_positive_rank(*pool([0.5, 0.5, 0.5], positives=[1])) == 2


def test_without_a_positive_or_without_a_negative():
    nothing = pool([0.3, 0.2])
    assert first_positive_rank(*nothing) == math.inf
    assert mrr(*nothing) == ndcg(*nothing) == margin(*nothing) == 0
    everything = pool([0.3, 0.2], positives=[0, 1])
    assert mrr(*everything) == ndcg(*everything) == 1
    assert margin(*everything) == margin(*everything, positive="max") == 0
    padded_positive = pool([0.3, 0.9], positives=[1], padding=[1])
    assert first_positive_rank(*padded_positive) == math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused_and_named(value):
    scores = torch.zeros(3, 2, 4)
    scores[1, 0, 2] = value
    labels = valid = torch.ones(3, 1, 4, dtype=torch.bool)
    for metric in (first_positive_rank, mrr, ndcg, margin):
        with pytest.raises(UserError, match=r"query 1 at index \[1, 0, 2\]"):
            metric(scores, labels, valid)


def test_a_score_of_padding_may_be_anything():
    assert mrr(*pool([math.nan, 0.1, 0.2], positives=[1], padding=[0])) == 0.5


def test_entities_are_ranked_by_their_best_candidate():
    scores, _, valid = pool([0.1, 0.9, 0.5, 0.7, 9.0], padding=[4])
    assert entity_ranking(order(scores, valid), ["owl", "jay", "jay", "owl"]) == ["jay", "owl"]
    assert entity_ranking([2, 0, 1], ["a", "b", "c"]) == ["c", "a", "b"]
