//! `iscsi://[user[%secret]@]host[:port]/iqn/lun`, as libiscsi and QEMU write it.
//!
//! After a `?`, libiscsi's `header_digest`, `target_user` and `target_password` are understood, and
//! `data_digest`. A secret that is not in the URL is taken from libiscsi's environment variables
//! (`LIBISCSI_CHAP_USERNAME`, `LIBISCSI_CHAP_PASSWORD` and their `TARGET` forms), where no other user of the
//! machine can see it. Errors never repeat the URL.

use std::net::{SocketAddr, ToSocketAddrs};

use driver::error::ExitCode;
use iscsi::chap::Credentials;
use iscsi::names::{HostPort, IscsiUrl};

use crate::failure::Failure;

/// A portal and how to log in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) portal: HostPort,
    pub(crate) chap: Option<Credentials>,
    /// What the target must prove to know.
    pub(crate) mutual: Option<Credentials>,
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
}

/// A logical unit and how to log in to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskUrl {
    pub(crate) login: Login,
    /// As it was given.
    pub(crate) target: String,
    pub(crate) lun: u16,
}

/// A portal to ask for its targets, or for the one that the URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortalUrl {
    pub(crate) login: Login,
    pub(crate) target: Option<String>,
}

impl DiskUrl {
    /// Parses `text`; `env` looks up an environment variable.
    pub(crate) fn parse(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let (login, target, lun) = Login::parse(text, env)?;
        let target = target.ok_or_else(|| Failure::usage("the URL names no target: add /iqn/lun to it"))?;
        Ok(Self { login, target, lun })
    }
}

impl PortalUrl {
    /// As [`DiskUrl::parse`], and the target may be missing.
    pub(crate) fn parse(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let (login, target, _) = Login::parse(text, env)?;
        Ok(Self { login, target })
    }
}

impl Login {
    fn parse(
        text: &str,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<(Self, Option<String>, u16), Failure> {
        let (place, query) = split_query(text);
        let url: IscsiUrl =
            place.parse().map_err(|e: iscsi::names::UrlError| Failure::usage(e.to_string()))?;
        let mut header_digest = false;
        let mut data_digest = false;
        let (mut peer, mut peer_secret) =
            (env("LIBISCSI_CHAP_TARGET_USERNAME"), env("LIBISCSI_CHAP_TARGET_PASSWORD"));
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            match pair.split_once('=') {
                Some(("target_user", v)) => peer = Some(v.to_owned()),
                Some(("target_password", v)) => peer_secret = Some(v.to_owned()),
                Some(("header_digest", v)) => header_digest = digest(v)?,
                Some(("data_digest", v)) => data_digest = digest(v)?,
                _ => return Err(Failure::usage(UNKNOWN_QUERY)),
            }
        }
        let secret = env("LIBISCSI_CHAP_PASSWORD");
        let chap = match url.credentials {
            Some(c) if c.secret != iscsi::chap::Secret::new("") => Some(c),
            Some(c) => Some(credentials(c.name, secret, "user", "LIBISCSI_CHAP_PASSWORD")?),
            None => match env("LIBISCSI_CHAP_USERNAME").filter(|u| !u.is_empty()) {
                Some(user) => Some(credentials(user, secret, "user", "LIBISCSI_CHAP_PASSWORD")?),
                None => None,
            },
        };
        let mutual = match peer.filter(|u| !u.is_empty()) {
            Some(user) => {
                Some(credentials(user, peer_secret, "target_user", "LIBISCSI_CHAP_TARGET_PASSWORD")?)
            }
            None => None,
        };
        if mutual.is_some() && chap.is_none() {
            return Err(Failure::usage(
                "mutual CHAP needs a user and secret of our own too: add user%secret@",
            ));
        }
        let login = Self { portal: url.portal, chap, mutual, header_digest, data_digest };
        Ok((login, url.target, url.lun))
    }

    /// The portal's first address. Asks the resolver, which may take seconds.
    pub(crate) fn resolve(&self) -> Result<SocketAddr, Failure> {
        let unknown = |why: String| {
            Failure::new(
                ExitCode::Transport,
                format!("cannot resolve host {}{why}: check the name, or use an address", self.portal.host),
            )
        };
        (self.portal.host.as_str(), self.portal.port)
            .to_socket_addrs()
            .map_err(|e| unknown(format!(" ({e})")))?
            .next()
            .ok_or_else(|| unknown(String::new()))
    }
}

const QUERY_KEYS: [&str; 4] = ["header_digest", "data_digest", "target_user", "target_password"];

/// Both secrets may hold `?` and `@`. The query begins at the first `?` after which there is nothing but
/// options that we know; if there is none, at the first one after the last `@`.
fn split_query(text: &str) -> (&str, &str) {
    let known = |pair: &str| pair.split_once('=').is_some_and(|(key, _)| QUERY_KEYS.contains(&key));
    let query = text.match_indices('?').map(|(at, _)| at).find(|at| text[at + 1..].split('&').all(known));
    let login = text.rfind('@').unwrap_or(0);
    match query.or_else(|| text[login..].find('?').map(|at| login + at)) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    }
}

