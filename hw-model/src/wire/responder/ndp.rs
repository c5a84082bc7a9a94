//! Neighbour discovery (RFC 4861): every neighbour exists, and one router advertises a prefix.
//!
//! The advertisement says that addresses may be made of the prefix (A) and had from DHCPv6 as well (M, O):
//! hosts may do as they are configured.

use std::net::Ipv6Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Duration;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, NdiscNeighborFlags, NdiscPrefixInfoFlags,
    NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags,
};

use super::{PREFIX, ROUTER_V6, Responder, TTL, addresses_v6, emit_ipv6, source_of};
use crate::ether::Ip;

const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
/// What has crossed no router has it.
const ON_LINK: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// RFC 4861 6.2.1: AdvDefaultLifetime, AdvValidLifetime and AdvPreferredLifetime.
const ROUTER_LIFETIME: Duration = Duration::from_secs(1800);
const VALID: Duration = Duration::from_secs(2_592_000);
const PREFERRED: Duration = Duration::from_secs(604_800);

impl Responder {
    /// An ICMPv6 message with a right checksum.
    pub(super) fn discovery(&mut self, frame: &[u8], ip: &Ip) {
        if frame[ip.l3 + 7] != ON_LINK || frame[ip.l4 + 1] != 0 {
            return;
        }
        match frame[ip.l4] {
            ROUTER_SOLICITATION => self.router(frame, ip),
            NEIGHBOUR_SOLICITATION => self.neighbour(frame, ip),
            _ => {}
        }
    }

    fn neighbour(&mut self, frame: &[u8], ip: &Ip) {
        let Some(target) = frame[..ip.end].get(ip.l4 + 8..).and_then(|b| b.first_chunk::<16>()) else {
            return;
        };
        let (target, [host, _]) = (Ipv6Addr::from(*target), addresses_v6(frame, ip));
        // Without a source it is the host's own address that it checks.
        if host.is_unspecified() || host.is_multicast() || target.is_multicast() || host == target {
            return;
        }
        let mac = Self::mac_of_v6(target);
        let repr = NdiscRepr::NeighborAdvert {
            flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
            target_addr: target,
            lladdr: Some(EthernetAddress(mac).into()),
        };
        self.counters.neighbours += u64::from(self.advertise(frame, ip, mac, [target, host], repr));
    }

    fn router(&mut self, frame: &[u8], ip: &Ip) {
        let [host, _] = addresses_v6(frame, ip);
        if host.is_multicast() {
            return;
        }
        let mac = Self::mac_of_v6(ROUTER_V6);
        let repr = NdiscRepr::RouterAdvert {
            hop_limit: TTL,
            flags: NdiscRouterFlags::MANAGED | NdiscRouterFlags::OTHER,
            router_lifetime: ROUTER_LIFETIME,
            reachable_time: Duration::ZERO,
            retrans_time: Duration::ZERO,
            lladdr: Some(EthernetAddress(mac).into()),
            mtu: None,
            prefix_info: Some(NdiscPrefixInformation {
                prefix_len: 64,
                flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
                valid_lifetime: VALID,
                preferred_lifetime: PREFERRED,
                prefix: PREFIX,
            }),
        };
        let to = if host.is_unspecified() { ALL_NODES } else { host };
        self.counters.routers += u64::from(self.advertise(frame, ip, mac, [ROUTER_V6, to], repr));
    }

    fn advertise(
        &mut self,
        frame: &[u8],
        ip: &Ip,
        mac: [u8; 6],
        [from, to]: [Ipv6Addr; 2],
        repr: NdiscRepr<'_>,
    ) -> bool {
        let destination = if to == ALL_NODES { [0x33, 0x33, 0, 0, 0, 1] } else { source_of(frame) };
        let repr = Icmpv6Repr::Ndisc(repr);
        let bytes = repr.buffer_len();
        self.answer(frame, ip, [mac, destination], 40 + bytes, |out| {
            let message = emit_ipv6(out, [from, to], IpProtocol::Icmpv6, bytes, ON_LINK);
            repr.emit(
                &from,
                &to,
                &mut Icmpv6Packet::new_unchecked(message),
                &ChecksumCapabilities::default(),
            );
        })
    }
}
