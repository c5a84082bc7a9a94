//! What the benches, the `cost` example and the cost tests share: a card that only echoes ring entries, and a
//! world under a load that costs next to nothing itself.

pub mod blast;
pub mod echo;
pub mod far;
pub mod rig;
