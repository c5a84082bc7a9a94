//! Neighbour discovery (RFC 4861): solicitations for our addresses, what neighbours say of theirs, routers
//! and their prefixes, and addresses that somebody else has.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use bus::address::{NotHost, host};
use smoltcp::wire::{
    Icmpv6Repr, NdiscNeighborFlags, NdiscOption, NdiscOptionRepr, NdiscPrefixInfoFlags,
    NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags, RawHardwareAddress,
};

use super::{
    ALL_NODES, Address, Client, DEFENCE, Io, Origin, PREFIXES, Phase, Prefix, ROUTERS, Router, TWO_HOURS, V6,
    with_identifier,
};
use crate::frame::{Link, group_mac};
use crate::iface::{V6Mode, same_v6};
use crate::log::Level;
use crate::neighbours::Mac;

impl V6 {
    /// Takes a message of neighbour discovery. Returns whether addresses or routes changed.
    pub(super) fn discovery(
        &mut self,
        io: &mut Io<'_>,
        link: Link,
        iface: usize,
        (mac, from): (Mac, Ipv6Addr),
        nd: &NdiscRepr<'_>,
        options: &[u8],
    ) -> bool {
        let said = |l: &Option<RawHardwareAddress>| l.and_then(|l| Mac::try_from(l.as_bytes()).ok());
        match nd {
            NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
                let Some(i) = self.addresses.iter().position(|a| a.ip == *target_addr) else { return false };
                match self.addresses[i].phase {
                    Phase::Tentative { .. } if from.is_unspecified() => self.duplicate(io, link, i),
                    Phase::Usable if from.is_unspecified() => {
                        io.counters.arp_replies += 1;
                        advertise(
                            io,
                            link,
                            *target_addr,
                            *target_addr,
                            ALL_NODES,
                            group_mac(ALL_NODES),
                            false,
                        );
                        false
                    }
                    Phase::Usable => {
                        if let Some(mac) = said(lladdr) {
                            io.learned |= io.neighbours.learn(iface, from.into(), mac, io.now);
                        }
                        io.counters.arp_replies += 1;
                        advertise(io, link, *target_addr, *target_addr, from, mac, true);
                        false
                    }
                    _ => false,
                }
            }
            NdiscRepr::NeighborAdvert { flags, target_addr, lladdr } => {
                if let Some(i) = self.addresses.iter().position(|a| a.ip == *target_addr) {
                    if said(lladdr).unwrap_or(mac) == link.mac {
                        return false;
                    }
                    return self.duplicate(io, link, i);
                }
                let ip = IpAddr::V6(*target_addr);
                let new = said(lladdr).unwrap_or(mac);
                if target_addr.is_multicast() {
                    io.counters.malformed += 1;
                } else if flags.contains(NdiscNeighborFlags::SOLICITED) {
                    // Without OVERRIDE it only confirms what is known.
                    io.learned |= if flags.contains(NdiscNeighborFlags::OVERRIDE) {
                        io.neighbours.learn(iface, ip, new, io.now)
                    } else {
                        io.neighbours.heard(iface, ip, new, io.now)
                    };
                } else if io.neighbours.get(iface, ip, io.now).is_some() {
                    if flags.contains(NdiscNeighborFlags::OVERRIDE) {
                        io.learned |= io.neighbours.learn(iface, ip, new, io.now);
                    }
                } else if io.neighbours.was_asked(iface, ip, io.now) {
                    // RFC 4861 7.2.5: any advertisement ends the question, whatever its flags.
                    io.learned |= io.neighbours.learn(iface, ip, new, io.now);
                }
                false
            }
            NdiscRepr::RouterAdvert { router_lifetime, lladdr, flags, .. }
                if from.is_unicast_link_local() =>
            {
                self.solicit_at = None;
                if let Some(mac) = said(lladdr) {
                    io.learned |= io.neighbours.learn(iface, from.into(), mac, io.now);
                }
                let mut changed = self.router(io, from, router_lifetime.secs());
                let mut at = 0;
                while let Some(rest) = options.get(at..).filter(|r| !r.is_empty()) {
                    let Ok(option) = NdiscOption::new_checked(rest) else { break };
                    if let Ok(NdiscOptionRepr::PrefixInformation(p)) = NdiscOptionRepr::parse(&option) {
                        changed |= self.prefix(io, &p);
                    }
                    at += usize::from(option.data_len()).max(1) * 8;
                }
                let managed = flags.contains(NdiscRouterFlags::MANAGED);
                if managed && self.dhcp.is_none() && self.mode == V6Mode::Auto {
                    self.dhcp = Some(Client::new(io.now));
                }
                changed
            }
            _ => {
                io.counters.not_for_us += 1;
                false
            }
        }
    }

    fn router(&mut self, io: &mut Io<'_>, ip: Ipv6Addr, lifetime_s: u64) -> bool {
        if !self.learn_routers {
            return false;
        }
        let at = self.routers.iter().position(|r| r.ip == ip);
        let end = Some(io.now + Duration::from_secs(lifetime_s));
        match (at, lifetime_s) {
            (Some(i), 0) => {
                self.routers.remove(i);
                true
            }
            (None, 0) => false,
            (Some(i), _) => {
                self.routers[i].end = end;
                false
            }
            (None, _) if self.routers.len() < ROUTERS => {
                self.routers.push(Router { ip, end });
                io.log.add(Level::Info, || format!("Got default router {ip}"));
                true
            }
            (None, _) => false,
        }
    }

    /// Takes a prefix: on the link, for an address, or both.
    fn prefix(&mut self, io: &mut Io<'_>, p: &NdiscPrefixInformation) -> bool {
        let (bits, seconds) = (p.prefix_len, p.valid_lifetime.secs());
        if bits > 128
            || matches!(host(p.prefix.into(), 128), Err(why) if why != NotHost::Unspecified || bits != 0)
            || p.prefix.is_unicast_link_local()
            || p.preferred_lifetime > p.valid_lifetime
        {
            return false;
        }
        let end = (seconds != u64::from(u32::MAX)).then(|| io.now + Duration::from_secs(seconds));
        let mut changed = false;
        if p.flags.contains(NdiscPrefixInfoFlags::ON_LINK) {
            let known = self.prefixes.iter().position(|k| k.bits == bits && same_v6(k.ip, p.prefix, bits));
            match (known, seconds) {
                (Some(i), 0) if self.prefixes[i].end.is_some() => {
                    self.prefixes.remove(i);
                    changed = true;
                }
                (Some(i), _) if self.prefixes[i].end.is_some() => self.prefixes[i].end = end,
                (None, 1..) if self.prefixes.len() < PREFIXES => {
                    self.prefixes.push(Prefix { ip: p.prefix, bits, end });
                    changed = true;
                }
                _ => {}
            }
        }
        if p.flags.contains(NdiscPrefixInfoFlags::ADDRCONF)
            && bits == 64
            && !matches!(self.mode, V6Mode::Static { .. })
        {
            let ip = with_identifier(p.prefix, self.eui64);
            match self.addresses.iter_mut().find(|a| a.ip == ip) {
                Some(a) if a.origin == Origin::Router => {
                    let left = a.end.map_or(Duration::MAX, |e| e.since(io.now));
                    let asked = end.map_or(Duration::MAX, |e| e.since(io.now));
                    if asked > TWO_HOURS || asked > left {
                        a.end = end;
                    } else if left > TWO_HOURS {
                        a.end = Some(io.now + TWO_HOURS);
                    }
                }
                Some(_) => {}
                None if seconds != 0 => {
                    self.add(ip, Origin::Router, end, io.now);
                }
                None => {}
            }
        }
        changed
    }

    /// Somebody else has the address.
    fn duplicate(&mut self, io: &mut Io<'_>, link: Link, i: usize) -> bool {
        let Address { ip, origin, phase, .. } = self.addresses[i];
        io.counters.conflicts += 1;
        match phase {
            Phase::Tentative { .. } => {
                io.log.add(Level::Error, || format!("IP address {ip} is in use by somebody else"));
                if let (Origin::Dhcp, Some(from)) = (origin, self.link_local()) {
                    self.addresses.remove(i);
                    if let Some(c) = &mut self.dhcp {
                        c.decline(io, link, from, ip);
                    }
                } else {
                    self.addresses[i].phase = Phase::Duplicate;
                }
                true
            }
            Phase::Usable => {
                if self.defended.is_none_or(|t| io.now.since(t) >= DEFENCE) {
                    io.log.add(Level::Error, || format!("somebody else claims our IP address {ip}"));
                    self.defended = Some(io.now);
                    advertise(io, link, ip, ip, ALL_NODES, group_mac(ALL_NODES), false);
                }
                false
            }
            Phase::Duplicate => false,
        }
    }
}

/// Says to `to`, from `from`, that `target` is ours.
pub(super) fn advertise(
    io: &mut Io<'_>,
    link: Link,
    target: Ipv6Addr,
    from: Ipv6Addr,
    to: Ipv6Addr,
    mac: Mac,
    solicited: bool,
) {
    let mut flags = NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::SOLICITED, solicited);
    let lladdr = Some(RawHardwareAddress::from_bytes(&link.mac));
    let say = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr });
    io.out.icmp6(link, mac, from, to, 255, &say);
}
