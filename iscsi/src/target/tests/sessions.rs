//! Sessions come, go and meet: login, discovery, reinstatement, task management, NOP, text, logout,
//! reservations across nexuses.

use super::*;
use crate::chap::{Challenge, Secret};
use crate::scsi::ReservationAction;
use crate::sendtargets;

fn second() -> InitiatorConfig {
    InitiatorConfig { initiator_name: "iqn.2026-01.example:second".into(), ..initiator(2) }
}

fn status(login: Result<Host, LoginFailure>) -> LoginStatus {
    match login.map(|host| host.id) {
        Err(LoginFailure::Refused(status)) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn unknown_names_and_handles_are_refused() {
    let mut lab = Lab::new();
    let nobody = InitiatorConfig { target_name: Some("iqn.2026-01.example:none".into()), ..initiator(1) };
    assert_eq!(status(Host::try_login(&mut lab, nobody)), LoginStatus::TargetNotFound);
    assert_eq!(lab.server.counters().failed_logins, 1);
    let closed = lab.events();
    let reason = CloseReason::LoginFailed(LoginStatus::TargetNotFound);
    assert!(closed.iter().any(|event| matches!(event, Event::Closed { reason: r, .. } if *r == reason)));
}

#[test]
fn chap_is_enforced_both_ways() {
    let mut lab = Lab::new();
    let auth = Auth {
        chap: Some(Credentials::new("user", "secret-of-user")),
        mutual: Some(Credentials::new("disk", "secret-of-disk")),
    };
    let name = "iqn.2026-01.example:guarded";
    lab.server.add_target(name, vec![(0, ram(16, "guarded")), (3, ram(16, "g3"))], auth).unwrap();
    let with = |chap| InitiatorConfig { target_name: Some(name.into()), chap, ..initiator(1) };
    for bad in [None, chap("user", "another-secret"), chap("nobody", "secret-of-user")] {
        assert!(Host::try_login(&mut lab, with(bad)).is_err());
    }
    assert_eq!(lab.server.sessions().count(), 0);
    Host::try_login(&mut lab, with(chap("user", "secret-of-user"))).unwrap();
    let mutual = |secret: &str| {
        let theirs = Credentials { name: "disk".into(), secret: Secret::new(secret) };
        let challenge = Challenge::new(9, vec![9; 16]).unwrap();
        let own = Credentials::new("user", "secret-of-user");
        Some(ChapConfig { own, mutual: Some((theirs, challenge)) })
    };
    Host::try_login(&mut lab, with(mutual("secret-of-disk"))).unwrap();
    assert!(Host::try_login(&mut lab, with(mutual("not-its-secret"))).is_err(), "a false target");
    let log = format!("{:?} {:?}", lab.events(), lab.server);
    assert!(!log.contains("secret-of"), "secrets stay out of logs");
}

/// Many connections hold no more together than a few: each has its share.
#[test]
fn connections_share_what_they_may_hold() {
    const MEMORY: usize = 4 << 20;
    for number in [1, 8, 64] {
        let mut lab = Lab::with(ServerConfig { memory_limit: MEMORY, ..ServerConfig::default() });
        let params = LoginParams { max_recv_data_segment_length: 8192, ..LoginParams::default() };
        let isid = |n: usize| InitiatorConfig { params: params.clone(), ..initiator(n as u8) };
        let mut hosts: Vec<Host> = (0..number).map(|n| Host::login(&mut lab, isid(n))).collect();
        let (mut output, mut held) = (0, 0);
        for host in &mut hosts {
            // It reads a lot and takes nothing; then it sends what has to wait for a number that never comes.
            for _ in 0..8 {
                let pdu = host.command(0, &read(0, 8000), flags::READ | flags::FINAL, 8000 * 512);
                host.send(&mut lab, *pdu, &[]);
            }
            output += lab.server.output(host.id).len();
            host.cmd_sn.take();
            for _ in 0..32 {
                let pdu = host.command(0, &write(0, 16), flags::WRITE | flags::FINAL, 8192);
                let bytes = host.bytes(*pdu, &[1; 8192]);
                if !lab.server.wants_input(host.id) {
                    break;
                }
                let before = lab.server.counters().held;
                lab.server.input(host.id, 0, &bytes, &mut |_| {});
                held += (lab.server.counters().held - before) as usize * 8192;
            }
        }
        let pdus = number * (8192 + 48);
        assert!(output <= MEMORY / 2 + pdus && held <= MEMORY, "{number} connections: {output}, {held}");
        assert!(output >= 32 << 10 && held > 0, "{number} connections get on");
    }
}

/// Wrong proofs of one source wait for their turn; those who log in rightly, from there or elsewhere, get in.
#[test]
fn guessing_is_slow_for_the_guesser_only() {
    let own = |secret| InitiatorConfig { chap: chap("user", secret), ..initiator(1) };
    let mut lab = Lab::with_chap(ServerConfig::default());
    // As fast as the target lets it: a login that waits is over when its time has come.
    let mut n = 0;
    while lab.now_ns < 10 * SECOND {
        lab.peer = Some([192, 0, 2, 1].into());
        assert_eq!(
            status(Host::try_login(&mut lab, own("not-the-secret"))),
            LoginStatus::AuthenticationFailure
        );
        n += 1;
        let before = lab.now_ns;
        lab.peer = Some([192, 0, 2, 2].into());
        Host::try_login(&mut lab, own("secret-of-user")).unwrap();
        assert_eq!(lab.now_ns, before, "another source does not wait");
    }
    assert!((8..=8 + 51).contains(&n), "{n} wrong logins in 10 s");
    lab.peer = Some([192, 0, 2, 1].into());
    let before = lab.now_ns;
    Host::try_login(&mut lab, own("secret-of-user")).unwrap();
    assert!(lab.now_ns - before <= SECOND, "the right secret from the same source waits its turn");
    assert_eq!(lab.server.counters().slowed_logins, n - 8);
}

/// While a proof waits nothing of its connection is taken, and a connection that goes away leaves nothing.
#[test]
fn a_proof_that_waits_holds_back_its_connection() {
    let own = InitiatorConfig { chap: chap("user", "not-the-secret"), ..initiator(1) };
    let mut lab = Lab::with_chap(ServerConfig::default());
    for _ in 0..9 {
        assert!(Host::try_login(&mut lab, own.clone()).is_err());
    }
    let mut refused = 0;
    for _ in 0..40 {
        let mut host = Host::connect(&mut lab);
        let (mut login, mut pdu) = InitiatorLogin::start(own.clone()).unwrap();
        loop {
            host.send(&mut lab, *pdu.header, &pdu.data);
            host.poll(&mut lab);
            let Some(seen) = host.seen.pop_front() else { break };
            match login.receive(&seen.view(), &seen.data) {
                InitiatorStep::Send(next) => pdu = next,
                InitiatorStep::Failed(LoginFailure::Refused(LoginStatus::OutOfResources)) => {
                    refused += 1;
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        if lab.server.should_close(host.id) {
            continue;
        }
        assert!(!lab.server.wants_input(host.id));
        assert_eq!(lab.server.input(host.id, lab.now_ns, &[0xFF; 48], &mut |_| panic!()), 0);
    }
    assert!(refused >= 14, "{refused}");
    // One after the other, not all at once.
    lab.now_ns += SECOND;
    lab.server.tick(lab.now_ns);
    let answered = lab.server.counters().failed_logins - 9 - refused;
    assert!((1..=6).contains(&answered), "{answered}");
    lab.now_ns += 6 * SECOND;
    lab.server.tick(lab.now_ns);
    assert_eq!(lab.server.counters().failed_logins, 9 + 40, "each got its answer in time");
}

/// With CHAP on the discovery session no name is told to who cannot prove anything.
#[test]
fn discovery_asks_for_the_secret_too() {
    let discovery = Auth { chap: Some(Credentials::new("user", "secret-of-user")), mutual: None };
    let mut lab = Lab::with(ServerConfig { discovery, ..ServerConfig::default() });
    let config = InitiatorConfig { target_name: None, ..initiator(1) };
    assert_eq!(status(Host::try_login(&mut lab, config.clone())), LoginStatus::AuthenticationFailure);
    let wrong = InitiatorConfig { chap: chap("user", "not-the-secret"), ..config.clone() };
    assert_eq!(status(Host::try_login(&mut lab, wrong)), LoginStatus::AuthenticationFailure);
    let right = InitiatorConfig { chap: chap("user", "secret-of-user"), ..config };
    let mut host = Host::login(&mut lab, right);
    assert!(text(&mut host, &mut lab, b"SendTargets=All\0").data.starts_with(b"TargetName="));
}

#[test]
fn login_and_ping_have_deadlines() {
    let config = ServerConfig { ping_interval_ns: Some(10 * SECOND), ..ServerConfig::default() };
    let mut lab = Lab::with(config.clone());
    let idle = lab.server.connect("127.0.0.1:3260", 0).unwrap();
    assert_eq!(lab.server.tick(0), Some(15 * SECOND));
    lab.now_ns = 14 * SECOND;
    let mut host = Host::login(&mut lab, initiator(1));
    lab.server.tick(15 * SECOND);
    assert!(lab.server.should_close(idle));
    assert_eq!(lab.server.tick(15 * SECOND), Some(24 * SECOND));
    lab.server.tick(24 * SECOND);
    let ping: NopIn = host.next(&mut lab).view();
    assert_ne!(ping.ttt.get(), RESERVED_TAG);
    let mut pong = NopOut::new();
    pong.set_immediate(true);
    pong.ttt = ping.ttt;
    pong.cmd_sn = host.cmd_sn.into();
    lab.now_ns = 25 * SECOND;
    host.send(&mut lab, *pong, &[]);
    host.nothing_more(&mut lab);
    lab.server.tick(29 * SECOND);
    assert!(!lab.server.should_close(host.id), "answered");
    lab.server.tick(35 * SECOND);
    host.next(&mut lab);
    lab.server.tick(40 * SECOND);
    assert!(lab.server.should_close(host.id));
    assert!(lab.events().contains(&Event::Closed { conn: host.id, reason: CloseReason::PingTimeout }));
}

#[test]
fn connections_are_limited_and_ids_do_not_come_back() {
    let mut lab = Lab::with(ServerConfig { max_connections: 2, ..ServerConfig::default() });
    let first = lab.server.connect("a:1", 0).unwrap();
    lab.server.connect("a:1", 0).unwrap();
    assert_eq!(lab.server.connect("a:1", 0), Err(ServerFull(2)));
    lab.server.closed(first);
    let next = lab.server.connect("a:1", 0).unwrap();
    assert_ne!(first, next);
    assert!(lab.server.should_close(first) && !lab.server.should_close(next));
    assert_eq!(lab.server.input(first, 0, &[0; 100], &mut |_| {}), 100, "swallowed");
    lab.server.closed(first);
    assert!(!lab.server.should_close(next), "an old id closes nothing");
}

fn text(host: &mut Host, lab: &mut Lab, text: &[u8]) -> Seen {
    host.itt += 1;
    let mut pdu = TextRequest::new();
    pdu.itt.set(host.itt);
    pdu.set_immediate(true);
    pdu.cmd_sn = host.cmd_sn.into();
    host.send(lab, *pdu, text);
    host.next(lab)
}

#[test]
fn discovery_lists_all_and_a_session_its_own() {
    let mut lab = Lab::new();
    let mut finder = Host::login(&mut lab, InitiatorConfig { target_name: None, ..initiator(9) });
    let names = |seen: &Seen| {
        let records = sendtargets::parse(&seen.data).unwrap();
        assert!(records.iter().all(|r| r.addresses[0].to_string() == "127.0.0.1:3260,1"));
        records.into_iter().map(|r| r.name).collect::<Vec<_>>()
    };
    let all = text(&mut finder, &mut lab, b"SendTargets=All\0");
    assert_eq!(names(&all), [TARGET, OTHER]);
    assert_eq!(names(&text(&mut finder, &mut lab, format!("SendTargets={OTHER}\0").as_bytes())), [OTHER]);
    let refused = finder.command(0, &Cdb::TestUnitReady, flags::FINAL, 0);
    finder.send(&mut lab, *refused, &[]);
    assert_eq!(finder.next(&mut lab).view::<Reject>().code(), Some(RejectReason::ProtocolError));

    let mut host = Host::login(&mut lab, initiator(1));
    for ask in [&b"SendTargets=All\0"[..], b"SendTargets=\0"] {
        assert_eq!(names(&text(&mut host, &mut lab, ask)), [TARGET]);
    }
    assert!(text(&mut host, &mut lab, format!("SendTargets={OTHER}\0").as_bytes()).data.is_empty());
    // libiscsi's SendTargets.Invalid, then a valid one on the same connection.
    for bad in
        [&b"SendTargetsPlease=All\0"[..], b"SendTargets=Alle\0", b"SendTargets=A\0", b"sENDtARGETS=aLL\0"]
    {
        let seen = text(&mut host, &mut lab, bad);
        assert!(seen.is(Opcode::Reject) && seen.data.len() == 48, "{}", String::from_utf8_lossy(bad));
    }
    assert_eq!(names(&text(&mut host, &mut lab, b"SendTargets=All\0")), [TARGET]);
    let mixed = text(&mut host, &mut lab, b"X-unknown=1\0MaxRecvDataSegmentLength=4096\0");
    assert_eq!(mixed.data, b"X-unknown=NotUnderstood\0");
    host.params.max_recv_data_segment_length = 4096;
    assert_eq!(host.run(&mut lab, 0, &read(0, 100), 51_200, &[]).data.len(), 51_200, "in pieces of 4 KiB");
}

#[test]
fn names_are_listed_as_given_and_found_in_any_case() {
    let given = "iqn.2026-01.Example:MixedCase";
    let mut lab = Lab::new();
    lab.server.add_target(given, vec![], Auth::default()).unwrap();
    assert!(lab.server.add_target(&given.to_lowercase(), vec![], Auth::default()).is_err(), "the same name");
    let mut finder = Host::login(&mut lab, InitiatorConfig { target_name: None, ..initiator(9) });
    for ask in ["All", given, "iqn.2026-01.EXAMPLE:mixedcase"] {
        let seen = text(&mut finder, &mut lab, format!("SendTargets={ask}\0").as_bytes());
        let records = sendtargets::parse(&seen.data).unwrap();
        assert_eq!(records.last().unwrap().name, given, "{ask}");
    }
    for name in [given, "iqn.2026-01.EXAMPLE:mixedcase"] {
        let config = InitiatorConfig { target_name: Some(name.into()), ..initiator(1) };
        assert!(Host::try_login(&mut lab, config).is_ok(), "{name}");
    }
}

#[test]
fn a_long_answer_comes_in_parts() {
    let mut lab = Lab::new();
    for at in 0..200 {
        let name = format!("iqn.2026-01.example:{at:0>60}");
        lab.server.add_target(&name, vec![], Auth::default()).unwrap();
    }
    let mut config = InitiatorConfig { target_name: None, ..initiator(9) };
    config.params.max_recv_data_segment_length = 4096;
    let mut finder = Host::login(&mut lab, config);
    let mut seen = text(&mut finder, &mut lab, b"SendTargets=All\0");
    // A request of the exchange under another tag (RFC 7143 11.10.3) is rejected and ends nothing.
    let mut strange = TextRequest::new();
    strange.itt.set(finder.itt + 100);
    strange.set_immediate(true);
    strange.cmd_sn = finder.cmd_sn.into();
    strange.ttt = seen.view::<TextResponse>().ttt;
    finder.send(&mut lab, *strange, &[]);
    assert_eq!(finder.next(&mut lab).view::<Reject>().code(), Some(RejectReason::ProtocolError));
    let (mut list, mut parts) = (seen.data.clone(), 1);
    while seen.bhs.flags & flags::FINAL == 0 {
        let mut pdu = TextRequest::new();
        pdu.itt.set(finder.itt);
        pdu.set_immediate(true);
        pdu.cmd_sn = finder.cmd_sn.into();
        pdu.ttt = seen.view::<TextResponse>().ttt;
        finder.send(&mut lab, *pdu, &[]);
        seen = finder.next(&mut lab);
        list.extend_from_slice(&seen.data);
        parts += 1;
    }
    assert_eq!((sendtargets::parse(&list).unwrap().len(), parts > 4), (202, true));
    let mut stale = TextRequest::new();
    stale.ttt.set(12345);
    stale.set_immediate(true);
    finder.send(&mut lab, *stale, &[]);
    assert!(finder.next(&mut lab).is(Opcode::Reject));
}

#[test]
fn nop_is_echoed_and_cut_to_what_the_initiator_takes() {
    let mut lab = Lab::new();
    let mut config = initiator(1);
    config.params.max_recv_data_segment_length = 512;
    let mut host = Host::login(&mut lab, config);
    for len in [0usize, 5, 512, 700] {
        let data = pattern(len, 1);
        let mut nop = NopOut::new();
        nop.itt.set(77);
        nop.cmd_sn = host.cmd_sn.take().into();
        host.send(&mut lab, *nop, &data);
        let seen = host.next(&mut lab);
        assert!(seen.is(Opcode::NopIn) && seen.data == data[..len.min(512)]);
    }
}

#[test]
fn logout_answers_then_closes() {
    let mut lab = Lab::new();
    let mut host = Host::login(&mut lab, initiator(1));
    let open = host.command(0, &write(0, 1024), flags::WRITE | flags::FINAL, 524_288);
    host.send(&mut lab, *open, &[]);
    assert!(host.next(&mut lab).is(Opcode::R2t));
    let mut logout = LogoutRequest::new();
    logout.set_reason(LogoutReason::CloseConnection);
    logout.cid.set(5);
    logout.itt.set(500);
    logout.cmd_sn = host.cmd_sn.take().into();
    host.send(&mut lab, *logout, &[]);
    assert_eq!(host.next(&mut lab).view::<LogoutResponse>().code(), Some(LogoutResponseCode::CidNotFound));
    logout.set_reason(LogoutReason::CloseSession);
    logout.cmd_sn = host.cmd_sn.take().into();
    host.send(&mut lab, *logout, &[]);
    assert!(!lab.server.should_close(host.id), "the answer has to go out first");
    assert_eq!(host.next(&mut lab).view::<LogoutResponse>().code(), Some(LogoutResponseCode::Success));
    host.nothing_more(&mut lab);
    assert!(lab.server.should_close(host.id));
    assert_eq!((lab.server.sessions().count(), lab.server.counters().aborted_tasks), (0, 1));
}

#[test]
fn reinstatement_replaces_the_session_and_keeps_the_disk() {
    let mut lab = Lab::new();
    let mut old = Host::login(&mut lab, initiator(1));
    let data = pattern(512, 4);
    assert!(old.run(&mut lab, 0, &write(0, 1), 0, &data).status.is_good());
    let open = old.command(0, &write(8, 1024), flags::WRITE | flags::FINAL, 524_288);
    old.send(&mut lab, *open, &[]);
    let ttt = old.next(&mut lab).view::<R2t>().ttt.get();

    let mut new = Host::try_login(&mut lab, initiator(1)).unwrap();
    assert!(lab.server.should_close(old.id));
    assert_ne!(old.tsih, new.tsih);
    assert_eq!((lab.server.sessions().count(), lab.server.counters().reinstatements), (1, 1));
    old.data_out(&mut lab, 0, ttt, 0, &[9; 512]);
    assert!(lab.server.output(old.id).is_empty());
    assert_eq!(new.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).check(), Sense::NEXUS_LOSS);
    assert_eq!(new.run(&mut lab, 0, &read(0, 1), 512, &[]).data, data);
    assert!(lab.contents()[512..].iter().all(|b| *b == 0));

    // Another ISID is another nexus; a lost connection that comes back is told of the loss; a logout leaves
    // no trace.
    let mut other = Host::try_login(&mut lab, initiator(2)).unwrap();
    assert_eq!(other.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).check(), Sense::POWER_ON);
    assert_eq!(lab.server.sessions().count(), 2);
    lab.server.closed(other.id);
    let mut back = Host::try_login(&mut lab, initiator(2)).unwrap();
    assert_eq!(back.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).check(), Sense::NEXUS_LOSS);
    assert_eq!(back.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).status, Status::GOOD);
}

#[test]
fn a_unit_attention_passes_inquiry_by_and_is_sense_data() {
    let mut lab = Lab::new();
    let mut host = Host::try_login(&mut lab, initiator(1)).unwrap();
    assert!(
        host.run(&mut lab, 0, &Cdb::Inquiry { evpd: false, page: 0, allocation: 36 }, 36, &[])
            .status
            .is_good()
    );
    assert!(host.run(&mut lab, 0, &Cdb::ReportLuns { select: 0, allocation: 64 }, 64, &[]).status.is_good());
    let sense = host.run(&mut lab, 0, &Cdb::RequestSense { descriptor: false, allocation: 18 }, 18, &[]);
    assert_eq!(Sense::parse(&sense.data), Some(Sense::POWER_ON));
    assert!(host.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).status.is_good());
    assert_eq!(
        host.run(&mut lab, 3, &read(0, 1), 512, &[]).check(),
        Sense::POWER_ON,
        "each unit has its own"
    );
}

