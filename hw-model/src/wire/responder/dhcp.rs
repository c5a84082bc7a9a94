//! The DHCPv4 server (RFC 2131): a pool of [`LEASES`] addresses, one per client hardware address.
//!
//! A client keeps its address, also across its own restarts, until the lease has ended and somebody else
//! wants it. Not modelled: client identifiers other than the hardware address, relays, BOOTP.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use bus::Instant;
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};

use super::{FIRST_LEASE, LEASES, MASK_BITS, ROUTER, Responder, emit_udp4, source_of, udp4_len};
use crate::ether::Ip;

pub(super) const SERVER: u16 = 67;
const CLIENT: u16 = 68;
/// How long an address is kept for whom it was offered.
const OFFER: Duration = Duration::from_secs(60);
/// RFC 2131 4.1: what every client can take.
const SHORTEST: usize = 300;

/// Who has an address, and until when.
#[derive(Clone, Copy, Debug)]
struct Lease {
    /// Offset from the first address of the pool.
    offset: usize,
    until: Instant,
}

/// The pool.
#[derive(Debug)]
pub(super) struct Leases {
    /// How long a lease holds, in seconds.
    seconds: u32,
    held: BTreeMap<[u8; 6], Lease>,
    /// Addresses that a client found in use, until then.
    declined: BTreeMap<usize, Instant>,
}

/// What a message is answered with.
enum Verdict {
    Give(DhcpMessageType, Ipv4Addr),
    /// Parameters only (INFORM).
    Inform,
    Refuse,
    Exhausted,
    Nothing,
}

fn address(offset: usize) -> Ipv4Addr {
    (u32::from(FIRST_LEASE) + offset as u32).into()
}

fn offset_of(address: Ipv4Addr) -> Option<usize> {
    let offset = u32::from(address).checked_sub(FIRST_LEASE.into())? as usize;
    (offset < LEASES).then_some(offset)
}

