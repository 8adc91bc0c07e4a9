"""The tests train on CPU, on hosts with GPUs too; those that are marked ``gpu`` say otherwise."""

from collections.abc import Sequence

CPU = ("--device", "cpu")


def on_cpu(arguments: Sequence[str]) -> list[str]:
    """``dat-rec``'s arguments, with the device where they train and name none."""
    if arguments[:1] == ["train"] and "--device" not in arguments:
        return ["train", *CPU, *arguments[1:]]
    return list(arguments)
