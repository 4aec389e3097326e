"""What requests to the served model may ask for."""

from dataclasses import dataclass, fields

from regionr1.errors import UserError


class Busy(UserError):
    """More is asked for than the server takes at once."""


@dataclass(frozen=True)
class Limits:
    """Bounds of requests, so that small ones cannot take the machine's memory.

    A picture of few bytes may hold many pixels, each of which takes 3 bytes once it is decoded.
    Larger images are refused by their headers, and one batch of query images is decoded at a time,
    or one candidate.

    Attributes:
        rows: Rows of a request.
        candidates: Candidates of a row.
        question: Characters of a question.
        image_pixels: Pixels of an image.
        pixels: Pixels of all images of a request together.
        image_characters: Characters of an image as base64.
        batch_pixels: Pixels of the query images that are decided at once, unless one has more.
        body_bytes: Bytes of a request.
        held_bytes: Bytes of all requests that wait for an answer; more are told to come again.
        waiting: Rows that wait for an answer; more are told to come again.
    """

    rows: int = 32
    candidates: int = 200
    question: int = 2_000
    image_pixels: int = 25_000_000
    pixels: int = 250_000_000
    image_characters: int = 28_000_000
    batch_pixels: int = 25_000_000
    body_bytes: int = 64_000_000
    held_bytes: int = 256_000_000
    waiting: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise UserError(f"limits.{field.name} is {value}: set it to 1 or more")

    def check(self, what: str, where: str, found: int) -> None:
        """Refuses a count above its bound.

        Args:
            what: The bound's name, such as `rows`.
            where: What is counted, for the message.
            found: The count.

        Raises:
            UserError: If it is above the bound.
        """
        bound = getattr(self, what)
        if found > bound:
            raise UserError(f"{where}: {found:,}, above the server's limit of {bound:,}; send less")
