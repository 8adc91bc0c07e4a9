"""``dat-rec validate``: check a dataset against its layout."""

import json
from dataclasses import asdict, dataclass

from tyro.conf import Positional

from dat_rec.commands.parse import Arguments, parse
from dat_rec.storage.address import Location


@dataclass(frozen=True)
class ValidateOptions:
    """Check that a dataset keeps to docs/dataset.md, whoever wrote it; exit code 2 if not.

    Each fault is a line on stdout: what, where, cure.
    """

    folder: Positional[Location]
    """Folder of the dataset, or its address; then it is copied to TMPDIR first."""
    json: bool = False
    """Print the faults as JSON."""
    memory_limit: str = "15%"
    """Maximum memory of DuckDB, e.g. 4GB, or a share of the machine's (or container's) memory;
    what does not fit is spilled to the folder for temporary files (TMPDIR)."""
    threads: int | None = None
    """Number of threads; by default all cores of the machine or container."""


def run(arguments: Arguments) -> int | None:
    """Print the faults."""
    options: ValidateOptions = parse("validate", ValidateOptions, arguments)
    from dat_rec.data.schema import SCHEMA, Schema
    from dat_rec.data.validate.validate import validate
    from dat_rec.storage.snapshot import local_copy

    with local_copy(options.folder, SCHEMA) as folder:
        faults = validate(folder, options.memory_limit, options.threads)
        schema = None if faults else Schema.load(folder)
    if options.json:
        text = json.dumps([asdict(fault) for fault in faults], indent=2, ensure_ascii=False)
        print(text.replace(str(folder), str(options.folder)))
    elif faults:
        text = "\n".join(str(fault) for fault in faults)
        print(text.replace(str(folder), str(options.folder)))
    elif schema is not None:
        validating = f"{schema.validation:,} of validation, " if schema.validation else ""
        print(
            f"{options.folder}: {schema.examples:,} examples, {schema.tests:,} test interactions, "
            f"{validating}{schema.users:,} users, {schema.items:,} items: no fault"
        )
    return 2 if faults else None
