"""Everything that fetches bytes: addresses, retries, checksums, archives."""
