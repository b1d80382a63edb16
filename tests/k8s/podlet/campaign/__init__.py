"""Stories of the service on its rendered manifests: `python -m tests.k8s.podlet.campaign`."""
