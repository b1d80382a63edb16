"""What operators that speak HTTP share: names resolved ahead of need, addresses refused, connections opened early."""
