//! The login phase, seen from either end: it ends, and nobody gets in who cannot prove who he is.

use iscsi::chap::{Challenge, Credentials, Secret};
use iscsi::login::{
    Admission, ChapConfig, Identity, InitiatorConfig, InitiatorLogin, InitiatorStep, LoginPolicy,
    MAX_EXCHANGES, TargetConfig, TargetLogin, TargetStep,
};
use iscsi::negotiate::{DigestOffer, LoginParams, SessionParams};
use iscsi::pdu::{Header, LoginRequest, LoginResponse, LoginStatus, Stage};
use iscsi::serial::Sn;

use super::Cursor;

/// Keys that both ends know; an input names them by number, so that it need not spell them.
const KEYS: &[&str] = &[
    "InitiatorName",
    "TargetName",
    "SessionType",
    "AuthMethod",
    "CHAP_A",
    "CHAP_I",
    "CHAP_C",
    "CHAP_N",
    "CHAP_R",
    "HeaderDigest",
    "DataDigest",
    "MaxConnections",
    "InitialR2T",
    "ImmediateData",
    "MaxRecvDataSegmentLength",
    "MaxBurstLength",
    "FirstBurstLength",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "MaxOutstandingR2T",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "ErrorRecoveryLevel",
    "IFMarker",
    "OFMarker",
    "TaskReporting",
    "TargetAlias",
    "InitiatorAlias",
    "TargetAddress",
    "TargetPortalGroupTag",
    "iSCSIProtocolLevel",
    "SendTargets",
    "X-com.example.fuzz",
];
const VALUES: &[&str] = &[
    "iqn.2026-01.example:host",
    "iqn.2026-01.example:disk",
    "Normal",
    "Discovery",
    "CHAP",
    "None",
    "CHAP,None",
    "5",
    "7",
    "5,7",
    "0x00112233445566778899aabbccddeeff",
    "0bAAAA",
    "user",
    "CRC32C",
    "CRC32C,None",
    "Yes",
    "No",
    "0",
    "1",
    "8192",
    "16777215",
    "Irrelevant",
    "NotUnderstood",
    "Reject",
    "RFC3720",
    "1~9",
    "",
    "192.0.2.1:3260,1",
    "[2001:db8::1]:3260,1",
];

/// A list of key=value pairs; some are any bytes.
fn list(c: &mut Cursor<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..c.byte() % 16 {
        let how = c.byte();
        if how & 0x80 != 0 {
            out.extend_from_slice(c.block());
            continue;
        }
        out.extend_from_slice(c.pick(KEYS).as_bytes());
        out.push(b'=');
        if how & 0x40 != 0 {
            out.extend_from_slice(c.block());
        } else {
            out.extend_from_slice(c.pick(VALUES).as_bytes());
        }
        out.push(0);
    }
    out
}

fn stage(bits: u8) -> Stage {
    [Stage::Security, Stage::Operational, Stage::FullFeature][usize::from(bits % 3)]
}

fn judge(p: &SessionParams) {
    assert!((512..=16_777_215).contains(&p.max_burst_length));
    assert!((512..=p.max_burst_length).contains(&p.first_burst_length));
    assert!((512..=16_777_215).contains(&p.max_send_data_segment_length));
    assert!((512..=16_777_215).contains(&p.max_recv_data_segment_length));
    assert!(p.max_outstanding_r2t >= 1 && p.max_connections >= 1);
    assert_eq!(p.error_recovery_level, 0, "we do no other");
}

fn params(c: &mut Cursor<'_>) -> LoginParams {
    let digest = |n: u8| {
        [DigestOffer::None, DigestOffer::Crc32c, DigestOffer::Crc32cOrNone, DigestOffer::NoneOrCrc32c]
            [usize::from(n % 4)]
    };
    let bits = c.byte();
    LoginParams { header_digest: digest(bits), data_digest: digest(bits >> 2), ..LoginParams::default() }
}

fn challenge() -> Challenge {
    Challenge::new(9, vec![0x5a; 16]).expect("16 bytes are a challenge")
}

