//! What iscsid and iscsiadm say on the abstract socket (ISCSIUIO 9): one request, one response, a connection.
//!
//! A request is a header, an interface record as iscsid's C compiler lays it out on a 64-bit machine, and for
//! a ping the destination. Only the fields in [`field`] are looked at. Everything in a record is a claim:
//! strings may lack their end, addresses may be nonsense; a record that describes no usable interface is
//! refused with an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bus::address::host;
use thiserror::Error;

use crate::iface::{
    Addressing, BadIface, IfaceConfig, MTU, V6Mode, Vlan, address_and_prefix, class_prefix, gateway4,
};

/// Name of the abstract socket, without the NUL in front.
pub const SOCKET: &str = "ISCSID_UIP_ABSTRACT_NAMESPACE";
/// Bytes of a request's header.
pub const HEADER: usize = 8;
/// Bytes of an interface record.
pub const IFACE_REC: usize = 11_720;
/// Bytes of a GET_IFACE request.
pub const GET_IFACE_BYTES: usize = HEADER + IFACE_REC;
/// Bytes of a PING request.
pub const PING_BYTES: usize = HEADER + PING_PAYLOAD;
/// Bytes of a PING's payload: the record, a `sockaddr_storage`, an `int`.
pub const PING_PAYLOAD: usize = 11_852;
/// A longer payload is none.
pub const LARGEST_PAYLOAD: usize = 11_864;
/// Bytes of a response.
pub const RESPONSE: usize = 12;
/// Where a PING has its destination, from the start of the request.
pub const PING_DST: usize = 11_728;
/// Where a PING has its data length, from the start of the request.
pub const PING_LENGTH: usize = 11_856;

/// Fields of an interface record: offset and bytes.
pub mod field {
    /// Offset and bytes.
    pub type Field = (usize, usize);
    macro_rules! fields {
        ($($name:ident = $at:literal, $bytes:literal;)*) => {
            $(#[doc = concat!("Offset ", $at, ", ", $bytes, " bytes.")] pub const $name: Field = ($at, $bytes);)*
            /// All of them, by name.
            pub const ALL: &[(&str, Field)] = &[$((stringify!($name), $name)),*];
        };
    }
    fields! {
        NAME = 16, 65;
        IFACE_NUM = 84, 4;
        NETDEV = 88, 16;
        IPADDRESS = 104, 1025;
        SUBNET_MASK = 1129, 1025;
        GATEWAY = 2154, 1025;
        BOOTPROTO = 3179, 80;
        IPV6_LINKLOCAL = 3259, 1025;
        IPV6_ROUTER = 4284, 1025;
        IPV6_AUTOCFG = 5309, 1025;
        LINKLOCAL_AUTOCFG = 6334, 1025;
        ROUTER_AUTOCFG = 7359, 1025;
        PREFIX_LEN = 8384, 1;
        VLAN_ID = 8386, 2;
        VLAN_PRIORITY = 8388, 1;
        VLAN_STATE = 8389, 80;
        STATE = 8469, 80;
        MTU = 8550, 2;
        PORT = 8552, 2;
        HWADDRESS = 11172, 18;
        TRANSPORT_NAME = 11190, 16;
        ALIAS = 11206, 256;
        INAME = 11462, 256;
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Bring an interface up, or say whether it is.
    GetIface(IfaceRecord),
    /// Ping through an interface.
    Ping {
        /// The interface.
        iface: IfaceRecord,
        /// Whom.
        dst: Option<IpAddr>,
        /// Bytes of data; not positive: the default of the family.
        bytes: i32,
    },
    /// A command that nobody knows; it is answered with OK.
    Unknown(u32),
}

/// Why bytes are no request. There is no answer to them.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BadRequest {
    /// More bytes must come.
    #[error("the request is not complete")]
    Incomplete,
    /// It cannot be one.
    #[error("Data payload length too large ({0}). Corrupt payload?")]
    TooLarge(u32),
    /// The payload is not that of the command.
    #[error("command {command} with a payload of {bytes} bytes")]
    Length {
        /// Command.
        command: u32,
        /// Payload bytes.
        bytes: u32,
    },
}

/// `err` of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Ok = 0,
    /// It cannot be done.
    Err = 1,
    /// The interface is there.
    DeviceUp = 4,
    /// Ask again.
    DeviceInitializing = 5,
}