const UNKNOWN_QUERY: &str =
    "the URL knows only header_digest, data_digest, target_user and target_password after its `?`";

fn digest(value: &str) -> Result<bool, Failure> {
    match value.to_ascii_lowercase().as_str() {
        "crc32c" => Ok(true),
        "none" => Ok(false),
        _ => Err(Failure::usage("a digest is crc32c or none")),
    }
}

fn credentials(
    user: String,
    secret: Option<String>,
    what: &str,
    variable: &str,
) -> Result<Credentials, Failure> {
    let secret = secret.filter(|s| !s.is_empty()).ok_or_else(|| {
        Failure::usage(format!("the {what} of the URL has no secret: add one, or set {variable}"))
    })?;
    Ok(Credentials::new(user, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DiskUrl, Failure> {
        DiskUrl::parse(text, |_| None)
    }

    const DISK: &str = "iqn.2003-01.org.example:disk";

    #[test]
    fn the_parts_and_what_libiscsi_adds() {
        let u = parse(&format!("iscsi://10.0.0.1/{DISK}/3")).unwrap();
        assert_eq!((u.login.portal.to_string(), u.target.as_str(), u.lun), ("10.0.0.1:3260".into(), DISK, 3));
        assert_eq!(
            (u.login.chap, u.login.mutual, u.login.header_digest, u.login.data_digest),
            (None, None, false, false)
        );

        let u = parse(&format!(
            "iscsi://me%se@cr?t=%@[fe80::1]:860/{DISK}/0?header_digest=CRC32C&data_digest=none"
        ))
        .unwrap();
        assert_eq!(u.login.chap, Some(Credentials::new("me", "se@cr?t=%")));
        assert!(u.login.header_digest && !u.login.data_digest);

        let u = parse(&format!("iscsi://me%s@h/{DISK}/0?target_user=t&target_password=p")).unwrap();
        assert_eq!(u.login.mutual, Some(Credentials::new("t", "p")));

        let u = parse(&format!("iscsi://me%s?@h/{DISK}/0?target_user=t&target_password=p@r?k")).unwrap();
        assert_eq!(u.login.chap, Some(Credentials::new("me", "s?")));
        assert_eq!(u.login.mutual, Some(Credentials::new("t", "p@r?k")));
    }

    #[test]
    fn secrets_come_from_the_environment_unless_the_url_has_them() {
        let env = |name: &str| match name {
            "LIBISCSI_CHAP_USERNAME" => Some("envuser".to_owned()),
            "LIBISCSI_CHAP_PASSWORD" => Some("envsecret".to_owned()),
            _ => None,
        };
        let get =
            |login: &str| DiskUrl::parse(&format!("iscsi://{login}h/{DISK}/0"), env).unwrap().login.chap;
        assert_eq!(get(""), Some(Credentials::new("envuser", "envsecret")));
        assert_eq!(get("me@"), Some(Credentials::new("me", "envsecret")));
        assert_eq!(get("me%mine@"), Some(Credentials::new("me", "mine")));
    }

    #[test]
    fn errors_say_what_is_wrong_and_never_repeat_the_secret() {
        for (url, says) in [
            ("http://me%geheim@h/DISK/0", "reads iscsi://"),
            ("iscsi://me%geheim@h", "names no target"),
            ("iscsi://me%geheim@h:0/DISK/0", "host:port"),
            ("iscsi://me%geheim@h/DISK/16384", "LUN is a number"),
            ("iscsi://me%geheim@h/DISK/0?password=geheim", "knows only header_digest"),
            ("iscsi://me%geheim@h/DISK/0?header_digest=md5", "crc32c or none"),
            ("iscsi://me@h/DISK/0", "has no secret"),
            ("iscsi://me%geheim@h/DISK/0?target_user=t", "has no secret"),
            ("iscsi://h/DISK/0?target_user=t&target_password=geheim", "mutual CHAP needs"),
        ] {
            let e = parse(&url.replace("DISK", DISK)).unwrap_err();
            assert!(e.to_string().contains(says), "{url}: {e}");
            assert!(!e.to_string().contains("geheim"), "{e}");
            assert_eq!(e.code(), 7);
        }
    }

    #[test]
    fn an_unknown_host_is_a_connection_failure() {
        let url = |host: &str| parse(&format!("iscsi://{host}/{DISK}/0")).unwrap();
        assert_eq!(url("no-such-host.invalid").login.resolve().unwrap_err().code(), 4);
        assert_eq!(url("[::1]").login.resolve().unwrap(), "[::1]:3260".parse().unwrap());
    }
}
