//! What an interface shall be: decoded from iscsid's records or written on the command line.
//!
//! One interface has one address family, as iscsid's records do; a NIC may have several, told apart by family
//! and VLAN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use bus::address::{NotHost, host};
use thiserror::Error;

use crate::stack::INTERFACES;

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// 1 to 4094.
    pub id: u16,
    /// Priority code point, 0 to 7.
    pub priority: u8,
}

impl Vlan {
    /// Tag control information: the priority in bits 15..13, the id in 11..0.
    #[must_use]
    pub fn tci(self) -> u16 {
        u16::from(self.priority & 7) << 13 | self.id & 0xfff
    }
}

/// How an interface gets its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// DHCPv4.
    DhcpV4,
    /// A static IPv4 address.
    StaticV4 {
        /// The address.
        address: Ipv4Addr,
        /// Bits of the network.
        prefix: u8,
        /// Default gateway.
        gateway: Option<Ipv4Addr>,
    },
    /// IPv6: a link-local address, router advertisements, and what `mode` says.
    V6 {
        /// Where further addresses come from.
        mode: V6Mode,
        /// A link-local address in place of the one made from the MAC.
        link_local: Option<Ipv6Addr>,
        /// A default router in place of those that advertise themselves.
        router: Option<Ipv6Addr>,
    },
}

/// Where IPv6 addresses come from besides the link-local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V6Mode {
    /// Router advertisements.
    Auto,
    /// DHCPv6, and router advertisements.
    Dhcp,
    /// A static address, and router advertisements for the route.
    Static {
        /// The address.
        address: Ipv6Addr,
        /// Bits of the network.
        prefix: u8,
    },
}

impl Addressing {
    /// Whether it is IPv6.
    #[must_use]
    pub fn is_v6(&self) -> bool {
        matches!(self, Self::V6 { .. })
    }
}

/// The description of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfaceConfig {
    /// Its name in messages.
    pub name: String,
    /// Its VLAN.
    pub vlan: Option<Vlan>,
    /// Its MTU, if less than the path's counts.
    pub mtu: Option<u16>,
    /// How it gets its address.
    pub address: Addressing,
}

impl IfaceConfig {
    /// Whether `other` takes the place of this one: same family and VLAN.
    #[must_use]
    pub fn replaces(&self, other: &Self) -> bool {
        self.address.is_v6() == other.address.is_v6() && self.vlan_id() == other.vlan_id()
    }

    /// The VLAN id, 0 for none.
    #[must_use]
    pub fn vlan_id(&self) -> u16 {
        self.vlan.map_or(0, |v| v.id)
    }
}

/// Why a description cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadIface {
    /// A word that means nothing.
    #[error(
        "`{0}` is not understood; write dhcp, dhcp6, auto6 or ip=ADDRESS/PREFIX, then gw=, vlan=, pcp=, mtu=, name="
    )]
    Word(String),
    /// A value that is none of its kind.
    #[error("`{0}` is not a valid {1}")]
    Value(String, &'static str),
    /// Neither an address nor a way to get one.
    #[error("no address: write ip=ADDRESS/PREFIX, dhcp, dhcp6 or auto6")]
    NoAddress,
    /// A gateway that cannot be reached.
    #[error("gateway {0} is not in the network of the address")]
    Gateway(IpAddr),
    /// The gateway is we ourselves.
    #[error("gateway {0} is the interface's own address")]
    OwnGateway(IpAddr),
    /// An address that no host has.
    #[error("{0} cannot be the address of a host: it {1}")]
    NotHost(IpAddr, NotHost),
    /// Out of range.
    #[error("Invalid VLAN tag: {0}")]
    Vlan(u32),
    /// Out of range.
    #[error("MTU {0} is not in 46 to 9000")]
    Mtu(u32),
    /// More than a NIC can have.
    #[error("{0} interfaces, and there may be {INTERFACES}")]
    TooMany(usize),
    /// Frames could not be told apart.
    #[error("two {} interfaces {}: give one of them another vlan=", family(*v6), on(*vlan))]
    Twice {
        /// IPv6.
        v6: bool,
        /// VLAN id, 0 for none.
        vlan: u16,
    },
}

fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

fn on(vlan: u16) -> String {
    if vlan == 0 { "without a VLAN".to_owned() } else { format!("on VLAN {vlan}") }
}

/// Whether one NIC can have all of these.
///
/// # Errors
/// [`BadIface::TooMany`], or [`BadIface::Twice`] for one family and VLAN.
pub fn together(all: &[IfaceConfig]) -> Result<(), BadIface> {
    if all.len() > INTERFACES {
        return Err(BadIface::TooMany(all.len()));
    }
    let twice = all.iter().enumerate().find(|(i, c)| all[..*i].iter().any(|d| d.replaces(c)));
    twice.map_or(Ok(()), |(_, c)| Err(BadIface::Twice { v6: c.address.is_v6(), vlan: c.vlan_id() }))
}

