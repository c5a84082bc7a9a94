//! Tests of the engine as a whole: a small host on one side, a scripted target on the other.

mod checks;
mod control;
mod data;
mod hostile;
mod rig;
mod sockets;
mod target;
