"""The facet that protects resources into banks, and proves, restores and keeps what it protected."""
