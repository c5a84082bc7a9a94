//! IPv4 of one interface: owning an address, ARP, and answering.
//!
//! Before an address is used it is probed for, as in RFC 5227 but faster ([`PROBES`] probes [`PROBE_GAP`]
//! apart), because a recovery waits for it; then it is announced. If somebody has it, a static address is not
//! used and tried again after 10 s, 20 s and so on up to 60 s; a leased one is declined. If somebody claims
//! an address in use, it is defended by one announcement in 10 s at most; a leased one is given up when a
//! second claim comes within these 10 s, a static one never, because sessions stand on it.

use std::net::Ipv4Addr;
use std::time::Duration;

use bus::Instant;
use smoltcp::wire::{ArpOperation, ArpRepr, Icmpv4Repr};

use super::dhcp4::{Client, Event};
use super::{Io, Ip4};
use crate::frame::{BROADCAST, Link};
use crate::log::Level;
use crate::neighbours::Mac;

/// Probes for an address before it is used.
pub(crate) const PROBES: u8 = 3;
/// Time after each probe.
pub(crate) const PROBE_GAP: Duration = Duration::from_millis(150);
/// Announcements of a new address, and the time between them.
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE_GAP: Duration = Duration::from_secs(2);
/// Between two defences of an address.
pub(crate) const DEFENCE: Duration = Duration::from_secs(10);
/// The longest time after a conflict before a static address is tried again.
const LONGEST: Duration = Duration::from_secs(60);

/// An address and what is around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Net {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) gateway: Option<Ipv4Addr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There is no address.
    Without,
    /// Asking whether anybody has it.
    Probing { sent: u8, at: Instant },
    /// Somebody has it.
    Conflict { until: Instant },
    /// It is ours.
    Owned { announced: u8, at: Instant },
}

/// IPv4 of one interface.
#[derive(Debug)]
pub(crate) struct V4 {
    net: Option<Net>,
    phase: Phase,
    dhcp: Option<Client>,
    backoff: Duration,
    defended: Option<Instant>,
}

impl V4 {
    pub(crate) fn fixed(net: Net, now: Instant) -> Self {
        let phase = Phase::Probing { sent: 0, at: now };
        Self { net: Some(net), phase, dhcp: None, backoff: Duration::ZERO, defended: None }
    }

    pub(crate) fn dhcp(now: Instant) -> Self {
        let dhcp = Some(Client::new(now));
        Self { net: None, phase: Phase::Without, dhcp, backoff: Duration::ZERO, defended: None }
    }

    /// The address, if it may be used.
    pub(crate) fn net(&self) -> Option<Net> {
        self.net.filter(|_| matches!(self.phase, Phase::Owned { .. }))
    }

    /// Whether somebody else has the address.
    pub(crate) fn conflict(&self) -> bool {
        matches!(self.phase, Phase::Conflict { .. })
    }

    /// The ring was opened again: who knows who learned what meanwhile.
    pub(crate) fn link_up(&mut self, now: Instant) {
        self.phase = match self.phase {
            Phase::Owned { .. } => Phase::Owned { announced: 0, at: now },
            Phase::Without => Phase::Without,
            _ => Phase::Probing { sent: 0, at: now },
        };
        if let Some(c) = &mut self.dhcp {
            c.confirm(now);
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Without => None,
            Phase::Probing { at, .. } => Some(at),
            Phase::Conflict { until } => Some(until),
            Phase::Owned { announced, at } => (announced < ANNOUNCEMENTS).then_some(at),
        };
        Instant::earliest(phase, self.dhcp.as_ref().map(Client::next))
    }

    /// Does what is due. Returns whether the usable address changed.
    pub(crate) fn poll(&mut self, io: &mut Io<'_>, link: Link) -> bool {
        let before = self.net();
        if let Some(c) = &mut self.dhcp
            && let Some(event) = c.poll(io, link)
        {
            self.apply(io, event);
        }
        if let Some(net) = self.net {
            self.advance(io, link, net);
        }
        before != self.net()
    }

    fn advance(&mut self, io: &mut Io<'_>, link: Link, net: Net) {
        match self.phase {
            Phase::Probing { sent, at } if io.now >= at && sent < PROBES => {
                // A probe says nothing about us: the sender's address is empty.
                let target = ([0; 6], net.address);
                io.out.arp(link, BROADCAST, ArpOperation::Request, Ipv4Addr::UNSPECIFIED, target);
                self.phase = Phase::Probing { sent: sent + 1, at: io.now + PROBE_GAP };
            }
            Phase::Probing { at, .. } if io.now >= at => {
                let Net { address, prefix, .. } = net;
                io.log.add(Level::Info, || format!("Using IP address: {address}"));
                io.log.add(Level::Debug, || format!("Using netmask: /{prefix}"));
                self.backoff = Duration::ZERO;
                self.phase = Phase::Owned { announced: 0, at: io.now };
                self.advance(io, link, net);
            }
            Phase::Conflict { until } if io.now >= until => {
                self.phase = Phase::Probing { sent: 0, at: io.now };
                self.advance(io, link, net);
            }
            Phase::Owned { announced, at } if announced < ANNOUNCEMENTS && io.now >= at => {
                announce(io, link, net.address);
                self.phase = Phase::Owned { announced: announced + 1, at: io.now + ANNOUNCE_GAP };
            }
            _ => {}
        }
    }

