"""`regionr1 report`: tested runs as one page, in a file and as an artifact of the runs."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from regionr1.errors import UserError, at_least_one
from regionr1.evaluation.cases import TOP, cases_of, chosen_cases
from regionr1.evaluation.comparable import alike, differing
from regionr1.evaluation.compare import config_difference
from regionr1.evaluation.consistency import contradictions
from regionr1.evaluation.external import external_outcomes, read_rankings
from regionr1.evaluation.markdown import markdown_table
from regionr1.evaluation.page import Section, html_page, section_of_text
from regionr1.evaluation.pictures import Case, case_picture, rank_text
from regionr1.evaluation.pool_table import pool_table, pools_of, scorer_of
from regionr1.evaluation.render import format_table, read_table
from regionr1.evaluation.setting_sections import (
    CONDITIONAL,
    RANKING,
    part_section,
    setting_sections,
)
from regionr1.evaluation.table import MethodRow, by_method, metrics_table
from regionr1.evaluation.tested import TestedRun
from regionr1.evaluation.variants import (
    Setting,
    settings_of,
    settings_table,
    tell_apart,
)
from regionr1.files import write_text
from regionr1.tracking.store import default_tracking_uri, prepare_store
from regionr1.tracking.tested_runs import open_tested


def report(
    runs: tuple[str, ...],
    out: Path = Path("report.html"),
    root: Path | None = None,
    cases: int = 4,
    rankings: tuple[str, ...] = (),
    kb: Path | None = None,
    premise: Path | None = None,
    speed: Path | None = None,
    tracking_uri: str | None = None,
) -> None:
    """Write what tested runs found as one HTML page, and log it to each of them.

    Runs that differ in their seeds only are one setting, whose means have intervals over seeds and
    entities. Settings are compared with the first one. Runs of other queries, pools or scorers get
    tables of their own, and a warning says why. All tables come from the same per-query results and
    are checked against each other.

    Args:
        runs: Ids or names of tested runs.
        out: The page.
        root: Folder of the published files, for pictures of the candidates.
        cases: Queries shown as best gains, as worst losses and by chance, each; 0 for none.
        rankings: Result files of other systems, each as NAME=FILE: EchoSight's, OMGM's, SCAR's,
            ProMSA's or WikiSeeker's.
        kb: Work folder of `regionr1 data prepare` with the knowledge base and its index. Each run's
            views then search it anew (table 8), which embeds the crops again.
        premise: JSON file that `regionr1 data premise --out` wrote for these shards.
        speed: What `scripts/benchmark --inference` printed, for latency, throughput and memory by
            batch size (table 9).
        tracking_uri: Store; left out, MLFLOW_TRACKING_URI or sqlite:///mlruns/mlflow.db.
    """
    if not runs or len(set(runs)) < len(runs):
        raise UserError("report needs tested runs, each named once")
    if cases:
        at_least_one(cases=cases)
    if root is not None and not root.is_dir():
        raise UserError(f"{root}: no such folder; name the one that the shards were built from.")
    files = _named_files(rankings)
    external = {name: read_rankings(path) for name, path in files.items()}
    uri = prepare_store(tracking_uri or default_tracking_uri())
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    tested = open_tested(client, runs, uri)
    together = alike(list(tested.values()))
    warnings = [why for group in together[1:] for why in differing(together[0][0], group[0])]
    for warning in warnings:
        print(f"report: warning: {warning} They stand in tables of their own.")
    groups = [settings_of(group) for group in together]
    sections = [_overview(list(tested.values()), groups, warnings)]
    for settings in groups:
        if len(settings) > 1:
            sections.append(_compared(settings))
    if premise is not None:
        sections.insert(1, _headroom(premise))
    if external or len(groups) > 1:
        sections += _other_systems(groups, external, files)
    # The same policies with several scorers have one name.
    tell_apart([*chain(*groups)], lambda run: f"scorer {scorer_of(run)}")
    for settings in groups:
        for setting in settings:
            sections += setting_sections(setting)
            if kb is not None:
                sections.append(_retrieval(setting.runs[0], kb))
            sections += _case_sections(setting.runs[0], root, cases)
            if (parts := part_section(setting)) is not None:
                sections.append(parts)
    if speed is not None:
        sections.append(_speed(speed))
    names = ", ".join(setting.name for settings in groups for setting in settings)
    write_text(out, html_page(f"regionr1: {names}", sections))
    for run_id in tested:
        client.log_artifact(run_id, str(out))
    print(f"report: {out}")


def _headroom(path: Path) -> Section:
    """What there was to win before training, as `regionr1 data premise` measured it."""
    rows = read_table(path)
    note = (
        "best_of_grid is the best of the grid's crops by the query's own labels, luck_of_grid the "
        "same of another query's image, fixed_crop the best single crop for all queries."
    )
    notes = [note] if any(row.method == "best_of_grid" for row in rows) else []
    shown = ("cond_recall_at_1", "recall_at_1", "mrr")
    return Section("Headroom before training", notes, [format_table(rows, shown, shown)])


def _speed(path: Path) -> Section:
    """Table 9, from what the benchmark printed.

    Raises:
        UserError: It cannot be read, or holds no table.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); name a text file") from error
    section = section_of_text("Latency, throughput and memory (table 9)", text)
    if not section.tables:
        raise UserError(f"{path}: holds no table; write it with `scripts/benchmark --inference`")
    return section


