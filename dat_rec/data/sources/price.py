"""The text of a price in, its number out: currency, marks between thousands, ranges, "from"."""

import re
from math import isfinite
from typing import Any

AMOUNT = r"([1-9]\d{0,2}(?:['’\s]\d{3})+(?!\d)[\d.,]*|\d[\d.,]*|[.,]\d+)"
"""White space and ' stand between thousands alone: what $5 99 means, nobody can tell."""
CURRENCY = r"(?:[$€£¥₹]|[A-Z]{2,3}[$ ]?|kr\.?)?"
ONE = rf"{CURRENCY}\s*{AMOUNT}\s*{CURRENCY}"
POINT = re.compile(r"([1-9]\d{0,2}(?:,\d{3})+|\d*)(?:\.(\d*))?")
COMMA = re.compile(r"([1-9]\d{0,2}(?:\.\d{3})+|\d*)(?:,(\d{1,2}))?")
"""1,299.00 and 1.299,00."""
UNIT = r"(?:\s*(?:/|per\s)\s*[A-Za-z][A-Za-z. ]*)?"
"""As in 5.99/count."""
PRICE = re.compile(rf"(?:from|From|FROM)?\s*{ONE}(?:\s*(?:-|–|—|to)\s*{ONE})?{UNIT}")


def price(value: Any) -> float | None:
    """A price; the lower one of a range; none if the value is no price.

    A comma before three digits stands between thousands, and so does a point if the price is in
    euros; before other digits, or behind the other mark, they begin the fraction.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value) if isfinite(value) and value >= 0 else None
    found = PRICE.fullmatch(str(value).strip())
    if found is None:
        return None
    euros = "€" in found[0] or "EUR" in found[0]
    amounts = [_amount(text, euros=euros) for text in found.groups() if text]
    known = [amount for amount in amounts if amount is not None]
    return min(known) if len(known) == len(amounts) else None


def _amount(text: str, *, euros: bool) -> float | None:
    text = re.sub(r"['’\s]", "", text)
    points, commas = POINT.fullmatch(text), COMMA.fullmatch(text)
    found = commas if commas and (euros or not points) else points
    if found is None or not any(found.groups()):
        return None
    return float(f"{re.sub('[.,]', '', found[1]) or 0}.{found[2] or 0}")
