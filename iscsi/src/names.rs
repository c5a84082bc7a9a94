//! iSCSI names (RFC 7143 4.2.7, RFC 3722) and the URL by which people name a LUN: `iscsi://[user[%secret]@]host[:port]/iqn/lun`,
//! as libiscsi and QEMU write it. The command line, the target's configuration and discovery use them.
//!
//! Of stringprep only what ASCII needs is done: capital letters become small. Internationalised names are accepted as
//! they come.

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

/// Checks `name` and returns its normal form: in small letters, as it is compared.
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
    /// Target name in normal form; `None` in a URL that names a portal only (for discovery).
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
        let rest = text.strip_prefix("iscsi://").ok_or(UrlError::Scheme)?;
        // A secret may hold '/' and '@': the target name cannot, so the last '@' ends the user part.
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let credentials = match user.map(|user| user.split_once('%').unwrap_or((user, ""))) {
            Some(("", _)) => return Err(UrlError::User),
            Some((name, secret)) => Some(Credentials::new(name, secret)),
            None => None,
        };
        let mut parts = rest.splitn(3, '/');
        let portal = parts.next().and_then(HostPort::parse).ok_or(UrlError::Portal)?;
        let target = match parts.next() {
            None | Some("") => None,
            Some(name) => Some(normalize(name)?),
        };
        let lun = match parts.next() {
            None | Some("") => 0,
            Some(lun) if target.is_some() => parse_lun(lun).ok_or(UrlError::Lun)?,
            Some(_) => return Err(UrlError::Target(NameError::Length)),
        };
        Ok(IscsiUrl { credentials, portal, target, lun })
    }
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
