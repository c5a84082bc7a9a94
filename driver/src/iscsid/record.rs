//! Node and discovery records: what an operator may choose about a session (ISCSID 3), with iscsid.conf's
//! defaults and the limits that the transport imposes.

use core::net::SocketAddr;
use core::time::Duration;

use iscsi::chap::{Challenge, Credentials, Secret};
use iscsi::login::ChapConfig;
use iscsi::names::normalize;
use iscsi::negotiate::{DigestOffer, LoginParams};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::control::SessionParams;

/// A record that cannot be used. The text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// A name is no iSCSI name.
    #[error("{which} `{name}` is no iSCSI name: {why}")]
    Name {
        /// Which name.
        which: &'static str,
        /// What it is.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// No connection can go to the portal.
    #[error("no target can be at {portal}: {why}")]
    Portal {
        /// Which portal.
        portal: SocketAddr,
        /// What is wrong with it.
        why: String,
    },
    /// The target is to authenticate itself, but the initiator has no secret of its own.
    #[error("username_in needs a password too: a target is only authenticated together with the initiator")]
    MutualWithoutOwn,
    /// Only one of user name and password is given.
    #[error("CHAP needs both a user name and a secret")]
    HalfCredentials,
    /// Both directions use the same secret: the target could answer with the initiator's own response.
    #[error("both CHAP directions use the same secret: choose different ones")]
    SameSecret,
}

/// CHAP credentials (`node.session.auth.*`). They are read from files and never written out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChapRecord {
    /// Initiator's user name.
    pub username: Option<String>,
    /// Initiator's secret.
    #[serde(deserialize_with = "secret")]
    pub password: Option<Secret>,
    /// The target's user name, for mutual CHAP.
    pub username_in: Option<String>,
    /// The target's secret, for mutual CHAP.
    #[serde(deserialize_with = "secret")]
    pub password_in: Option<Secret>,
}

fn secret<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.map(Secret::new))
}

impl ChapRecord {
    /// One-way CHAP.
    #[must_use]
    pub fn one_way(own: Credentials) -> Self {
        Self { username: Some(own.name), password: Some(own.secret), ..Self::default() }
    }

    /// Mutual CHAP.
    #[must_use]
    pub fn mutual(own: Credentials, target: Credentials) -> Self {
        Self { username_in: Some(target.name), password_in: Some(target.secret), ..Self::one_way(own) }
    }

    /// Whether the target has to authenticate itself.
    #[must_use]
    pub fn is_mutual(&self) -> bool {
        self.password_in.is_some()
    }

    fn pair(name: &Option<String>, secret: &Option<Secret>) -> Result<Option<Credentials>, RecordError> {
        match (name, secret) {
            (Some(name), Some(secret)) => {
                Ok(Some(Credentials { name: name.clone(), secret: secret.clone() }))
            }
            (None, None) => Ok(None),
            _ => Err(RecordError::HalfCredentials),
        }
    }

    /// What the login needs; `challenge` is fresh and used only for mutual CHAP.
    pub(super) fn config(&self, challenge: Option<Challenge>) -> Result<Option<ChapConfig>, RecordError> {
        let own = Self::pair(&self.username, &self.password)?;
        let target = Self::pair(&self.username_in, &self.password_in)?;
        match (own, target) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(RecordError::MutualWithoutOwn),
            (Some(own), Some(target)) if own.secret == target.secret => Err(RecordError::SameSecret),
            (Some(own), target) => Ok(Some(ChapConfig { own, mutual: target.zip(challenge) })),
        }
    }
}

/// A digest choice as text, because that is how records are written.
mod digest {
    use super::{Deserialize, Deserializer, DigestOffer, Serializer};