def _retrieval(run: TestedRun, work: Path) -> Section:
    """Table 8 of one run.

    Raises:
        UserError: The knowledge base is another scorer's than the shards'.
    """
    from regionr1.data.build.embed import kb_folder
    from regionr1.data.build.pools import open_index
    from regionr1.data.build.stages import EMBED_MEND
    from regionr1.data.build.store import EmbeddingStore
    from regionr1.data.shards.index import load_index
    from regionr1.data.shards.location import as_location
    from regionr1.data.shards.stream import read_samples
    from regionr1.evaluation.retrieval import searched
    from regionr1.scorers.load import load_scorer

    folder = as_location(run.config["data"]["shards"])
    index, store = load_index(folder, "test"), EmbeddingStore(kb_folder(work), EMBED_MEND)
    scorer = load_scorer(scorer_of(run))
    if not index.scorer_fingerprint == store.identity["scorer"] == scorer.fingerprint():
        raise UserError(
            f"{work}: its knowledge base is embedded by scorer {store.identity['scorer']}, the "
            f"shards by {index.scorer_fingerprint} and {run.name} uses {scorer.fingerprint()}; "
            "name the work folder that these shards were prepared in"
        )
    policy = by_method(run.outcomes).get("policy", {})
    shown = (*RANKING, "region_rate")
    found = searched(
        read_samples(folder, index), policy, scorer, store, open_index(store, work), index.k
    )
    kept = [o for o in run.outcomes if o.method in ("full", "policy")]
    rows = metrics_table([*kept, *found], n_total=len(policy))
    note = "Rows called searched rebuild the pool by their view; the others order the full image's."
    return Section(
        f"Cropping at retrieval (table 8), {run.name}",
        [note],
        [format_table(rows, shown, ("recall_at_1", "recall_at_20"))],
    )


def _named_files(rankings: Sequence[str]) -> dict[str, Path]:
    files = {}
    for text in rankings:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in files:
            raise UserError(f"--rankings {text}: use NAME=FILE, each name once")
        files[name] = Path(path)
    return files


