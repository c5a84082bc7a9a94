//! The DHCPv6 client of one interface (RFC 8415, addresses only).
//!
//! SOLICIT goes out again after 1, 2, 4, 8 s and so on up to two minutes. The first ADVERTISE with an address
//! is taken, its REQUEST goes out four times, and only the REPLY makes the addresses ours. RENEW at T1,
//! REBIND at T2; at the end of its lifetime an address is given up. A status that says that the server knows
//! nothing of us starts over.

mod message;

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use bus::Instant;

use message::{Address, Association, Message, Options, SUCCESS, Writer, kind, option};

use super::{Io, unicast6};
use crate::frame::{Link, group_mac};
use crate::log::Level;
use crate::neighbours::Mac;

pub(crate) const SERVER_PORT: u16 = 547;
pub(crate) const CLIENT_PORT: u16 = 546;
/// All servers and relays of the link.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Addresses of one lease.
pub(crate) const ADDRESSES: usize = 4;
const LONGEST: Duration = Duration::from_secs(120);
/// REQUESTs before starting over.
const REQUESTS: u32 = 4;
/// Longest DUID (RFC 8415 11.1).
const LONGEST_DUID: usize = 130;
/// What we ask for, as the original helper does: vendor class, vendor options, DNS servers.
const WANTED: [u16; 3] = [16, 17, 23];
/// Seconds without an answer after which we say so.
const SILENCE: Duration = Duration::from_secs(15);

/// An address and when it ends.
pub(crate) type Leased = (Ipv6Addr, Option<Instant>);

/// What the interface must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// These addresses are ours, and no other of this client's.
    Bound(Vec<Leased>),
    /// None is.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Soliciting,
    Requesting,
    Bound,
    Renewing,
    Rebinding,
}

/// The client.
#[derive(Debug)]
pub(crate) struct Client {
    state: State,
    server: Vec<u8>,
    leased: Vec<Leased>,
    offered: Vec<Ipv6Addr>,
    xid: [u8; 3],
    tries: u32,
    at: Instant,
    since: Instant,
    t2: Instant,
    told: bool,
}

