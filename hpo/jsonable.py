"""Values as JSON can hold them; knows nothing of what they mean."""

from __future__ import annotations

from typing import Any


def finite(value: Any) -> Any:
    """The value with NaN and infinities as None, which JSON has neither of."""
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):  # noqa: PLR0124 - NaN is the value unequal to itself
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
