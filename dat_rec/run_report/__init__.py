"""One HTML page of one run or several: how they learned, what they score, and where time went."""
