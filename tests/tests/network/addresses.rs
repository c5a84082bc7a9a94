//! Our own address: somebody else has it, it is leased, the lease is taken back or ends, and nobody answers
//! at all.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bus::uio::PathFailure;
use driver::adapter::SessionPhase;
use driver::control::EpError;
use driver::error::{Cause, ExitCode};
use driver::iscsid::{MgmtError, NodeRecord};
use iscsiuio::IfaceConfig;
use iscsiuio::iface::Addressing;
use iscsiuio::log::Level;
use lab::world::SOURCE_V4;
use tests::rig::{Rig, RigConfig, TARGET, prompt_recovery_bound};

use crate::{SECOND, refused};

/// How long the leases of these tests hold, in seconds.
const LEASE: u32 = 120;

fn no_path(why: PathFailure) -> MgmtError {
    MgmtError::Failed(Cause::Connect(EpError::NoPath(why)))
}

/// The helper's log so far.
fn log(rig: &Rig) -> Vec<(Level, String)> {
    let helper = rig.world.helper().expect("a helper").clone();
    std::iter::from_fn(|| helper.borrow_mut().log().pop()).collect()
}

fn leased(sessions: u16) -> RigConfig {
    let mut config = RigConfig::frames(sessions);
    let n = config.network();
    n.station.ipv4 = Ipv4Addr::new(10, 0, 0, 1);
    n.station.dhcp = Some(LEASE);
    let address = Addressing::DhcpV4;
    n.ifaces = vec![IfaceConfig { name: "dhcp".to_owned(), vlan: None, mtu: None, address }];
    config.record = NodeRecord::new(TARGET, SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), 3260));
    // Long runs: little load.
    config.load.think = SECOND / 2;
    config
}

#[test]
fn a_static_address_that_somebody_has_is_not_used_until_it_is_free() {
    let mut config = RigConfig::frames(2);
    config.network().station.claims = vec![SOURCE_V4.into()];
    let record = config.record.clone();
    let mut rig = Rig::up(config);
    rig.run_ms(2000);
    assert_eq!(rig.world.helper_addresses(0), Vec::<IpAddr>::new(), "not ours");
    let said = log(&rig);
    let conflict = |(level, text): &(Level, String)| {
        *level == Level::Error && text.contains("192.0.2.2 is in use by 02:00:00:00:00:01")
    };
    assert!(said.iter().any(conflict), "{said:?}");
    let (error, took) = refused(&mut rig, &record);
    assert_eq!((&error, error.exit()), (&no_path(PathFailure::Conflict), ExitCode::TransportTimeout));
    assert!(took < SECOND, "there is nothing to wait for: {took:?}");
    // The helper tries again 10 s, 20 s and so on after each conflict.
    rig.run_ms(15_000);
    assert_eq!(rig.world.helper_addresses(0), Vec::<IpAddr>::new(), "still not ours");
    rig.station().set_claims(Vec::new(), false);
    let start = rig.world.now();
    rig.entries = rig.world.login(&record, 2).expect("the address is free, and logins are tried again");
    assert!(rig.world.now() - start < 35 * SECOND, "{:?}", rig.world.now() - start);
    assert_eq!(rig.world.helper_addresses(0), [IpAddr::from(SOURCE_V4)]);
    rig.finish().assert_sound();
}

#[test]
fn an_address_that_somebody_claims_during_a_session_is_defended() {
    let mut rig = Rig::start(RigConfig::frames(4));
    rig.run_ms(500);
    let conflicts = |rig: &Rig| rig.world.helper().expect("a helper").borrow().counters().stack.conflicts;
    for claims in 1..=4 {
        rig.station().set_claims(vec![SOURCE_V4.into()], true);
        rig.run_ms(3_000);
        // Each claim is heard, and so is each answer of theirs to an announcement of ours, of which there are
        // few.
        let heard = conflicts(&rig);
        assert!(heard >= claims && heard <= 2 * claims + 1, "{heard} after {claims}");
        assert_eq!(
            rig.world.helper_addresses(0),
            [IpAddr::from(SOURCE_V4)],
            "a static address is never given up"
        );
    }
    let said = log(&rig);
    assert!(said.iter().any(|(_, text)| text.contains("claims our IP address")), "{said:?}");
    rig.station().set_claims(Vec::new(), false);
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.connections_lost, 0, "no session is lost");
}

