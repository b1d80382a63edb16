"""`datastreamx replay`: state or rows anew, from what Kafka holds."""
