"""A local BigQuery: REST and Storage Write API over real HTTP and gRPC, with faults that can be switched while it runs.

`bqemulator` (DuckDB inside) does the work; this package composes its parts, replacing those whose behaviour differs
from BigQuery where a streaming sink would notice. Importing the package stays cheap: only the server imports
`bqemulator`.
"""

from simulator.bigquery.faults import Fault, FaultPlan
from simulator.bigquery.handle import LocalBigQuery

__all__ = ["Fault", "FaultPlan", "LocalBigQuery"]