/// Starts a write that waits for its data; returns its tag and CmdSN.
fn stuck(host: &mut Host, lab: &mut Lab, lun: u16) -> (u32, Sn, u32) {
    let cmd_sn = host.cmd_sn;
    let pdu = host.command(lun, &write(0, 1), flags::WRITE | flags::FINAL, 512);
    host.send(lab, *pdu, &[]);
    (host.itt, cmd_sn, host.next(lab).view::<R2t>().ttt.get())
}

#[test]
fn abort_task() {
    let mut lab = Lab::new();
    let mut host = Host::login(&mut lab, initiator(1));
    let (itt, cmd_sn, ttt) = stuck(&mut host, &mut lab, 0);
    assert_eq!(
        host.manage(&mut lab, TmfFunction::AbortTask, 3, itt, cmd_sn),
        TmfResponse::NoSuchTask,
        "wrong LUN"
    );
    assert_eq!(host.manage(&mut lab, TmfFunction::AbortTask, 0, itt, cmd_sn), TmfResponse::Complete);
    host.itt = itt;
    host.data_out(&mut lab, 0, ttt, 0, &[1; 512]);
    host.nothing_more(&mut lab);
    assert!(lab.contents()[..512].iter().all(|b| *b == 0), "its data is thrown away");
    host.itt = 100;
    assert_eq!(host.manage(&mut lab, TmfFunction::AbortTask, 0, itt, cmd_sn), TmfResponse::NoSuchTask);
    // A command that never arrived: its number is used up, and what waited for it runs.
    let lost = host.cmd_sn.take();
    let waiting = host.command(0, &Cdb::TestUnitReady, flags::FINAL, 0);
    host.send(&mut lab, *waiting, &[]);
    host.nothing_more(&mut lab);
    assert_eq!(host.manage(&mut lab, TmfFunction::AbortTask, 0, 0xABCD, lost), TmfResponse::Complete);
    assert!(host.finish(&mut lab, waiting.itt.get(), 0, &[]).status.is_good());
}

