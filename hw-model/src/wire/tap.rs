//! The wire to the host's kernel: a TAP device.
//!
//! The card's port is plugged into an interface of the kernel, which is bridged or routed from there.
//! Readiness comes from the reactor, edge-triggered, as for host sockets; the runner wakes the card for it.
//! There is a carrier while the interface is up: that it went down shows in the next frame that is sent, that
//! it came up in an event.

use std::io;

use bus::Instant;
use bus::pci::DevCx;
use os::reactor::{Owner, Ready};
use os::tap::Tap;

use super::{LARGEST_FRAME, Wire};

const TOKEN: u32 = 0;

/// What passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapCounters {
    /// Frames of the card.
    pub sent: u64,
    /// Frames for the card.
    pub received: u64,
    /// Frames of the card that the kernel had no room for, or found no interface up for.
    pub dropped: u64,
    /// Frames for the card that are longer than a wire carries.
    pub oversize: u64,
}

/// A TAP device as the card's wire. See the module.
pub struct TapWire {
    tap: Tap,
    owner: Owner,
    ready: Vec<Ready>,
    /// Something may be there to receive.
    readable: bool,
    up: bool,
    counters: TapCounters,
}

impl TapWire {
    /// Plugs the card into `tap`. The runner wakes the card for `owner`.
    ///
    /// # Errors
    /// The reactor refuses the descriptor, or the interface is gone.
    pub fn new(tap: Tap, owner: Owner) -> io::Result<Self> {
        owner.register(&tap, TOKEN)?;
        let up = tap.is_up()?;
        Ok(Self { tap, owner, ready: Vec::new(), readable: true, up, counters: TapCounters::default() })
    }

    /// What passed.
    #[must_use]
    pub fn counters(&self) -> TapCounters {
        self.counters
    }

    /// The device.
    #[must_use]
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    fn look(&mut self) {
        if self.owner.is_empty() {
            return;
        }
        self.owner.drain(&mut self.ready);
        for r in self.ready.drain(..) {
            self.readable |= r.readable;
            if r.writable {
                self.up = self.tap.is_up().unwrap_or(false);
            }
        }
    }
}

impl Wire for TapWire {
    fn send(&mut self, _: &mut DevCx<'_>, frame: &[u8]) {
        match self.tap.send(frame) {
            Ok(true) => self.counters.sent += 1,
            Ok(false) => self.counters.dropped += 1,
            Err(_) => {
                self.counters.dropped += 1;
                self.up = self.tap.is_up().unwrap_or(false);
            }
        }
    }

    fn recv(&mut self, _: &mut DevCx<'_>, frame: &mut Vec<u8>) -> bool {
        self.look();
        while self.readable {
            // One more byte than a frame may have tells one that was cut off.
            frame.resize(LARGEST_FRAME + 1, 0);
            match self.tap.recv(frame) {
                Ok(Some(n)) if n <= LARGEST_FRAME => {
                    frame.truncate(n);
                    self.counters.received += 1;
                    return true;
                }
                Ok(Some(_)) => self.counters.oversize += 1,
                Ok(None) | Err(_) => self.readable = false,
            }
        }
        frame.clear();
        false
    }

    fn link(&self) -> bool {
        self.up
    }