/// MTUs that are honoured.
pub const MTU: std::ops::RangeInclusive<u16> = 46..=9000;

/// Whether two addresses share a network.
#[must_use]
pub fn same_v4(a: Ipv4Addr, b: Ipv4Addr, prefix: u8) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    (u32::from(a) ^ u32::from(b)) & mask == 0
}

/// Whether two addresses share a network.
#[must_use]
pub fn same_v6(a: Ipv6Addr, b: Ipv6Addr, prefix: u8) -> bool {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
    (u128::from(a) ^ u128::from(b)) & mask == 0
}

/// The prefix length that the class of an address implies.
#[must_use]
pub fn class_prefix(a: Ipv4Addr) -> u8 {
    match a.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    }
}

/// Judges a gateway of an interface.
///
/// # Errors
/// [`BadIface::NotHost`], [`BadIface::OwnGateway`] or [`BadIface::Gateway`].
pub(crate) fn gateway4(gateway: Ipv4Addr, address: Ipv4Addr, prefix: u8) -> Result<Ipv4Addr, BadIface> {
    if gateway == address {
        return Err(BadIface::OwnGateway(gateway.into()));
    }
    host(gateway.into(), prefix).map_err(|why| BadIface::NotHost(gateway.into(), why))?;
    if same_v4(address, gateway, prefix) { Ok(gateway) } else { Err(BadIface::Gateway(gateway.into())) }
}

impl FromStr for IfaceConfig {
    type Err = BadIface;

    /// `ip=10.0.0.3/24,gw=10.0.0.1,vlan=5,pcp=3,mtu=1500`, or `dhcp`, `dhcp6`, `auto6` in place of `ip=`.
    fn from_str(text: &str) -> Result<Self, BadIface> {
        let (mut address, mut gateway, mut name) = (None, None, None);
        let (mut vlan, mut priority, mut mtu) = (None, 0, None);
        let v6 = |mode| Addressing::V6 { mode, link_local: None, router: None };
        for word in text.split(',') {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let number = |kind| value.parse::<u32>().map_err(|_| BadIface::Value(value.into(), kind));
            match key {
                "dhcp" if value.is_empty() => address = Some(Addressing::DhcpV4),
                "dhcp6" if value.is_empty() => address = Some(v6(V6Mode::Dhcp)),
                "auto6" if value.is_empty() => address = Some(v6(V6Mode::Auto)),
                "ip" => {
                    address = Some(match address_and_prefix(value)? {
                        (IpAddr::V4(address), prefix) => {
                            Addressing::StaticV4 { address, prefix, gateway: None }
                        }
                        (IpAddr::V6(address), prefix) => v6(V6Mode::Static { address, prefix }),
                    });
                }
                "gw" => {
                    gateway =
                        Some(value.parse::<IpAddr>().map_err(|_| BadIface::Value(value.into(), "address"))?);
                }
                "vlan" => {
                    let id = number("VLAN id")?;
                    if !(1..=4094).contains(&id) {
                        return Err(BadIface::Vlan(id));
                    }
                    vlan = Some(id as u16);
                }
                "pcp" => {
                    let p = number("priority")?;
                    if p > 7 {
                        return Err(BadIface::Value(value.into(), "priority (0 to 7)"));
                    }
                    priority = p as u8;
                }
                "mtu" => {
                    let n = number("MTU")?;
                    let good = u16::try_from(n).ok().filter(|m| MTU.contains(m));
                    mtu = Some(good.ok_or(BadIface::Mtu(n))?);
                }
                "name" => name = Some(value.to_owned()),
                _ => return Err(BadIface::Word(word.into())),
            }
        }
        let mut address = address.ok_or(BadIface::NoAddress)?;
        match (&mut address, gateway) {
            (_, None) => {}
            (Addressing::StaticV4 { address, prefix, gateway: slot }, Some(IpAddr::V4(g))) => {
                *slot = Some(gateway4(g, *address, *prefix)?);
            }
            (Addressing::V6 { mode: V6Mode::Static { address, .. }, .. }, Some(IpAddr::V6(g)))
                if *address == g =>
            {
                return Err(BadIface::OwnGateway(g.into()));
            }
            (Addressing::V6 { router, .. }, Some(IpAddr::V6(g))) => {
                host(g.into(), 128).map_err(|why| BadIface::NotHost(g.into(), why))?;
                *router = Some(g);
            }
            (_, Some(g)) => return Err(BadIface::Gateway(g)),
        }
        let vlan = vlan.map(|id| Vlan { id, priority });
        Ok(Self { name: name.unwrap_or_else(|| text.to_owned()), vlan, mtu, address })
    }
}

