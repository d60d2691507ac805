"""How error messages show the value that was passed."""

from __future__ import annotations

MOST_CHARACTERS = 100


def shown(value: object) -> str:
    """Return `repr(value)`, cut short, or its type if repr fails, as for an int of 5,000 digits."""
    try:
        text = repr(value)
    except Exception:
        return f"an object of type {type(value).__name__}"
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
