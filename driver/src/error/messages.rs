//! The messages of all causes as a table: each names its cause by a word of its own, no two share a sentence,
//! and each ends in iscsiadm's exit code for it (ISCSID 6). A cause that is new and not in the table does not
//! compile.

use std::collections::BTreeMap;

use bus::uio::PathFailure;
use iscsi::chap::ChapError;
use iscsi::login::LoginFailure;
use iscsi::negotiate::{Key, NegotiationError};
use iscsi::pdu::{LoginStatus, RejectReason};
use iscsi::sendtargets::SendTargetsError;
use iscsi::text::Excerpt;

use super::{Cause, ExitCode, Gate};
use crate::control::{ConnFailure, EpError, Refused};

use ExitCode as E;

/// Every variant of [`Cause`], [`EpError`], [`Refused`] and [`ConnFailure`] with a word of its message and
/// its exit code.
fn table() -> Vec<(Cause, &'static str, ExitCode)> {
    let connect = |why: EpError, word, exit| (Cause::Connect(why), word, exit);
    let refused = |why: Refused, word, exit| (Cause::Connect(EpError::Refused(why)), word, exit);
    let login = |why: LoginFailure, word| (Cause::LoginProtocol(why), word, E::FatalLogin);
    let key = |error: NegotiationError, word| login(LoginFailure::Negotiation(error), word);
    let status = |class, detail, word, exit| (Cause::LoginStatus { class, detail }, word, exit);
    let value = Excerpt::new("16777215");
    vec![
        (Cause::IscsiError(0x1a), "F-bit", E::Transport),
        (Cause::TcpError(0x43), "TCP error", E::Transport),
        connect(EpError::NoPath(PathFailure::NoAnswer), "nobody answers", E::TransportTimeout),
        connect(EpError::NoPath(PathFailure::NoAddress), "has no address", E::TransportTimeout),
        connect(EpError::NoPath(PathFailure::NoRoute), "route", E::TransportTimeout),
        connect(EpError::NoPath(PathFailure::Conflict), "another host uses", E::TransportTimeout),
        connect(
            EpError::NoPath(PathFailure::AddressLost),
            "address of the path is gone",
            E::TransportTimeout,
        ),
        connect(EpError::NoHelper, "helper", E::TransportTimeout),
        connect(EpError::Timeout, "card does not answer", E::TransportTimeout),
        connect(EpError::Connect(0x93), "TCP connect timed out", E::TransportTimeout),
        connect(EpError::Connect(0x8f), "refused (0x8f)", E::Transport),
        connect(EpError::Closed, "speaks iSCSI", E::Transport),
        connect(EpError::Down, "went down while", E::HostNotFound),
        connect(EpError::Offload(0x50), "0x50", E::TransportCapability),
        connect(EpError::Offload(0x02), "no context", E::Again),
        connect(EpError::Offload(0x81), "card refused the connection - PARITY", E::Again),
        refused(Refused::NotReady, "down or resetting", E::HostNotFound),
        refused(Refused::NoCid, "in use", E::Again),
        refused(Refused::NoMemory, "memory", E::Again),
        refused(Refused::Stale, "no such session", E::Again),
        refused(Refused::WrongState, "another state", E::Again),
        (Cause::Fin, "closed the connection", E::Transport),
        (Cause::Rst, "reset the connection", E::Transport),
        (Cause::UpdateRefused(0x81), "UPDATE_CONN refused", E::Transport),
        (Cause::UpdateTimedOut, "UPDATE_CONN was not answered", E::Transport),
        (Cause::Protocol, "broke the protocol", E::Login),
        (Cause::BadItt, "task that does not exist", E::Transport),
        (Cause::NopTimedOut, "ping", E::Transport),
        (Cause::TmfTimedOut, "task management was not answered", E::Transport),
        (Cause::HeldUp(Gate::CommandWindow), "command window", E::Transport),
        (Cause::HeldUp(Gate::SendQueue), "send queue has no room", E::Transport),
        (Cause::HeldUp(Gate::TaskTags), "task tag", E::Transport),
        (Cause::BringUpUnanswered, "commands about its logical units", E::Transport),
        (Cause::Unanswered, "text, logout or NOP-Out", E::Transport),
        (Cause::TaskRejected(2), "command or its data was rejected", E::Transport),
        (Cause::TmfNotSent, "send TMF", E::Transport),
        (Cause::PduNotSent, "no room in the send queue", E::Transport),
        (Cause::AsyncEvent(1), "asynchronous event", E::Transport),
        (Cause::Lost(ConnFailure::ConnFailed), "1011", E::Transport),
        (Cause::Lost(ConnFailure::InvalidHost), "1018", E::HostNotFound),
        (Cause::Lost(ConnFailure::EhSessionReset), "1021", E::Transport),
        (Cause::Lost(ConnFailure::NopTimedOut), "1022", E::Transport),
        (Cause::OutOfStep, "iscsid was too slow", E::Transport),
        (Cause::AdapterReset, "adapter was reset", E::Transport),
        (Cause::PathLost, "lost its address", E::Transport),
        (Cause::HostRemoved, "adapter was removed", E::HostNotFound),
        (Cause::LoginTimedOut, "login timed out: check", E::PduTimeout),
        (Cause::LogoutTimedOut, "logout was not", E::Logout),
        status(1, 1, "target moved", E::Login),
        status(2, 0, "0200", E::FatalLogin),
        status(2, 1, "does not accept user name", E::LoginAuthFailed),
        status(2, 2, "access list", E::LoginAuthFailed),
        status(2, 3, "target not found", E::FatalLogin),
        status(2, 4, "target was removed", E::FatalLogin),
        status(2, 5, "another version", E::FatalLogin),
        status(2, 6, "too many connections", E::FatalLogin),
        status(2, 7, "parameter is missing", E::FatalLogin),
        status(2, 8, "part of that session", E::FatalLogin),
        status(2, 9, "kind of session", E::FatalLogin),
        status(2, 0xa, "not exist any more", E::FatalLogin),
        status(2, 0xb, "no place in a login", E::FatalLogin),
        status(3, 0, "has an error", E::Login),
        status(3, 1, "unavailable", E::Login),
        status(3, 2, "out of resources", E::Login),
        status(9, 0, "unknown status class", E::FatalLogin),
        key(NegotiationError::Answer(Key::MaxBurstLength, value), "MaxBurstLength=16777215 does not fit"),
        key(NegotiationError::Value(Key::MaxBurstLength, value), "no legal declaration"),
        key(NegotiationError::Refused(Key::MaxBurstLength, value), "refused with"),
        key(NegotiationError::Duplicate(Key::MaxBurstLength), "sent twice"),
        key(NegotiationError::WrongStage(Key::MaxBurstLength), "in this stage"),
        key(NegotiationError::WrongSender(Key::MaxBurstLength), "wrong end"),
        key(NegotiationError::Unanswered(Key::MaxBurstLength), "MaxBurstLength was not answered"),
        login(LoginFailure::Missing(Key::TargetAddress), "TargetAddress is missing"),
        login(LoginFailure::Protocol("StatSN out of sequence"), "StatSN"),
        login(LoginFailure::TooManyExchanges, "exchanges"),
        (Cause::Rejected(RejectReason::ProtocolError.code()), "protocol error", E::FatalLogin),
        (Cause::Rejected(RejectReason::CommandNotSupported.code()), "not supported", E::FatalLogin),
        (Cause::Rejected(0xee), "unknown reason", E::FatalLogin),
        (Cause::BadTargetList(SendTargetsError::Name), "malformed target name", E::FatalLogin),
        (Cause::BadTargetList(SendTargetsError::Address), "malformed address", E::FatalLogin),
        (Cause::BadTargetList(SendTargetsError::NoTarget), "without a target", E::FatalLogin),
        (
            Cause::BadTargetList(SendTargetsError::UnexpectedKey(value)),
            "unexpected SendTargets data",
            E::FatalLogin,
        ),
        (Cause::RedirectLoop, "redirects in a row", E::FatalLogin),
        (Cause::RedirectToName(Excerpt::new("storage.example")), "storage.example", E::Login),
        (Cause::AuthFailed(LoginFailure::AuthMethod), "no common authentication", E::LoginAuthFailed),
        (Cause::AuthFailed(LoginFailure::Chap(ChapError::Wrong)), "wrong CHAP name", E::LoginAuthFailed),
        (Cause::AuthFailed(LoginFailure::Chap(ChapError::Algorithm)), "CHAP algorithm", E::LoginAuthFailed),
    ]
}

