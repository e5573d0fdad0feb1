"""Trees behind the HTTP interface of a Cassandra Sidecar."""