#[test]
fn a_read_that_is_aborted_sends_nothing_more() {
    let mut lab = Lab::with(ServerConfig { output_limit: 32 << 10, ..ServerConfig::default() });
    let mut config = initiator(1);
    config.params.max_recv_data_segment_length = 8192;
    let mut host = Host::login(&mut lab, config);
    let pdu = host.command(0, &read(0, 512), flags::FINAL | flags::READ, 262_144);
    let itt = host.itt;
    host.send(&mut lab, *pdu, &[]);
    assert!(lab.server.output(host.id).len() < 32 << 10, "the rest of the data waits");
    let mut abort = TaskManagementRequest::new();
    abort.set_function(TmfFunction::AbortTask);
    abort.set_immediate(true);
    abort.itt.set(900);
    abort.referenced_task_tag.set(itt);
    abort.cmd_sn = host.cmd_sn.into();
    host.send(&mut lab, *abort, &[]);
    host.poll(&mut lab);
    let answer = host.seen.pop_back().unwrap();
    assert_eq!(answer.view::<TaskManagementResponse>().code(), Some(TmfResponse::Complete));
    assert!(!host.seen.is_empty() && host.seen.iter().all(|seen| seen.bhs.flags & flags::STATUS == 0));
}

#[test]
fn task_sets_of_one_and_of_all() {
    let mut lab = Lab::new();
    let (mut a, mut b) = (Host::login(&mut lab, initiator(1)), Host::login(&mut lab, second()));
    stuck(&mut a, &mut lab, 0);
    stuck(&mut a, &mut lab, 0);
    let (kept, _, kept_ttt) = stuck(&mut a, &mut lab, 3);
    stuck(&mut b, &mut lab, 0);
    let none = Sn(0);
    assert_eq!(a.manage(&mut lab, TmfFunction::AbortTaskSet, 0, RESERVED_TAG, none), TmfResponse::Complete);
    assert_eq!(lab.server.counters().aborted_tasks, 2, "not the other LUN's, not the other session's");
    assert_eq!(a.manage(&mut lab, TmfFunction::ClearTaskSet, 0, RESERVED_TAG, none), TmfResponse::Complete);
    assert_eq!(lab.server.counters().aborted_tasks, 3);
    b.nothing_more(&mut lab);
    assert_eq!(b.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).check(), Sense::COMMANDS_CLEARED);
    assert!(a.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).status.is_good(), "not told what it did itself");
    a.itt = kept;
    a.data_out(&mut lab, 3, kept_ttt, 0, &[1; 512]);
    assert!(a.finish(&mut lab, kept, 3, &[]).status.is_good());
    a.itt = 50;
    assert_eq!(a.manage(&mut lab, TmfFunction::ClearTaskSet, 9, RESERVED_TAG, none), TmfResponse::NoSuchLun);
    assert_eq!(a.manage(&mut lab, TmfFunction::TaskReassign, 0, 1, none), TmfResponse::ReassignUnsupported);
    assert_eq!(a.manage(&mut lab, TmfFunction::QueryTask, 0, 1, none), TmfResponse::NotSupported);
}