/// `ADDRESS` or `ADDRESS/PREFIX`; without a prefix the class's or /64.
pub(crate) fn address_and_prefix(text: &str) -> Result<(IpAddr, u8), BadIface> {
    let (address, prefix) = match text.split_once('/') {
        Some((a, p)) => (a, Some(p)),
        None => (text, None),
    };
    let ip: IpAddr = address.parse().map_err(|_| BadIface::Value(address.into(), "address"))?;
    let (default, most) = match ip {
        IpAddr::V4(a) => (class_prefix(a), 32),
        IpAddr::V6(_) => (64, 128),
    };
    let prefix = match prefix {
        None => default,
        Some(p) => {
            p.parse().ok().filter(|p| (1..=most).contains(p)).ok_or(BadIface::Value(p.into(), "prefix"))?
        }
    };
    host(ip, prefix).map_err(|why| BadIface::NotHost(ip, why))?;
    Ok((ip, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_one_nic_differ_in_family_or_vlan() {
        let all = |texts: &[&str]| {
            let all: Vec<IfaceConfig> = texts.iter().map(|t| t.parse().unwrap()).collect();
            together(&all).map_err(|e| e.to_string())
        };
        assert_eq!(all(&["dhcp", "auto6", "dhcp,vlan=5", "auto6,vlan=5"]), Ok(()));
        let twice = "two IPv4 interfaces without a VLAN: give one of them another vlan=";
        assert_eq!(all(&["dhcp", "auto6", "ip=10.0.0.3/24"]), Err(twice.to_owned()));
        let nine: Vec<String> = (1..10).map(|id| format!("dhcp,vlan={id}")).collect();
        let nine: Vec<&str> = nine.iter().map(String::as_str).collect();
        assert_eq!(all(&nine), Err("9 interfaces, and there may be 8".to_owned()));
        assert_eq!(all(&nine[1..]), Ok(()));
    }

    #[test]
    fn words_become_an_interface() {
        let c: IfaceConfig = "ip=10.0.0.3/24,gw=10.0.0.1,vlan=5,pcp=3,mtu=1500".parse().unwrap();
        assert_eq!(
            c.address,
            Addressing::StaticV4 {
                address: [10, 0, 0, 3].into(),
                prefix: 24,
                gateway: Some([10, 0, 0, 1].into())
            }
        );
        assert_eq!((c.vlan.unwrap().tci(), c.mtu), (3 << 13 | 5, Some(1500)));
        assert_eq!("dhcp".parse::<IfaceConfig>().unwrap().address, Addressing::DhcpV4);
        assert!("ip=fd00::3/64,gw=fe80::1".parse::<IfaceConfig>().unwrap().address.is_v6());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let e = |s: &str| s.parse::<IfaceConfig>().unwrap_err();
        assert_eq!(e("vlan=5"), BadIface::NoAddress);
        assert_eq!(e("dhcp,vlan=4095"), BadIface::Vlan(4095));
        assert_eq!(e("dhcp,mtu=45"), BadIface::Mtu(45));
        assert_eq!(e("ip=10.0.0.3/24,gw=10.0.1.1"), BadIface::Gateway([10, 0, 1, 1].into()));
        for (text, why) in [
            ("ip=224.0.0.1", NotHost::Multicast),
            ("ip=10.77.0.255/24", NotHost::Broadcast),
            ("ip=10.77.0.0/24", NotHost::Network),
            ("ip=10.77.0.7/30", NotHost::Broadcast),
            ("ip=240.0.0.1/24", NotHost::Reserved),
            ("ip=::ffff:10.77.0.3/96", NotHost::Mapped),
            ("ip=10.77.0.3/24,gw=10.77.0.255", NotHost::Broadcast),
            ("ip=10.77.0.3/24,gw=10.77.0.0", NotHost::Network),
            ("ip=fd00::3/64,gw=ff02::2", NotHost::Multicast),
        ] {
            assert!(matches!(e(text), BadIface::NotHost(_, w) if w == why), "{text}: {}", e(text));
        }
        for text in ["ip=10.77.0.3/24,gw=10.77.0.3", "ip=fd00::3/64,gw=fd00::3"] {
            assert!(e(text).to_string().contains("own address"), "{text}");
        }
        assert!("ip=10.77.0.0/31,gw=10.77.0.1".parse::<IfaceConfig>().is_ok());
        assert!(matches!(e("ip=10.0.0.3/33"), BadIface::Value(..)));
        assert!(matches!(e("dhpc"), BadIface::Word(_)));
    }
}
