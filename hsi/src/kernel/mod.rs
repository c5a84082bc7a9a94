//! Elements of the kernel queues: commands to the chip and answers from it. The 5709 has rings of both; on
//! the 57xxx class the commands become ramrods, and its event queue has elements of the KCQ's format.

pub mod kcq;
pub mod kwq;
pub mod l4;