/// A number for each variant, so that the compiler asks for those that are new.
fn variant(cause: Cause) -> u32 {
    match cause {
        Cause::IscsiError(_) => 0,
        Cause::TcpError(_) => 1,
        Cause::Connect(why) => match why {
            EpError::Refused(Refused::NotReady) => 100,
            EpError::Refused(Refused::NoCid) => 101,
            EpError::Refused(Refused::NoMemory) => 102,
            EpError::Refused(Refused::Stale) => 103,
            EpError::Refused(Refused::WrongState) => 104,
            EpError::Offload(_) => 105,
            EpError::NoPath(why) => 110 + why as u32,
            EpError::NoHelper => 106,
            EpError::Connect(_) => 107,
            EpError::Closed => 108,
            EpError::Timeout => 109,
            EpError::Down => 110,
        },
        Cause::Fin => 2,
        Cause::Rst => 3,
        Cause::UpdateRefused(_) => 4,
        Cause::UpdateTimedOut => 5,
        Cause::Protocol => 6,
        Cause::BadItt => 7,
        Cause::NopTimedOut => 8,
        Cause::TmfTimedOut => 9,
        Cause::TmfNotSent => 10,
        Cause::PduNotSent => 11,
        Cause::AsyncEvent(_) => 12,
        Cause::Lost(_) => 13,
        Cause::OutOfStep => 14,
        Cause::AdapterReset => 15,
        Cause::PathLost => 16,
        Cause::HostRemoved => 17,
        Cause::LoginTimedOut => 18,
        Cause::LoginStatus { .. } => 19,
        Cause::LoginProtocol(_) => 20,
        Cause::Rejected(_) => 21,
        Cause::RedirectToName(_) => 22,
        Cause::AuthFailed(_) => 23,
        Cause::RedirectLoop => 24,
        Cause::LogoutTimedOut => 25,
        Cause::BadTargetList(_) => 26,
        Cause::HeldUp(gate) => 200 + gate as u32,
        Cause::BringUpUnanswered => 29,
        Cause::Unanswered => 27,
        Cause::TaskRejected(_) => 28,
    }
}

