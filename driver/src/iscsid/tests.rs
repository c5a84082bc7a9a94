//! iscsid against a scripted adapter whose targets are real [`TargetLogin`]s.

mod bench;

use super::*;
use crate::control::{ConnFailure, EpError, FromAdapter};
use crate::error::{Cause, ExitCode};
use bench::*;
use bus::uio::PathFailure;
use iscsi::chap::Credentials;
use iscsi::login::Admission;
use iscsi::pdu::LoginStatus;
use iscsi::sendtargets::TargetAddress;

const S: u64 = 1_000_000_000;

#[test]
fn a_login_negotiates_and_starts_the_connection() {
    let mut b = Bench::new();
    let mut record = record();
    record.settings.data_digest = iscsi::negotiate::DigestOffer::Crc32c;
    let entry = b.login_ok(record);
    let a = &b.adapter;
    assert_eq!(a.started.len(), 1);
    let p = &a.started[0];
    assert!(p.data_digest && !p.header_digest && p.immediate_data && !p.initial_r2t);
    // The target of the bench answers with RFC-sized values.
    assert_eq!((p.max_burst, p.first_burst, p.max_xmit_data_segment), (262_144, 65_536, 131_072));
    assert_eq!(p.max_recv_data_segment, 262_144);
    assert_eq!(a.params[0].replacement_timeout, Some(core::time::Duration::from_secs(120)));
    assert_eq!(b.records.established(), [entry.tag]);
    assert_eq!(b.iscsid().counters().logins, 1);
    let view: Vec<SessionView> = b.iscsid().sessions().collect();
    assert_eq!(
        (view.len(), view[0].stage, view[0].session),
        (1, SessionStage::LoggedIn, Some(entry.session))
    );
    assert_eq!(b.now_s(), 0, "nothing was waited for");
}

/// RFC 7143 4.2.7.1: names are compared in normal form. Many targets compare bytes, so what is sent is what
/// the user gave.
#[test]
fn names_go_on_the_wire_as_they_were_given() {
    let mut b = Bench::new();
    let name = "iqn.2000-01.com.synology:BadnAss.Olive";
    b.login_ok(NodeRecord::new(name, portal(1)));
    let text = String::from_utf8(b.adapter.login_text.clone()).unwrap();
    assert!(text.contains(&format!("TargetName={name}\0")), "{text}");
    assert!(text.contains("InitiatorName=iqn.2001-04.com.Example:Initiator\0"), "{text}");
    let folded = NodeRecord::new(name.to_lowercase(), portal(1));
    assert_eq!(b.login_err(folded), MgmtError::Exists, "the same target");
}

#[test]
fn a_portal_where_nobody_can_be_is_refused_at_once() {
    let mut b = Bench::new();
    for (portal, why) in [
        ("224.0.0.1:3260", "multicast"),
        ("255.255.255.255:3260", "reserved"),
        ("0.0.0.0:3260", "no address"),
        ("[::ffff:10.0.0.1]:3260", "IPv4"),
        ("10.0.0.1:0", "port is 0"),
    ] {
        let portal = portal.parse().unwrap();
        let error = b.login_err(NodeRecord::new(TARGET, portal));
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(error.exit(), ExitCode::InvalidParameter);
        assert_eq!(b.discover(DiscoveryRecord::new(portal)).unwrap_err().exit(), ExitCode::InvalidParameter);
    }
    assert_eq!((b.now_s(), b.adapter.connects.len()), (0, 0));
}

#[test]
fn chap_one_way_and_mutual() {
    let own = || Credentials::new("user", "secret-of-user");
    let theirs = || Credentials::new("target", "secret-of-target");
    let mut b = Bench::new();
    b.adapter.target.admission = Admission::Chap { mutual: Some(theirs()) };
    let mut r = record();
    r.settings.chap = ChapRecord::one_way(own());
    b.login_ok(r.clone());
    r.portal = portal(2);
    r.settings.chap = ChapRecord::mutual(own(), theirs());
    b.login_ok(r.clone());
    // A target that does not know its own secret is turned away, at once and for good.
    r.portal = portal(3);
    r.settings.chap = ChapRecord::mutual(own(), Credentials::new("target", "another-secret"));
    assert_eq!(b.login_err(r).exit(), ExitCode::LoginAuthFailed);
    assert_eq!((b.now_s(), b.adapter.connects.len()), (0, 3));
}

