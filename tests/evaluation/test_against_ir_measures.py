"""MRR, NDCG and recall of the test table equal those of ir-measures (trec_eval's own code)."""

import ir_measures
import numpy as np
import pytest
import torch
from ir_measures import RR, R, Success, nDCG

from regionr1.algorithm.ranking import entity_ranking, first_positive_rank, ndcg, order
from regionr1.evaluation.table import Outcome, metrics_table

QUERIES, K = 1000, 20
MEASURES = {
    "recall_at_1": Success @ 1,
    "recall_at_5": Success @ 5,
    "recall_at_10": Success @ 10,
    "recall_at_20": Success @ 20,
    "mrr": RR,
    "ndcg": nDCG,
}


def test_on_random_rankings_with_ties_and_missing_positives() -> None:
    """Each candidate is an entity of its own; equal scores keep their order, as a run file says."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 8, (QUERIES, K)) / 8  # many ties
    labels = rng.random((QUERIES, K)) < rng.choice([0.0, 0.05, 0.3], (QUERIES, 1))
    assert 200 < (~labels.any(1)).sum() < 800, "some pools hold no positive"
    names = [f"d{k:02d}" for k in range(K)]
    outcomes, run, qrels = [], {}, {}
    for i in range(QUERIES):
        s, y = torch.from_numpy(scores[i]), torch.from_numpy(labels[i])
        valid = torch.ones(K, dtype=torch.bool)
        ranking = entity_ranking(order(s, valid), names)
        gold = [name for name, label in zip(names, labels[i], strict=True) if label]
        outcomes.append(
            Outcome(
                *(f"q{i}", f"e{i}", "policy"),
                ranking=ranking,
                gold_ids=gold or ["not in the pool"],
                pool_has_positive=bool(gold),
                rank=float(first_positive_rank(s, y, valid)),
                ndcg=float(ndcg(s, y, valid)),
                decision="FULL",
            )
        )
        # trec_eval breaks ties by name, so the place in the ranking stands for the score.
        run[f"q{i}"] = {name: float(K - place) for place, name in enumerate(ranking)}
        qrels[f"q{i}"] = dict.fromkeys(gold, 1) or {"not in the pool": 1}
    (row,) = metrics_table(outcomes, resamples=1)
    wanted = ir_measures.calc_aggregate(list(MEASURES.values()), qrels, run)
    for name, measure in MEASURES.items():
        assert row.metrics[name].value == pytest.approx(wanted[measure], abs=1e-6), name
    # The recall of one relevant entity per query is success; of several it is another measure.
    assert wanted[Success @ 5] >= ir_measures.calc_aggregate([R @ 5], qrels, run)[R @ 5]
