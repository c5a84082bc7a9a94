//! Packet scripts: a card's TCP and a host's over a link in virtual time.

mod life;
mod rig;
mod streams;
