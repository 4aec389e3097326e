"""Reading objects of S3, for WebDataset, which has no reader of its own for s3 URLs.

boto3 reads credentials, region and endpoint where every AWS tool does: environment, ~/.aws, roles.
"""

from __future__ import annotations

import io
from typing import Any

from regionr1.errors import UserError


class S3Object(io.RawIOBase):
    """The content of an object as a stream; whatever goes wrong is an OSError.

    Args:
        url: ``s3://bucket/key``.

    Raises:
        OSError: There is no such object, or it cannot be reached.
        UserError: boto3 is not installed.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        try:
            import boto3
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            raise UserError(
                f"{url}: reading from S3 needs boto3; install it with `pip install boto3`, or "
                "name a pipe: command instead."
            ) from None
        self._errors = (BotoCoreError, ClientError)
        bucket, _, key = url.removeprefix("s3://").partition("/")
        try:
            # Of its own session: the default one must not be shared by threads and forks.
            client = boto3.session.Session().client("s3")
            self._body = client.get_object(Bucket=bucket, Key=key)["Body"]
        except (*self._errors, ValueError) as error:
            raise OSError(str(error)) from error

    def readable(self) -> bool:
        """Says that the stream can be read, as io asks every stream."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads up to ``len(buffer)`` bytes; 0 at the end."""
        try:
            return self._body.readinto(buffer)
        except self._errors as error:
            raise OSError(str(error)) from error

    def close(self) -> None:
        """Ends the connection, which an object read in part still holds."""
        if not self.closed and hasattr(self, "_body"):
            self._body.close()
        super().close()


def open_s3(url: str, mode: str = "rb", bufsize: int = 8192) -> io.BufferedReader:
    """Open an object for reading, as WebDataset's table of schemes asks for."""
    return io.BufferedReader(S3Object(url), max(bufsize, 1 << 16))
