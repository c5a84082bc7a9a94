//! The data book of the 5709 class: registers, doorbells, rings, buffer descriptors, status blocks and shared
//! memory, as the chip model and the driver both see them on the iSCSI offload path.
//!
//! Types, offsets and masks, and nothing that runs: no allocation, no `unsafe`, no standard library.
//! Structures are little-endian byte images without alignment, so that a `[u8; 64]` of guest memory casts to
//! one and back. Names are those of the vendor's headers (`regs` and `shmem` leave out their `BNX2_`); every
//! size, offset, mask and number is compared with tables taken from those headers by a compiler
//! (`tests/conformance.rs`), because a wrong one would be wrong on both sides of the seam and pass everything
//! else.
//!
//! | folder | what | for which chips |
//! |---|---|---|
//! | [`iscsi`] | rings of a connection: SQ, RQ and CQ elements of 64, 256 and 64 bytes, and the lists of their data | all of the family |
//! | [`kernel`] | elements of the kernel queues, 32 bytes: KWQ (host to chip), KCQ (chip to host), layers 2, 4 and 6 | all of the family |
//! | [`bcm5709`] | registers, contexts, doorbells, Ethernet rings, status block, shared memory, page tables, limits | the 5709 class |
//!
//! [`book`] lists all of it. A generic element ([`kernel::kwq::Kwqe`], [`kernel::kcq::Kcqe`],
//! [`iscsi::sq::Sqe`], [`iscsi::cq::Cqe`]) becomes a specific one through [`View`], once layer and opcode are
//! known. Not here: the 57710 class, FCoE, RDMA, and firmware images.
#![no_std]
#![forbid(unsafe_code)]

pub mod book;
pub mod facts;

pub mod bcm5709;
pub mod iscsi;
pub mod kernel;

pub use zerocopy::little_endian::{U16, U32};

/// A specific element of a ring whose generic element is `G`: the same bytes with names.
///
/// The caller judges layer and opcode first; a view of the wrong kind is not unsafe, only meaningless.
pub trait View<G>: Sized {
    /// The element under its specific names.
    fn of(element: &G) -> &Self;
    /// The same, to write.
    fn of_mut(element: &mut G) -> &mut Self;
    /// Back to the generic element.
    fn into_element(self) -> G;
}

/// `view` and `view_mut` of the generic elements.
macro_rules! viewable {
    ($($generic:ty),+) => {$(
        impl $generic {
            /// The element under the names of a specific one. Judge layer and opcode first.
            pub fn view<T: View<Self>>(&self) -> &T {
                T::of(self)
            }

            /// The same, to write.
            pub fn view_mut<T: View<Self>>(&mut self) -> &mut T {
                T::of_mut(self)
            }
        }
    )+};
}

viewable!(kernel::kwq::Kwqe, kernel::kcq::Kcqe, iscsi::sq::Sqe, iscsi::cq::Cqe);
