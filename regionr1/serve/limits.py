"""What one request to the served model may ask for."""

from dataclasses import dataclass, fields

from regionr1.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Bounds of a request, so that a small one cannot take the machine's memory.

    A picture of few bytes may hold many pixels, each of which takes 3 bytes once it is decoded.
    Only one image of a request is decoded at a time, and larger ones are refused by their headers.

    Attributes:
        rows: Rows of a request.
        candidates: Candidates of a row.
        question: Characters of a question.
        image_pixels: Pixels of an image.
        pixels: Pixels of all images of a request together.
        image_characters: Characters of an image as base64.
    """

    rows: int = 32
    candidates: int = 200
    question: int = 2_000
    image_pixels: int = 25_000_000
    pixels: int = 250_000_000
    image_characters: int = 28_000_000

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
