"""Third-party ad aggregators: one folder per dialect, each two pure functions and a folder of JSON cases."""
