//! The host: adapter, sessions and the block API.
