//! The bookkeeping under the block API: requests are split into commands, commands are issued, repeated and
//! completed, and each ticket completes exactly once, with the first error.
//!
//! [`BlockQueue`] belongs to one session and knows nothing of rings: the adapter asks it for the next
//! [`Command`], posts that, and reports the [`Outcome`]. After a session recovery the adapter requeues what
//! the card had; the queue issues it again, oldest request first. A write is never issued while an older
//! unfinished write overlaps it: a repeated older write would otherwise bury a newer one that the caller has
//! been told is complete (S4).
//!
//! Nothing is allocated per request in steady state: slots and their extent lists are reused. Not modelled:
//! reordering by an elevator, merging, priorities.

mod judge;
mod queue;
mod split;

pub use judge::{Outcome, RETRY_LIMIT, RETRY_PAUSE, RETRY_WINDOW};
pub use queue::{BlockCounters, BlockQueue, Command, CommandId, Direction, Done, LOSS_LIMIT};
pub use split::{Geometry, MAX_BDS, MAX_COMMAND_BYTES, MAX_REQUEST_BYTES, Refusal};
