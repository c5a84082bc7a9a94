//! iSCSI names (RFC 7143 4.2.7, RFC 3722) and the URL by which people name a LUN:
//! `iscsi://[user[%secret]@]host[:port]/iqn/lun`, as libiscsi and QEMU write it. The command line, the
//! target's configuration and discovery use them.
//!
//! What libiscsi reads is read alike: `%3A` and its like in the target name, `user:secret` where there is no
//! `%`, a portal group tag behind the portal (`host:3260,1`, ignored). Different on purpose: the scheme may
//! be in capitals (RFC 3986 3.1), a secret may hold `@`, a target or LUN that cannot be is refused here and
//! not at the login.
//!
//! Of stringprep only what ASCII needs is done: capital letters become small. Internationalised names are
//! accepted as they come.

use crate::chap::Credentials;
use core::fmt::{Display, Formatter};

/// Longest iSCSI name, in bytes.
pub const MAX_NAME_LEN: usize = 223;
/// The port that targets listen on.
pub const DEFAULT_PORT: u16 = 3260;

/// Why a name is not an iSCSI name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Too long, or empty.
    #[error("an iSCSI name has 1 to {MAX_NAME_LEN} bytes")]
    Length,
    /// Not one of the three kinds.
    #[error("an iSCSI name starts with 'iqn.', 'eui.' or 'naa.'")]
    Kind,
    /// A character that names do not have.
    #[error("an iSCSI name has only letters, digits, '.', '-' and ':'")]
    Character,
    /// Not `iqn.yyyy-mm.domain[:anything]`.
    #[error("an iqn name reads iqn.YYYY-MM.reversed.domain[:anything]")]
    Iqn,
    /// Not 16 (eui, naa) or 32 (naa) hexadecimal digits.
    #[error("an eui name has 16 hexadecimal digits, a naa name 16 or 32")]
    Digits,
}

/// Checks `name` and returns its normal form: in small letters. It is for comparing only (RFC 7143 4.2.7.1):
/// what is stored, sent and shown is the name as it was given, because many peers compare bytes.
///
/// # Errors
/// [`NameError`] says what a name looks like.
pub fn normalize(name: &str) -> Result<String, NameError> {
    if !(1..=MAX_NAME_LEN).contains(&name.len()) {
        return Err(NameError::Length);
    }
    let name = name.to_lowercase();
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':') || !c.is_ascii()) {
        return Err(NameError::Character);
    }
    // Lower case of some characters is longer than the capital.
    if name.len() > MAX_NAME_LEN {
        return Err(NameError::Length);
    }
    let (kind, rest) = name.split_once('.').ok_or(NameError::Kind)?;
    let hex = rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    match kind {
        "iqn" if is_iqn(rest) => Ok(name),
        "iqn" => Err(NameError::Iqn),
        "eui" if hex && rest.len() == 16 => Ok(name),
        "naa" if hex && matches!(rest.len(), 16 | 32) => Ok(name),
        "eui" | "naa" => Err(NameError::Digits),
        _ => Err(NameError::Kind),
    }
}

/// Whether two names name the same node. A malformed name is the same as nothing.
pub fn same(a: &str, b: &str) -> bool {
    normalize(a).is_ok_and(|a| normalize(b) == Ok(a))
}

/// `yyyy-mm.domain[:anything]`
fn is_iqn(rest: &str) -> bool {
    let Some((date, naming)) = rest.split_once('.') else { return false };
    let Some((year, month)) = date.split_once('-') else { return false };
    let digits = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
    let month_ok = digits(month, 2) && matches!(month.parse(), Ok(1..=12u8));
    let domain = naming.split(':').next().unwrap_or_default();
    digits(year, 4) && month_ok && !domain.is_empty() && domain.split('.').all(|label| !label.is_empty())
}

/// A host and a port as URLs and TargetAddress write them: IPv6 addresses in brackets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostPort {
    /// Address or name, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl HostPort {
    /// Reads `host[:port]`; the port defaults to [`DEFAULT_PORT`]. `None` for anything else.
    pub fn parse(text: &str) -> Option<HostPort> {
        let (host, rest) = match text.strip_prefix('[') {
            Some(v6) => {
                let (host, rest) = v6.split_once(']')?;
                host.parse::<core::net::Ipv6Addr>().ok()?;
                (host, rest)
            }
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte) || !byte.is_ascii();
        if host.is_empty() || host.len() > 255 || !host.bytes().all(legal) {
            return None;
        }
        let port = match rest.strip_prefix(':') {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().ok().filter(|&port| port != 0)?
            }
            None if rest.is_empty() => DEFAULT_PORT,
            _ => return None,
        };
        Some(HostPort { host: host.into(), port })
    }
}

