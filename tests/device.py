"""The device that tests train on: the CPU, on hosts with GPUs too.

``DAT_REC_TEST_DEVICE=cuda make pytest`` lets them train on GPUs, of which each rank needs one.
Tests that are marked ``gpu`` choose their device themselves.
"""

import os
from collections.abc import Sequence

DEVICE = os.environ.get("DAT_REC_TEST_DEVICE", "cpu")
DEVICE_FLAGS = ("--device", DEVICE)


def on_device(arguments: Sequence[str]) -> list[str]:
    """``dat-rec``'s arguments, with the device where they train and name none."""
    if arguments[:1] == ["train"] and "--device" not in arguments:
        return ["train", *DEVICE_FLAGS, *arguments[1:]]
    return list(arguments)
