"""Try again what a store did not answer, with longer and longer waits, until a deadline."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

from obstore.exceptions import BaseError

from dat_rec.disk import say
from dat_rec.errors import StoreError, UserError
from dat_rec.storage.address import Address
from dat_rec.storage.problems import problem_of

T = TypeVar("T")
DEADLINE = "DAT_REC_STORE_DEADLINE_S"
"""Environment variable: seconds for which a request is tried again."""
DEADLINE_S = 120.0
"""The same where it is not set."""
FIRST_CONTACT_S = 10.0
"""The same, at most, for a store that has never answered this process: its address is wrong."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
"""Seconds between two tries, minimum and maximum; each wait is twice the one before."""


class Retry:
    """Does the requests to one store."""

    def __init__(self) -> None:
        self._answered = False
        self._away = False  # said once for all threads

    def __call__(self, request: Callable[[], T], address: Address, doing: str) -> T:
        """Do ``request`` until the store answers it.

        Args:
            request: can be done again from the start; raises what obstore raises.
            address: of the request, for the messages.
            doing: what it does, as in ``reading bytes 0 to 99``.

        Raises:
            UserError: the store refuses it, or has never answered.
            StoreError: the store has answered before, and has not done so until the deadline.
        """
        begin, wait_s, failed = time.monotonic(), FIRST_WAIT_S, False
        while True:
            try:
                result = request()
            except (BaseError, OSError) as error:
                problem = problem_of(error, address, doing)
                if not problem.passing:
                    self._answered = True
                    raise problem.error from error
                tried_s = time.monotonic() - begin
                if tried_s >= self._deadline_s():
                    self._away = False  # the next outage is said too
                    raise self._given_up(problem.error, tried_s) from error
                if self._answered and not self._away:
                    self._away = True
                    say(f"{problem.error}: trying again")
                failed = True
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            else:
                if failed and self._away:
                    self._away = False
                    say(f"{address}: done, after {time.monotonic() - begin:.0f} s of trying")
                self._answered = True
                return result

    def _deadline_s(self) -> float:
        text = os.environ.get(DEADLINE, "")
        try:
            deadline_s = float(text) if text else DEADLINE_S
        except ValueError as error:
            raise UserError(f"{DEADLINE} is {text!r}: write a number of seconds") from error
        return deadline_s if self._answered else min(deadline_s, FIRST_CONTACT_S)

    def _given_up(self, error: UserError, tried_s: float) -> UserError:
        tried = f"{error}, tried for {tried_s:.0f} s"
        if self._answered:
            return StoreError(f"{tried}: start again when the store is back")
        return UserError(f"{tried}: correct the address or the endpoint (AWS_ENDPOINT_URL)")
