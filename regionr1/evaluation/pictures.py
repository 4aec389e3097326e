"""Pictures of what the policy looks at: grids of crops, and whole cases before and after.

Ranks are of the first positive candidate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont


@dataclass
class Candidate:
    """A ranked candidate as shown in a case.

    It has a picture where there is one, a short name, and whether it is a positive.
    """

    name: str
    positive: bool
    image: Image.Image | None = None


@dataclass
class Case:
    """One query before and after the decision.

    Attributes:
        image: The query image.
        question: Its question.
        decision: "FULL", "REGION" or "INVALID".
        box_px: The policy's crop in pixels of `image`, xyxy, or None.
        reference_box_px: The reference box, likewise.
        rank_full: Rank of the first positive with the full image; inf or None when the pool holds
            none.
        rank_view: The same with the chosen view.
        top_full: Best candidates with the full image.
        top_view: Best candidates with the chosen view.
    """

    image: Image.Image
    question: str
    decision: str
    box_px: Sequence[float] | None
    reference_box_px: Sequence[float] | None
    rank_full: float | None
    rank_view: float | None
    top_full: Sequence[Candidate] = field(default_factory=tuple)
    top_view: Sequence[Candidate] = field(default_factory=tuple)


def caption_colour(rank_full: float | None, rank_view: float | None) -> tuple[int, int, int]:
    """The colour of a caption: green where the positive came first or rose, red where it fell.

    Grey says that nothing changed, or that nothing can.
    """
    full = math.inf if rank_full is None else rank_full
    view = math.inf if rank_view is None else rank_view
    if view == full:
        return GOOD if view == 1 else GREY
    return GOOD if view < full else BAD


def crop_grid(cases: Sequence[Case], columns: int = 4) -> Image.Image:
    """A grid of queries with the policy's boxes, for the gallery of a run.

    Args:
        cases: The queries; their candidates are not drawn.
        columns: Queries in a row.
    """
    columns = min(columns, len(cases))
    caption = 62
    rows = -(-len(cases) // columns)
    page = Image.new(
        "RGB", (GAP + columns * (TILE + GAP), GAP + rows * (TILE + caption + GAP)), PAPER
    )
    draw = ImageDraw.Draw(page)
    for i, case in enumerate(cases):
        x, y = GAP + i % columns * (TILE + GAP), GAP + i // columns * (TILE + caption + GAP)
        page.paste(query_tile(case.image, case.box_px, case.reference_box_px), (x, y))
        for n, line in enumerate(fit_text(case.question, TILE, font(SMALL), lines=2)):
            draw.text((x, y + TILE + 5 + 17 * n), line, fill=INK, font=font(SMALL))
        before, after = case.rank_full, case.rank_view
        move = "no ranking" if case.decision == "INVALID" else rank_text(after)
        if case.decision == "REGION" and "no positive" not in move:
            move = f"rank {rank_text(before).removeprefix('rank ')} → {move.removeprefix('rank ')}"
        colour = BAD if case.decision == "INVALID" else caption_colour(before, after)
        draw.text(
            (x, y + TILE + 41),
            f"{case.decision}  {move}",
            fill=colour,
            font=font(SMALL, bold=True),
        )
    return page


def before_after(before: Sequence[Case], after: Sequence[Case]) -> Image.Image:
    """The same queries before and after training, as two rows of `crop_grid`, each with a title.

    Args:
        before: The queries with the policy's choices before training.
        after: The same queries with its choices after it.
    """
    title = 26
    rows = [crop_grid(cases, len(cases)) for cases in (before, after)]
    page = Image.new("RGB", (rows[0].width, sum(row.height + title for row in rows) + title), PAPER)
    draw = ImageDraw.Draw(page)
    legend = "Orange: the policy's crop. Dashed: the reference view, which training never sees."
    line = fit_text(legend, page.width - 2 * GAP, font(SMALL))[0]
    draw.text((GAP, page.height - title), line, fill=GREY, font=font(SMALL))
    y = 0
    for text, row in zip(("Before training", "After training"), rows, strict=True):
        draw.text((GAP, y + 6), text, fill=INK, font=font(TEXT, True))
        page.paste(row, (0, y + title))
        y += title + row.height
    return page


def strip(
    draw: ImageDraw.ImageDraw,
    page: Image.Image,
    at: tuple[int, int],
    top: Sequence[Candidate],
    size: int,
) -> None:
    """Candidates side by side, best first; a positive is framed in green."""
    x, y = at
    for rank, candidate in enumerate(top, start=1):
        if candidate.image is not None:
            page.paste(query_tile(candidate.image, None, None, size), (x, y))
        colour = GOOD if candidate.positive else (205, 205, 210)
        draw.rectangle(
            [x, y, x + size - 1, y + size - 1], outline=colour, width=4 if candidate.positive else 1
        )
        name = fit_text(f"{rank}. {candidate.name}", size, font(SMALL))[0]
        draw.text(
            (x, y + size + 3),
            name,
            fill=GOOD if candidate.positive else GREY,
            font=font(SMALL, candidate.positive),
        )
        x += size + GAP


def ranking_row(
    page: Image.Image, at: tuple[int, int], view: Image.Image, top: Sequence[Candidate]
) -> None:
    """A view of the query and the best candidates found with it."""
    draw = ImageDraw.Draw(page)
    page.paste(query_tile(view, None, None, THUMB), (at[0], at[1] + 20))
    strip(draw, page, (at[0] + THUMB + 2 * GAP, at[1] + 20), top, THUMB)


def case_picture(cases: Sequence[Case], top: int = 3) -> Image.Image:
    """Draws cases one below the other: the query with its boxes, beside it the best candidates.

    The candidates stand above as the full image ranks them, and below as the chosen view does.

    Args:
        cases: What to show.
        top: Candidates shown per ranking.
    """
    view_x = GAP + TILE + 2 * GAP
    width = view_x + THUMB + 2 * GAP + top * (THUMB + GAP)
    page = Image.new("RGB", (width, GAP + len(cases) * (TILE + 30 + 2 * GAP)), PAPER)
    draw = ImageDraw.Draw(page)
    for i, case in enumerate(cases):
        y = GAP + i * (TILE + 30 + 2 * GAP)
        question = fit_text(case.question, width - 2 * GAP, font(TEXT, True))[0]
        draw.text((GAP, y), question, fill=INK, font=font(TEXT, True))
        y += 30
        page.paste(query_tile(case.image, case.box_px, case.reference_box_px), (GAP, y))
        before = f"Full image: {rank_text(case.rank_full)}"
        draw.text((view_x, y), before, fill=GREY, font=font(SMALL, True))
        ranking_row(page, (view_x, y), case.image, case.top_full[:top])
        y += THUMB + 42
        if case.decision == "INVALID":
            draw.text((view_x, y), "No valid answer", fill=BAD, font=font(SMALL, True))
            continue
        title = "Kept whole" if case.box_px is None else "Crop"
        colour = caption_colour(case.rank_full, case.rank_view)
        after = f"{title}: {rank_text(case.rank_view)}"
        draw.text((view_x, y), after, fill=colour, font=font(SMALL, True))
        ranking_row(page, (view_x, y), crop(case.image, case.box_px), case.top_view[:top])
    return page


def crop(image: Image.Image, box_px: Sequence[float] | None) -> Image.Image:
    """What the box shows of the image, at least a pixel; the whole image without a box."""
    if box_px is None:
        return image
    x1, y1 = max(0, math.floor(box_px[0])), max(0, math.floor(box_px[1]))
    x2, y2 = min(image.width, math.ceil(box_px[2])), min(image.height, math.ceil(box_px[3]))
    return image.crop((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))


INK, GREY, PAPER = (28, 28, 30), (110, 110, 115), (255, 255, 255)
POLICY, GOOD, BAD = (240, 120, 0), (24, 140, 60), (190, 40, 40)
TILE, THUMB, GAP = 272, 96, 14  # pixels
TEXT, SMALL = 15, 13


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib carries it: the same letters on every machine, accents included."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def fit_text(text: str, width: int, typeface: ImageFont.FreeTypeFont, lines: int = 1) -> list[str]:
    """Breaks a text into at most `lines` lines of `width` pixels.

    What does not fit ends in an ellipsis.
    """
    out = [""]
    for word in text.split():
        longer = f"{out[-1]} {word}".strip()
        if typeface.getlength(longer) <= width or not out[-1]:
            out[-1] = longer
        else:
            out.append(word)
    if len(out) > lines:
        out = [*out[: lines - 1], " ".join(out[lines - 1 :])]
    for i, line in enumerate(out):
        if typeface.getlength(line) > width:
            while line and typeface.getlength(line + "…") > width:
                line = line[:-1]
            out[i] = line.rstrip() + "…"
    return out


def rank_text(rank: float | None) -> str:
    """Words for a rank: its number, or that the pool holds no positive."""
    return "no positive in pool" if rank is None or not math.isfinite(rank) else f"rank {int(rank)}"


def dashed_box(draw: ImageDraw.ImageDraw, box: Sequence[float], dash: int = 7) -> None:
    """A dashed rectangle, white over black, which shows on any picture."""
    x1, y1, x2, y2 = box
    for start, end in (
        ((x1, y1), (x2, y1)),
        ((x2, y1), (x2, y2)),
        ((x2, y2), (x1, y2)),
        ((x1, y2), (x1, y1)),
    ):
        length = math.dist(start, end)
        draw.line([start, end], fill=INK, width=3)
        for at in range(0, int(length), 2 * dash):
            a, b = at / length, min(at + dash, length) / length
            points = [
                tuple(s + (e - s) * t for s, e in zip(start, end, strict=True)) for t in (a, b)
            ]
            draw.line(points, fill=PAPER, width=2)


def query_tile(
    image: Image.Image,
    box_px: Sequence[float] | None,
    reference_box_px: Sequence[float] | None,
    size: int = TILE,
) -> Image.Image:
    """Fits the image into a square and draws the boxes on it.

    They are drawn at the size shown, so that lines stay crisp.
    """
    scale = size / max(image.size)
    shown = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left, top = (size - shown[0]) // 2, (size - shown[1]) // 2
    tile = Image.new("RGB", (size, size), (242, 242, 244))
    tile.paste(image.convert("RGB").resize(shown, Image.Resampling.LANCZOS), (left, top))
    draw = ImageDraw.Draw(tile)

    def place(box: Sequence[float]) -> list[float]:
        x1, y1, x2, y2 = (
            value * scale + offset
            for value, offset in zip(box, (left, top, left, top), strict=True)
        )
        low_x, low_y = max(x1, left), max(y1, top)
        return [
            low_x,
            low_y,
            max(low_x, min(x2, left + shown[0] - 1)),
            max(low_y, min(y2, top + shown[1] - 1)),
        ]

    if box_px is not None:
        draw.rectangle(place(box_px), outline=INK, width=5)
        draw.rectangle(place(box_px), outline=POLICY, width=4)
    if reference_box_px is not None:
        dashed_box(draw, place(reference_box_px))
    return tile
