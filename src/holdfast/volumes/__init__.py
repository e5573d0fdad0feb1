"""The facet that keeps block volumes: engine, front ends, and the processes that serve them."""
