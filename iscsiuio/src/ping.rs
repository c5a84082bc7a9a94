//! `ping` through an interface (ISCSIUIO 9.1): find the next hop, send one echo request, wait ten seconds.

use std::net::IpAddr;
use std::time::Duration;

use bus::Instant;
use smoltcp::wire::{Icmpv4Repr, Icmpv6Repr};

use crate::frame::{Out, echo_headers};
use crate::ipc::PingStatus;
use crate::neighbours::Neighbours;
use crate::stack::{EchoReply, Stack};

/// Pings at once.
pub const PINGS: usize = 8;
/// Solicitations of the next hop, and the time after each.
const TRIES: u8 = 4;
const TRY_GAP: Duration = Duration::from_secs(2);
/// How long a reply may take.
const REPLY: Duration = Duration::from_secs(10);

/// Names a ping until its end is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub(crate) u64);

#[derive(Clone, Copy, Debug)]
enum State {
    Asking { tries: u8, at: Instant },
    Sent { until: Instant, iface: usize },
    Done(PingStatus),
}

#[derive(Debug)]
struct Ping {
    ticket: u64,
    dst: IpAddr,
    vlan: u16,
    bytes: usize,
    id: u16,
    state: State,
}

/// The pings of one NIC.
#[derive(Debug, Default)]
pub(crate) struct Pings {
    all: Vec<Ping>,
    tickets: u64,
}

impl Pings {
    /// Starts one. `mtu` is that of the interface.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        id: u16,
        dst: IpAddr,
        vlan: u16,
        bytes: i32,
        mtu: u16,
    ) -> Result<Ticket, PingStatus> {
        let default = if dst.is_ipv4() { 32 } else { 16 };
        let bytes = usize::try_from(bytes).ok().filter(|&b| b != 0).unwrap_or(default);
        if bytes >= usize::from(mtu).saturating_sub(echo_headers(dst.is_ipv6())) {
            return Err(PingStatus::OversizePacket);
        }
        if dst.is_multicast() || dst.is_unspecified() {
            return Err(PingStatus::InvalidDestination);
        }
        if self.all.len() == PINGS {
            return Err(PingStatus::MaxReqExceeded);
        }
        self.tickets += 1;
        let (ticket, state) = (self.tickets, State::Asking { tries: 0, at: now });
        self.all.push(Ping { ticket, dst, vlan, bytes, id, state });
        Ok(Ticket(ticket))
    }

    /// Takes the end of a ping. `None`: it is still running.
    pub(crate) fn take(&mut self, ticket: Ticket) -> Option<PingStatus> {
        let Some(i) = self.all.iter().position(|p| p.ticket == ticket.0) else {
            return Some(PingStatus::Timeout);
        };
        match self.all[i].state {
            State::Done(status) => {
                self.all.swap_remove(i);
                Some(status)
            }
            _ => None,
        }
    }

    /// Nobody waits for it any more.
    pub(crate) fn cancel(&mut self, ticket: Ticket) {
        self.all.retain(|p| p.ticket != ticket.0);
    }

    /// The interface is down.
    pub(crate) fn fail(&mut self) {
        for p in &mut self.all {
            if !matches!(p.state, State::Done(_)) {
                p.state = State::Done(PingStatus::Timeout);
            }
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        let due = self.all.iter().filter_map(|p| match p.state {
            State::Asking { at, .. } => Some(at),
            State::Sent { until, .. } => Some(until),
            State::Done(_) => None,
        });
        due.min()
    }

    pub(crate) fn reply(&mut self, reply: &EchoReply) {
        for p in &mut self.all {
            if let State::Sent { iface, .. } = p.state
                && (iface, p.dst, p.id, 1) == (reply.iface, reply.from, reply.id, reply.sequence)
            {
                p.state = State::Done(PingStatus::Success);
            }
        }
    }

    pub(crate) fn poll(&mut self, now: Instant, stack: &Stack, neighbours: &mut Neighbours, out: &mut Out) {
        for p in &mut self.all {
            p.state = match p.state {
                State::Asking { tries, at } => p.ask(now, (tries, at), stack, neighbours, out),
                State::Sent { until, .. } if now >= until => State::Done(PingStatus::Timeout),
                other => other,
            };
        }
    }
}

impl Ping {
    fn ask(
        &self,
        now: Instant,
        (tries, at): (u8, Instant),
        stack: &Stack,
        neighbours: &mut Neighbours,
        out: &mut Out,
    ) -> State {
        let Some(route) = stack.route(self.dst, self.vlan) else {
            return State::Done(PingStatus::NoArpReceived);
        };
        let known = neighbours.get(route.iface, route.hop, now);
        let link = stack.link_of(route.iface);
        if let (Some((mac, _)), Some(link)) = (known, link) {
            let data = [b'A'; crate::ring::LARGEST_TX];
            let data = &data[..self.bytes];
            match (route.source, self.dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => {
                    let echo = Icmpv4Repr::EchoRequest { ident: self.id, seq_no: 1, data };
                    out.echo4(link, mac, s, d, &echo);
                }
                (IpAddr::V6(s), IpAddr::V6(d)) => {
                    let echo = Icmpv6Repr::EchoRequest { ident: self.id, seq_no: 1, data };
                    out.icmp6(link, mac, s, d, 64, &echo);
                }
                _ => {}
            }
            return State::Sent { until: now + REPLY, iface: route.iface };
        }
        if now < at {
            return State::Asking { tries, at };
        }
        if tries == TRIES {
            return State::Done(PingStatus::NoArpReceived);
        }
        stack.solicit(out, neighbours, now, route, None);
        State::Asking { tries: tries + 1, at: now + TRY_GAP }
    }
}