#[test]
fn resets_reach_every_session() {
    for (function, sense) in [
        (TmfFunction::LogicalUnitReset, Sense::DEVICE_RESET),
        (TmfFunction::TargetWarmReset, Sense::BUS_RESET),
    ] {
        let mut lab = Lab::new();
        let (mut a, mut b) = (Host::login(&mut lab, initiator(1)), Host::login(&mut lab, second()));
        assert!(b.run(&mut lab, 0, &Cdb::Reserve6, 0, &[]).status.is_good());
        assert_eq!(a.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).status, Status::RESERVATION_CONFLICT);
        stuck(&mut b, &mut lab, 0);
        stuck(&mut b, &mut lab, 3);
        assert_eq!(a.manage(&mut lab, function, 0, RESERVED_TAG, Sn(0)), TmfResponse::Complete);
        let whole = function == TmfFunction::TargetWarmReset;
        assert_eq!(lab.server.counters().aborted_tasks, if whole { 2 } else { 1 });
        for host in [&mut a, &mut b] {
            host.nothing_more(&mut lab);
            assert_eq!(host.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).check(), sense);
            assert!(
                host.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).status.is_good(),
                "no longer reserved"
            );
            let third = host.run(&mut lab, 3, &Cdb::TestUnitReady, 0, &[]);
            assert_eq!(third.status == Status::CHECK_CONDITION, whole);
        }
    }
}

