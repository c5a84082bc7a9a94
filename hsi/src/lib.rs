//! The data book: registers, doorbells, rings, buffer descriptors and status blocks of the 5709 class.
