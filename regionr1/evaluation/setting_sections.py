"""The sections of a report about one setting: its ranking, gain, decision, behaviour and crops."""

from regionr1.evaluation.by_rank import band_table
from regionr1.evaluation.charts import margin_scatter, risk_chart
from regionr1.evaluation.crop_quality import crop_quality, crop_quality_table
from regionr1.evaluation.decision_quality import (
    DECIDERS,
    decision_cases,
    decision_rows,
    decision_table,
    risk_coverage,
)
from regionr1.evaluation.gain import PARTS, gain_table
from regionr1.evaluation.page import Section
from regionr1.evaluation.render import format_table
from regionr1.evaluation.table import GROUPED, MethodRow
from regionr1.evaluation.variants import Setting, mean_bands, seeds_decision_table

RANKING = ("recall_at_1", "recall_at_5", "recall_at_10", "recall_at_20", "mrr", "ndcg")
DECISIONS = ("region_rate", "invalid_rate", "p_full")
CONDITIONAL = ("cond_recall_at_1", "cond_recall_at_5", "cond_recall_at_10", "cond_mrr")
ONE_RUN = "95% intervals: bootstrap over the queries' entities. They say nothing of other seeds."
SEEDS = "95% intervals over seeds and entities together: they hold for new seeds and new entities."


def setting_sections(setting: Setting) -> list[Section]:
    """The tables of one setting."""
    rows, several = setting.rows(), len(setting.runs) > 1
    runs = ", ".join(run.name for run in setting.runs)
    kept = [SEEDS if several else ONE_RUN, f"Runs: {runs}." if several else ""]
    positive = {row.method: row.n_pool_positive for row in rows}
    first = Section(
        f"{setting.name}: ranking (table 1)",
        [note for note in kept if note],
        [format_table(rows, (*RANKING, *DECISIONS), ("recall_at_1", "mrr"))],
    )
    conditional = Section(
        "Where the pool holds a positive (table 2)",
        [
            f"CondR@K = hits at K among the {max(positive.values())} queries whose pool holds a "
            "positive (Eq. 10)."
        ],
        [format_table([_over_positives(row) for row in rows], CONDITIONAL, CONDITIONAL[:3])],
    )
    return [
        section
        for section in (
            first,
            conditional,
            _gain(setting),
            _decision(setting),
            _behaviour(setting),
            _crops(setting),
        )
        if section is not None
    ]


def _over_positives(row: MethodRow) -> MethodRow:
    return MethodRow(
        row.method, row.n_pool_positive, row.n_skipped, row.n_pool_positive, row.metrics
    )


def _gain(setting: Setting) -> Section | None:
    if not {method for pair in PARTS.values() for method in pair} <= set(setting.methods):
        return None
    parts = {
        part: {name: estimate.interval() for name, estimate in setting.gain(*pair).items()}
        for part, pair in PARTS.items()
    }
    return Section("What the gain is made of", ["Paired by query."], [gain_table(parts)])


def _decision(setting: Setting) -> Section | None:
    if len(setting.runs) > 1:
        table = seeds_decision_table(setting)
    else:
        rows = decision_rows(setting.outcomes[0])
        table = decision_table(rows) if rows else None
    if table is None:
        return None
    name = setting.runs[0].name
    curves = {
        policy: risk_coverage(decision_cases(setting.outcomes[0], policy)) for policy in DECIDERS
    }
    chart = risk_chart(curves)
    pictures = [] if chart is None else [(f"Risk by coverage, {name}", chart)]
    note = "P(REGION) against: the crop ranks a positive higher. Ties are left out and counted."
    return Section("The decision", [note], [table], pictures)


def _behaviour(setting: Setting) -> Section | None:
    bands = mean_bands(setting)
    scatter = margin_scatter(setting.outcomes[0])
    if not bands:
        return None
    note = "Helped, hurt and no change are shares of the queries of a row and add up to 1."
    caption = (
        f"Margins before and after, {setting.runs[0].name}: best positive minus best negative. "
        "Above the diagonal the policy's view is better."
    )
    pictures = [] if scatter is None else [(caption, scatter)]
    return Section("By the full image's rank (table 4)", [note], [band_table(bands)], pictures)


def _crops(setting: Setting) -> Section | None:
    by_seed = [crop_quality(run) for run in setting.outcomes]
    if not by_seed[0]:
        return None
    note = (
        "Containment: the share of the box that the crop holds. Pointing: the crop's middle lies "
        "in the box. Queries whose reference view is the whole image are left out."
    )
    return Section("Crops (table 7)", [note], [crop_quality_table(by_seed)])


def part_section(setting: Setting) -> Section | None:
    """A table of the parts of the split; None where it has none."""
    parts: dict[str, dict[str, set[str]]] = {}
    for outcome in setting.outcomes[0]:
        for name, value in outcome.groups.items():
            parts.setdefault(name, {}).setdefault(value, set()).add(outcome.key)
    rows = []
    for name, by_value in sorted(parts.items()):
        for value, keys in sorted(by_value.items() if len(by_value) > 1 else ()):
            for row in setting.rows(keys):
                if row.method in GROUPED:
                    row.method = f"{name} {value}: {row.method}"
                    rows.append(row)
    return (
        Section(f"{setting.name}: parts of the split", (), [format_table(rows)]) if rows else None
    )