/// Without what only numbers it: two causes whose messages differ in a number alone share their sentence.
fn sentence(message: &str) -> String {
    message
        .split_whitespace()
        .filter(|w| !w.contains(|c: char| c.is_ascii_digit()))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn every_cause_has_a_message_of_its_own() {
    let mut seen = BTreeMap::<String, Cause>::new();
    let table = table();
    for (cause, word, exit) in &table {
        let message = cause.to_string();
        assert!(message.contains(word), "{cause:?}: `{word}` is not in: {message}");
        assert!(!message.contains('\n') && message.len() < 300, "{cause:?}: {message}");
        assert_eq!(cause.verdict().exit, *exit, "{cause:?}");
        // A failure that iscsid names by the kernel's number has the number as its word.
        if !matches!(cause, Cause::Lost(_)) {
            let others: Vec<_> =
                table.iter().filter(|(c, ..)| c != cause && c.to_string().contains(word)).collect();
            assert!(others.is_empty(), "{cause:?}: `{word}` is in {others:?} too");
            let shared = seen.insert(sentence(&message), *cause);
            assert_eq!(shared, None, "{cause:?}: {message}");
        }
    }
}

#[test]
fn every_cause_is_in_the_table() {
    let mut numbers: Vec<u32> = table().iter().map(|(cause, ..)| variant(*cause)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let want: Vec<u32> = (0..=29).chain(100..=110 + PathFailure::ALL.len() as u32).chain(200..=202).collect();
    assert_eq!(numbers, want);
    for status in LoginStatus::ALL {
        let (class, detail) = status.codes();
        let known = class == 0
            || table()
                .iter()
                .any(|(c, ..)| *c == Cause::LoginStatus { class, detail } || class == 1 && variant(*c) == 19);
        assert!(known, "{status:?}");
    }
}
