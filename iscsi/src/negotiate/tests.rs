//! Results of every key against the functions of RFC 7143 13.

use super::*;
use crate::text::Pairs;
use proptest::prelude::*;

fn target(own: LoginParams) -> Negotiation {
    Negotiation::new(Role::Target, own, false)
}

/// The target's answer to one proposal.
fn answer(own: LoginParams, name: &str, value: &str) -> String {
    let mut out = TextWriter::new();
    target(own).receive(Stage::Operational, name, value, &mut out).unwrap();
    let answers: Vec<_> = Pairs::new(out.as_bytes()).map(Result::unwrap).collect();
    match answers[..] {
        [] => String::new(),
        [(key, answer)] if key == name => answer.into(),
        _ => panic!("{answers:?}"),
    }
}

#[test]
fn answers_follow_the_functions() {
    let own = LoginParams {
        header_digest: DigestOffer::NoneOrCrc32c,
        data_digest: DigestOffer::None,
        max_burst_length: 1 << 20,
        first_burst_length: 1 << 16,
        initial_r2t: false,
        immediate_data: true,
        max_outstanding_r2t: 4,
        default_time2wait: 2,
        default_time2retain: 20,
        ..LoginParams::default()
    };
    let table = [
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("HeaderDigest", "None,CRC32C", "None"),
        ("HeaderDigest", "X-new,CRC32C", "CRC32C"),
        ("DataDigest", "CRC32C,None", "None"),
        ("DataDigest", "CRC32C", "Reject"),
        ("MaxBurstLength", "2097152", "1048576"),
        ("MaxBurstLength", "0x200", "512"),
        ("MaxBurstLength", "511", "Reject"),
        ("MaxBurstLength", "16777216", "Reject"),
        ("FirstBurstLength", "1048576", "65536"),
        ("InitialR2T", "No", "No"),
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "yes", "Reject"),
        ("ImmediateData", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("MaxOutstandingR2T", "16", "4"),
        ("MaxOutstandingR2T", "0", "Reject"),
        ("MaxConnections", "8", "1"),
        ("DefaultTime2Wait", "0", "2"),
        ("DefaultTime2Wait", "9", "9"),
        ("DefaultTime2Retain", "30", "20"),
        ("DefaultTime2Retain", "3601", "Reject"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("DataPDUInOrder", "No", "Yes"),
        ("DataSequenceInOrder", "No", "Yes"),
        ("TaskReporting", "FastAbort,RFC3720", "RFC3720"),
        ("TaskReporting", "FastAbort", "Reject"),
        ("iSCSIProtocolLevel", "2", "1"),
        ("IFMarker", "No", "Reject"),
        ("OFMarkInt", "1~2", "Reject"),
        ("X-com.example", "1", "NotUnderstood"),
        ("Unheard", "1", "NotUnderstood"),
        ("Unheard", "NotUnderstood", ""),
        ("MaxRecvDataSegmentLength", "65536", ""),
        ("X#NodeArchitecture", "a,b", ""),
        ("InitiatorAlias", "", ""),
    ];
    for (name, offered, want) in table {
        assert_eq!(answer(own.clone(), name, offered), want, "{name}={offered}");
    }
}

#[test]
fn results_follow_the_functions() {
    let mut engine =
        target(LoginParams { initial_r2t: true, max_burst_length: 4096, ..LoginParams::default() });
    let mut out = TextWriter::new();
    for (name, value) in [
        ("InitialR2T", "No"),
        ("ImmediateData", "No"),
        ("MaxBurstLength", "8192"),
        ("MaxRecvDataSegmentLength", "1024"),
        ("DefaultTime2Wait", "7"),
    ] {
        engine.receive(Stage::Operational, name, value, &mut out).unwrap();
    }
    let result = engine.finish().unwrap();
    let want = SessionParams {
        initial_r2t: true,
        immediate_data: false,
        max_burst_length: 4096,
        first_burst_length: 4096,
        max_send_data_segment_length: 1024,
        time2wait: 7,
        ..SessionParams::default()
    };
    assert_eq!(result, want);
}

#[test]
fn broken_negotiations_fail() {
    let fails = |stage, pairs: &[(&str, &str)]| {
        let (mut engine, mut out) = (target(LoginParams::default()), TextWriter::new());
        pairs.iter().try_for_each(|(name, value)| engine.receive(stage, name, value, &mut out)).unwrap_err()
    };
    let op = Stage::Operational;
    assert_eq!(
        fails(op, &[("InitialR2T", "No"), ("InitialR2T", "No")]),
        NegotiationError::Duplicate(Key::InitialR2T)
    );
    assert_eq!(
        fails(Stage::Security, &[("InitialR2T", "No")]),
        NegotiationError::WrongStage(Key::InitialR2T)
    );
    assert_eq!(fails(op, &[("SendTargets", "All")]), NegotiationError::WrongStage(Key::SendTargets));
    assert_eq!(fails(op, &[("TargetAlias", "x")]), NegotiationError::WrongSender(Key::TargetAlias));
    for bad in ["511", "16777216", "", "1k"] {
        let got = fails(op, &[("MaxRecvDataSegmentLength", bad)]);
        assert_eq!(got, NegotiationError::Value(Key::MaxRecvDataSegmentLength, Excerpt::new(bad)));
    }
}

#[test]
fn discovery_answers_irrelevant() {
    let mut engine = Negotiation::new(Role::Target, LoginParams::default(), true);
    for spec in KEYS.iter().filter(|spec| spec.irrelevant_in_discovery) {
        let mut out = TextWriter::new();
        engine.receive(Stage::Operational, spec.name, "1", &mut out).unwrap();
        assert_eq!(out.as_bytes(), format!("{}=Irrelevant\0", spec.name).as_bytes());
    }
    assert_eq!(engine.finish().unwrap(), SessionParams::default());
}

/// The outcome at an initiator that wants `own` and got `replies` to all of its proposals but those named in
/// `replies`.
fn initiator(own: LoginParams, replies: &[(&str, &str)]) -> Result<SessionParams, NegotiationError> {
    let (mut engine, mut offer, mut out) =
        (Negotiation::new(Role::Initiator, own, false), TextWriter::new(), TextWriter::new());
    engine.offer(&mut offer)?;
    for pair in Pairs::new(offer.as_bytes()) {
        let (name, offered) = pair?;
        let value = match replies.iter().find(|(key, _)| *key == name) {
            Some(&(_, value)) => value,
            None => offered,
        };
        if !value.is_empty() {
            engine.receive(Stage::Operational, name, value, &mut out)?;
        }
    }
    assert!(out.is_empty(), "answers are not answered");
    engine.finish()
}

#[test]
fn initiator_checks_answers() {
    let own = LoginParams {
        header_digest: DigestOffer::Crc32cOrNone,
        initial_r2t: false,
        immediate_data: true,
        default_time2wait: 3,
        ..LoginParams::default()
    };
    let got =
        initiator(own.clone(), &[("MaxBurstLength", "4096"), ("ImmediateData", "No"), ("InitialR2T", "Yes")]);
    let got = got.unwrap_err();
    assert!(matches!(got, NegotiationError::Answer(Key::HeaderDigest, _)), "a list is no answer: {got}");
    let with = |name, value| initiator(own.clone(), &[("HeaderDigest", "CRC32C"), (name, value)]);
    assert!(with("ImmediateData", "No").is_ok_and(|params| params.header_digest && !params.immediate_data));
    assert!(with("InitialR2T", "Yes").is_ok_and(|params| params.initial_r2t));
    assert!(with("MaxBurstLength", "4096").is_ok_and(|params| params.first_burst_length == 4096));
    assert!(with("DefaultTime2Wait", "9").is_ok_and(|params| params.time2wait == 9));
    assert!(with("FirstBurstLength", "Irrelevant").is_ok());
    assert!(
        with("MaxRecvDataSegmentLength", "").is_ok_and(|params| params.max_send_data_segment_length == 8192)
    );
    assert!(with("DataPDUInOrder", "").is_ok(), "Or with Yes needs no answer");
    assert_eq!(with("ImmediateData", "").unwrap_err(), NegotiationError::Unanswered(Key::ImmediateData));
    assert_eq!(
        with("MaxBurstLength", "16776193").unwrap_err(),
        NegotiationError::Answer(Key::MaxBurstLength, Excerpt::new("16776193"))
    );
    assert_eq!(
        with("DefaultTime2Wait", "2").unwrap_err(),
        NegotiationError::Answer(Key::DefaultTime2Wait, Excerpt::new("2"))
    );
    assert_eq!(
        with("DataPDUInOrder", "No").unwrap_err(),
        NegotiationError::Answer(Key::DataPDUInOrder, Excerpt::new("No"))
    );
    assert_eq!(
        with("DataDigest", "CRC32C").unwrap_err(),
        NegotiationError::Answer(Key::DataDigest, Excerpt::new("CRC32C"))
    );
    assert_eq!(
        with("DataDigest", "Reject").unwrap_err(),
        NegotiationError::Refused(Key::DataDigest, Excerpt::new("Reject"))
    );
    assert_eq!(
        with("MaxBurstLength", "NotUnderstood").unwrap_err(),
        NegotiationError::Refused(Key::MaxBurstLength, Excerpt::new("NotUnderstood"))
    );
    assert_eq!(
        with("MaxBurstLength", "Irrelevant").unwrap_err(),
        NegotiationError::Answer(Key::MaxBurstLength, Excerpt::new("Irrelevant"))
    );
}

#[test]
fn initiator_answers_what_a_target_proposes() {
    let own = LoginParams { max_burst_length: 65536, first_burst_length: 512, ..LoginParams::default() };
    let mut engine = Negotiation::new(Role::Initiator, own, false);
    let mut out = TextWriter::new();
    engine.receive(Stage::Operational, "MaxBurstLength", "1048576", &mut out).unwrap();
    engine.receive(Stage::Operational, "X-vendor", "1", &mut out).unwrap();
    assert_eq!(out.as_bytes(), b"MaxBurstLength=65536\0X-vendor=NotUnderstood\0");
    assert_eq!(engine.finish().unwrap().max_burst_length, 65536);
}

#[test]
fn full_feature_text_changes_the_data_segment_length_only() {
    let (mut params, mut out) = (SessionParams::default(), TextWriter::new());
    renegotiate(&mut params, "MaxRecvDataSegmentLength", "4096", &mut out).unwrap();
    assert!(out.is_empty() && params.max_send_data_segment_length == 4096);
    renegotiate(&mut params, "MaxBurstLength", "4096", &mut out).unwrap();
    renegotiate(&mut params, "Unheard", "1", &mut out).unwrap();
    assert_eq!(out.as_bytes(), b"MaxBurstLength=Reject\0Unheard=NotUnderstood\0");
    let bad = renegotiate(&mut params, "MaxRecvDataSegmentLength", "1", &mut out);
    assert_eq!(bad, Err(NegotiationError::Value(Key::MaxRecvDataSegmentLength, Excerpt::new("1"))));
    assert_eq!(params, SessionParams { max_send_data_segment_length: 4096, ..SessionParams::default() });
}

#[test]
fn defaults_are_those_of_the_table() {
    let params = SessionParams::default();
    for spec in KEYS {
        let held = match spec.key {
            Key::MaxRecvDataSegmentLength => params.max_send_data_segment_length,
            Key::MaxBurstLength => params.max_burst_length,
            Key::FirstBurstLength => params.first_burst_length,
            Key::MaxOutstandingR2T => params.max_outstanding_r2t.into(),
            Key::MaxConnections => params.max_connections.into(),
            Key::DefaultTime2Wait => params.time2wait.into(),
            Key::DefaultTime2Retain => params.time2retain.into(),
            Key::ErrorRecoveryLevel => params.error_recovery_level.into(),
            Key::ISCSIProtocolLevel => PROTOCOL_LEVEL,
            Key::InitialR2T => params.initial_r2t.into(),
            Key::ImmediateData => params.immediate_data.into(),
            Key::DataPDUInOrder => params.data_pdu_in_order.into(),
            Key::DataSequenceInOrder => params.data_sequence_in_order.into(),
            _ => continue,
        };
        let default = match spec.rule {
            Rule::And { default } | Rule::Or { default } => default.into(),
            Rule::Min { default, .. } | Rule::Max { default, .. } | Rule::DeclareNumber { default, .. } => {
                default
            }
            rule => panic!("{rule:?}"),
        };
        assert_eq!(held, default, "{}", spec.name);
    }
}

#[test]
fn parameters_are_checked() {
    assert_eq!(LoginParams::default().check(), Ok(()));
    let bad = LoginParams { max_outstanding_r2t: 0, ..LoginParams::default() };
    assert_eq!(bad.check(), Err(Key::MaxOutstandingR2T));
    let bad = LoginParams { max_burst_length: 512, ..LoginParams::default() };
    assert_eq!(bad.check(), Err(Key::FirstBurstLength));
    for text in ["None", "CRC32C", "CRC32C,None", "None,CRC32C"] {
        assert_eq!(DigestOffer::from_text(text).unwrap().text(), text);
    }
    assert_eq!(DigestOffer::from_text("crc32c"), None);
}

/// Parameters in all their legal ranges.
fn any_params() -> impl Strategy<Value = LoginParams> {
    let digest = || {
        use DigestOffer::{Crc32c, Crc32cOrNone, NoneOrCrc32c};
        prop_oneof![Just(DigestOffer::None), Just(Crc32c), Just(Crc32cOrNone), Just(NoneOrCrc32c)]
    };
    let numbers = (512u32..1 << 24, 512u32..1 << 24, 512u32..1 << 24, 1u16.., 0u16..=3600, 0u16..=3600);
    (digest(), digest(), numbers, any::<[bool; 4]>(), 0u8..=2).prop_map(|(header, data, n, flags, erl)| {
        LoginParams {
            header_digest: header,
            data_digest: data,
            max_recv_data_segment_length: n.0,
            max_burst_length: n.1.max(n.2),
            first_burst_length: n.1.min(n.2),
            initial_r2t: flags[0],
            immediate_data: flags[1],
            max_outstanding_r2t: n.3,
            max_connections: n.3,
            default_time2wait: n.4,
            default_time2retain: n.5,
            error_recovery_level: erl,
            data_pdu_in_order: flags[2],
            data_sequence_in_order: flags[3],
        }
    })
}

proptest! {
    /// Whatever the two ends want, they either agree on the same values or fail over a digest.
    #[test]
    fn both_ends_agree(ours in any_params(), theirs in any_params()) {
        prop_assert_eq!(ours.check(), Ok(()));
        let mut initiator = Negotiation::new(Role::Initiator, ours, false);
        let mut target = target(theirs);
        let (mut offer, mut reply, mut rest) = (TextWriter::new(), TextWriter::new(), TextWriter::new());
        initiator.offer(&mut offer).unwrap();
        for pair in Pairs::new(offer.as_bytes()) {
            let (name, value) = pair.unwrap();
            target.receive(Stage::Operational, name, value, &mut reply).unwrap();
        }
        target.declare(&mut reply).unwrap();
        for pair in Pairs::new(reply.as_bytes()) {
            let (name, value) = pair.unwrap();
            match initiator.receive(Stage::Operational, name, value, &mut rest) {
                Err(NegotiationError::Refused(Key::HeaderDigest | Key::DataDigest, _)) => return Ok(()),
                other => prop_assert_eq!(other, Ok(())),
            }
        }
        let (mine, mut yours) = (initiator.finish().unwrap(), target.finish().unwrap());
        core::mem::swap(&mut yours.max_recv_data_segment_length, &mut yours.max_send_data_segment_length);
        prop_assert_eq!(mine, yours);
    }
}
