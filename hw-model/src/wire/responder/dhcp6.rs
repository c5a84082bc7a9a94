//! The DHCPv6 server (RFC 8415), without memory: a client's address is made of the prefix and the MAC that
//! asks.
//!
//! It never runs out and never has to refuse, since no two clients can mean the same address. Not modelled:
//! several addresses per client (each association gets the same one), prefix delegation, relays,
//! authentication, Confirm, rapid commit.

use std::net::Ipv6Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, UdpPacket, UdpRepr};

use super::{LEASE_S, PREFIX, ROUTER_V6, Responder, TTL, addresses_v6, emit_ipv6, source_of};
use crate::ether::Ip;

const SERVER: u16 = 547;
const CLIENT: u16 = 546;
/// DUID-LL (RFC 8415 11.4) of hardware type Ethernet, before the MAC.
const DUID_LL: [u8; 4] = [0, 3, 0, 1];
/// Longest message that is looked at: an option list is bounded by it.
const LONGEST: usize = 1232;

// Message types and options (RFC 8415 7.3, 24).
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION_REQUEST: u8 = 11;
const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_ADDR: u16 = 5;

/// The address of who has that MAC.
fn address(mac: [u8; 6]) -> Ipv6Addr {
    let mut octets = PREFIX.octets();
    // Not the form of an address that a host makes itself: that has ff:fe in its middle.
    octets[8..10].copy_from_slice(&[0xdc, 0x06]);
    octets[10..].copy_from_slice(&mac);
    octets.into()
}

fn server_id() -> Vec<u8> {
    [&DUID_LL[..], &Responder::mac_of_v6(ROUTER_V6)].concat()
}

impl Responder {
    /// A UDP datagram over IPv6.
    pub(super) fn dhcpv6(&mut self, frame: &[u8], ip: &Ip) {
        let Some(payload) = self.datagram(frame, ip, SERVER).filter(|p| p.len() <= LONGEST) else { return };
        let [host, _] = addresses_v6(frame, ip);
        if host.is_unspecified() || host.is_multicast() {
            return;
        }
        let mac = source_of(frame);
        let Some(answer) = reply(payload, mac) else { return };
        let bytes = 8 + answer.len();
        let macs = [Self::mac_of_v6(ROUTER_V6), mac];
        let sent = self.answer(frame, ip, macs, 40 + bytes, |out| {
            let datagram = emit_ipv6(out, [ROUTER_V6, host], IpProtocol::Udp, bytes, TTL);
            UdpRepr { src_port: SERVER, dst_port: CLIENT }.emit(
                &mut UdpPacket::new_unchecked(datagram),
                &ROUTER_V6.into(),
                &host.into(),
                answer.len(),
                |b| b.copy_from_slice(&answer),
                &ChecksumCapabilities::default(),
            );
        });
        self.counters.dhcp += u64::from(sent);
    }
}

/// The answer to a question, if it is one, is whole and is for us.
fn reply(question: &[u8], mac: [u8; 6]) -> Option<Vec<u8>> {
    let (&[kind, x, y, z], options) = question.split_first_chunk::<4>()?;
    let answer = match kind {
        SOLICIT => ADVERTISE,
        REQUEST | RENEW | REBIND | RELEASE | DECLINE | INFORMATION_REQUEST => REPLY,
        _ => return None,
    };
    let (mut client, mut server, mut asked) = (None, None, None);
    let mut rest = options;
    while !rest.is_empty() {
        let (&[a, b, c, d], more) = rest.split_first_chunk::<4>()?;
        let (value, more) = more.split_at_checked(u16::from_be_bytes([c, d]).into())?;
        rest = more;
        let slot = match u16::from_be_bytes([a, b]) {
            CLIENT_ID => &mut client,
            SERVER_ID => &mut server,
            IA_NA => &mut asked,
            _ => continue,
        };
        slot.get_or_insert(value);
    }
    if server.is_some_and(|id| id != server_id()) {
        return None;
    }
    let mut out = vec![answer, x, y, z];
    put(&mut out, SERVER_ID, &server_id());
    if let Some(client) = client {
        put(&mut out, CLIENT_ID, client);
    }
    if !matches!(kind, RELEASE | DECLINE)
        && let Some(asked) = asked
    {
        // IAID, T1, T2, then the address with its lifetimes.
        let mut ia = asked.first_chunk::<4>()?.to_vec();
        [LEASE_S / 2, LEASE_S / 8 * 7].iter().for_each(|t| ia.extend(t.to_be_bytes()));
        let mut given = address(mac).octets().to_vec();
        [LEASE_S; 2].iter().for_each(|life| given.extend(life.to_be_bytes()));
        put(&mut ia, IA_ADDR, &given);
        put(&mut out, IA_NA, &ia);
    }
    Some(out)
}

/// Appends an option. No value is longer than the question.
fn put(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_be_bytes());
    out.extend((value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}