impl Display for HostPort {
    fn fmt(&self, f: &mut Formatter<'_>) -> core::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A LUN by URL. Shown with the secret masked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IscsiUrl {
    /// CHAP credentials. A user without secret has an empty one.
    pub credentials: Option<Credentials>,
    /// The portal.
    pub portal: HostPort,
    /// Target name as it was given; `None` in a URL that names a portal only (for discovery).
    pub target: Option<String>,
    /// Logical unit number; 0 unless given.
    pub lun: u16,
}

/// Why a URL cannot be used. One line, without the text that was given: it may hold a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UrlError {
    /// Another scheme.
    #[error("an iSCSI URL reads iscsi://[user[%secret]@]host[:port]/iqn/lun")]
    Scheme,
    /// The part before `@` has no user.
    #[error("the URL has a secret without a user: write user%secret@host")]
    User,
    /// A link-local address with a zone.
    #[error("an offloaded connection has no scope: write the IPv6 address without its %zone")]
    Scope,
    /// Malformed host or port.
    #[error("the URL needs host or host:port (1 to 65535), IPv6 addresses in brackets")]
    Portal,
    /// Malformed target name.
    #[error("the URL's target name is wrong: {0}")]
    Target(#[from] NameError),
    /// Malformed LUN.
    #[error("the URL's LUN is a number from 0 to 16383")]
    Lun,
}

impl core::str::FromStr for IscsiUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<IscsiUrl, UrlError> {
        const SCHEME: &str = "iscsi://";
        let (scheme, rest) = text.split_at_checked(SCHEME.len()).ok_or(UrlError::Scheme)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(UrlError::Scheme);
        }
        // A secret may hold '/' and '@': the target name cannot, so the last '@' ends the user part.
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let split = |user| -> (&str, &str) {
            let (percent, colon) = (str::split_once(user, '%'), str::split_once(user, ':'));
            percent.or(colon).unwrap_or((user, ""))
        };
        let credentials = match user.map(split) {
            Some(("", _)) => return Err(UrlError::User),
            Some((name, secret)) => Some(Credentials::new(name, secret)),
            None => None,
        };
        let mut parts = rest.splitn(3, '/');
        let portal = parse_portal(parts.next().unwrap_or_default())?;
        let target = match parts.next() {
            None | Some("") => None,
            Some(name) => {
                let name = decode(name).ok_or(NameError::Character)?;
                normalize(&name)?;
                Some(name)
            }
        };
        let lun = match parts.next() {
            None | Some("") => 0,
            Some(lun) if target.is_some() => parse_lun(lun).ok_or(UrlError::Lun)?,
            Some(_) => return Err(UrlError::Target(NameError::Length)),
        };
        Ok(IscsiUrl { credentials, portal, target, lun })
    }
}

/// `host[:port][,tag]`
fn parse_portal(text: &str) -> Result<HostPort, UrlError> {
    let zone =
        text.strip_prefix('[').and_then(|v6| v6.split_once(']')).and_then(|(v6, _)| v6.split_once('%'));
    if zone.is_some_and(|(address, _)| address.parse::<core::net::Ipv6Addr>().is_ok()) {
        return Err(UrlError::Scope);
    }
    let tagged = text.rsplit_once(',').filter(|(_, tag)| tag.parse::<u16>().is_ok());
    HostPort::parse(tagged.map_or(text, |(portal, _)| portal)).ok_or(UrlError::Portal)
}

/// Replaces `%3A` and its like by what they stand for; `None` when that is no text.
fn decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut out: Vec<u8> = parts.next()?.into();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        out.push(u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?);
        out.extend(rest.bytes());
    }
    String::from_utf8(out).ok()
}

/// Largest LUN of flat space addressing (SAM-5 4.7.7.3).
const MAX_LUN: u16 = 0x3fff;

fn parse_lun(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&lun: &u16| digits && lun <= MAX_LUN)
}

