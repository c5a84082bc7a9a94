//! The DHCPv4 client of one interface (RFC 2131, as far as a client needs it).
//!
//! DISCOVER goes out again after 1 s, 2 s and so on up to 60 s, REQUEST after 1, 2, 3 and 4 s before
//! everything starts over. A NAK starts over at once. At T1 the lease is renewed with its server, at T2 with
//! anybody, and at its end the address is given up. After a reset of the card a lease that still runs is kept
//! and confirmed at once.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::time::Duration;

use bus::Instant;
use bus::address::host;
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};

use super::Io;
use crate::frame::{BROADCAST, Link};
use crate::iface::{class_prefix, gateway4};
use crate::log::Level;
use crate::neighbours::Mac;

pub(crate) const SERVER_PORT: u16 = 67;
pub(crate) const CLIENT_PORT: u16 = 68;

/// The longest wait between two DISCOVERs.
const LONGEST: u64 = 60;
/// REQUESTs before starting over.
const REQUESTS: u64 = 4;
/// After a declined address (RFC 2131 3.1.5).
const AFTER_DECLINE: Duration = Duration::from_secs(10);
/// Relays and old servers want a BOOTP message of this size.
const SMALLEST: usize = 300;
/// What we ask for: mask, router, DNS, lease time, T1, T2.
const WANTED: [u8; 6] = [1, 3, 6, 51, 58, 59];

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) gateway: Option<Ipv4Addr>,
    server: Ipv4Addr,
    /// Whom the ACK came from on the link: the server or its relay.
    via: Mac,
    t1: Instant,
    t2: Instant,
    /// `None`: for ever.
    end: Option<Instant>,
}

/// What the interface must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The address is ours from now on, or still.
    Bound(Lease),
    /// The address is not ours any more.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Selecting,
    Requesting {
        offer: Ipv4Addr,
        server: Ipv4Addr,
    },
    Bound,
    /// Asking the server of the lease, or anybody.
    Renewing {
        anybody: bool,
    },
}

/// The client.
#[derive(Debug)]
pub(crate) struct Client {
    state: State,
    lease: Option<Lease>,
    xid: u32,
    tries: u64,
    at: Instant,
    /// Since when there is no address.
    since: Instant,
    told: bool,
}

impl Client {
    pub(crate) fn new(now: Instant) -> Self {
        Self { state: State::Selecting, lease: None, xid: 0, tries: 0, at: now, since: now, told: false }
    }

    pub(crate) fn next(&self) -> Instant {
        let end = self.lease.and_then(|l| l.end);
        Instant::earliest(Some(self.at), end).unwrap_or(self.at)
    }

    /// The link was away: confirm the lease.
    pub(crate) fn confirm(&mut self, now: Instant) {
        self.tries = 0;
        self.at = now;
        self.state = if self.lease.is_some() { State::Renewing { anybody: true } } else { State::Selecting };
    }

    /// Somebody else uses the address: tell the server and start over.
    pub(crate) fn decline(&mut self, io: &mut Io<'_>, link: Link) {
        if let Some(l) = self.lease.take() {
            let mut m = self.message(DhcpMessageType::Decline, link.mac);
            (m.requested_ip, m.server_identifier) = (Some(l.address), Some(l.server));
            send(io, link, &m, None);
        }
        self.restart(io.now + AFTER_DECLINE);
    }

    fn restart(&mut self, at: Instant) {
        (self.state, self.tries, self.at, self.since) = (State::Selecting, 0, at, at);
    }

