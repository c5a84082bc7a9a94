//! Which IP addresses a host can have: one judgement for everybody who is given one, by configuration, by a
//! record, or by the network (DHCP, router advertisements). It sees the prefix, because the first and the
//! last address of a network are nobody's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// Why an address is not that of a host. Reads as the end of a sentence that begins with the address.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotHost {
    /// 0.0.0.0/8 or `::`.
    #[error("stands for no address")]
    Unspecified,
    /// 127.0.0.0/8 or `::1`.
    #[error("is a loopback address, which no network carries")]
    Loopback,
    /// 224.0.0.0/4 or ff00::/8.
    #[error("is a multicast address")]
    Multicast,
    /// 240.0.0.0/4 (class E), 255.255.255.255 in it.
    #[error("is a reserved address (240.0.0.0/4)")]
    Reserved,
    /// ::ffff:0:0/96 or ::/96.
    #[error("is an IPv4 address in IPv6 form: write it as IPv4")]
    Mapped,
    /// All host bits are zero: the network's own address, in IPv6 the routers' anycast address.
    #[error("is the network's own address")]
    Network,
    /// All host bits are one (IPv4).
    #[error("is the broadcast address of its network")]
    Broadcast,
}

/// Judges the address of a host in a network of `prefix` bits. Networks of two addresses (/31, RFC 3021;
/// /127, RFC 6164) and of one have neither a network's nor a broadcast address.
///
/// # Errors
/// Why it is not a host's.
pub fn host(address: IpAddr, prefix: u8) -> Result<(), NotHost> {
    match address {
        IpAddr::V4(a) => host4(a, prefix),
        IpAddr::V6(a) => host6(a, prefix),
    }
}

fn host4(a: Ipv4Addr, prefix: u8) -> Result<(), NotHost> {
    let hosts = if prefix <= 30 { u32::MAX.checked_shr(prefix.into()).unwrap_or(0) } else { 0 };
    match u32::from(a) & hosts {
        _ if a.octets()[0] == 0 => Err(NotHost::Unspecified),
        _ if a.is_loopback() => Err(NotHost::Loopback),
        _ if a.is_multicast() => Err(NotHost::Multicast),
        _ if a.octets()[0] >= 240 => Err(NotHost::Reserved),
        0 if hosts != 0 => Err(NotHost::Network),
        bits if hosts != 0 && bits == hosts => Err(NotHost::Broadcast),
        _ => Ok(()),
    }
}

fn host6(a: Ipv6Addr, prefix: u8) -> Result<(), NotHost> {
    let hosts = if prefix <= 126 { u128::MAX.checked_shr(prefix.into()).unwrap_or(0) } else { 0 };
    match u128::from(a) {
        0 => Err(NotHost::Unspecified),
        1 => Err(NotHost::Loopback),
        _ if a.is_multicast() => Err(NotHost::Multicast),
        bits if matches!(bits >> 32, 0 | 0xffff) => Err(NotHost::Mapped),
        bits if hosts != 0 && bits & hosts == 0 => Err(NotHost::Network),
        _ => Ok(()),
    }
}

/// Judges an address that a connection shall go to, whose network is not known. Loopback is another matter: a
/// network of this machine may lead there.
///
/// # Errors
/// Why nobody can have it.
pub fn destination(address: IpAddr) -> Result<(), NotHost> {
    match host(address, 128) {
        Err(NotHost::Loopback) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_address_of_a_network_are_nobodys() {
        for prefix in 1..=30u8 {
            let first = 0x0a4d_0000_u32 & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap();
            let last = first | u32::MAX >> prefix;
            let judge = |a: u32| host(Ipv4Addr::from(a).into(), prefix);
            // Short prefixes put the ends of the network into ranges that are nobody's anyway.
            assert!(judge(first).is_err() && judge(last).is_err(), "/{prefix}");
            if prefix >= 8 {
                assert_eq!((judge(first), judge(last)), (Err(NotHost::Network), Err(NotHost::Broadcast)));
                assert_eq!((judge(first + 1), judge(last - 1)), (Ok(()), Ok(())), "/{prefix}");
            }
        }
        for (text, prefix) in [("10.77.0.0", 31), ("10.77.0.1", 31), ("10.77.0.255", 32), ("10.77.0.0", 32)] {
            assert_eq!(host(text.parse().unwrap(), prefix), Ok(()), "{text}/{prefix}");
        }
        for (text, prefix, want) in [
            ("2001:db8::", 64, Err(NotHost::Network)),
            ("2001:db8::1", 64, Ok(())),
            ("2001:db8::ffff:ffff:ffff:ffff", 64, Ok(())),
            ("2001:db8::", 127, Ok(())),
            ("2001:db8::", 128, Ok(())),
            ("fe80::1", 64, Ok(())),
        ] {
            assert_eq!(host(text.parse().unwrap(), prefix), want, "{text}/{prefix}");
        }
    }

    #[test]
    fn what_no_host_has_in_any_network() {
        for (text, why) in [
            ("0.0.0.0", NotHost::Unspecified),
            ("0.1.2.3", NotHost::Unspecified),
            ("::", NotHost::Unspecified),
            ("127.0.0.1", NotHost::Loopback),
            ("127.255.0.1", NotHost::Loopback),
            ("::1", NotHost::Loopback),
            ("224.0.0.5", NotHost::Multicast),
            ("239.255.255.255", NotHost::Multicast),
            ("ff02::1", NotHost::Multicast),
            ("240.0.0.1", NotHost::Reserved),
            ("255.255.255.255", NotHost::Reserved),
            ("::ffff:10.77.0.3", NotHost::Mapped),
            ("::10.77.0.3", NotHost::Mapped),
        ] {
            let address = text.parse().unwrap();
            for prefix in [1, 8, 24, 31, 32] {
                assert_eq!(host(address, prefix), Err(why), "{text}/{prefix}");
            }
            let passes = why == NotHost::Loopback;
            assert_eq!(destination(address).is_ok(), passes, "{text}");
        }
        assert_eq!(destination("10.0.0.255".parse().unwrap()), Ok(()), "its network is not known");
    }
}
