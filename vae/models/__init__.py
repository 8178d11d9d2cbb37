"""The networks, and the one place that builds them from a description."""
