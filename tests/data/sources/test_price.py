"""Prices as shops write them, each beside the number that a reader takes it for."""

from typing import Any

import pytest

from dat_rec.data.sources.price import price


@pytest.mark.parametrize(
    ("number", "values"),
    [
        (0.99, ["$.99", "$0.99", "$9.99 – $.99"]),
        (0.5, [".5", "0,5"]),
        (12.0, ["$12"]),
        (12.5, ["$ 12.50", "12.50 $"]),
        (7.25, ["US$7.25", "USD 7.25"]),
        (3.1, ["£3.10"]),
        (1299.0, ["$1,299.00", "$1,299", "1.299,00 €", "€1.299", "1 299,00 €", "$1 299.00"]),
        (1299.0, ["CHF 1'299.00", "CHF 1’299.00", "1 299 - 2 499 kr"]),
        (1.299, ["$1.299", "1.299 kr"]),
        (1299000.0, ["1.299.000"]),
        (1299000.5, ["$1,299,000.5", "1\u202f299\u202f000,5 €"]),
        (9.99, ["EUR 9,99", "9,99"]),
        (49.0, ["49 kr."]),
        (5.99, ["$5.99/count", "$5.99 / Fl. Oz", "$5.99 per count"]),
        (5.0, ["$5 - $9", "$5.00 - $9.00", 5]),
        (4.0, ["from $4"]),
        (7.99, ["from 7.99"]),
        (4.99, [4.99]),
        (0.0, [0]),
    ],
)
def test_a_price_is_read_as_its_shop_means_it(number: float, values: list[Any]) -> None:
    assert {value: price(value) for value in values} == dict.fromkeys(values, number)


@pytest.mark.parametrize(
    "value",
    [None, "", "None", "—", "$", "-3", "₹1,49,000", -3.0, float("nan"),
     float("inf"), True, "1,2,3", "3 for 2", "call us", "1.2.3", "$1,29.00", ",", ".", [5],
     "$5 99", "5 99", "$5'99", "$1 29.00", "$1999 299", "1 2999", "1  299", "0 299", "1 299 99",
     "$5.99/", "5/7",
     ".a-box-inner{background-color:#fff} #alohaBuyBoxWidget {width: 45%}"],
)  # fmt: skip
def test_what_is_no_price_is_unknown(value: Any) -> None:
    assert price(value) is None