#[test]
fn fatal_refusals_end_an_initial_login_at_once() {
    let mut b = Bench::new();
    b.adapter.target.admission = Admission::Chap { mutual: None };
    let mut r = record();
    r.settings.chap = ChapRecord::one_way(Credentials::new("user", "not-the-secret"));
    let error = b.login_err(r);
    assert_eq!(error.exit(), ExitCode::LoginAuthFailed);
    assert!(error.to_string().starts_with("initiator reported error (24 - "), "{error}");
    b.adapter.target.admission = Admission::Refuse(LoginStatus::TargetNotFound);
    let error = b.login_err(record());
    assert_eq!(error.exit(), ExitCode::FatalLogin);
    assert!(error.to_string().contains("check its name"), "{error}");
    assert_eq!((b.now_s(), b.adapter.connects.len()), (0, 2));
    b.nothing_left();
}

#[test]
fn a_refused_port_is_tried_every_three_seconds_for_two_minutes() {
    let mut b = Bench::new();
    b.adapter.connect = Box::new(|_, _| Err(EpError::Connect(0x8f)));
    assert_eq!(b.login_err(record()).exit(), ExitCode::Transport);
    // 8 attempts of 15 s are 120 s; fast failures may exceed the count.
    let times: Vec<u64> = b.adapter.connects.iter().map(|c| c.0 / S).collect();
    assert_eq!(times, (0..=41).map(|i| i * 3).collect::<Vec<_>>());
    b.nothing_left();
}

#[test]
fn a_mute_target_costs_one_login_timeout_per_attempt() {
    let mut b = Bench::new();
    b.adapter.target.mute = true;
    assert_eq!(b.login_err(record()).exit(), ExitCode::PduTimeout);
    let times: Vec<u64> = b.adapter.connects.iter().map(|c| c.0 / S).collect();
    assert_eq!(times, [0, 18, 36, 54, 72, 90, 108]);
    assert_eq!(b.now_s(), 108 + 15);
    b.nothing_left();
}

#[test]
fn a_card_that_does_not_answer_a_connect_is_covered_by_the_same_timer() {
    let mut b = Bench::new();
    b.adapter.swallow_connects = 1;
    b.login_ok(record());
    assert_eq!(b.now_s(), 18);
    // The answer comes late: its endpoint belongs to nobody and is disconnected.
    b.adapter.answer_swallowed();
    b.run();
    assert_eq!((b.adapter.disconnected.len(), b.iscsid().counters().stale), (1, 1));
    assert_eq!(b.adapter.endpoints.len(), 1);
}

#[test]
fn a_target_short_of_resources_is_asked_again() {
    let mut b = Bench::new();
    b.adapter.target.refusals = vec![LoginStatus::OutOfResources, LoginStatus::ServiceUnavailable];
    b.login_ok(record());
    assert_eq!((b.now_s(), b.adapter.connects.len()), (6, 3));
}

#[test]
fn redirects_are_followed_at_once_and_forgotten_unless_permanent() {
    let to = |n, permanent| Admission::Redirect {
        address: TargetAddress::parse(&portal(n).to_string()).unwrap(),
        permanent,
    };
    for permanent in [false, true] {
        let mut b = Bench::new();
        b.adapter.target.at_first_portal = Some(to(2, permanent));
        b.login_ok(record());
        assert_eq!(b.portals(), [1, 2]);
        assert_eq!(b.now_s(), 0);
        // After a loss the session comes back at the original portal, or at the permanent one.
        b.lose(ConnFailure::ConnFailed);
        b.run();
        assert_eq!(b.portals()[2..], if permanent { vec![2] } else { vec![1, 2] });
    }
}

/// What the layer below knows reaches the user: the host of a redirect, the reason of a Reject.
#[test]
fn refusals_say_what_they_are_about() {
    let mut b = Bench::new();
    let address = TargetAddress::parse("storage.example:3260").unwrap();
    b.adapter.target.admission = Admission::Redirect { address, permanent: false };
    let error = b.login_err(record());
    assert!(error.to_string().contains("`storage.example`"), "{error}");
    assert_eq!(error.exit(), ExitCode::Login, "the target may name another host next time");

    let mut b = Bench::new();
    b.adapter.target.reject = Some(iscsi::pdu::RejectReason::CommandNotSupported);
    let error = b.login_err(record());
    assert!(error.to_string().contains("command not supported"), "{error}");
    assert_eq!(error.exit(), ExitCode::FatalLogin);
    b.nothing_left();
}

