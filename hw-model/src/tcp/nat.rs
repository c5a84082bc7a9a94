//! Address translation of the `nat` network: where a destination that the host asks for is found on this
//! machine.
//!
//! An address that no rule names means itself, so a target anywhere in the network of this machine is reached
//! under its own address. A rule gives an address of the guest's world to one of ours, such as 10.0.0.2 to
//! 127.0.0.1. Only destinations are translated: the kernel chooses the source. A *guarded* table keeps a
//! guest away from what trusts this machine: an address of its own, loopback, and link-local ones such as a
//! cloud's metadata service, are reached through a rule only.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::str::FromStr;

/// Rules at most.
pub const RULES: usize = 64;

/// `ADDRESS[:PORT]=ADDRESS[:PORT]`, IPv6 addresses with a port in brackets. Without a port on the left every
/// port matches; without one on the right the port stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatRule {
    from: Place,
    to: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    ip: IpAddr,
    port: Option<u16>,
}

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NatError {
    /// No `=`.
    #[error("write FROM=TO, such as 10.0.0.2=127.0.0.1 or 10.0.0.2:3260=127.0.0.1:3261")]
    NoTarget,
    /// One side is no address; names are not looked up.
    #[error("`{0}` is neither an address nor ADDRESS:PORT ([ADDRESS]:PORT for IPv6)")]
    Address(String),
    /// Port 0.
    #[error("`{0}`: no connection goes to port 0")]
    Port(String),
    /// An address that no connection can have.
    #[error("no connection goes to {0}: it {1}")]
    Nowhere(IpAddr, bus::address::NotHost),
    /// The same destination twice.
    #[error("`{0}` is mapped already")]
    Twice(String),
    /// More than [`RULES`].
    #[error("no more than {RULES} rules")]
    TooMany,
}

impl FromStr for Place {
    type Err = NatError;

    fn from_str(text: &str) -> Result<Self, NatError> {
        let whole = text.parse().map(|ip| Self { ip, port: None });
        let place = whole.or_else(|_| {
            let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or("");
            bare.parse().map(|ip: std::net::Ipv6Addr| Self { ip: ip.into(), port: None })
        });
        let place =
            place.or_else(|_| text.parse().map(|a: SocketAddr| Self { ip: a.ip(), port: Some(a.port()) }));
        let place = place.map_err(|_| NatError::Address(text.to_owned()))?;
        if place.port == Some(0) {
            return Err(NatError::Port(text.to_owned()));
        }
        bus::address::destination(place.ip).map_err(|why| NatError::Nowhere(place.ip, why))?;
        Ok(place)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

impl FromStr for NatRule {
    type Err = NatError;

    fn from_str(text: &str) -> Result<Self, NatError> {
        let (from, to) = text.split_once('=').ok_or(NatError::NoTarget)?;
        Ok(Self { from: from.parse()?, to: to.parse()? })
    }
}

/// The table. The default maps nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    rules: Vec<NatRule>,
    guard: Option<Guard>,
}

/// Who is told of connections that a guarded table refuses.
#[derive(Clone)]
struct Guard(Rc<dyn Fn(SocketAddr)>);

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

impl PartialEq for Guard {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Guard {}

/// Whether an address is this machine's by its form: loopback, unspecified or link-local, in an IPv4-mapped
/// address too; or the metadata service of a cloud that gave it another one.
fn is_near(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(a) => a.is_loopback() || a.is_link_local() || a.octets()[0] == 0,
        IpAddr::V6(a) => {
            let metadata = [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254];
            a.is_loopback() || a.is_unspecified() || a.is_unicast_link_local() || a.segments() == metadata
        }
    }
}

impl Nat {
    /// A table of these rules, in whatever order.
    ///
    /// # Errors
    /// Too many rules, or two for the same destination.
    pub fn new(rules: &[NatRule]) -> Result<Self, NatError> {
        if rules.len() > RULES {
            return Err(NatError::TooMany);
        }
        for (n, rule) in rules.iter().enumerate() {
            if rules[..n].iter().any(|earlier| earlier.from == rule.from) {
                return Err(NatError::Twice(rule.from.to_string()));
            }
        }
        Ok(Self { rules: rules.to_vec(), guard: None })
    }

    /// The same table, guarded. `told` hears of each connection that is refused.
    #[must_use]
    pub fn guard(self, told: impl Fn(SocketAddr) + 'static) -> Self {
        Self { guard: Some(Guard(Rc::new(told))), ..self }
    }

    /// Whether a connection to `asked` is refused. `own`: whether an address is one of this machine's
    /// interfaces.
    #[must_use]
    pub fn refuses(&self, asked: SocketAddr, own: impl FnOnce(IpAddr) -> bool) -> bool {
        let Some(Guard(told)) = &self.guard else { return false };
        let refused = self.rule(asked).is_none() && (is_near(asked.ip()) || own(asked.ip()));
        if refused {
            told(asked);
        }
        refused
    }