#[test]
fn a_lease_is_renewed_for_as_long_as_sessions_need_it() {
    let mut rig = Rig::start(leased(4));
    let first = rig.world.helper_addresses(0);
    assert_eq!(first, [IpAddr::from([10, 0, 0, 100])]);
    let answers = |rig: &Rig| rig.station().with_dhcp(|d| d.counters().dhcp).expect("a server");
    assert_eq!(answers(&rig), 2, "DISCOVER and REQUEST");
    rig.run_ms(600_000);
    // At T1, every 60 s.
    let renewed = answers(&rig) - 2;
    assert!((9..=11).contains(&renewed), "{renewed} renewals");
    assert_eq!(rig.world.helper_addresses(0), first);
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.connections_lost, 0);
}

#[test]
fn a_lease_that_is_taken_back_moves_the_sessions_to_the_new_address() {
    let mut rig = Rig::start(leased(4));
    rig.run_ms(1000);
    let now = rig.world.now();
    rig.station().with_dhcp(|d| d.take_back(now)).expect("a server");
    let old = IpAddr::from([10, 0, 0, 100]);
    let helper = rig.world.helper().expect("a helper").clone();
    let gone = rig.world.run(61 * SECOND, |_| helper.borrow().addresses(0) != [old]);
    assert!(gone, "the refusal at T1 ends the lease");
    let bound = prompt_recovery_bound(&rig.config().record) + 3 * SECOND;
    rig.run_ms(1);
    assert_eq!(rig.counters().connections_lost, 4, "R1: at once, and not when TCP gives up");
    let took = rig.progress(bound);
    assert!(took.is_some(), "L1: {bound:?}");
    assert_eq!(rig.world.helper_addresses(0), [IpAddr::from([10, 0, 0, 101])]);
    rig.run_ms(180_000);
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.connections_lost, 4, "one recovery for each session");
}

#[test]
fn a_lease_that_ends_with_a_dead_server_comes_back_with_it() {
    let mut rig = Rig::start(leased(2));
    rig.run_ms(1000);
    let record = rig.config().record.clone();
    let server = rig.station().set_dhcp(None);
    let (start, helper) = (rig.world.now(), rig.world.helper().expect("a helper").clone());
    let gone = rig.world.run(130 * SECOND, |_| helper.borrow().addresses(0).is_empty());
    let held = rig.world.now() - start;
    assert!(gone && held <= Duration::from_secs(LEASE.into()) && held > 100 * SECOND, "{held:?}");
    rig.run_ms(1);
    assert_eq!(rig.counters().connections_lost, 2, "the address is not used for one moment longer");
    let (error, took) = refused(&mut rig, &record);
    assert_eq!((&error, error.exit()), (&no_path(PathFailure::NoAddress), ExitCode::TransportTimeout));
    assert!(took <= 9 * SECOND, "{took:?}");
    let said = log(&rig);
    assert!(said.iter().any(|(_, text)| text.contains("has expired: the address is given up")), "{said:?}");
    rig.station().set_dhcp(server);
    // DISCOVERs are a second further apart each time; an attempt that failed makes a pause.
    let took = rig.progress(20 * SECOND);
    assert!(took.is_some(), "L2: {} sessions", rig.load.borrow().recovering());
    rig.finish().assert_unharmed();
}

#[test]
fn nobody_answers_fails_the_login_within_8_s_and_says_so() {
    let config = RigConfig::frames(1);
    let record = config.record.clone();
    let mut rig = Rig::up(config);
    rig.world.target().expect("embedded").borrow().set_silent(true);
    rig.run_ms(1000);
    let (error, took) = refused(&mut rig, &record);
    assert_eq!((&error, error.exit()), (&no_path(PathFailure::NoAnswer), ExitCode::TransportTimeout));
    assert!(error.to_string().contains("nobody answers for the target's address"), "{error}");
    assert!(took >= 8 * SECOND - SECOND / 100 && took < 8 * SECOND + SECOND / 10, "{took:?}");
    rig.world.target().expect("embedded").borrow().set_silent(false);
    let start = rig.world.now();
    rig.entries = rig.world.login(&record, 1).expect("it answers again");
    assert!(rig.world.now() - start < 3 * SECOND, "{:?}", rig.world.now() - start);
    assert_eq!(rig.in_phase(SessionPhase::Ready), 1);
    rig.finish().assert_sound();
}