#[test]
fn a_redirect_loop_is_cut() {
    let mut b = Bench::new();
    b.adapter.target.admission =
        Admission::Redirect { address: TargetAddress::parse("192.0.2.1:3260").unwrap(), permanent: false };
    assert_eq!(b.login_err(record()).exit(), ExitCode::FatalLogin);
    assert_eq!(b.adapter.connects.len(), 1 + usize::from(policy::MAX_REDIRECTS));
}

#[test]
fn recovery_waits_time2wait_once_and_then_tries_every_three_seconds_for_ever() {
    let mut b = Bench::new();
    b.login_ok(record());
    b.adapter.connect =
        Box::new(|_, now| if now < 1000 * S { Err(EpError::NoPath(PathFailure::NoAnswer)) } else { Ok(()) });
    b.advance_to(10 * S);
    b.lose(ConnFailure::NopTimedOut);
    b.advance_to(1010 * S);
    let times: Vec<u64> = b.adapter.connects.iter().skip(1).map(|c| c.0 / S).collect();
    assert_eq!(times[..4], [12, 15, 18, 21]);
    assert!(times.windows(2).all(|w| w[1] - w[0] == 3));
    assert_eq!(times.last(), Some(&1002));
    let c = *b.iscsid().counters();
    assert_eq!((c.lost, c.recoveries, c.given_up), (1, 1, 0));
    // The next loss starts with Time2Wait again.
    b.lose(ConnFailure::ConnFailed);
    b.run();
    assert_eq!(b.adapter.connects.last().map(|c| c.0 / S), Some(1012));
}

#[test]
fn reopen_max_gives_the_session_up() {
    let mut b = Bench::new();
    let mut r = record();
    r.settings.reopen_max = 3;
    b.login_ok(r);
    b.adapter.connect = Box::new(|_, _| Err(EpError::NoPath(PathFailure::NoAnswer)));
    b.lose(ConnFailure::ConnFailed);
    b.run();
    assert_eq!(b.adapter.connects.len() - 1, 4);
    assert_eq!(b.iscsid().counters().given_up, 1);
    b.nothing_left();
}

#[test]
fn fatal_refusals_in_recovery_are_retried() {
    let mut b = Bench::new();
    b.login_ok(record());
    b.adapter.target.refusals = vec![LoginStatus::TargetNotFound, LoginStatus::AuthenticationFailure];
    b.lose(ConnFailure::ConnFailed);
    b.run();
    assert_eq!(b.adapter.connects.iter().skip(1).map(|c| c.0 / S).collect::<Vec<_>>(), [2, 5, 8]);
    assert_eq!(b.stage(), Some(SessionStage::LoggedIn));
}

#[test]
fn a_second_fault_at_any_point_of_recovery_is_survived() {
    for at in [Fault::AfterConnect, Fault::AfterBind, Fault::AfterFirstPdu, Fault::AtStart, Fault::StartFails]
    {
        let mut b = Bench::new();
        b.login_ok(record());
        b.adapter.fault = Some(at);
        b.lose(ConnFailure::ConnFailed);
        b.run();
        assert_eq!(b.stage(), Some(SessionStage::LoggedIn), "{at:?}");
        assert_eq!(b.adapter.connects.len(), 3, "{at:?}");
        assert_eq!((b.now_s(), b.adapter.endpoints.len()), (5, 1), "{at:?}: 2 s Time2Wait, 3 s pause");
    }
}

#[test]
fn a_lost_answer_to_stop_or_create_is_waited_for_with_a_deadline() {
    let mut b = Bench::new();
    b.login_ok(record());
    b.adapter.swallow_stops = 1;
    b.lose(ConnFailure::ConnFailed);
    b.run();
    assert_eq!((b.stage(), b.now_s()), (Some(SessionStage::LoggedIn), policy::RELEASE_TIMEOUT.as_secs()));
    let mut b = Bench::new();
    b.adapter.swallow_creates = true;
    assert_eq!(b.login_err(record()).exit(), ExitCode::TransportTimeout);
    assert_eq!(b.now_s(), 15);
}

