"""The classes of an export under the names of a class table: by name, or by the table's `merge`."""

from __future__ import annotations

import numpy as np

from training.data.convert.annotations import UNLABELLED, ConversionError
from transkd_ros.model.labels import IGNORE, LabelTable


def ids_under(source: LabelTable, table: LabelTable) -> np.ndarray:
    """(256,) uint8: the id in `table` by that in an export's table; the ignore id of `table` where there is none.

    Raises ConversionError for classes that the table neither has nor merges: none is left out by mistake.
    """
    targets = {name: name if name in table.names else table.merge.get(name) for name in source.names}
    if unknown := [name for name, target in targets.items() if target is None]:
        example = f"merge: {{{unknown[0]}: {table.names[0]}}}"
        raise ConversionError(
            f"annotated as {', '.join(unknown)}, which the class table does not have; add them to its classes or "
            f"to its merge, e.g. {example}, or {{{unknown[0]}: {IGNORE}}} to leave such pixels unlabelled"
        )
    ids = np.full(UNLABELLED + 1, table.ignore_id, np.uint8)
    for i, target in enumerate(targets.values()):
        if target in table.names:
            ids[i] = table.names.index(target)
    return ids