impl Leases {
    pub(super) fn new(seconds: u32) -> Self {
        Self { seconds, held: BTreeMap::new(), declined: BTreeMap::new() }
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// Nobody keeps its address: each is as good as declined.
    pub(super) fn take_back(&mut self, now: Instant) {
        let until = now + self.time();
        let held = std::mem::take(&mut self.held);
        self.declined.extend(held.into_values().map(|l| (l.offset, until)));
    }

    fn is_free(&self, now: Instant, client: [u8; 6], offset: usize) -> bool {
        let held = self.held.iter().any(|(mac, l)| l.offset == offset && *mac != client && l.until > now);
        !held && self.declined.get(&offset).is_none_or(|&until| until <= now)
    }

    fn hold(&mut self, now: Instant, client: [u8; 6], offset: usize, time: Duration) {
        // Whoever had it before has lost it.
        self.held.retain(|_, l| l.offset != offset);
        self.held.insert(client, Lease { offset, until: now + time });
    }

    /// The address to offer: the one the client has or had, the one it asks for, the first free one.
    fn offer(&mut self, now: Instant, client: [u8; 6], wish: Option<Ipv4Addr>) -> Verdict {
        let own = self.held.get(&client).map(|l| l.offset);
        let wish = wish.and_then(offset_of);
        let found = own.into_iter().chain(wish).chain(0..LEASES).find(|&o| self.is_free(now, client, o));
        let Some(offset) = found else { return Verdict::Exhausted };
        let bound = self.held.get(&client).is_some_and(|l| l.offset == offset && l.until > now + OFFER);
        if !bound {
            self.hold(now, client, offset, OFFER);
        }
        Verdict::Give(DhcpMessageType::Offer, address(offset))
    }

    fn request(&mut self, now: Instant, client: [u8; 6], m: &DhcpRepr<'_>) -> Verdict {
        if m.server_identifier.is_some_and(|server| server != ROUTER) {
            // It has taken another server's offer.
            self.held.remove(&client);
            return Verdict::Nothing;
        }
        let asked = m.requested_ip.unwrap_or(m.client_ip);
        match offset_of(asked) {
            Some(offset) if self.is_free(now, client, offset) => {
                self.hold(now, client, offset, self.time());
                Verdict::Give(DhcpMessageType::Ack, asked)
            }
            _ => Verdict::Refuse,
        }
    }

    fn answer(&mut self, now: Instant, client: [u8; 6], m: &DhcpRepr<'_>) -> Verdict {
        match m.message_type {
            DhcpMessageType::Discover => self.offer(now, client, m.requested_ip),
            DhcpMessageType::Request => self.request(now, client, m),
            DhcpMessageType::Inform => Verdict::Inform,
            DhcpMessageType::Decline => {
                if let Some(lease) = self.held.remove(&client) {
                    self.declined.insert(lease.offset, now + self.time());
                }
                Verdict::Nothing
            }
            DhcpMessageType::Release => {
                self.held.remove(&client);
                Verdict::Nothing
            }
            _ => Verdict::Nothing,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

impl Responder {
    /// A UDP datagram over IPv4.
    pub(super) fn dhcp(&mut self, now: Instant, frame: &[u8], ip: &Ip) {
        let Some(payload) = self.datagram(frame, ip, SERVER) else { return };
        let Ok(packet) = DhcpPacket::new_checked(payload) else { return };
        let Ok(m) = DhcpRepr::parse(&packet) else { return };
        let relayed = !m.relay_agent_ip.is_unspecified();
        if relayed || !m.client_hardware_address.is_unicast() {
            return;
        }
        let (kind, given) = match self.leases.answer(now, m.client_hardware_address.0, &m) {
            Verdict::Give(kind, given) => (kind, given),
            Verdict::Inform => (DhcpMessageType::Ack, Ipv4Addr::UNSPECIFIED),
            Verdict::Refuse => {
                self.counters.dhcp_refused += 1;
                (DhcpMessageType::Nak, Ipv4Addr::UNSPECIFIED)
            }
            Verdict::Exhausted => {
                self.counters.dhcp_exhausted += 1;
                return;
            }
            Verdict::Nothing => return,
        };
        let answer = reply(&m, kind, given, self.leases.seconds);
        // RFC 2131 4.1: to the address that the client has, to all if it wants that or is refused, or to the
        // one it gets.
        let to = match m.client_ip {
            _ if kind == DhcpMessageType::Nak => Ipv4Addr::BROADCAST,
            has if !has.is_unspecified() => has,
            _ if m.broadcast => Ipv4Addr::BROADCAST,
            _ => given,
        };
        let mac = if to.is_broadcast() { EthernetAddress::BROADCAST.0 } else { source_of(frame) };
        let mut message = vec![0; answer.buffer_len().max(SHORTEST)];
        if answer.emit(&mut DhcpPacket::new_unchecked(&mut message[..])).is_err() {
            return;
        }
        let macs = [Self::mac_of(ROUTER.octets()), mac];
        let sent = self.answer(frame, ip, macs, udp4_len(message.len()), |out| {
            emit_udp4(out, [(ROUTER, SERVER), (to, CLIENT)], &message);
        });
        self.counters.dhcp += u64::from(sent);
    }
}

fn reply<'a>(m: &DhcpRepr<'_>, kind: DhcpMessageType, given: Ipv4Addr, seconds: u32) -> DhcpRepr<'a> {
    let refused = kind == DhcpMessageType::Nak;
    let lease = (!refused && !given.is_unspecified()).then_some(seconds);
    DhcpRepr {
        message_type: kind,
        transaction_id: m.transaction_id,
        secs: 0,
        client_hardware_address: m.client_hardware_address,
        client_ip: if refused { Ipv4Addr::UNSPECIFIED } else { m.client_ip },
        your_ip: given,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: (!refused).then_some(ROUTER),
        subnet_mask: (!refused).then(|| (u32::MAX << (32 - MASK_BITS)).into()),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: m.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(ROUTER),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: lease,
        renew_duration: lease.map(|s| s / 2),
        rebind_duration: lease.map(|s| s / 8 * 7),
        additional_options: &[],
    }
}