/// `ping_sc` of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingStatus {
    /// Answered.
    Success = 0,
    /// No answer in time.
    Timeout = 4,
    /// The destination is none.
    InvalidDestination = 5,
    /// More data than fits one frame.
    OversizePacket = 6,
    /// Nobody has the address, or the next hop's.
    NoArpReceived = 9,
    /// Too many pings at once.
    MaxReqExceeded = 8,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The command again.
    pub command: u32,
    /// How it went.
    pub outcome: Outcome,
    /// How a ping went.
    pub ping: PingStatus,
}

impl Response {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; RESPONSE] {
        let mut out = [0; RESPONSE];
        for (at, word) in [self.command, self.outcome as u32, self.ping as u32].into_iter().enumerate() {
            out[at * 4..][..4].copy_from_slice(&word.to_ne_bytes());
        }
        out
    }
}

/// GET_IFACE.
pub const GET_IFACE: u32 = 1;
/// PING.
pub const PING: u32 = 2;

impl Request {
    /// Its command.
    #[must_use]
    pub fn command(&self) -> u32 {
        match self {
            Self::GetIface(_) => GET_IFACE,
            Self::Ping { .. } => PING,
            Self::Unknown(c) => *c,
        }
    }

    /// Reads a request from what has arrived so far.
    ///
    /// # Errors
    /// [`BadRequest::Incomplete`]: read on. Others: close without an answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRequest> {
        let (Some(command), Some(length)) = (word(bytes, 0), word(bytes, 4)) else {
            return Err(BadRequest::Incomplete);
        };
        if length as usize > LARGEST_PAYLOAD {
            return Err(BadRequest::TooLarge(length));
        }
        let least = match command {
            GET_IFACE => IFACE_REC,
            PING => PING_PAYLOAD,
            _ => 0,
        };
        if (length as usize) < least {
            return Err(BadRequest::Length { command, bytes: length });
        }
        let Some(record) = bytes.get(HEADER..HEADER + length as usize) else {
            return Err(BadRequest::Incomplete);
        };
        Ok(match command {
            GET_IFACE => Self::GetIface(IfaceRecord::decode(record)),
            PING => Self::Ping {
                iface: IfaceRecord::decode(record),
                dst: bytes.get(PING_DST..PING_LENGTH).and_then(sockaddr),
                bytes: word(bytes, PING_LENGTH).map_or(0, u32::cast_signed),
            },
            other => Self::Unknown(other),
        })
    }
}

/// The part of an interface record that matters, as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IfaceRecord {
    /// Name of the record.
    pub name: String,
    /// Network device.
    pub netdev: String,
    /// Transport.
    pub transport: String,
    /// MAC address, as text.
    pub hwaddress: String,
    /// Address, perhaps with a prefix.
    pub ipaddress: String,
    subnet_mask: String,
    gateway: String,
    bootproto: String,
    ipv6_linklocal: String,
    ipv6_router: String,
    ipv6_autocfg: String,
    linklocal_autocfg: String,
    router_autocfg: String,
    prefix_len: u8,
    vlan_id: u16,
    vlan_priority: u8,
    vlan_state: String,
    mtu: u16,
}

impl IfaceRecord {
    /// Reads a record of at least [`IFACE_REC`] bytes.
    #[must_use]
    fn decode(rec: &[u8]) -> Self {
        let text = |(at, bytes): field::Field| {
            let raw = rec.get(at..at + bytes).unwrap_or_default();
            let end = raw.iter().position(|&b| b == 0).unwrap_or(raw.len());
            String::from_utf8_lossy(&raw[..end]).trim().to_owned()
        };
        let half = |(at, _): field::Field| {
            rec.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
        };
        let byte = |(at, _): field::Field| rec.get(at).copied().unwrap_or(0);
        Self {
            name: text(field::NAME),
            netdev: text(field::NETDEV),
            transport: text(field::TRANSPORT_NAME),
            hwaddress: text(field::HWADDRESS),
            ipaddress: text(field::IPADDRESS),
            subnet_mask: text(field::SUBNET_MASK),
            gateway: text(field::GATEWAY),
            bootproto: text(field::BOOTPROTO),
            ipv6_linklocal: text(field::IPV6_LINKLOCAL),
            ipv6_router: text(field::IPV6_ROUTER),
            ipv6_autocfg: text(field::IPV6_AUTOCFG),
            linklocal_autocfg: text(field::LINKLOCAL_AUTOCFG),
            router_autocfg: text(field::ROUTER_AUTOCFG),
            prefix_len: byte(field::PREFIX_LEN),
            vlan_id: half(field::VLAN_ID),
            vlan_priority: byte(field::VLAN_PRIORITY),
            vlan_state: text(field::VLAN_STATE),
            mtu: half(field::MTU),
        }
    }

