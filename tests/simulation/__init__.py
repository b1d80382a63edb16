"""The product in virtual time, against every fault that can be thought of: one seed, one history.

What runs is the product: its dataflow graphs, sources, steps, sinks and the re-shard of its stores. What is simulated
is around it:

- `engine`: Bytewax, with its epochs, snapshots and recovery store.
- `kafka`, `bigquery`: the services, as a client can tell.
- `actors`: boxes, aggregators, receivers of notices.
- `loop`: the event loop of auctions and notices.
- `supervised`: kills processes at every phase of their life and starts them again, sometimes with an old store.
- `history`: puts it together, draws what goes wrong, and lets all come to rest. `size`: how large it is.
- `verdict`: compares what is there with the oracle of the integration tests, which knows the input alone.
- `plants`: bugs on purpose, which have to be caught. `coverage`: what has to have happened.

Left out: threads, retention and leader changes of Kafka, quotas and expiry in BigQuery, mode `cluster`, damaged files
of a recovery store, a wall clock that steps.
"""
