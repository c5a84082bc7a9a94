//! The slot: a PCI function as seen from both sides, and what actors are made of.
