"""`regionr1 report`: tested runs as one page, in a file and as an artifact of the runs."""

from pathlib import Path

from regionr1.errors import UserError, at_least_one
from regionr1.evaluation.by_rank import band_table
from regionr1.evaluation.cases import TOP, cases_of, chosen_cases
from regionr1.evaluation.compare import TestedRun, compare
from regionr1.evaluation.decision_quality import decision_table
from regionr1.evaluation.findings import NOTE, Findings
from regionr1.evaluation.gain import gain_table
from regionr1.evaluation.page import Section, html_page, section_of_text
from regionr1.evaluation.pictures import Case, case_picture, rank_text
from regionr1.evaluation.render import format_table
from regionr1.files import write_text
from regionr1.tracking.logger import default_tracking_uri, prepare_store
from regionr1.tracking.tested_runs import open_tested

RANKING = ("recall_at_1", "recall_at_5", "recall_at_10", "recall_at_20", "mrr", "ndcg")
CONDITIONAL = ("cond_recall_at_1", "cond_recall_at_5", "cond_recall_at_10", "region_rate", "iou")


def report(
    runs: tuple[str, ...],
    out: Path = Path("report.html"),
    root: Path | None = None,
    cases: int = 4,
    tracking_uri: str | None = None,
) -> None:
    """Write what tested runs found as one HTML page, and log it to each of them.

    Tables of the ranking, of what the gain is made of, of the decision and of behaviour by the full
    image's rank, all from the same per-query results, and pictures of queries before and after.

    Args:
        runs: Ids or names of tested runs; several are compared on the queries that they share.
        out: The page.
        root: Folder of the published files, for pictures of the candidates.
        cases: Queries shown as best gains, as worst losses and by chance, each; 0 for none.
        tracking_uri: Store; left out, MLFLOW_TRACKING_URI or sqlite:///mlruns/mlflow.db.
    """
    if not runs or len(set(runs)) < len(runs):
        raise UserError("report needs tested runs, each named once")
    if cases:
        at_least_one(cases=cases)
    if root is not None and not root.is_dir():
        raise UserError(f"{root}: no such folder; name the one that the shards were built from.")
    uri = prepare_store(tracking_uri or default_tracking_uri())
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    tested = open_tested(client, runs, uri)
    sections = [section for run in tested.values() for section in run_sections(run, root, cases)]
    if len(tested) > 1:
        text = compare(list(tested.values()))
        sections.insert(0, section_of_text("The runs compared", text))
    names = ", ".join(run.name for run in tested.values())
    write_text(out, html_page(f"regionr1: {names}", sections))
    for run_id in tested:
        client.log_artifact(run_id, str(out))
    print(f"report: {out}")


def run_sections(run: TestedRun, root: Path | None, cases: int) -> list[Section]:
    """The sections of one run.

    Raises:
        UserError: A candidate's picture is missing.
    """
    found = Findings(run.outcomes)
    first = Section(
        f"{run.name}: ranking",
        [
            NOTE.strip("[]") + ". CondR is over the queries whose pool holds a positive.",
            *(f"{row.method}: N = {row.n}, of which {row.n_pool_positive} have a positive in their "
              f"pool; {row.n_skipped} skipped" for row in found.rows if row.method == "policy"),
        ],
        [
            format_table(found.rows, RANKING, ("recall_at_1", "mrr")),
            format_table(found.rows, CONDITIONAL, CONDITIONAL[:3]),
        ],
    )  # fmt: skip
    sections = [first]
    if found.gain:
        sections.append(Section("What the gain is made of", (), [gain_table(found.gain)]))
    if found.decisions:
        note = "P(REGION) against: the crop ranks a positive higher. Ties are left out."
        sections.append(Section("The decision", [note], [decision_table(found.decisions)]))
    if found.bands:
        note = "Help and hurt are shares of the queries of a row."
        sections.append(Section("By the full image's rank", [note], [band_table(found.bands)]))
    if found.by_part:
        sections.append(Section("Parts of the split", (), [format_table(found.by_part)]))
    return [*sections, *_case_sections(run, root, cases)]


def _case_sections(run: TestedRun, root: Path | None, n: int) -> list[Section]:
    chosen = chosen_cases(run.outcomes, n) if n else {}
    if not chosen:
        return []
    from regionr1.data.shards.index import load_index
    from regionr1.data.shards.location import as_location
    from regionr1.data.shards.stream import read_samples

    wanted = {key for keys in chosen.values() for key in keys}
    try:
        folder = as_location(run.config["data"]["shards"])
        index = load_index(folder, "test")
        samples = [s for s in read_samples(folder, index) if s.key in wanted]
    except (KeyError, UserError) as error:
        note = f"The shards that {run.name} was tested on cannot be read here: {error}"
        print(f"report: no pictures. {note}")
        return [Section("Queries before and after", [note])]
    shown = cases_of(run.outcomes, samples, root)
    legend = "Orange: the policy's crop. Dashed: the reference box. Green: the right entity."
    return [
        Section(title, [legend], (), [
(_caption(case), case_picture([case], TOP))
            for case in (shown[key] for key in keys if key in shown)
        ])
        for title, keys in chosen.items()
    ]  # fmt: skip


def _caption(case: Case) -> str:
    if case.decision == "INVALID":
        return f"{case.question} Full image: {rank_text(case.rank_full)}; no valid answer"
    choice = "kept whole" if case.box_px is None else f"crop: {rank_text(case.rank_view)}"
    return f"{case.question} Full image: {rank_text(case.rank_full)}; {choice}"
