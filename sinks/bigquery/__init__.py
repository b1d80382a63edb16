"""Rows into BigQuery, exactly once: buffered streams, Arrow batches, flushes that only follow durable snapshots."""