    /// Frames that come later wake the card.
    fn next_deadline(&self) -> Option<Instant> {
        self.readable.then_some(Instant::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Duration;

    use bus::streams::Seeded;
    use os::reactor::Reactor;
    use os::tap::TapError;

    use super::*;
    use crate::ether;
    use crate::tcp::frame::{Checksums, FrameNet};
    use crate::tcp::{ConnectRequest, LinkHeader, TcpEngine, TcpEvent, TcpId, TcpOptions};
    use crate::testing::Bench;

    const MAC: [u8; 6] = [0, 0x10, 0x18, 1, 2, 3];
    const KERNEL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    const CARD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    const ID: TcpId = TcpId(3);

    /// A device of this process's own; `None`, with a message, where that is not permitted.
    fn device(name: &str) -> Option<Tap> {
        let name = format!("{name}{}", std::process::id() % 1_000_000);
        match Tap::open(&name) {
            Ok(tap) => Some(tap),
            Err(e @ (TapError::Permission(_) | TapError::NoDriver)) => {
                assert!(std::env::var("CI").is_err(), "{e}");
                println!("skipped: {e}");
                None
            }
            Err(e) => panic!("{e}"),
        }
    }

    #[test]
    fn a_device_in_use_is_busy() {
        let Some(tap) = device("cnicb") else { return };
        assert!(matches!(Tap::open(tap.name()), Err(TapError::Busy(_))));
        tap.set_mtu(9000).expect("a jumbo MTU");
        assert_eq!(tap.mtu().expect("an MTU"), 9000);
        assert!(!tap.is_up().expect("flags"));
    }

    #[test]
    fn the_carrier_follows_the_interface_until_that_is_deleted() {
        let Some(tap) = device("cnicc") else { return };
        let name = tap.name().to_owned();
        let mut reactor = Reactor::new().expect("epoll");
        let mut wire = TapWire::new(tap, reactor.owner().expect("an owner")).expect("a wire");
        let mut bench = Bench::new();
        // No frame is sent meanwhile: a card without a link has nothing to say.
        let mut link = |reactor: &mut Reactor, wire: &mut TapWire, there: bool| {
            for _ in 0..100 {
                reactor.wait(Some(Duration::from_millis(20)), &mut Vec::new()).expect("epoll");
                bench.with(|cx| while wire.recv(cx, &mut Vec::new()) {});
                if wire.link() == there {
                    return;
                }
            }
            panic!("the carrier does not become {there}");
        };
        assert!(!wire.link());
        for _ in 0..2 {
            wire.tap().set_up(true).expect("up");
            link(&mut reactor, &mut wire, true);
            wire.tap().set_up(false).expect("down");
            Bench::new().with(|cx| wire.send(cx, &[0xff; 60]));
            assert!(!wire.link(), "the next frame shows it");
        }
        assert_eq!(wire.counters().dropped, 2);
        wire.tap().set_up(true).expect("up");
        link(&mut reactor, &mut wire, true);
        let deleted = std::process::Command::new("ip").args(["link", "del", &name]).status();
        if !deleted.is_ok_and(|s| s.success()) {
            println!("skipped: no iproute2 to delete a device with");
            return;
        }
        link(&mut reactor, &mut wire, false);
        assert_eq!(wire.next_deadline(), None);
        Bench::new().with(|cx| wire.send(cx, &[0xff; 60]));
        assert_eq!((wire.link(), wire.counters().dropped), (false, 3));
    }

    #[test]
    fn the_kernel_is_a_neighbour_and_a_tcp_peer() {
        let Some(tap) = device("cnict") else { return };
        let mut reactor = Reactor::new().expect("epoll");
        tap.set_address(KERNEL, 24).expect("an address");
        tap.set_up(true).expect("up");
        let kernel_mac = tap.mac().expect("a MAC");
        let listener = TcpListener::bind((KERNEL, 0)).expect("a port");
        let remote = listener.local_addr().expect("its address");
        let wire = TapWire::new(tap, reactor.owner().expect("an owner")).expect("a wire");
        assert!(wire.link());
        let net = FrameNet::new(wire, MAC, Checksums::Real);
        let (mut tcp, mut port) = (net.tcp(), net.port());
        let mut bench = Bench::new();
        bench.rng = Box::new(Seeded::new(1));
        let request = ConnectRequest {
            local: (CARD, 60000).into(),
            remote,
            mss: 1460,
            pmtu: 1500,
            rcv_buf: 262_144,
            snd_buf: 262_144,
            link: LinkHeader { destination: kernel_mac, source: MAC, vlan: None },
            options: TcpOptions::default(),
        };
        bench.with(|cx| tcp.connect(cx, ID, &request));
        let (mut events, mut frame) = (Vec::new(), Vec::new());
        let arps = std::cell::Cell::new(0);
        let mut turn = |bench: &mut Bench,
                        tcp: &mut crate::tcp::frame::FrameTcp,
                        events: &mut Vec<TcpEvent>| {
            reactor.wait(Some(Duration::from_millis(2)), &mut Vec::new()).expect("epoll");
            bench.now += Duration::from_millis(2);
            let mut polled = Vec::new();
            bench.with(|cx| {
                tcp.poll(cx, &mut polled);
                while port.recv(cx, &mut frame) {
                    // The kernel asks who has the card's address.
                    if ether::payload(&frame) == Some((ether::TYPE_ARP, 14)) && frame[38..42] == CARD.octets()
                    {
                        arps.set(arps.get() + 1);
                        let mut reply = frame[..42].to_vec();
                        reply[..6].copy_from_slice(&frame[6..12]);
                        reply[6..12].copy_from_slice(&MAC);
                        reply[21] = 2;
                        reply[32..42].copy_from_slice(&frame[22..32]);
                        reply[22..28].copy_from_slice(&MAC);
                        reply[28..32].copy_from_slice(&CARD.octets());
                        port.send(cx, &reply);
                    }
                }
            });
            events.extend(polled.into_iter().map(|(_, e)| e));
        };
        for _ in 0..5000 {
            if events.contains(&TcpEvent::Connected) {
                break;
            }
            turn(&mut bench, &mut tcp, &mut events);
        }
        assert_eq!(events, [TcpEvent::Connected]);
        let (mut peer, from) = listener.accept().expect("it is connected");
        assert_eq!(from, (CARD, 60000).into());
        peer.set_nonblocking(true).expect("non-blocking");

        let data: Vec<u8> = (0..100_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
        let (mut sent, mut echoed, mut back) = (0, Vec::new(), Vec::new());
        for _ in 0..5000 {
            sent += bench.with(|cx| tcp.send(cx, ID, &data[sent..]));
            let mut buffer = vec![0; 1 << 16];
            if let Ok(n) = peer.read(&mut buffer) {
                echoed.extend_from_slice(&buffer[..n]);
            }
            if let Ok(n) = peer.write(&echoed) {
                echoed.drain(..n);
            }
            bench.with(|cx| {
                tcp.recv(cx, ID, &mut |_, bytes| {
                    back.extend_from_slice(bytes);
                    bytes.len()
                })
            });
            if back.len() == data.len() {
                break;
            }
            turn(&mut bench, &mut tcp, &mut events);
        }
        assert!(back == data, "{} of {}", back.len(), data.len());
        assert!(arps.get() > 0);

        drop(peer);
        for _ in 0..5000 {
            if events.contains(&TcpEvent::Fin) {
                break;
            }
            turn(&mut bench, &mut tcp, &mut events);
        }
        bench.with(|cx| tcp.close(cx, ID));
        for _ in 0..5000 {
            if events.contains(&TcpEvent::Closed) {
                break;
            }
            turn(&mut bench, &mut tcp, &mut events);
        }
        assert_eq!(events.last(), Some(&TcpEvent::Closed), "{events:?}");
    }
}
