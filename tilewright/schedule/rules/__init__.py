"""Rules that turn a block's structure into a schedule. They look at iterators and accesses, never at
operator names."""
