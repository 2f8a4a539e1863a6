"""How processes that run networks on a processor keep their memory.

The C library gives large blocks back to the system when they are freed, and a network asks for
them again at every step. It reads these environment variables when a process starts; systems with
another C library do not know them.
"""

KEEP_FREED_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}