#[test]
fn adapter_up_ends_a_pause_and_not_time2wait() {
    let mut b = Bench::new();
    b.login_ok(record());
    b.lose(ConnFailure::ConnFailed);
    b.adapter.up(1);
    b.advance_to(S);
    assert_eq!(b.adapter.connects.len(), 1, "Time2Wait is the target's");
    b.adapter.connect = Box::new(|_, now| if now < 3 * S { Err(EpError::Down) } else { Ok(()) });
    b.advance_to(4 * S);
    assert_eq!(b.adapter.connects.len(), 2);
    b.adapter.up(2);
    b.advance_to(4 * S);
    assert_eq!((b.adapter.connects.len(), b.stage()), (3, Some(SessionStage::LoggedIn)));
}

/// R1 at the adapter is an attempt that failed here.
#[test]
fn r1_a_login_while_the_adapter_resets_is_tried_again() {
    let mut b = Bench::new();
    b.adapter.refuse_creates = 2;
    b.login_ok(record());
    assert_eq!((b.now_s(), b.adapter.connects.len()), (6, 1));
    let mut b = Bench::new();
    b.adapter.refuse_creates = u32::MAX;
    assert_eq!(b.login_err(record()).exit(), ExitCode::HostNotFound);
    b.nothing_left();
}

#[test]
fn host_removal_ends_the_session() {
    let mut b = Bench::new();
    b.login_ok(record());
    b.lose(ConnFailure::InvalidHost);
    b.run();
    assert_eq!(b.iscsid().counters().given_up, 1);
    b.nothing_left();
}

#[test]
fn logout_closes_the_session_and_a_mute_target_cannot_prevent_it() {
    let mut b = Bench::new();
    let entry = b.login_ok(record());
    assert_eq!(b.logout(entry.tag), Ok(()));
    assert_eq!(b.now_s(), 0);
    b.nothing_left();
    assert_eq!(b.logout(entry.tag), Err(MgmtError::NotFound));

    let entry = b.login_ok(record());
    b.adapter.target.mute = true;
    let error = b.logout(entry.tag).unwrap_err();
    assert_eq!((error.exit(), b.now_s()), (ExitCode::Logout, 15));
    b.nothing_left();

    // In recovery there is nobody to say goodbye to.
    b.adapter.target.mute = false;
    let entry = b.login_ok(record());
    b.adapter.connect = Box::new(|_, _| Err(EpError::NoPath(PathFailure::NoAnswer)));
    b.lose(ConnFailure::ConnFailed);
    b.advance_to(30 * S);
    assert_eq!(b.logout(entry.tag), Ok(()));
    b.nothing_left();
}

#[test]
fn logout_during_the_initial_login_ends_both() {
    let mut b = Bench::new();
    b.adapter.target.mute = true;
    b.send(IscsidRequest::Login { id: 7, record: Box::new(record()), multiple: false });
    b.advance_to(S);
    let tag = b.iscsid().sessions().next().unwrap().tag;
    b.adapter.target.mute = false;
    assert_eq!(b.logout(tag), Ok(()));
    let seven = b.replies.iter().find_map(|r| match r {
        IscsidReply::LoggedIn { id: 7, result } => Some(result.clone()),
        _ => None,
    });
    assert_eq!(seven, Some(Err(MgmtError::LoggedOut)));
    b.nothing_left();
}

#[test]
fn asynchronous_events() {
    // 1: logout, then back after the Time2Wait of the logout response.
    let mut b = Bench::new();
    b.login_ok(record());
    b.adapter.target.logout_time2wait = 7;
    b.adapter.event(1, 0);
    b.run();
    assert_eq!((b.stage(), b.now_s(), b.adapter.logouts), (Some(SessionStage::LoggedIn), 7, 1));
    // 2 and 3 carry the time to wait; 4 drops the connection.
    for (event, time2wait, back) in [(2, 9, 9), (3, 11, 11), (4, 99, 2)] {
        let mut b = Bench::new();
        b.login_ok(record());
        b.adapter.event(event, time2wait);
        b.run();
        assert_eq!((b.stage(), b.now_s()), (Some(SessionStage::LoggedIn), back), "event {event}");
        assert_eq!(b.adapter.logouts, 0);
    }
    // 0 and vendors' leave the session alone.
    for event in [0, 5, 250] {
        let mut b = Bench::new();
        b.login_ok(record());
        b.adapter.event(event, 0);
        b.run();
        assert_eq!((b.iscsid().counters().lost, b.adapter.connects.len()), (0, 1));
        assert_eq!(b.iscsid().counters().scsi_events, u64::from(event == 0));
    }
}