    pub(super) fn serialize<S: Serializer>(offer: &DigestOffer, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(offer.text())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<DigestOffer, D::Error> {
        let text = String::deserialize(d)?;
        DigestOffer::from_text(&text).ok_or_else(|| {
            serde::de::Error::custom("a digest is `None`, `CRC32C`, `CRC32C,None` or `None,CRC32C`")
        })
    }
}

/// A node record: one session to one portal of one target. Times in seconds, lengths in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// `node.name`.
    pub target: String,
    /// `node.conn[0].address` and `port`.
    pub portal: SocketAddr,
    /// Everything that has a default.
    #[serde(flatten)]
    pub settings: Settings,
}

/// The part of a record that has defaults, shared by nodes and discovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `node.session.auth.*`.
    #[serde(skip_serializing)]
    pub chap: ChapRecord,
    /// `node.session.initial_login_retry_max`.
    pub initial_login_retry_max: u32,
    /// `node.session.reopen_max`; 0 is for ever.
    pub reopen_max: u32,
    /// `node.session.initial_cmdsn`.
    pub initial_cmdsn: u32,
    /// `node.session.cmds_max`.
    pub cmds_max: u16,
    /// `node.session.queue_depth`.
    pub queue_depth: u16,
    /// `node.session.timeo.replacement_timeout`; 0 fails at once, negative never.
    pub replacement_timeout: i32,
    /// `node.session.err_timeo.abort_timeout`.
    pub abort_timeout: u32,
    /// `node.session.err_timeo.lu_reset_timeout`.
    pub lu_reset_timeout: u32,
    /// `node.session.err_timeo.tgt_reset_timeout`.
    pub tgt_reset_timeout: u32,
    /// The SCSI command timer (a block layer setting in the real stack).
    pub command_timeout: u32,
    /// `node.conn[0].timeo.login_timeout`: connect and login together; 0 is the default.
    pub login_timeout: u32,
    /// `node.conn[0].timeo.logout_timeout`; 0 is the default.
    pub logout_timeout: u32,
    /// `node.conn[0].timeo.noop_out_interval`; 0 disables if the timeout is 0 too.
    pub noop_out_interval: u32,
    /// `node.conn[0].timeo.noop_out_timeout`.
    pub noop_out_timeout: u32,
    /// `node.conn[0].iscsi.HeaderDigest`.
    #[serde(with = "digest")]
    pub header_digest: DigestOffer,
    /// `node.conn[0].iscsi.DataDigest`.
    #[serde(with = "digest")]
    pub data_digest: DigestOffer,
    /// `node.conn[0].iscsi.MaxRecvDataSegmentLength`.
    pub max_recv_data_segment_length: u32,
    /// `node.session.iscsi.FirstBurstLength`.
    pub first_burst_length: u32,
    /// `node.session.iscsi.MaxBurstLength`.
    pub max_burst_length: u32,
    /// `node.session.iscsi.InitialR2T`.
    pub initial_r2t: bool,
    /// `node.session.iscsi.ImmediateData`.
    pub immediate_data: bool,
    /// `node.session.iscsi.MaxOutstandingR2T`.
    pub max_outstanding_r2t: u16,
    /// `node.session.iscsi.DefaultTime2Wait`.
    pub default_time2wait: u16,
    /// `node.session.iscsi.DefaultTime2Retain`.
    pub default_time2retain: u16,
    /// `node.session.iscsi.ERL`; the transport knows only 0.
    pub error_recovery_level: u8,
}

const LOGIN_TIMEOUT: u32 = 15;
const LOGOUT_TIMEOUT: u32 = 15;

impl Default for Settings {
    fn default() -> Self {
        let login = LoginParams::default();
        Self {
            chap: ChapRecord::default(),
            initial_login_retry_max: 8,
            reopen_max: 0,
            initial_cmdsn: 0,
            cmds_max: 128,
            queue_depth: 32,
            replacement_timeout: 120,
            abort_timeout: 15,
            lu_reset_timeout: 30,
            tgt_reset_timeout: 30,
            command_timeout: 30,
            login_timeout: LOGIN_TIMEOUT,
            logout_timeout: LOGOUT_TIMEOUT,
            noop_out_interval: 5,
            noop_out_timeout: 5,
            header_digest: login.header_digest,
            data_digest: login.data_digest,
            max_recv_data_segment_length: login.max_recv_data_segment_length,
            first_burst_length: login.first_burst_length,
            max_burst_length: login.max_burst_length,
            initial_r2t: login.initial_r2t,
            immediate_data: login.immediate_data,
            max_outstanding_r2t: login.max_outstanding_r2t,
            default_time2wait: login.default_time2wait,
            default_time2retain: login.default_time2retain,
            error_recovery_level: login.error_recovery_level,
        }
    }
}