#[test]
fn a_cold_reset_ends_every_session_of_the_target() {
    let mut lab = Lab::new();
    let (mut a, b) = (Host::login(&mut lab, initiator(1)), Host::login(&mut lab, second()));
    let elsewhere =
        Host::try_login(&mut lab, InitiatorConfig { target_name: Some(OTHER.into()), ..second() }).unwrap();
    assert_eq!(
        a.manage(&mut lab, TmfFunction::TargetColdReset, 0, RESERVED_TAG, Sn(0)),
        TmfResponse::Complete
    );
    assert!(lab.server.should_close(a.id) && lab.server.should_close(b.id));
    assert!(!lab.server.should_close(elsewhere.id));
    assert_eq!(lab.server.sessions().count(), 1);
}

#[test]
fn the_target_can_ask_and_can_drop() {
    let mut lab = Lab::new();
    let mut host = Host::login(&mut lab, initiator(1));
    assert!(lab.server.request_logout(host.id, 10));
    let message: AsyncMessage = host.next(&mut lab).view();
    assert_eq!((message.kind(), message.parameter3.get()), (Some(AsyncEvent::LogoutRequested), 10));
    assert!(lab.server.drop_session(host.id));
    let message: AsyncMessage = host.next(&mut lab).view();
    assert_eq!(message.kind(), Some(AsyncEvent::SessionDropped));
    assert!(lab.server.should_close(host.id));
    assert!(!lab.server.request_logout(host.id, 1), "no session any more");
}