/// The field has room for 18 hours; what can be negotiated is an hour.
#[test]
fn a_stated_time2wait_has_a_limit() {
    let mut b = Bench::new();
    b.login_ok(record());
    b.adapter.event(3, u16::MAX);
    b.advance_to(3599 * S);
    assert_eq!(b.adapter.connects.len(), 1);
    b.advance_to(3601 * S);
    assert_eq!(b.stage(), Some(SessionStage::LoggedIn));

    b.adapter.target.logout_time2wait = u16::MAX;
    b.adapter.event(1, 0);
    b.advance_to(7205 * S);
    assert_eq!((b.stage(), b.adapter.logouts), (Some(SessionStage::LoggedIn), 1));
}

/// A target may change its mind between its last login response and the start of the session here.
#[test]
fn an_event_while_the_session_starts_counts() {
    // 1: the logout goes out when the session is there.
    let mut b = Bench::new();
    b.adapter.fault = Some(Fault::EventAtStart(1, 0));
    b.adapter.target.logout_time2wait = 7;
    b.login_ok(record());
    b.run();
    assert_eq!((b.stage(), b.now_s(), b.adapter.logouts), (Some(SessionStage::LoggedIn), 7, 1));
    // The others end the attempt, and no news of the adapter cuts their time short.
    for (event, time2wait, back) in [(2, 9, 11), (3, 11, 13), (4, 99, 4)] {
        let mut b = Bench::new();
        b.login_ok(record());
        b.adapter.fault = Some(Fault::EventAtStart(event, time2wait));
        b.lose(ConnFailure::ConnFailed);
        b.advance_to(3 * S);
        b.adapter.up(1);
        b.advance_to(4 * S);
        b.run();
        let seen = (b.stage(), b.now_s(), b.adapter.connects.len());
        assert_eq!(seen, (Some(SessionStage::LoggedIn), back, 3), "event {event}");
    }
}

#[test]
fn discovery_collects_the_answer_in_pieces_and_leaves_nothing() {
    let mut b = Bench::new();
    b.adapter.target.text_piece = 10;
    let targets = b.discover(DiscoveryRecord::new(portal(1))).unwrap();
    let names: Vec<&str> = targets.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, [TARGET, "iqn.2001-04.com.example:other"]);
    assert_eq!(targets[1].addresses[0].to_string(), portal(1).to_string(), "no address: the portal asked");
    assert_eq!(b.adapter.logouts, 1);
    assert!(b.adapter.params[0].discovery);
    b.nothing_left();
}