def _overview(
    runs: Sequence[TestedRun], groups: Sequence[Sequence[Setting]], warnings: Sequence[str]
) -> Section:
    """Which runs are told, how they differ, and whether their tables agree."""
    rows = []
    wrong: list[str] = []
    for settings in groups:
        for setting in settings:
            for run in setting.runs:
                full = by_method(run.outcomes)["full"]
                positive = sum(outcome.pool_has_positive for outcome in full.values())
                rows.append(
                    [
                        run.name,
                        setting.name,
                        scorer_of(run),
                        str(len(full)),
                        str(positive),
                        str(len({outcome.cluster for outcome in full.values()})),
                    ]
                )
                wrong += [f"{run.name}: {text}" for text in contradictions(run.outcomes)]
    heads = ["run", "setting", "scorer", "N", "pools with a positive", "entities"]
    tables = [markdown_table(heads, rows)]
    changed = config_difference(runs) if len(runs) > 1 else {}
    if changed:
        rows = [[k, *("-" if v is None else str(v) for v in vs)] for k, vs in changed.items()]
        tables.append(markdown_table(["set differently", *(run.name for run in runs)], rows))
    agreed = "Recalls, conditional recalls, decisions and behaviour by rank agree in every table."
    notes = [*(f"Warning: {text}" for text in warnings), *wrong] or [agreed]
    return Section("Runs", notes, tables)


def _compared(settings: Sequence[Setting]) -> Section:
    shared = [m for m in settings[0].methods if all(m in other.methods for other in settings)]
    tables = [
        settings_table(settings, method)
        for method in ("policy", "policy_region")
        if method in shared
    ]
    notes = [
        "p is of the difference in CondR@1 to the first setting, corrected by Holm for the number "
        "of settings.",
        "The best of several settings on test is flattered by being chosen there: choose on "
        "validation, and test that one once.",
    ]
    if any(len(setting.runs) == 1 for setting in settings):
        notes.append("A setting with one seed has an interval of its entities alone.")
    return Section("Settings compared (table 5)", notes, tables)


def _other_systems(
    groups: Sequence[Sequence[Setting]],
    external: Mapping[str, Mapping[str, Sequence[str]]],
    files: Mapping[str, Path],
) -> list[Section]:
    sections = []
    if external:
        first = groups[0][0]
        full = [o for o in first.runs[0].outcomes if o.method == "full"]
        rows: list[MethodRow] = [r for r in first.rows() if r.method in ("full", "policy")]
        for name, found in external.items():
            told = external_outcomes(name, files[name], dict(found), full)
            rows += metrics_table(told, n_total=len(full))
        note = (
            "A result file has pools of its own: its CondR@K is over the queries whose list holds "
            "a right page, and its MRR and NDCG are of pages."
        )
        shown = (*CONDITIONAL[:3], *RANKING)
        sections.append(Section("Other systems", [note], [format_table(rows, shown)]))
    note = "A cell is told only where that re-ranker ordered that very pool."
    table = pool_table(pools_of(groups), external)
    return [*sections, Section("Re-rankers by pool (table 6)", [note], [table])]


def _case_sections(run: TestedRun, root: Path | None, n: int) -> list[Section]:
    chosen = chosen_cases(run.outcomes, n) if n else {}
    if not chosen:
        return []
    from regionr1.data.shards.index import load_index
    from regionr1.data.shards.location import as_location
    from regionr1.data.shards.stream import samples_of

    wanted = {key for keys in chosen.values() for key in keys}
    try:
        folder = as_location(run.config["data"]["shards"])
        samples = samples_of(folder, load_index(folder, "test"), wanted)
    except (KeyError, UserError) as error:
        note = f"The shards that {run.name} was tested on cannot be read here: {error}"
        print(f"report: no pictures. {note}")
        return [Section("Queries before and after", [note])]
    shown = cases_of(run.outcomes, samples, root)
    legend = "Orange: the policy's crop. Dashed: the reference box. Green: the right entity."
    return [
        Section(
            f"{title} (table 3), {run.name}",
            [legend],
            (),
            [
                (_caption(case), case_picture([case], TOP))
                for case in (shown[key] for key in keys if key in shown)
            ],
        )
        for title, keys in chosen.items()
    ]


def _caption(case: Case) -> str:
    if case.decision == "INVALID":
        return f"{case.question} Full image: {rank_text(case.rank_full)}; no valid answer"
    choice = "kept whole" if case.box_px is None else f"crop: {rank_text(case.rank_view)}"
    return f"{case.question} Full image: {rank_text(case.rank_full)}; {choice}"
