"""Digests, manifests, Merkle root, signature and the offline check of a proof."""
