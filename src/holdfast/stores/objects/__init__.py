"""Object stores behind the ports: a caller's rights at Swift, and conditional writes at S3."""
