"""The measurement store: what was run, on which machine, and every time that was seen.

A record says how long one schedule of one workload took on one device, or how it failed. Records live in a
database (SQLite by default, PostgreSQL by URL), travel as lines of JSON, and are never pickled.
"""

from tilewright.records.exchange import Imported, export_records, import_records
from tilewright.records.inspect import Problem, Statistics, statistics, verify
from tilewright.records.leaders import Leader, elsewhere, leaders
from tilewright.records.record import (
    MODEL_KINDS,
    ROLES,
    STATUSES,
    Device,
    Epoch,
    Record,
    Sample,
    StoredModel,
    Workload,
)
from tilewright.records.store import Store, open_store

__all__ = [
    "MODEL_KINDS",
    "ROLES",
    "STATUSES",
    "Device",
    "Epoch",
    "Imported",
    "Leader",
    "Problem",
    "Record",
    "Sample",
    "Statistics",
    "Store",
    "StoredModel",
    "Workload",
    "elsewhere",
    "export_records",
    "import_records",
    "leaders",
    "open_store",
    "statistics",
    "verify",
]