/// A target that answers anything to our initiator.
pub(super) fn initiator(input: &[u8]) {
    let mut c = Cursor::new(input);
    let how = c.byte();
    let mutual = how & 2 != 0;
    let chap = (how & 1 != 0).then(|| ChapConfig {
        own: Credentials::new("user", "a secret that is long"),
        mutual: mutual.then(|| (Credentials::new("target", "another secret, as long"), challenge())),
    });
    let proof = chap.as_ref().is_some_and(|c| c.mutual.is_some());
    let config = InitiatorConfig {
        initiator_name: "iqn.2026-01.example:host".into(),
        initiator_alias: None,
        target_name: (how & 4 == 0).then(|| "iqn.2026-01.example:disk".into()),
        isid: [0, 2, 0x3d, 0, 0, 1],
        cid: 0,
        cmd_sn: Sn(1),
        chap,
        params: params(&mut c),
    };
    let (mut login, first) = InitiatorLogin::start(config).expect("our own names fit");
    let (mut request, mut stat_sn) = (first.header, 7);
    for _ in 0..2 * MAX_EXCHANGES {
        let mut answer = LoginResponse::new();
        let bits = c.byte();
        let next = (bits & 1 != 0).then(|| stage(bits >> 3));
        // Mostly the stage that was asked for.
        let (current, asked) = request.stages().unwrap_or((Stage::Security, None));
        match bits & 0x06 {
            0 => answer.set_stages(current, asked, false),
            2 => answer.set_stages(current, None, bits & 0x80 != 0),
            4 => answer.set_stages(stage(bits >> 5), next, false),
            _ => answer.flags = c.byte(),
        }
        answer.isid = request.isid;
        answer.itt = request.itt;
        answer.tsih.set(if bits & 0x40 != 0 { c.u16() } else { 5 });
        answer.stat_sn.set(stat_sn);
        answer.exp_cmd_sn.set(1);
        answer.max_cmd_sn.set(64);
        if bits & 0x20 != 0 && c.byte() & 7 == 0 {
            let any: [u8; 48] = c.array();
            let any = iscsi::pdu::Bhs::from_bytes(&any);
            answer = *LoginResponse::cast(any);
        }
        stat_sn += 1;
        let data = list(&mut c);
        answer.data_segment_length.set(data.len() as u32);
        match login.receive(&answer, &data) {
            InitiatorStep::Send(next) => {
                assert!(next.data.len() <= 8192);
                request = next.header;
            }
            InitiatorStep::Done(done) => {
                assert!(!proof, "a target logged us in without proving itself");
                judge(&done.params);
                return;
            }
            InitiatorStep::Redirect { address, .. } => {
                assert!(!address.to_string().is_empty());
                return;
            }
            InitiatorStep::Failed(why) => {
                assert!(!why.to_string().is_empty());
                return;
            }
        }
    }
    panic!("a login of more than {MAX_EXCHANGES} exchanges");
}

struct Policy {
    chap: bool,
}

impl LoginPolicy for Policy {
    fn admit(&mut self, who: &Identity) -> Admission {
        match who.target_name.as_deref() {
            Some("iqn.2026-01.example:disk") | None if self.chap => {
                Admission::Chap { mutual: Some(Credentials::new("target", "another secret, as long")) }
            }
            Some("iqn.2026-01.example:disk") | None => Admission::Open,
            Some(_) => Admission::Refuse(LoginStatus::TargetNotFound),
        }
    }

    fn secret(&mut self, _: &Identity, name: &str) -> Option<Secret> {
        (name == "user").then(|| Secret::new("a secret that is long"))
    }

    fn place(&mut self, _: &Identity) -> Result<u16, LoginStatus> {
        Ok(7)
    }
}

/// An initiator that says anything to our target.
pub(super) fn target(input: &[u8]) {
    let mut c = Cursor::new(input);
    let chap = c.byte() & 1 != 0;
    let mut policy = Policy { chap };
    let mut login = TargetLogin::new(TargetConfig {
        params: params(&mut c),
        portal_group_tag: 1,
        first_stat_sn: Sn(1),
        command_window: 64,
        challenge: challenge(),
    });
    for _ in 0..2 * MAX_EXCHANGES {
        let mut request = LoginRequest::new();
        let bits = c.byte();
        let next = (bits & 1 != 0).then(|| stage(bits >> 3));
        request.set_stages(stage(bits >> 1), next, bits & 0x80 != 0 && next.is_none());
        if bits & 0x40 != 0 {
            request.flags = c.byte();
        }
        request.isid = [0, 2, 0x3d, 0, 0, 1];
        request.itt.set(1);
        request.cmd_sn.set(1);
        let mut bhs = *request;
        if bits & 0x20 != 0 && c.byte() & 7 == 0 {
            bhs = *iscsi::pdu::Bhs::from_bytes(&c.array());
        }
        let data = list(&mut c);
        bhs.data_segment_length.set(data.len() as u32);
        match login.receive(&mut policy, &bhs, &data) {
            TargetStep::Send(answer) => assert!(answer.data.len() <= 8192),
            TargetStep::Done(answer, done) => {
                assert!(!chap, "somebody got in without the secret");
                assert!(answer.data.len() <= 8192);
                judge(&done.params);
                return;
            }
            TargetStep::Refused(_, why) => {
                assert!(why.is_none_or(|w| !w.to_string().is_empty()));
                return;
            }
        }
    }
    panic!("a login of more than {MAX_EXCHANGES} exchanges");
}
