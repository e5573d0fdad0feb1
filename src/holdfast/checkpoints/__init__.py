"""The facet that protects resources into banks, and proves, keeps and restores them."""