impl Display for IscsiUrl {
    fn fmt(&self, f: &mut Formatter<'_>) -> core::fmt::Result {
        f.write_str("iscsi://")?;
        if let Some(credentials) = &self.credentials {
            write!(f, "{}%{}@", credentials.name, credentials.secret)?;
        }
        write!(f, "{}", self.portal)?;
        match &self.target {
            Some(target) => write!(f, "/{target}/{}", self.lun),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chap::Secret;
    use proptest::prelude::*;

    #[test]
    fn names_are_normalised() {
        for (name, want) in [
            ("iqn.2001-04.com.Example:Disk1", "iqn.2001-04.com.example:disk1"),
            ("iqn.2001-04.com.example", "iqn.2001-04.com.example"),
            ("eui.02004567A425678D", "eui.02004567a425678d"),
            ("naa.62004567BA64678D0123456789ABCDEF", "naa.62004567ba64678d0123456789abcdef"),
        ] {
            assert_eq!(normalize(name).as_deref(), Ok(want));
        }
        for (name, want) in [
            ("", NameError::Length),
            ("disk1", NameError::Kind),
            ("foo.2001-04.com", NameError::Kind),
            ("iqn.2001-04.com.example:a_b", NameError::Character),
            ("iqn.2001-04.com.example:a b", NameError::Character),
            ("iqn.2001-13.com.example", NameError::Iqn),
            ("iqn.01-04.com.example", NameError::Iqn),
            ("iqn.2001-04", NameError::Iqn),
            ("iqn.2001-04.:x", NameError::Iqn),
            ("eui.0200", NameError::Digits),
            ("naa.6200456", NameError::Digits),
        ] {
            assert_eq!(normalize(name), Err(want), "{name}");
        }
        let prefix = "iqn.2001-04.com.example:";
        let fill = |len: usize| format!("{prefix}{}", "x".repeat(len - prefix.len()));
        assert!(normalize(&fill(MAX_NAME_LEN)).is_ok());
        assert_eq!(normalize(&fill(MAX_NAME_LEN + 1)), Err(NameError::Length));
    }

    fn url(text: &str) -> Result<IscsiUrl, UrlError> {
        text.parse()
    }

    #[test]
    fn urls_are_read() {
        let full = url("iscsi://user%se@c/r%et@[2001:db8::5]:860/iqn.2001-04.com.example:d/7").unwrap();
        let credentials = full.credentials.clone().unwrap();
        assert_eq!((credentials.name.as_str(), &credentials.secret), ("user", &Secret::new("se@c/r%et")));
        assert_eq!((full.portal.host.as_str(), full.portal.port, full.lun), ("2001:db8::5", 860, 7));
        assert_eq!(full.to_string(), "iscsi://user%********@[2001:db8::5]:860/iqn.2001-04.com.example:d/7");
        assert!(!format!("{full:?}").contains("se@c"));
        let short = url("iscsi://host/iqn.2001-04.com.example:d").unwrap();
        assert_eq!((short.portal.port, short.lun, short.credentials), (3260, 0, None));
        assert_eq!(url("iscsi://192.0.2.1:3261/").unwrap().target, None);
        assert_eq!(url("iscsi://u@h").unwrap().credentials, Some(Credentials::new("u", "")));
    }

    /// URLs with what `iscsi_parse_full_url` of libiscsi 1.19 makes of them: portal, target, user, secret,
    /// LUN.
    #[test]
    fn what_libiscsi_reads_is_read_alike() {
        const DISK: &str = "iqn.2026-01.org.example:disk";
        for (text, portal, target, user, lun) in [
            ("h/iqn.2026-01.org.example:disk/0", "h:3260", DISK, None, 0),
            ("h/iqn.2026-01.org.example%3Adisk/0", "h:3260", DISK, None, 0),
            ("h/iqn%2E2026-01.org.example%3adisk/0", "h:3260", DISK, None, 0),
            ("h/IQN.2026-01.org.Example:Disk/0", "h:3260", "IQN.2026-01.org.Example:Disk", None, 0),
            ("h/eui.02004567A425678D/12", "h:3260", "eui.02004567A425678D", None, 12),
            ("h/iqn.2026-01.org.example:disk/01", "h:3260", DISK, None, 1),
            ("h.example.:860/iqn.2026-01.org.example:disk/7", "h.example.:860", DISK, None, 7),
            ("under_score/iqn.2026-01.org.example:disk/0", "under_score:3260", DISK, None, 0),
            ("[2001:db8::1]:860/iqn.2026-01.org.example:disk/7", "[2001:db8::1]:860", DISK, None, 7),
            ("h,1/iqn.2026-01.org.example:disk/0", "h:3260", DISK, None, 0),
            ("h:3261,1/iqn.2026-01.org.example:disk/0", "h:3261", DISK, None, 0),
            ("u%p@h/iqn.2026-01.org.example:disk/0", "h:3260", DISK, Some(("u", "p")), 0),
            ("u:p@h/iqn.2026-01.org.example:disk/0", "h:3260", DISK, Some(("u", "p")), 0),
            ("u%p:q@h/iqn.2026-01.org.example:disk/0", "h:3260", DISK, Some(("u", "p:q")), 0),
            ("u:p%q@h/iqn.2026-01.org.example:disk/0", "h:3260", DISK, Some(("u:p", "q")), 0),
            ("u%p/q@h/iqn.2026-01.org.example:disk/0", "h:3260", DISK, Some(("u", "p/q")), 0),
            ("u%40x%p@h/iqn.2026-01.org.example:disk/0", "h:3260", DISK, Some(("u", "40x%p")), 0),
            ("u%p%40q@h/iqn.2026-01.org.example:disk/0", "h:3260", DISK, Some(("u", "p%40q")), 0),
        ] {
            for scheme in ["iscsi", "ISCSI", "iScsi"] {
                let got = url(&format!("{scheme}://{text}")).unwrap();
                let want = user.map(|(name, secret)| Credentials::new(name, secret));
                assert_eq!(
                    (got.portal.to_string().as_str(), got.target.as_deref(), got.credentials, got.lun),
                    (portal, Some(target), want, lun),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn names_are_compared_and_not_changed() {
        let (capital, small) = ("iqn.2001-04.com.Example:Disk1", "iqn.2001-04.com.example:disk1");
        assert!(same(capital, small) && !same(capital, "iqn.2001-04.com.example:disk2"));
        assert!(!same("disk", "disk"), "no names");
        let parsed = url(&format!("iscsi://h/{capital}/0")).unwrap();
        assert_eq!(parsed.target.as_deref(), Some(capital));
    }

    #[test]
    fn wrong_urls_say_what_is_wrong() {
        for (text, want) in [
            ("http://h/iqn.2001-04.com.example/0", UrlError::Scheme),
            ("iscsi://%secret@h", UrlError::User),
            ("iscsi:///iqn.2001-04.com.example/0", UrlError::Portal),
            ("iscsi://h:0/iqn.2001-04.com.example", UrlError::Portal),
            ("iscsi://h:65536", UrlError::Portal),
            ("iscsi://h:", UrlError::Portal),
            ("iscsi://2001:db8::5/iqn.2001-04.com.example", UrlError::Portal),
            ("iscsi://[2001:db8::5", UrlError::Portal),
            ("iscsi://[host]:1", UrlError::Portal),
            ("iscsi://h:3260,x/iqn.2001-04.com.example", UrlError::Portal),
            ("iscsi://[fe80::1%eth0]/iqn.2001-04.com.example/0", UrlError::Scope),
            ("iscsi://[fe80::1%25eth0]:3260/iqn.2001-04.com.example/0", UrlError::Scope),
            ("iscsi", UrlError::Scheme),
            ("iser://h/iqn.2001-04.com.example/0", UrlError::Scheme),
            ("iscsi://h/iqn.2001-04.com.example:a%2/0", UrlError::Target(NameError::Character)),
            ("iscsi://h/iqn.2001-04.com.example:a%zz/0", UrlError::Target(NameError::Character)),
            ("iscsi://h/iqn.2001-04.com.example:a%00b/0", UrlError::Target(NameError::Character)),
            ("iscsi://h/iqn.2001-04.com.example:a%2Fb/0", UrlError::Target(NameError::Character)),
            ("iscsi://h/iqn.2001-04.com.example:a%ffb/0", UrlError::Target(NameError::Character)),
            ("iscsi://h/disk/0", UrlError::Target(NameError::Kind)),
            ("iscsi://h//0", UrlError::Target(NameError::Length)),
            ("iscsi://h/iqn.2001-04.com.example/16384", UrlError::Lun),
            ("iscsi://h/iqn.2001-04.com.example/0/1", UrlError::Lun),
            ("iscsi://h/iqn.2001-04.com.example/+1", UrlError::Lun),
        ] {
            assert_eq!(url(text), Err(want), "{text}");
            assert!(!want.to_string().contains('\n'));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "\\PC{0,60}") {
            let _ = (normalize(&text), url(&format!("iscsi://{text}")));
            if let Some(portal) = HostPort::parse(&text) {
                prop_assert_eq!(HostPort::parse(&portal.to_string()), Some(portal));
            }
        }
    }
}
