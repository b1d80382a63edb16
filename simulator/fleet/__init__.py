"""A fleet of set-top boxes: what their viewers do, what goes wrong on the way, and independent books on all of it.

`behaviour` and `faults` are pure and seeded; `driver` plays them against Kafka in real time; `log` plays them into a
list for tests and benchmarks.
"""
