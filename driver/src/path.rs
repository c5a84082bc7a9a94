//! Path resolution: what the adapter asks the iscsiuio helper (PATH_REQ, PATH_UPDATE, IF_DOWN).
//!
//! The helper owns the IP address of the offload interface and speaks ARP and NDP for it. Messages go through
//! bounded ports; an unanswered request runs into the adapter's `path` deadline, and a late answer is dropped by
//! its generation.

use core::net::IpAddr;

use crate::control::EpHandle;

/// The adapter wants a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathReq {
    /// For whom; comes back in the answer.
    pub handle: EpHandle,
    /// Destination.
    pub dst: IpAddr,
    /// VLAN id of the interface; 0 for none.
    pub vlan: u16,
    /// MTU towards the destination, bytes.
    pub pmtu: u16,
}

/// A path, or the news that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathUpdate {
    /// From the request.
    pub handle: EpHandle,
    /// MAC address of the next hop. Anything but a unicast address means that the path could not be resolved.
    pub mac: [u8; 6],
    /// Our address, of the same family as the destination.
    pub src: IpAddr,
    /// VLAN id; 0 for none.
    pub vlan: u16,
}

impl PathUpdate {
    /// Whether the MAC is a valid unicast address.
    #[must_use]
    pub fn resolved(&self) -> bool {
        self.mac[0] & 1 == 0 && self.mac != [0; 6]
    }
}

/// From the adapter to the helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToHelper {
    /// The interface is up: the offload MAC and the MTU.
    IfUp {
        /// MAC address of the offload interface.
        mac: [u8; 6],
        /// MTU, bytes.
        mtu: u16,
    },
    /// Resolve a path.
    PathReq(PathReq),
    /// The interface goes down: forget requests, stop touching the card.
    IfDown,
}

/// From the helper to the adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromHelper {
    /// Answer to a request, or news about a neighbour of a connected endpoint.
    PathUpdate(PathUpdate),
}
