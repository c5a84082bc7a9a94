//! What only the 5709 class has: registers, contexts, doorbells, Ethernet rings, status block, shared memory,
//! page tables, limits.

pub mod ctx;
pub mod doorbell;
pub mod l2;
pub mod limits;
pub mod pte;
pub mod regs;
pub mod shmem;
pub mod statistics;
pub mod status_block;