    /// Sends what is due.
    pub(crate) fn poll(&mut self, io: &mut Io<'_>, link: Link) -> Option<Event> {
        if let Some(Lease { end: Some(end), address, .. }) = self.lease
            && io.now >= end
        {
            io.log
                .add(Level::Error, || format!("the lease of {address} has expired: the address is given up"));
            self.lease = None;
            self.restart(io.now);
            return Some(Event::Lost);
        }
        if io.now < self.at {
            return None;
        }
        match (self.state, self.lease) {
            (State::Selecting, _) => {
                if self.tries == 0 {
                    self.xid = io.rng.next_u64("dhcp.xid") as u32;
                }
                if !self.told && io.now.since(self.since) >= Duration::from_secs(10) {
                    self.told = true;
                    io.log.add(Level::Error, || "DHCP failed: no server answers; still trying".to_owned());
                }
                let mut m = self.message(DhcpMessageType::Discover, link.mac);
                m.parameter_request_list = Some(&WANTED);
                send(io, link, &m, None);
                self.tries += 1;
                self.at = io.now + Duration::from_secs(self.tries.min(LONGEST));
            }
            (State::Requesting { .. }, _) if self.tries == REQUESTS => self.restart(io.now),
            (State::Requesting { offer, server }, _) => {
                let mut m = self.message(DhcpMessageType::Request, link.mac);
                (m.requested_ip, m.server_identifier) = (Some(offer), Some(server));
                m.parameter_request_list = Some(&WANTED);
                send(io, link, &m, None);
                self.tries += 1;
                self.at = io.now + Duration::from_secs(self.tries);
            }
            (State::Bound, Some(_)) => {
                (self.state, self.tries) = (State::Renewing { anybody: false }, 0);
            }
            (State::Renewing { anybody }, Some(lease)) => {
                if self.tries == 0 {
                    self.xid = io.rng.next_u64("dhcp.xid") as u32;
                }
                let anybody = anybody || io.now >= lease.t2;
                self.state = State::Renewing { anybody };
                let mut m = self.message(DhcpMessageType::Request, link.mac);
                m.client_ip = lease.address;
                m.broadcast = false;
                m.parameter_request_list = Some(&WANTED);
                send(io, link, &m, (!anybody).then_some((lease.via, lease.server)));
                self.tries += 1;
                // Half of what remains, as RFC 2131 4.4.5 says, but not less than a second or more than a
                // minute.
                let until = if anybody { lease.end } else { Some(lease.t2) };
                let half = until.map_or(Duration::from_secs(LONGEST), |u| u.since(io.now) / 2);
                self.at = io.now + half.clamp(Duration::from_secs(1), Duration::from_secs(LONGEST));
            }
            (State::Bound | State::Renewing { .. }, None) => self.restart(io.now),
        }
        None
    }

    /// Takes a message that came to the client's port.
    pub(crate) fn input(&mut self, io: &mut Io<'_>, link: Link, via: Mac, bytes: &[u8]) -> Option<Event> {
        let bytes = unfold(bytes);
        let parsed = DhcpPacket::new_checked(&bytes[..]).ok().filter(|p| p.options().count() <= 64);
        let Some(m) = parsed.as_ref().and_then(|p| DhcpRepr::parse(p).ok()) else {
            io.counters.malformed += 1;
            return None;
        };
        if m.transaction_id != self.xid || m.client_hardware_address != EthernetAddress(link.mac) {
            io.counters.unexpected += 1;
            return None;
        }
        let server = m.server_identifier.unwrap_or(m.server_ip);
        match (self.state, m.message_type) {
            (State::Selecting, DhcpMessageType::Offer) if self.tries > 0 && is_host(io, &m) => {
                self.state = State::Requesting { offer: m.your_ip, server };
                (self.tries, self.at) = (0, io.now);
                None
            }
            (State::Requesting { offer, server: chosen }, DhcpMessageType::Ack)
                if self.tries > 0 && offer == m.your_ip && server == chosen && is_host(io, &m) =>
            {
                self.bound(io, &m, server, via)
            }
            (State::Renewing { .. }, DhcpMessageType::Ack) if self.tries > 0 && is_host(io, &m) => {
                self.bound(io, &m, server, via)
            }
            (State::Requesting { server: chosen, .. }, DhcpMessageType::Nak)
                if self.tries > 0 && (server == chosen || server.is_unspecified()) =>
            {
                io.log.add(Level::Warn, || "the DHCP server refused the address: starting over".to_owned());
                io.counters.naks += 1;
                self.restart(io.now + Duration::from_secs(1));
                None
            }
            (State::Renewing { .. }, DhcpMessageType::Nak) => {
                io.log
                    .add(Level::Error, || "the DHCP server took the address back: starting over".to_owned());
                io.counters.naks += 1;
                self.lease = None;
                self.restart(io.now);
                Some(Event::Lost)
            }
            _ => {
                io.counters.unexpected += 1;
                None
            }
        }
    }

