"""Measures our operators on this machine: what `datastreamx bench` and the benchmarks of the repository share."""