impl Client {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            state: State::Soliciting,
            server: Vec::new(),
            leased: Vec::new(),
            offered: Vec::new(),
            xid: [0; 3],
            tries: 0,
            at: now,
            since: now,
            t2: now,
            told: false,
        }
    }

    pub(crate) fn next(&self) -> Instant {
        let end = self.leased.iter().filter_map(|l| l.1).min();
        Instant::earliest(Some(self.at), end).unwrap_or(self.at)
    }

    /// Nobody has answered for so long that it was said.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.told
    }

    /// The link was away: confirm what we have.
    pub(crate) fn confirm(&mut self, now: Instant) {
        let state = if self.leased.is_empty() { State::Soliciting } else { State::Rebinding };
        self.enter(state, now);
    }

    /// Somebody else has the address.
    pub(crate) fn decline(&mut self, io: &mut Io<'_>, link: Link, from: Ipv6Addr, address: Ipv6Addr) {
        self.offered = vec![address];
        self.leased.clear();
        self.send(io, link, from, kind::DECLINE);
        self.enter(State::Soliciting, io.now + Duration::from_secs(10));
    }

    fn enter(&mut self, state: State, at: Instant) {
        (self.state, self.tries, self.at, self.since) = (state, 0, at, at);
    }

    /// Sends what is due, from our link-local address.
    pub(crate) fn poll(&mut self, io: &mut Io<'_>, link: Link, from: Ipv6Addr) -> Option<Event> {
        let live = self.leased.len();
        self.leased.retain(|l| l.1.is_none_or(|end| io.now < end));
        if self.leased.len() < live {
            io.log.add(Level::Error, || "the DHCPv6 lease has expired: the address is given up".to_owned());
            if self.leased.is_empty() {
                self.enter(State::Soliciting, io.now);
                return Some(Event::Lost);
            }
            return Some(Event::Bound(self.leased.clone()));
        }
        if io.now < self.at {
            return None;
        }
        match self.state {
            State::Bound => self.enter(State::Renewing, io.now),
            State::Renewing if io.now >= self.t2 => self.enter(State::Rebinding, io.now),
            State::Requesting if self.tries == REQUESTS => self.enter(State::Soliciting, io.now),
            _ => {}
        }
        if self.tries == 0 {
            let x = io.rng.next_u64("dhcp6.xid").to_le_bytes();
            self.xid = [x[0], x[1], x[2]];
        }
        if self.state == State::Soliciting && !self.told && io.now.since(self.since) >= SILENCE {
            self.told = true;
            io.log.add(Level::Error, || "DHCPv6 failed: no server answers; still trying".to_owned());
        }
        let what = match self.state {
            State::Soliciting => kind::SOLICIT,
            State::Requesting => kind::REQUEST,
            State::Bound | State::Renewing => kind::RENEW,
            State::Rebinding => kind::REBIND,
        };
        self.send(io, link, from, what);
        // Renewals are not urgent: RFC 8415 begins them at ten seconds.
        let first = if matches!(self.state, State::Renewing | State::Rebinding) { 10 } else { 1 };
        let wait = Duration::from_secs(first << self.tries.min(7)).min(LONGEST);
        self.tries += 1;
        self.at = io.now + wait;
        if self.state == State::Renewing {
            self.at = self.at.min(self.t2.max(io.now + Duration::from_secs(1)));
        }
        None
    }

    /// Takes a datagram that came to the client's port.
    pub(crate) fn input(&mut self, io: &mut Io<'_>, link: Link, bytes: &[u8]) -> Option<Event> {
        let Some(m) = Message::parse(bytes) else {
            io.counters.malformed += 1;
            return None;
        };
        let ours = m.options.get(option::CLIENT_ID) == Some(&duid(link.mac)[..]);
        let server = m.options.get(option::SERVER_ID).filter(|id| (1..=LONGEST_DUID).contains(&id.len()));
        let server = server.unwrap_or_default();
        if m.xid != self.xid || self.tries == 0 || !ours || server.is_empty() {
            io.counters.unexpected += 1;
            return None;
        }
        let ia = association(m.options, link.mac);
        let refused = m.options.status() != SUCCESS || ia.is_some_and(|ia| ia.options.status() != SUCCESS);
        let addresses = ia.map(good_addresses).unwrap_or_default();
        match (self.state, m.kind) {
            (State::Soliciting, kind::ADVERTISE) if !refused && !addresses.is_empty() => {
                self.offered = addresses.iter().map(|a| a.ip).collect();
                self.server = server.to_vec();
                self.enter(State::Requesting, io.now);
                None
            }
            (State::Requesting | State::Renewing | State::Rebinding, kind::REPLY) => {
                if self.state != State::Rebinding && server != self.server {
                    io.counters.unexpected += 1;
                    return None;
                }
                if refused || addresses.is_empty() {
                    return self.refused(io);
                }
                let (Some(ia), now) = (ia, io.now) else { return None };
                let span = |s: u32| Duration::from_secs(u64::from(s));
                let shortest = addresses.iter().map(|a| a.preferred.min(a.valid)).min().unwrap_or(0).max(2);
                let t1 = if ia.t1 == 0 || ia.t1 > shortest { shortest / 2 } else { ia.t1 };
                let t2 = if ia.t2 <= t1 || ia.t2 > shortest { shortest / 5 * 4 } else { ia.t2 };
                self.leased = addresses
                    .iter()
                    .map(|a| (a.ip, (a.valid != u32::MAX).then(|| now + span(a.valid))))
                    .collect();
                for (address, _) in &self.leased {
                    io.log.add(Level::Info, || format!("Got IP address {address}"));
                }
                self.server = server.to_vec();
                self.enter(State::Bound, now + span(t1.max(1)));
                self.t2 = now + span(t2.max(t1).max(1));
                self.told = false;
                Some(Event::Bound(self.leased.clone()))
            }
            _ => {
                io.counters.unexpected += 1;
                None
            }
        }
    }

    fn refused(&mut self, io: &mut Io<'_>) -> Option<Event> {
        io.log.add(Level::Warn, || "the DHCPv6 server refused the address: starting over".to_owned());
        io.counters.naks += 1;
        let had = !self.leased.is_empty();
        self.leased.clear();
        self.enter(State::Soliciting, io.now + Duration::from_secs(1));
        had.then_some(Event::Lost)
    }

    fn send(&self, io: &mut Io<'_>, link: Link, from: Ipv6Addr, what: u8) {
        let mut m = Writer::new(what, self.xid);
        m.option(option::CLIENT_ID, |m| m.put(&duid(link.mac)));
        if matches!(what, kind::REQUEST | kind::RENEW | kind::DECLINE) {
            m.option(option::SERVER_ID, |m| m.put(&self.server));
        }
        let elapsed = io.now.since(self.since).as_millis() / 10;
        let elapsed = u16::try_from(elapsed).unwrap_or(u16::MAX);
        m.option(option::ELAPSED_TIME, |m| m.put(&elapsed.to_be_bytes()));
        m.option(option::IA_NA, |m| {
            m.put(&iaid(link.mac).to_be_bytes());
            // T1 and T2 are the server's to say.
            m.put(&[0; 8]);
            match what {
                kind::REQUEST | kind::DECLINE => self.offered.iter().for_each(|&ip| m.address(ip)),
                kind::RENEW | kind::REBIND => self.leased.iter().for_each(|l| m.address(l.0)),
                _ => {}
            }
        });
        m.option(option::ORO, |m| WANTED.iter().for_each(|code: &u16| m.put(&code.to_be_bytes())));
        let source = (IpAddr::V6(from), CLIENT_PORT);
        io.out.udp(link, group_mac(SERVERS), source, (SERVERS.into(), SERVER_PORT), &m.finish());
    }
}

/// A DUID made from the MAC alone: the same after every start, without a clock (RFC 8415 11.4).
fn duid(mac: Mac) -> Vec<u8> {
    [&[0, 3, 0, 1], &mac[..]].concat()
}

fn iaid(mac: Mac) -> u32 {
    u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]])
}

/// Our association.
fn association(options: Options<'_>, mac: Mac) -> Option<Association<'_>> {
    options.all(option::IA_NA).filter_map(Association::parse).find(|ia| ia.id == iaid(mac))
}

fn good_addresses(ia: Association<'_>) -> Vec<Address<'_>> {
    let all = ia.options.all(option::IA_ADDR).filter_map(Address::parse);
    let good = all.filter(|a| a.valid != 0 && unicast6(a.ip) && a.options.status() == SUCCESS);
    good.take(ADDRESSES).collect()
}
