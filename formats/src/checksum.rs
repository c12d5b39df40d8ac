//! XXH3-128 of the bytes of a read.