/// Longest data segment and burst that the 24-bit fields can name.
const MAX_LENGTH: u32 = (1 << 24) - 1;

impl Settings {
    /// Brings every value into its range and says what was changed, in the real daemon's words where it has
    /// some.
    pub fn clamp(&mut self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut set = |name: &str, value: &mut u32, to: u32| {
            if *value != to {
                notes.push(format!("{name} {value} is out of range, using {to}"));
                *value = to;
            }
        };
        let timeout = |value: u32, default| if value == 0 { default } else { value };
        let to = timeout(self.login_timeout, LOGIN_TIMEOUT);
        set("login_timeout", &mut self.login_timeout, to);
        let to = timeout(self.logout_timeout, LOGOUT_TIMEOUT);
        set("logout_timeout", &mut self.logout_timeout, to);
        // A TMF that may not take any time would recover the session for every slow command.
        for (name, value, default) in [
            ("abort_timeout", &mut self.abort_timeout, 15),
            ("lu_reset_timeout", &mut self.lu_reset_timeout, 30),
            ("tgt_reset_timeout", &mut self.tgt_reset_timeout, 30),
            ("command_timeout", &mut self.command_timeout, 30),
        ] {
            let to = timeout(*value, default);
            set(name, value, to);
        }
        let to = self.max_recv_data_segment_length.clamp(512, MAX_LENGTH);
        set("MaxRecvDataSegmentLength", &mut self.max_recv_data_segment_length, to);
        let to = self.max_burst_length.clamp(512, MAX_LENGTH);
        set("MaxBurstLength", &mut self.max_burst_length, to);
        let to = self.first_burst_length.clamp(512, self.max_burst_length);
        set("FirstBurstLength", &mut self.first_burst_length, to);

        let mut short = |name: &str, value: &mut u16, to: u16| {
            let mut wide = u32::from(*value);
            set(name, &mut wide, u32::from(to));
            *value = to;
        };
        let cmds_max = self.cmds_max.clamp(2, 2048);
        short("cmds_max", &mut self.cmds_max, 1 << cmds_max.ilog2());
        let to = self.queue_depth.clamp(1, 1024);
        short("queue_depth", &mut self.queue_depth, to);
        // UPDATE_CONN has eight bits for it (BNX2I-CNIC 4.7).
        let to = self.max_outstanding_r2t.clamp(1, 255);
        short("MaxOutstandingR2T", &mut self.max_outstanding_r2t, to);
        let to = self.default_time2wait.min(3600);
        short("DefaultTime2Wait", &mut self.default_time2wait, to);
        let to = self.default_time2retain.min(3600);
        short("DefaultTime2Retain", &mut self.default_time2retain, to);
        if self.error_recovery_level != 0 {
            notes.push("Transport 'bnx2i' does not support ERL > 0, using 0".to_owned());
            self.error_recovery_level = 0;
        }
        notes
    }

    /// Login timeout as a duration.
    #[must_use]
    pub fn login_timeout(&self) -> Duration {
        Duration::from_secs(self.login_timeout.into())
    }

    pub(super) fn logout_timeout(&self) -> Duration {
        Duration::from_secs(self.logout_timeout.into())
    }

    pub(super) fn login_params(&self) -> LoginParams {
        LoginParams {
            header_digest: self.header_digest,
            data_digest: self.data_digest,
            max_recv_data_segment_length: self.max_recv_data_segment_length,
            max_burst_length: self.max_burst_length,
            first_burst_length: self.first_burst_length,
            initial_r2t: self.initial_r2t,
            immediate_data: self.immediate_data,
            max_outstanding_r2t: self.max_outstanding_r2t,
            default_time2wait: self.default_time2wait,
            default_time2retain: self.default_time2retain,
            error_recovery_level: self.error_recovery_level,
            ..LoginParams::default()
        }
    }

