"""What errors tell, and what they keep to themselves."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from regionr1.errors import redacted
from regionr1.tracking.logger import TrackingLogger


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pass:word@host/db", "postgresql://me:***@host/db"),
        ("no https://u:p@h/x?a=1&token=s3cr3t here", "no https://u:***@h/x?a=1&token=*** here"),
        ("https://h/x?X-Amz-Signature=abc&b=2", "https://h/x?X-Amz-Signature=***&b=2"),
        ("sqlite:////tmp/mlruns/mlflow.db", "sqlite:////tmp/mlruns/mlflow.db"),
        ("https://example.org/a:b@c", "https://example.org/a:b@c"),
        (
            "ask me@example.org of http://example.org:80",
            "ask me@example.org of http://example.org:80",
        ),
        ("redis://me@x.org:p@h/0, s3://u:q@b/c", "redis://me@x.org:***@b/c"),
        ("from redis://me@x.org:p@h/0, s3://u:q@b", "from redis://me@x.org:***@h/0, s3://u:***@b"),
    ],
)
def test_secrets_in_addresses_are_not_shown(text, shown) -> None:
    assert redacted(text) == shown


@given(st.text(min_size=1))
@example("a/b")
@example("a@b:c/d?token=e f\n")
@example("https://x:y@z")
def test_no_character_of_a_password_is_shown(password: str) -> None:
    address, shown = f"postgresql://me:{password}@host/db", "postgresql://me:***@host/db"
    assert redacted(address) == redacted(shown) == shown
    logger = TrackingLogger.__new__(TrackingLogger)
    logger._tracking_uri = address
    assert logger.shown_uri == shown
    if not any(character.isspace() for character in password):
        assert redacted(f"the server {address} is away") == f"the server {shown} is away"
