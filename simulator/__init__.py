"""Real local counterparts: a box fleet, ad aggregators, a Kafka broker and a BigQuery endpoint."""