    fn bound(&mut self, io: &mut Io<'_>, m: &DhcpRepr<'_>, server: Ipv4Addr, via: Mac) -> Option<Event> {
        let address = m.your_ip;
        let prefix = prefix(m);
        let gateway = m.router.and_then(|g| gateway4(g, address, prefix).ok());
        let span = |s: u32| Duration::from_secs(u64::from(s.max(2)));
        let lease = m.lease_duration.filter(|&s| s != u32::MAX).map(span);
        // Without a lease time the address is asked about again every day.
        let life = lease.unwrap_or(Duration::from_secs(86_400));
        let t2 = m.rebind_duration.map(span).filter(|t| *t < life).unwrap_or(life / 8 * 7);
        let t1 = m.renew_duration.map(span).filter(|t| *t < t2).unwrap_or(life / 2);
        let lease = Lease {
            address,
            prefix,
            gateway,
            server,
            via,
            t1: io.now + t1,
            t2: io.now + t2,
            end: lease.map(|l| io.now + l),
        };
        io.log.add(Level::Info, || format!("Got IP address {address}"));
        io.log.add(Level::Debug, || format!("Got netmask /{prefix}"));
        if let Some(g) = gateway {
            io.log.add(Level::Info, || format!("Got default router {g}"));
        }
        if lease.end.is_some() {
            io.log.add(Level::Info, || format!("Lease expires in {} seconds", life.as_secs()));
        }
        self.state = State::Bound;
        (self.at, self.tries, self.told) = (lease.t1, 0, false);
        self.lease = Some(lease);
        Some(Event::Bound(lease))
    }

    fn message(&self, message_type: DhcpMessageType, mac: Mac) -> DhcpRepr<'static> {
        DhcpRepr {
            message_type,
            transaction_id: self.xid,
            secs: 0,
            client_hardware_address: EthernetAddress(mac),
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: true,
            requested_ip: None,
            client_identifier: Some(EthernetAddress(mac)),
            server_identifier: None,
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        }
    }
}

/// Where BOOTP's fields lie: `sname`, `file`, and the options behind the magic cookie (RFC 2131 2).
const SNAME: Range<usize> = 44..108;
const FILE: Range<usize> = 108..236;
const OPTIONS: usize = 240;

/// Moves options that overflow into `file` and `sname` to where options are (option overload, RFC 2132 9.3;
/// RFC 2131 4.1 has the order).
fn unfold(bytes: &[u8]) -> Cow<'_, [u8]> {
    let Some(area) = bytes.get(OPTIONS..) else { return bytes.into() };
    let overload = options(area).find(|(code, _)| *code == 52).and_then(|(_, value)| value.first().copied());
    let more: &[Range<usize>] = match overload {
        Some(1) => &[FILE],
        Some(2) => &[SNAME],
        Some(3) => &[FILE, SNAME],
        _ => return bytes.into(),
    };
    let mut whole = bytes[..OPTIONS].to_vec();
    for area in core::iter::once(area).chain(more.iter().map(|r| &bytes[r.clone()])) {
        for (code, value) in options(area) {
            whole.extend([code, value.len() as u8]);
            whole.extend(value);
        }
    }
    whole.push(255);
    whole.into()
}

/// The options of one area, up to its end or the first that is cut off.
fn options(mut area: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    core::iter::from_fn(move || {
        while let [0, rest @ ..] = area {
            area = rest;
        }
        let [code @ 1..=254, length, rest @ ..] = area else { return None };
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        area = rest;
        Some((*code, value))
    })
}

/// The network that a server names, or that the class of the address implies.
fn prefix(m: &DhcpRepr<'_>) -> u8 {
    match m.subnet_mask.map(u32::from) {
        Some(mask) if mask != 0 && mask.leading_ones() + mask.trailing_zeros() == 32 => {
            mask.leading_ones() as u8
        }
        _ => class_prefix(m.your_ip),
    }
}

/// Whether what a server gives can be the address of a host; says so if not.
fn is_host(io: &mut Io<'_>, m: &DhcpRepr<'_>) -> bool {
    let judged = host(m.your_ip.into(), prefix(m));
    if let Err(why) = judged {
        let address = m.your_ip;
        io.log.add(Level::Error, || format!("the DHCP server gives {address}, which {why}: not taken"));
    }
    judged.is_ok()
}

fn send(io: &mut Io<'_>, link: Link, m: &DhcpRepr<'_>, to: Option<(Mac, Ipv4Addr)>) {
    let mut bytes = [0; 548];
    let length = m.buffer_len();
    if m.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..length])).is_err() {
        return;
    }
    let (mac, dst) = to.unwrap_or((BROADCAST, Ipv4Addr::BROADCAST));
    let from = (IpAddr::V4(m.client_ip), CLIENT_PORT);
    io.out.udp(link, mac, from, (dst.into(), SERVER_PORT), &bytes[..length.max(SMALLEST)]);
}