    fn apply(&mut self, io: &mut Io<'_>, event: Event) {
        match event {
            Event::Bound(l) => {
                let net = Net { address: l.address, prefix: l.prefix, gateway: l.gateway };
                let same = self.net.is_some_and(|n| n.address == net.address);
                self.net = Some(net);
                if !same || !matches!(self.phase, Phase::Owned { .. }) {
                    self.phase = Phase::Probing { sent: 0, at: io.now };
                }
            }
            Event::Lost => (self.net, self.phase) = (None, Phase::Without),
        }
    }

    /// Takes a DHCP message. Returns whether the usable address changed.
    pub(crate) fn dhcp_input(&mut self, io: &mut Io<'_>, link: Link, via: Mac, bytes: &[u8]) -> bool {
        let before = self.net();
        if let Some(event) = self.dhcp.as_mut().and_then(|c| c.input(io, link, via, bytes)) {
            self.apply(io, event);
        }
        before != self.net()
    }

    pub(crate) fn wants_dhcp(&self) -> bool {
        self.dhcp.is_some()
    }

    /// Judges an ARP packet and answers it. Returns whether the usable address changed.
    pub(crate) fn arp(&mut self, io: &mut Io<'_>, link: Link, iface: usize, arp: &ArpRepr) -> bool {
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr: from,
            target_hardware_addr,
            target_protocol_addr: target,
        } = *arp
        else {
            return false;
        };
        let Some(net) = self.net else { return false };
        let mac = source_hardware_addr.0;
        if mac == link.mac {
            return false;
        }
        let probing = matches!(self.phase, Phase::Probing { .. });
        // Two that probe for the same address at the same time see each other's probes.
        let probed = probing
            && from.is_unspecified()
            && target == net.address
            && operation == ArpOperation::Request
            && target_hardware_addr.0 == [0; 6];
        if from == net.address || probed {
            return self.claimed(io, link, net, mac);
        }
        let owned = self.net().is_some();
        let for_us = owned && target == net.address;
        let known = io.neighbours.get(iface, from.into(), io.now).is_some();
        let asked = io.neighbours.was_asked(iface, from.into(), io.now);
        if known || asked || for_us && !from.is_unspecified() && super::same_net(net, from) {
            io.learned |= io.neighbours.learn(iface, from.into(), mac, io.now);
        }
        if for_us && operation == ArpOperation::Request {
            io.out.arp(link, mac, ArpOperation::Reply, net.address, (mac, from));
            io.counters.arp_replies += 1;
        }
        false
    }

    /// Somebody else says that the address is theirs.
    fn claimed(&mut self, io: &mut Io<'_>, link: Link, net: Net, mac: Mac) -> bool {
        let [a, b, c, d, e, f] = mac;
        let who = move || format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        io.counters.conflicts += 1;
        match self.phase {
            Phase::Owned { .. } => {
                let again = self.defended.is_some_and(|t| io.now.since(t) < DEFENCE);
                if !again {
                    io.log.add(Level::Error, || format!("{} claims our IP address {}", who(), net.address));
                    self.defended = Some(io.now);
                    announce(io, link, net.address);
                    return false;
                }
                let Some(client) = &mut self.dhcp else { return false };
                io.log.add(Level::Error, || {
                    format!("{} keeps our IP address {}: given up", who(), net.address)
                });
                client.decline(io, link);
                (self.net, self.phase) = (None, Phase::Without);
                true
            }
            Phase::Probing { .. } => {
                io.log.add(Level::Error, || format!("IP address {} is in use by {}", net.address, who()));
                if let Some(client) = &mut self.dhcp {
                    client.decline(io, link);
                    (self.net, self.phase) = (None, Phase::Without);
                } else {
                    self.backoff = (self.backoff + DEFENCE).min(LONGEST);
                    self.phase = Phase::Conflict { until: io.now + self.backoff };
                }
                false
            }
            _ => false,
        }
    }

    /// Answers an echo request.
    pub(crate) fn echo(&self, io: &mut Io<'_>, link: Link, to: Mac, ip: &Ip4<'_>, icmp: &Icmpv4Repr<'_>) {
        if let (Some(net), Icmpv4Repr::EchoRequest { ident, seq_no, data }) = (self.net(), icmp) {
            let reply = Icmpv4Repr::EchoReply { ident: *ident, seq_no: *seq_no, data };
            io.out.echo4(link, to, net.address, ip.from, &reply);
            io.counters.echo_replies += 1;
        }
    }
}

fn announce(io: &mut Io<'_>, link: Link, address: Ipv4Addr) {
    io.out.arp(link, BROADCAST, ArpOperation::Request, address, ([0; 6], address));
}
