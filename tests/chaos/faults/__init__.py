"""What can happen to a pipeline: one small class for each kind, registered in `KINDS`."""
