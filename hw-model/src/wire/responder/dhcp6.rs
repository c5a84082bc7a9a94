//! The DHCPv6 server (RFC 8415), without memory: a client's address is made of the prefix and the MAC that asks.
//!
//! It never runs out and never has to refuse, since no two clients can mean the same address. Not modelled: several
//! addresses per client (each association gets the same one), prefix delegation, relays, authentication, Confirm,
//! rapid commit.

use std::net::Ipv6Addr;

use dhcproto::v6::{DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
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
        let Ok(question) = Message::decode(&mut Decoder::new(payload)) else { return };
        let mac = source_of(frame);
        let Some(answer) = reply(&question, mac).and_then(|m| m.to_vec().ok()) else { return };
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

fn reply(question: &Message, mac: [u8; 6]) -> Option<Message> {
    let options = question.opts();
    let kind = match question.msg_type() {
        MessageType::Solicit => MessageType::Advertise,
        MessageType::Request
        | MessageType::Renew
        | MessageType::Rebind
        | MessageType::Release
        | MessageType::Decline
        | MessageType::InformationRequest => MessageType::Reply,
        _ => return None,
    };
    if let Some(DhcpOption::ServerId(server)) = options.get(OptionCode::ServerId)
        && *server != server_id()
    {
        return None;
    }
    let mut answer = Message::new_with_id(kind, question.xid());
    let out = answer.opts_mut();
    out.insert(DhcpOption::ServerId(server_id()));
    if let Some(client @ DhcpOption::ClientId(_)) = options.get(OptionCode::ClientId) {
        out.insert(client.clone());
    }
    if !matches!(question.msg_type(), MessageType::Release | MessageType::Decline)
        && let Some(DhcpOption::IANA(asked)) = options.get(OptionCode::IANA)
    {
        out.insert(DhcpOption::IANA(association(asked.id, mac)));
    }
    Some(answer)
}

fn association(id: u32, mac: [u8; 6]) -> IANA {
    let mut opts = DhcpOptions::new();
    opts.insert(DhcpOption::IAAddr(IAAddr {
        addr: address(mac),
        preferred_life: LEASE_S,
        valid_life: LEASE_S,
        opts: DhcpOptions::new(),
    }));
    IANA { id, t1: LEASE_S / 2, t2: LEASE_S / 8 * 7, opts }
}
