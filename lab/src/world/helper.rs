//! The path helper of a world: in its process, or whoever attaches to a socket.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::rc::Rc;

use bus::port::{PortRx, PortTx};
use bus::uio::{FromHelper, ToHelper};
use iscsiuio::iface::{Addressing, V6Mode};
use iscsiuio::log::Level;
use iscsiuio::{Helper, IfaceConfig};

use super::{Seat, World};
use crate::uio_export::UioExport;

/// The default address of the offload interface (RFC 5737's documentation range).
pub const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The same for IPv6 (RFC 3849's).
pub const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// Routers for everything that is not in these networks.
const ROUTERS: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Who resolves paths.
#[derive(Clone, Debug)]
pub enum HelperConfig {
    /// A helper in the world's process, with these interfaces.
    Inside(Vec<IfaceConfig>),
    /// A helper that attaches to this socket (`iscsiuio --driver PATH`). Needs real time.
    Export(PathBuf),
}

/// A static IPv4 interface at [`SOURCE_V4`].
#[must_use]
pub fn static_v4() -> IfaceConfig {
    let address = Addressing::StaticV4 { address: SOURCE_V4, prefix: 24, gateway: Some(ROUTERS.0) };
    IfaceConfig { name: "v4".to_owned(), vlan: None, mtu: None, address }
}

/// A static IPv6 interface at [`SOURCE_V6`].
#[must_use]
pub fn static_v6() -> IfaceConfig {
    let mode = V6Mode::Static { address: SOURCE_V6, prefix: 64 };
    let address = Addressing::V6 { mode, link_local: None, router: Some(ROUTERS.1) };
    IfaceConfig { name: "v6".to_owned(), vlan: None, mtu: None, address }
}

/// The helper's ends of its ports, and the helper while it runs.
pub(super) struct HelperSeat {
    pub(super) inbox: PortRx<ToHelper>,
    pub(super) outbox: PortTx<FromHelper>,
    /// Of a helper in this process.
    pub(super) ifaces: Vec<IfaceConfig>,
    pub(super) helper: Option<Rc<RefCell<Helper>>>,
    /// Where one of another process attaches.
    pub(super) export: Option<Rc<RefCell<UioExport>>>,
}

impl<P: Seat + 'static> World<P> {
    /// The helper, while one runs in this process.
    #[must_use]
    pub fn helper(&self) -> Option<&Rc<RefCell<Helper>>> {
        self.helper.helper.as_ref()
    }

    /// Whether a helper is there, in this process or another.
    #[must_use]
    pub fn helper_attached(&self) -> bool {
        self.helper.export.as_ref().map_or(self.helper().is_some(), |e| e.borrow().attached())
    }

    /// Addresses that the helper's `index`th interface has now.
    #[must_use]
    pub fn helper_addresses(&self, index: usize) -> Vec<IpAddr> {
        self.helper().map_or_else(Vec::new, |h| h.borrow().addresses(index))
    }

    /// Starts the helper, if none runs.
    pub fn start_helper(&mut self) {
        let seat = &mut self.helper;
        if seat.helper.is_some() {
            return;
        }
        seat.inbox.revive();
        let (inbox, outbox) = (seat.inbox.clone(), seat.outbox.clone());
        let helper = Helper::new(0, inbox, outbox, seat.ifaces.clone(), Level::Warn);
        let helper = Rc::new(RefCell::new(helper));
        self.exec.install(&self.places.paths, helper.clone());
        seat.helper = Some(helper);
    }

    /// Kills the helper, with its ring open. What it is sent is lost until it is started again.
    pub fn kill_helper(&mut self) {
        self.helper.helper = None;
        self.exec.kill(&self.places.paths);
        self.helper.inbox.kill();
    }

    /// Stops the helper as SIGSTOP does, or lets it go on.
    pub fn stop_helper(&mut self, stopped: bool) {
        self.exec.stop(&self.places.paths, stopped);
    }
}
