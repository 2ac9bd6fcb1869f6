"""A data set is read in full, once: decoded, checked, cut into blocks, indexed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.parquet import inspect
from workers.artifacts import Shelf, index_of, pack_table, summary_of
from workers.census import census
from workers.ingest import blocks
from workers.report import Report


def validate(plan: Mapping[str, Any], shelf: Shelf, report: Report) -> dict[str, Any]:
    """Turn an uploaded file into encrypted blocks and an index.

    Raises:
        Failure: a row that cannot be used, by number.
    """
    report.plan = {"checking rows": 1.0}
    report.phase("checking rows")
    written: list[dict[str, Any]] = []
    names = []
    with shelf.vault.open(plan["source"]) as source:
        layout = inspect(source, max_rows=plan["max_rows"], max_expansion=plan["max_expansion"])
        source.seek(0)
        for number, block in enumerate(blocks(source, layout)):
            written.append({"number": number, "blob": shelf.put(pack_table(block)).blob_id, "rows": len(block)})
            names.append(block.slice(0, len(block)))
            report.progress("", (number + 1) * len(block) / layout.rows)
    index = index_of(names)
    return {
        "blocks": written,
        "index": shelf.put(pack_table(index)).blob_id,
        "seconds": report.end(),
        "summary": summary_of(index, layout.shape) | {"text_labels": layout.text_labels, "census": census(index)},
    }