    /// What the interface shall be.
    ///
    /// # Errors
    /// [`BadIface`] names the value that cannot be used.
    pub fn config(&self) -> Result<IfaceConfig, BadIface> {
        let vlan = match self.vlan_id {
            0 => None,
            _ if self.vlan_state == "disable" => None,
            id @ 1..=4094 => Some(Vlan { id, priority: self.vlan_priority & 7 }),
            other => return Err(BadIface::Vlan(other.into())),
        };
        Ok(IfaceConfig {
            name: self.name.clone(),
            vlan,
            mtu: Some(self.mtu).filter(|m| MTU.contains(m)),
            address: self.addressing()?,
        })
    }

    fn addressing(&self) -> Result<Addressing, BadIface> {
        let bare = self.ipaddress.split('/').next().unwrap_or_default();
        match bare.parse::<IpAddr>() {
            Ok(IpAddr::V4(a)) if a.is_unspecified() => Ok(Addressing::DhcpV4),
            Ok(IpAddr::V4(_)) => self.static_v4(),
            Ok(IpAddr::V6(a)) => self.v6(a),
            Err(_) if self.ipaddress.is_empty() && self.bootproto == "dhcp" => Ok(Addressing::DhcpV4),
            Err(_) if self.ipaddress.is_empty() => Err(BadIface::NoAddress),
            Err(_) => Err(BadIface::Value(self.ipaddress.clone(), "address")),
        }
    }

    /// The mask comes from the address's prefix, the subnet mask, or the class; a gateway outside of the
    /// network is ignored.
    fn static_v4(&self) -> Result<Addressing, BadIface> {
        let (IpAddr::V4(address), mut prefix) = address_and_prefix(&self.ipaddress)? else {
            return Err(BadIface::Value(self.ipaddress.clone(), "IPv4 address"));
        };
        if !self.ipaddress.contains('/') {
            let mask = self.subnet_mask.parse::<Ipv4Addr>().map(u32::from).unwrap_or(0);
            prefix = match mask {
                0 => class_prefix(address),
                m if m.leading_ones() + m.trailing_zeros() == 32 => m.leading_ones() as u8,
                _ => return Err(BadIface::Value(self.subnet_mask.clone(), "subnet mask")),
            };
            host(address.into(), prefix).map_err(|why| BadIface::NotHost(address.into(), why))?;
        }
        let gateway = self.gateway.parse::<Ipv4Addr>().ok();
        let gateway = gateway.and_then(|g| gateway4(g, address, prefix).ok());
        Ok(Addressing::StaticV4 { address, prefix, gateway })
    }

    fn v6(&self, address: Ipv6Addr) -> Result<Addressing, BadIface> {
        let mode = match self.ipv6_autocfg.as_str() {
            "dhcpv6" => V6Mode::Dhcp,
            "nd" if address.is_unspecified() || address.is_unicast_link_local() => V6Mode::Auto,
            _ if address.is_unspecified() => V6Mode::Dhcp,
            _ => {
                let (_, mut prefix) = address_and_prefix(&self.ipaddress)?;
                if !self.ipaddress.contains('/') && (1..=128).contains(&self.prefix_len) {
                    prefix = self.prefix_len;
                }
                V6Mode::Static { address, prefix }
            }
        };
        // `off`: what the record says counts, if it is an address.
        let given = |switch: &str, text: &str| {
            let a = text.parse::<Ipv6Addr>().ok().filter(|a| host((*a).into(), 128).is_ok());
            a.filter(|_| switch == "off")
        };
        let link_local =
            given(&self.linklocal_autocfg, &self.ipv6_linklocal).filter(Ipv6Addr::is_unicast_link_local);
        Ok(Addressing::V6 { mode, link_local, router: given(&self.router_autocfg, &self.ipv6_router) })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The address of a `sockaddr_in` or `sockaddr_in6`.
fn sockaddr(raw: &[u8]) -> Option<IpAddr> {
    let family = u16::from_ne_bytes(raw.get(..2)?.try_into().ok()?);
    match family {
        2 => <[u8; 4]>::try_from(raw.get(4..8)?).ok().map(IpAddr::from),
        10 => <[u8; 16]>::try_from(raw.get(8..24)?).ok().map(IpAddr::from),
        _ => None,
    }
}