    fn rule(&self, asked: SocketAddr) -> Option<&NatRule> {
        let of_port = |port| self.rules.iter().find(|r| r.from == Place { ip: asked.ip(), port });
        of_port(Some(asked.port())).or_else(|| of_port(None))
    }

    /// Where a connection to `asked` goes. A rule with a port is stronger than one without.
    #[must_use]
    pub fn destination(&self, asked: SocketAddr) -> SocketAddr {
        match self.rule(asked) {
            Some(NatRule { to, .. }) => SocketAddr::new(to.ip, to.port.unwrap_or(asked.port())),
            None => asked,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn nat(rules: &[&str]) -> Nat {
        let rules: Vec<NatRule> = rules.iter().map(|r| r.parse().expect("a rule")).collect();
        Nat::new(&rules).expect("a table")
    }

    #[test]
    fn a_guarded_table_leads_to_this_machine_by_rule_only() {
        let near = ["127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "[::1]", "[::]", "[fe80::1]"];
        let mapped = ["[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"];
        let open = nat(&["10.0.0.2=127.0.0.1", "127.0.0.1:3260=127.0.0.1:3260"]);
        let heard = Rc::new(Cell::new(0));
        let ear = heard.clone();
        let guarded = open.clone().guard(move |_| ear.set(ear.get() + 1));
        let refuses = |n: &Nat, a: &str, own| n.refuses(a.parse().expect("an address"), |_| own);
        for a in near.iter().chain(&mapped) {
            let a = format!("{a}:22");
            assert!(refuses(&guarded, &a, false) && !refuses(&open, &a, false), "{a}");
        }
        assert!(refuses(&guarded, "192.0.2.7:22", true), "an address of an interface");
        assert_eq!(heard.get(), near.len() + mapped.len() + 1);
        for a in ["192.0.2.7:22", "[2001:db8::1]:3260", "10.0.0.2:22", "127.0.0.1:3260"] {
            assert!(!refuses(&guarded, a, false), "{a}");
        }
    }

    #[test]
    fn the_stronger_rule_decides_and_the_rest_means_itself() {
        let n = nat(&["10.0.0.2=127.0.0.1", "10.0.0.2:3260=127.0.0.1:3261", "10.0.0.3=[::1]:860"]);
        for (asked, found) in [
            ("10.0.0.2:3260", "127.0.0.1:3261"),
            ("10.0.0.2:3262", "127.0.0.1:3262"),
            ("10.0.0.3:3260", "[::1]:860"),
            ("10.0.0.4:3260", "10.0.0.4:3260"),
            ("[fd00::2]:3260", "[fd00::2]:3260"),
        ] {
            assert_eq!(n.destination(asked.parse().unwrap()), found.parse().unwrap(), "{asked}");
        }
        let n = nat(&["fd00::2=::1", "[fd00::3]=127.0.0.1", "[fd00::2]:3260=[::1]:3261"]);
        for (asked, found) in
            [("[fd00::2]:3260", "[::1]:3261"), ("[fd00::2]:1", "[::1]:1"), ("[fd00::3]:9", "127.0.0.1:9")]
        {
            assert_eq!(n.destination(asked.parse().unwrap()), found.parse().unwrap(), "{asked}");
        }
    }

    #[test]
    fn what_is_no_rule_says_why() {
        for (text, why) in [
            ("10.0.0.2", "FROM=TO"),
            ("", "FROM=TO"),
            ("10.0.0.2=", "`` is neither"),
            ("=127.0.0.1", "`` is neither"),
            ("10.0.0.2=localhost", "`localhost` is neither"),
            ("10.0.0.2=127.0.0.1:99999", "`127.0.0.1:99999` is neither"),
            ("fd00::2:3260x=::1", "`fd00::2:3260x` is neither"),
            ("[10.0.0.2]=::1", "`[10.0.0.2]` is neither"),
            ("10.0.0.2:0=127.0.0.1", "no connection"),
            ("10.0.0.2=0.0.0.0", "no connection"),
            ("224.0.0.1=127.0.0.1", "no connection"),
        ] {
            let error = text.parse::<NatRule>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn tables_have_a_limit_and_no_double_meaning() {
        let rule = |n: usize| format!("10.0.0.{n}=127.0.0.1").parse::<NatRule>().expect("a rule");
        let rules: Vec<NatRule> = (1..=RULES + 1).map(rule).collect();
        assert!(Nat::new(&rules[..RULES]).is_ok());
        assert_eq!(Nat::new(&rules), Err(NatError::TooMany));
        let again = "10.0.0.1=127.0.0.2".parse().expect("a rule");
        assert_eq!(Nat::new(&[rules[0], again]), Err(NatError::Twice("10.0.0.1".to_owned())));
    }
}
