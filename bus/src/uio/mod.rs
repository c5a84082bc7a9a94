//! The seam between a driver and the iscsiuio helper: path requests, and the uio export of the card's extra
//! L2 ring.
//!
//! In the real stack these are NETLINK_ISCSI messages (PATH_REQ, PATH_UPDATE, IF_DOWN) and `/dev/uioN`:
//! status block, L2 ring and its buffers as memory that driver, card and helper share, and registers behind
//! an mmapped BAR (ISCSIUIO 3.1, 5.1, 8). Here both go through one pair of bounded ports. Memory is shared as
//! [`View`]s. Registers are not: a write is a message that the driver carries out if the register is the
//! helper's, and reads are answered from what the driver read when it opened the ring, as these registers do
//! not change before the next reset.
//!
//! Every open starts the rings over and has a generation of its own; what carries an older one is dropped and
//! counted. A helper that is slow, stuck or dead costs the driver nothing but path requests: the ring's
//! memory is never used for anything else, and after IF_DOWN the card lets go of it whether the helper closes
//! or not.
//!
//! Not modelled: the real `/dev/uioN`, the 57810's four-page ring.

pub mod socket;

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;

use thiserror::Error;

use crate::mem::{PAGE_SIZE, View};

/// Bytes of the status block (`UioMaps::status`): one plain block, or nine with MSI-X.
pub const STATUS_BYTES: usize = PAGE_SIZE;
/// Bytes of the L2 ring: a page of transmit BDs, then a page of receive BDs.
pub const RING_BYTES: usize = 2 * PAGE_SIZE;
/// Bytes of one frame buffer: a frame of MTU 9000 with VLAN tag and FCS, behind the card's header and
/// padding. (The kernel's cnic has 0x400, in which a ping of the MTU's size does not fit.)
pub const BUFFER_BYTES: usize = 0x2400;
/// Receive buffers; buffer 0 is the transmit buffer, receive buffers follow.
pub const RX_BUFFERS: usize = 3;
/// Bytes of all buffers.
pub const BUFFERS_BYTES: usize = ((1 + RX_BUFFERS) * BUFFER_BYTES).next_multiple_of(PAGE_SIZE);

/// Names whom a path is for: opaque to the helper, comes back in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathHandle(pub u64);

/// The driver wants a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathReq {
    /// For whom; comes back in the answer.
    pub handle: PathHandle,
    /// Destination.
    pub dst: IpAddr,
    /// VLAN id of the interface; 0 for none.
    pub vlan: u16,
    /// MTU towards the destination, bytes.
    pub pmtu: u16,
}

/// Why there is no path. Reads as the end of a sentence about a connection.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[repr(u16)]
pub enum PathFailure {
    /// The next hop does not answer ARP or neighbour solicitations.
    #[error("nobody answers for the target's address or its gateway: check address, cable and VLAN")]
    NoAnswer = 1,
    /// The interface has no address yet.
    #[error("the offload interface has no address: check its configuration and the DHCP server")]
    NoAddress = 2,
    /// No interface of that family and VLAN, or nothing leads off the link.
    #[error("no interface has a route to the target: check address family, gateway and router")]
    NoRoute = 3,
    /// Somebody else has the interface's address.
    #[error("another host uses the address of the offload interface: iscsiuio's log names its MAC")]
    Conflict = 4,
    /// The address that the path began at is not ours any more.
    #[error("the address of the path is gone: check the DHCP server, or who else uses the address")]
    AddressLost = 5,
}

impl PathFailure {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::NoAnswer, Self::NoAddress, Self::NoRoute, Self::Conflict, Self::AddressLost];
}

/// A path, or the news that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathUpdate {
    /// The handle of the path request that this answers.
    pub handle: PathHandle,
    /// MAC address of the next hop. Anything but a unicast address means that the path could not be resolved.
    pub mac: [u8; 6],
    /// Our address, of the same family as the destination.
    pub src: IpAddr,
    /// VLAN tag control information: id in bits 11..0, priority in 15..13; 0 for none.
    pub vlan: u16,
    /// Path MTU, bytes: the request's, or less if the interface is configured so.
    pub pmtu: u16,
    /// Why the MAC is none; `None` with one.
    pub failure: Option<PathFailure>,
}

impl PathUpdate {
    /// Whether the MAC is a valid unicast address.
    #[must_use]
    pub fn resolved(&self) -> bool {
        self.mac[0] & 1 == 0 && self.mac != [0; 6]
    }
}

/// What an open hands to the helper. Cloning shares.
#[derive(Clone, Debug)]
pub struct UioMaps {
    /// Counts opens; goes into every write.
    pub generation: u32,
    /// Status block, [`STATUS_BYTES`], written by the card.
    pub status: View,
    /// Transmit and receive BDs, [`RING_BYTES`].
    pub ring: View,
    /// Frame buffers, [`BUFFERS_BYTES`]; the receive BDs point at them already.
    pub buffers: View,
    /// Registers that the helper may read, with their values: BAR0 offset, value.
    pub registers: Vec<(u32, u32)>,
    /// Counts interrupts that concern the ring; the helper is woken when it changes.
    pub events: EventCount,
}

/// A count that one side advances and the other watches, as that of a uio device.
#[derive(Clone, Debug, Default)]
pub struct EventCount(Rc<Cell<u32>>);

impl EventCount {
    /// One more.
    pub fn bump(&self) {
        self.0.set(self.0.get().wrapping_add(1));
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.get()
    }
}

/// Why an open was refused. The helper may try again after the next [`ToHelper::IfUp`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OpenRefused {
    /// The interface is down or being reset.
    #[error("the interface is down")]
    Down,
    /// There is no memory for the ring, or none that can be shared with another process.
    #[error("there is no memory that the ring can be shared in")]
    NoMemory,
}

/// From the driver to the helper.
#[derive(Clone, Debug)]
pub enum ToHelper {
    /// The interface is up: the offload MAC and the MTU. The helper may open its ring.
    IfUp {
        /// MAC address of the offload interface.
        mac: [u8; 6],
        /// MTU, bytes.
        mtu: u16,
    },
    /// Resolve a path.
    PathReq(PathReq),
    /// The interface goes down: forget requests, stop touching the ring, close it.
    IfDown,
    /// Answer to [`FromHelper::Open`]: the ring is set up, receive buffers are not posted yet.
    Opened(UioMaps),
    /// Answer to [`FromHelper::Open`].
    OpenRefused(OpenRefused),
}

/// From the helper to the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromHelper {
    /// The helper has started and knows nothing: the driver says IfUp again if the interface is up.
    Hello,
    /// Answer to a request, or news about a neighbour of a connected endpoint.
    PathUpdate(PathUpdate),
    /// Set up the ring. One that is open is closed first.
    Open,
    /// The helper does not touch the ring any more.
    Close {
        /// Of the open.
        generation: u32,
    },
    /// Write a register of the helper's.
    Write {
        /// Of the open.
        generation: u32,
        /// BAR0 offset.
        at: u32,
        /// Value and width.
        value: Value,
    },
}

/// A register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// 16 bits.
    U16(u16),
    /// 32 bits.
    U32(u32),
}