    pub(super) fn session_params(&self, target: String, discovery: bool) -> SessionParams {
        let s = |seconds: u32| Duration::from_secs(seconds.into());
        SessionParams {
            target,
            discovery,
            initial_cmd_sn: self.initial_cmdsn,
            queue_depth: self.queue_depth.min(self.cmds_max),
            replacement_timeout: u32::try_from(self.replacement_timeout).ok().map(s),
            noop_interval: s(self.noop_out_interval),
            noop_timeout: s(self.noop_out_timeout),
            abort_timeout: s(self.abort_timeout),
            lu_reset_timeout: s(self.lu_reset_timeout),
            tgt_reset_timeout: s(self.tgt_reset_timeout),
            command_timeout: s(self.command_timeout),
        }
    }
}

impl NodeRecord {
    /// A record with the defaults.
    #[must_use]
    pub fn new(target: impl Into<String>, portal: SocketAddr) -> Self {
        Self { target: target.into(), portal, settings: Settings::default() }
    }

    /// Checks the target's name, which stays as it is, and the credentials; values out of range are brought
    /// into it.
    ///
    /// # Errors
    /// What no default can mend.
    pub fn check(mut self) -> Result<(Self, Vec<String>), RecordError> {
        normalize(&self.target).map_err(|why| RecordError::Name {
            which: "target name",
            name: self.target.clone(),
            why: why.to_string(),
        })?;
        check_portal(self.portal)?;
        self.settings.chap.config(None)?;
        let notes = self.settings.clamp();
        Ok((self, notes))
    }
}

/// Whether a connection can go there.
pub(super) fn check_portal(portal: SocketAddr) -> Result<(), RecordError> {
    let why = match bus::address::destination(portal.ip()) {
        Err(why) => format!("the address {why}"),
        Ok(()) if portal.port() == 0 => "the port is 0".to_owned(),
        Ok(()) => return Ok(()),
    };
    Err(RecordError::Portal { portal, why })
}

/// What a discovery asks, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryRecord {
    /// The portal to ask.
    pub portal: SocketAddr,
    /// `discovery.sendtargets.*`: login timeout, reopen_max, CHAP, digests and segment length are used.
    #[serde(flatten)]
    pub settings: Settings,
}

