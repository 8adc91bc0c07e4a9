"""One file for each command of ``dat-rec``: its options, a dataclass, and ``run``, what it does.

``run`` takes the words behind the command's name and imports what it needs when it is called. It
returns the exit code, or None where all is well.
"""