#[test]
fn reservations_hold_against_other_nexuses_and_outlive_sessions() {
    let mut lab = Lab::new();
    let (mut a, mut b) = (Host::login(&mut lab, initiator(1)), Host::login(&mut lab, second()));
    let out = |action, kind| Cdb::PersistentReserveOut { action, scope: 0, kind, parameter_len: 24 };
    let list = |key: u64, new: u64| [&key.to_be_bytes()[..], &new.to_be_bytes(), &[0; 8]].concat();
    assert!(a.run(&mut lab, 0, &out(ReservationAction::Register, 0), 0, &list(0, 0xA)).status.is_good());
    assert!(a.run(&mut lab, 0, &out(ReservationAction::Reserve, 1), 0, &list(0xA, 0)).status.is_good());
    assert_eq!(b.run(&mut lab, 0, &write(0, 1), 0, &[1; 512]).status, Status::RESERVATION_CONFLICT);
    assert!(b.run(&mut lab, 0, &read(0, 1), 512, &[]).status.is_good());
    lab.server.closed(a.id);
    assert_eq!(b.run(&mut lab, 0, &write(0, 1), 0, &[1; 512]).status, Status::RESERVATION_CONFLICT);
    // RESERVE(6) ends with its session.
    assert!(b.run(&mut lab, 3, &Cdb::Reserve6, 0, &[]).status.is_good());
    let mut a = Host::try_login(&mut lab, initiator(1)).unwrap();
    assert_eq!(a.run(&mut lab, 3, &Cdb::TestUnitReady, 0, &[]).check(), Sense::NEXUS_LOSS);
    assert_eq!(a.run(&mut lab, 3, &Cdb::TestUnitReady, 0, &[]).status, Status::RESERVATION_CONFLICT);
    lab.server.closed(b.id);
    assert!(a.run(&mut lab, 3, &Cdb::TestUnitReady, 0, &[]).status.is_good());
    // Preempt and abort: the other's tasks end and it is told.
    let mut b = Host::login(&mut lab, second());
    a.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]);
    let (itt, _, ttt) = stuck(&mut a, &mut lab, 0);
    assert!(b.run(&mut lab, 0, &out(ReservationAction::Register, 0), 0, &list(0, 0xB)).status.is_good());
    assert!(
        b.run(&mut lab, 0, &out(ReservationAction::PreemptAndAbort, 1), 0, &list(0xB, 0xA)).status.is_good()
    );
    a.itt = itt;
    a.data_out(&mut lab, 0, ttt, 0, &[1; 512]);
    a.nothing_more(&mut lab);
    assert_eq!(a.run(&mut lab, 0, &Cdb::TestUnitReady, 0, &[]).check(), Sense::REGISTRATIONS_PREEMPTED);
}
