//! The helper: address resolution and acquisition for the iSCSI addresses of a card that offloads TCP and
//! iSCSI.
//!
//! The card's iSCSI MAC and address are invisible to the host's IP stack, so somebody else must ask who has
//! the target's address, get an address by DHCP, and answer ARP, neighbour solicitations and pings.
//! [`helper::Helper`] does, as an actor: over [`bus::uio`] it shares a small Ethernet ring with the card
//! ([`ring`]), runs its interfaces on it ([`stack`]), answers the driver's path requests ([`path`]), and
//! takes requests of iscsid's ([`ipc`]).
//!
//! The library reads no clock and opens no socket; the binary of the same name does. Nothing panics over what
//! a network, a card or iscsid sent. Steady state allocates nothing per frame.
//!
//! Not modelled: the 57710 class, the real `/dev/uioN` and NETLINK_ISCSI.

mod frame;
pub mod helper;
pub mod iface;
pub mod ipc;
pub mod log;
mod neighbours;
pub mod path;
pub mod ping;
pub mod ring;
pub mod stack;

pub use helper::Helper;
pub use iface::IfaceConfig;
