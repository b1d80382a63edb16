"""Apache Kafka for tests: a real broker, or three of them, without containers."""