#[test]
fn discovery_retries_what_may_pass_and_not_what_may_not() {
    let mut b = Bench::new();
    b.adapter.connect = Box::new(|_, _| Err(EpError::Connect(0x8f)));
    assert_eq!(b.discover(DiscoveryRecord::new(portal(1))).unwrap_err().exit(), ExitCode::Transport);
    assert_eq!(b.adapter.connects.iter().map(|c| c.0 / S).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    let mut b = Bench::new();
    b.adapter.target.admission = Admission::Refuse(LoginStatus::AuthorizationFailure);
    let error = b.discover(DiscoveryRecord::new(portal(1))).unwrap_err();
    assert_eq!((error.exit(), b.adapter.connects.len()), (ExitCode::LoginAuthFailed, 1));
    b.nothing_left();
    // An answer that never ends is cut.
    let mut b = Bench::new();
    b.adapter.target.endless_text = true;
    assert!(b.discover(DiscoveryRecord::new(portal(1))).is_err());
    b.nothing_left();
}

#[test]
fn a_restarted_iscsid_learns_the_sessions_and_recovers_them() {
    let mut b = Bench::new();
    let entry = b.login_ok(record());
    // One login is not finished when the daemon dies.
    b.adapter.target.mute = true;
    let second = NodeRecord::new("iqn.2001-04.com.example:second", portal(5));
    b.send(IscsidRequest::Login { id: 9, record: Box::new(second), multiple: false });
    b.advance_to(S);
    assert_eq!(b.adapter.sessions.len(), 2);
    b.adapter.target.mute = false;
    b.restart();
    b.run();
    let views: Vec<SessionView> = b.iscsid().sessions().collect();
    assert_eq!(views.len(), 1);
    assert_eq!((views[0].tag, views[0].session), (entry.tag, Some(entry.session)));
    assert_eq!(views[0].stage, SessionStage::LoggedIn);
    assert_eq!((b.iscsid().counters().orphans, b.adapter.sessions.len()), (1, 1));
    // The same ISID: the target must find its old session and end it, instead of serving both (RFC 7143
    // 6.3.5).
    let isids = &b.adapter.isids;
    assert_eq!((isids.len(), isids[1]), (2, isids[0]));
    assert_eq!(b.iscsid().counters().recoveries, 1);
    assert_eq!(b.logout(entry.tag), Ok(()));
    b.nothing_left();
}

#[test]
fn dropped_messages_are_made_good_by_hello() {
    let mut b = Bench::new();
    b.login_ok(record());
    // The ConnError is among what was dropped.
    b.adapter.lose_silently();
    b.adapter.say(FromAdapter::Resync);
    b.run();
    assert_eq!((b.stage(), b.adapter.connects.len()), (Some(SessionStage::LoggedIn), 2));
    // So is the end of the session.
    b.adapter.forget_sessions();
    b.adapter.say(FromAdapter::Resync);
    b.run();
    assert_eq!((b.stage(), b.now_s()), (None, 2));
}

/// Whatever an attempt was waiting for when messages were dropped, it goes on at once: nothing waits out a
/// login timeout or the 60 s of a release.
#[test]
fn dropped_messages_cost_no_deadline_in_any_stage() {
    for stage in [SessionStage::Cleanup, SessionStage::Connecting, SessionStage::LoggingIn] {
        let mut b = Bench::new();
        b.login_ok(record());
        match stage {
            SessionStage::Cleanup => b.adapter.swallow_stops = 1,
            SessionStage::Connecting => b.adapter.swallow_connects = 1,
            _ => b.adapter.target.mute = true,
        }
        b.lose(ConnFailure::ConnFailed);
        b.advance_to(5 * S);
        assert_eq!(b.stage(), Some(stage));
        b.adapter.target.mute = false;
        b.adapter.say(FromAdapter::Resync);
        b.run();
        assert_eq!((b.stage(), b.now_s()), (Some(SessionStage::LoggedIn), 5), "{stage:?}");
        assert_eq!(b.iscsid().counters().given_up, 0);
    }
}

/// A daemon that does not run reads its inbox before it looks at its deadlines, and silence of the adapter is
/// no answer.
#[test]
fn no_session_ends_because_its_confirmation_is_late() {
    // Stopped after Hello: the answer waits in the inbox for longer than the sync timeout.
    let mut b = Bench::new();
    let entry = b.login_ok(record());
    b.adapter.say(FromAdapter::Resync);
    b.sleep_after_steps(1, 31 * S);
    b.run();
    assert_eq!((b.stage(), b.iscsid().counters().timeouts), (Some(SessionStage::LoggedIn), 0));

    // The adapter is silent, or part of its answer is lost: it is asked again, and what is left of the first
    // answer is not mistaken for the second.
    for (silent, lost) in [(true, 0), (false, 2)] {
        b.adapter.paused = silent;
        b.adapter.swallow_synced = lost;
        b.adapter.say(FromAdapter::Resync);
        if silent {
            b.adapter.resync_now();
        }
        let start = b.now_s();
        b.advance_to((start + 70) * S);
        b.adapter.paused = false;
        b.run();
        assert!(!b.iscsid().sync_pending());
        assert_eq!(b.stage(), Some(SessionStage::LoggedIn));
    }
    assert_eq!(b.iscsid().counters().given_up, 0);
    assert_eq!(b.logout(entry.tag), Ok(()));
    b.nothing_left();
}

#[test]
fn stale_and_foreign_messages_are_counted_and_harmless() {
    let mut b = Bench::new();
    let entry = b.login_ok(record());
    let nobody = crate::control::SessionId { index: 99, generation: 9 };
    let ep = crate::control::EpHandle { cid: 99, generation: 9 };
    b.adapter.say(FromAdapter::Stopped { session: nobody });
    b.adapter.say(FromAdapter::Started { session: nobody, result: Ok(()) });
    b.adapter.say(FromAdapter::ConnError {
        session: Some(entry.session),
        ep,
        cause: Cause::Lost(ConnFailure::ConnFailed),
    });
    b.adapter.say(FromAdapter::RecvPdu { ep, bhs: [0x23; 48], data: vec![0; 3] });
    b.adapter.say(FromAdapter::SessionDestroyed { session: nobody });
    b.adapter.say(FromAdapter::Started { session: entry.session, result: Ok(()) });
    b.adapter.say(FromAdapter::SessionCreated { tag: 4711, result: Ok(nobody) });
    b.run();
    assert_eq!(b.stage(), Some(SessionStage::LoggedIn));
    assert_eq!((b.iscsid().counters().stale, b.iscsid().counters().orphans), (5, 1));
}

#[test]
fn garbage_instead_of_a_login_response_fails_the_attempt() {
    let mut b = Bench::new();
    b.adapter.target.garbage = 1;
    b.login_ok(record());
    assert_eq!((b.adapter.connects.len(), b.now_s()), (2, 3));
}

#[test]
fn a_port_of_one_message_is_slow_and_loses_nothing() {
    let mut b = Bench::with_ports(1);
    for n in 1..=8 {
        b.send(IscsidRequest::Login {
            id: u64::from(n),
            record: Box::new(NodeRecord::new(TARGET, portal(n))),
            multiple: false,
        });
    }
    b.run();
    let ok = b.replies.iter().filter(|r| matches!(r, IscsidReply::LoggedIn { result: Ok(_), .. })).count();
    assert_eq!((ok, b.adapter.sessions.len()), (8, 8));
}

#[test]
fn sessions_are_limited_and_the_same_one_twice_is_refused() {
    let mut b = Bench::new();
    let first = b.login_ok(record());
    assert_eq!(b.login_err(record()), MgmtError::Exists);
    b.send(IscsidRequest::Login { id: 2, record: Box::new(record()), multiple: true });
    b.run();
    let isids: Vec<[u8; 6]> = b.adapter.isids.clone();
    assert_eq!(isids.len(), 2);
    assert_ne!(isids[0], isids[1]);
    assert!(isids.iter().all(|i| i[0] == 0x80), "T = 10b, random");
    assert_ne!(isids[0][1..4], isids[1][1..4]);
    b.lose(ConnFailure::ConnFailed);
    b.run();
    assert!(isids.contains(b.adapter.isids.last().unwrap()), "a session keeps its ISID: reinstatement");
    for n in 2..MAX_SESSIONS as u16 {
        b.login_ok(NodeRecord::new(TARGET, portal(100 + n)));
    }
    assert_eq!(b.login_err(NodeRecord::new(TARGET, portal(9))), MgmtError::TooMany);
    assert_eq!(b.logout(first.tag), Ok(()));
    b.login_ok(NodeRecord::new(TARGET, portal(9)));
    let bad = NodeRecord::new("no name", portal(10));
    assert_eq!(b.login_err(bad).exit(), ExitCode::InvalidParameter);
}

#[test]
fn the_last_failure_is_shown() {
    let mut b = Bench::new();
    b.login_ok(record());
    b.adapter.connect = Box::new(|_, _| Err(EpError::NoPath(PathFailure::NoAnswer)));
    b.lose(ConnFailure::NopTimedOut);
    b.advance_to(S);
    let failure = |b: &Bench| b.iscsid().sessions().next().and_then(|s| s.last_failure);
    assert_eq!(failure(&b), Some(Cause::Lost(ConnFailure::NopTimedOut)));
    b.advance_to(3 * S);
    assert_eq!(failure(&b), Some(Cause::Connect(EpError::NoPath(PathFailure::NoAnswer))));
}

/// What the adapter knows about the end of a connection reaches the user, and `iscsiadm`'s code 4 with it.
#[test]
fn the_adapters_cause_is_what_a_user_reads() {
    let mut b = Bench::new();
    b.login_ok(record());
    b.lose_for(Cause::Fin);
    b.advance_to(S);
    let failure = b.iscsid().sessions().next().and_then(|s| s.last_failure).unwrap();
    assert_eq!(failure, Cause::Fin);
    assert_eq!(failure.to_string(), "the target closed the connection");
    assert_eq!(failure.verdict().exit, ExitCode::Transport);
}

#[test]
fn requests_wait_their_turn_when_the_outbox_is_full() {
    let mut b = Bench::new();
    b.adapter.paused = true;
    for n in 0..(OUTBOX_LIMIT as u64 + 200) {
        b.send(IscsidRequest::Logout { id: n, tag: 12_345 });
    }
    b.pause_replies = true;
    b.advance_to(S);
    assert!(b.iscsid().sessions().next().is_none());
    b.pause_replies = false;
    b.adapter.paused = false;
    b.advance_to(2 * S);
    assert_eq!(b.replies.len(), OUTBOX_LIMIT + 200, "none lost, and the intake stopped in between");
}
