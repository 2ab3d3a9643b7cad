"""Freed memory: the C library is asked to keep it, or to give it back to the system."""
from framealign.runtime import allocator


def test_freed_memory_can_be_kept_and_given_back():
    """glibc takes both; another C library takes neither, and the answer says so."""
    takes_it = allocator.keep_freed_memory()
    assert allocator.keep_freed_memory(False) is takes_it and allocator.keep_freed_memory() is takes_it