impl DiscoveryRecord {
    /// A record with discovery's defaults.
    #[must_use]
    pub fn new(portal: SocketAddr) -> Self {
        let settings =
            Settings { reopen_max: 5, max_recv_data_segment_length: 32_768, ..Settings::default() };
        Self { portal, settings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> NodeRecord {
        NodeRecord::new("iqn.2001-04.com.example:disk1", SocketAddr::from(([192, 0, 2, 5], 3260)))
    }

    #[test]
    fn defaults_are_those_of_iscsid_conf() {
        let (r, notes) = record().check().unwrap();
        assert_eq!(notes, Vec::<String>::new());
        let s = &r.settings;
        assert_eq!(
            (s.login_timeout, s.logout_timeout, s.initial_login_retry_max, s.reopen_max),
            (15, 15, 8, 0)
        );
        assert_eq!((s.noop_out_interval, s.noop_out_timeout, s.replacement_timeout), (5, 5, 120));
        assert_eq!((s.abort_timeout, s.lu_reset_timeout, s.tgt_reset_timeout), (15, 30, 30));
        assert_eq!((s.first_burst_length, s.max_burst_length), (262_144, 16_776_192));
        assert_eq!((s.max_recv_data_segment_length, s.cmds_max, s.queue_depth), (262_144, 128, 32));
        assert_eq!(s.login_params(), LoginParams::default());
        let d = DiscoveryRecord::new(r.portal).settings;
        assert_eq!((d.reopen_max, d.max_recv_data_segment_length), (5, 32_768));
    }

    #[test]
    fn values_out_of_range_are_brought_in_and_named() {
        let mut r = record();
        r.settings = Settings {
            login_timeout: 0,
            abort_timeout: 0,
            cmds_max: 100,
            queue_depth: 5000,
            max_outstanding_r2t: 1000,
            first_burst_length: 1 << 24,
            max_burst_length: 65_536,
            error_recovery_level: 2,
            ..Settings::default()
        };
        let (r, notes) = r.check().unwrap();
        let s = &r.settings;
        assert_eq!((s.login_timeout, s.abort_timeout, s.cmds_max, s.queue_depth), (15, 15, 64, 1024));
        assert_eq!((s.max_outstanding_r2t, s.first_burst_length, s.error_recovery_level), (255, 65_536, 0));
        assert_eq!(notes.len(), 7, "{notes:?}");
        assert!(notes.iter().any(|n| n == "cmds_max 100 is out of range, using 64"), "{notes:?}");
        assert_eq!(s.login_params().check(), Ok(()));
    }

    #[test]
    fn credentials_are_checked() {
        let own = || Credentials::new("user", "secret-secret");
        let check = |chap| {
            let mut r = record();
            r.settings.chap = chap;
            r.check().map(|_| ())
        };
        assert_eq!(check(ChapRecord::one_way(own())), Ok(()));
        assert_eq!(check(ChapRecord::mutual(own(), Credentials::new("t", "other-secret"))), Ok(()));
        assert_eq!(check(ChapRecord::mutual(own(), own())), Err(RecordError::SameSecret));
        let only_target = ChapRecord { username: None, password: None, ..ChapRecord::mutual(own(), own()) };
        assert_eq!(check(only_target), Err(RecordError::MutualWithoutOwn));
        let half = ChapRecord { password: None, ..ChapRecord::one_way(own()) };
        assert_eq!(check(half), Err(RecordError::HalfCredentials));
        let bad = NodeRecord { target: "disk 1".into(), ..record() };
        assert!(matches!(bad.check(), Err(RecordError::Name { .. })));
    }

    #[test]
    fn the_replacement_timeout_has_its_three_meanings() {
        let timeout = |replacement_timeout| {
            Settings { replacement_timeout, ..Settings::default() }
                .session_params(String::new(), false)
                .replacement_timeout
        };
        assert_eq!(timeout(120), Some(Duration::from_secs(120)));
        assert_eq!((timeout(0), timeout(-1)), (Some(Duration::ZERO), None));
    }

    #[test]
    fn records_are_written_without_secrets_and_read_with_defaults() {
        let text = r#"{"target":"iqn.2001-04.com.example:a","portal":"[2001:db8::5]:860","login_timeout":7,
            "data_digest":"CRC32C,None","chap":{"username":"user","password":"secret-secret"}}"#;
        let r: NodeRecord = serde_json::from_str(text).unwrap();
        assert_eq!((r.portal.port(), r.settings.login_timeout, r.settings.queue_depth), (860, 7, 32));
        assert_eq!(r.settings.data_digest, DigestOffer::Crc32cOrNone);
        assert_eq!(r.settings.chap, ChapRecord::one_way(Credentials::new("user", "secret-secret")));
        let written = serde_json::to_string(&r).unwrap();
        assert!(
            !written.contains("secret") && written.contains(r#""data_digest":"CRC32C,None""#),
            "{written}"
        );
        let back: NodeRecord = serde_json::from_str(&written).unwrap();
        let bare = Settings { chap: ChapRecord::default(), ..r.settings.clone() };
        assert_eq!(back, NodeRecord { settings: bare, ..r });
        let bad = text.replace("CRC32C,None", "MD5");
        assert!(serde_json::from_str::<NodeRecord>(&bad).unwrap_err().to_string().contains("a digest is"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let chap = ChapRecord::one_way(Credentials::new("user", "hunter2hunter2"));
        assert!(!format!("{chap:?}").contains("hunter"));
    }
}
