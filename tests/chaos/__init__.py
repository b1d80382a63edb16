"""Real processes under real faults, by a seeded schedule, against an oracle that knows no faults: `make chaos`."""
