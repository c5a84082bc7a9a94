//! The neighbour or the gateway is exchanged during a session: the card learns the new MAC, and no byte is
//! lost or wrong.
//!
//! With an announcement this costs a retransmission. Without one the helper finds out by its own probes
//! within 14 s; the keepalive may have given up the session before, and then the new connection finds the new
//! neighbour.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use driver::iscsid::NodeRecord;
use hsi::kernel::l4::L4KcqeOpcode;
use lab::world::{static_v4, static_v6};
use tests::rig::{Rig, RigConfig, TARGET, prompt_recovery_bound};

use crate::{SECOND, count};

const NEW: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];
/// The helper's probe: 10 s without a word, three questions to the old MAC, one to all.
const PROBE: Duration = Duration::from_secs(14);
const SESSIONS: u16 = 8;

fn v6(config: &mut RigConfig) {
    let station = config.network().station.ipv6;
    config.network().ifaces = vec![static_v6()];
    config.record = NodeRecord::new(TARGET, SocketAddr::new(station.into(), 3260));
}

/// A target behind a router, which is what the station is then.
fn routed(config: &mut RigConfig) {
    let target = IpAddr::from(Ipv4Addr::new(198, 51, 100, 7));
    config.network().station.behind = vec![target];
    config.network().ifaces = vec![static_v4()];
    config.record = NodeRecord::new(TARGET, SocketAddr::new(target, 3260));
}

/// How a neighbour moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// It says so.
    Announced,
    /// Without a word, and the keepalive runs beside the helper's probe.
    Silent,
    /// Without a word, and only the helper can find out.
    SilentWithoutKeepalive,
}

fn silently(adjust: impl Fn(&mut RigConfig)) {
    moves(Move::Silent, &adjust);
    moves(Move::SilentWithoutKeepalive, &adjust);
}

/// The station's MAC changes under load, and back.
fn moves(how: Move, adjust: impl Fn(&mut RigConfig)) {
    let mut config = RigConfig::frames(SESSIONS);
    adjust(&mut config);
    let announce = how == Move::Announced;
    if how == Move::SilentWithoutKeepalive {
        (config.record.settings.noop_out_interval, config.record.settings.noop_out_timeout) = (0, 0);
    }
    let record = config.record.clone();
    let mut rig = Rig::start(config);
    // The helper's announcements are over.
    rig.run_ms(3000);
    let updates = count(&mut rig, L4KcqeOpcode::UPDATE_PG);
    for mac in [NEW, rig.station().config().mac] {
        let (lost, foreign) = (rig.counters().connections_lost, rig.station().counters().foreign);
        updates.set(0);
        rig.station().set_mac(mac, announce);
        let bound = match how {
            Move::Announced => 2 * SECOND,
            Move::Silent => PROBE + prompt_recovery_bound(&record) + SECOND,
            // The retransmission timer has doubled up to 8 s meanwhile.
            Move::SilentWithoutKeepalive => PROBE + 9 * SECOND,
        };
        let took = rig.progress(bound);
        let lost = rig.counters().connections_lost - lost;
        assert!(took.is_some(), "L1: {} sessions are silent after {bound:?}", rig.load.borrow().recovering());
        if how != Move::Silent {
            assert_eq!(lost, 0, "no session is lost");
            assert_eq!(updates.get(), u64::from(SESSIONS), "the card was told, once for each connection");
        } else {
            // A session that was given up before the helper knew has found the new neighbour by itself.
            assert!(
                updates.get() > 0 || lost == u64::from(SESSIONS),
                "{} updates, {lost} lost",
                updates.get()
            );
        }
        if !announce {
            assert!(rig.station().counters().foreign > foreign, "the old MAC was in use for a while");
        }
        // From here on nothing goes to the old one.
        rig.run_ms(1_000);
        let foreign = rig.station().counters().foreign;
        rig.run_ms(5_000);
        assert_eq!(rig.station().counters().foreign, foreign, "nobody uses the old MAC any more");
    }
    rig.finish().assert_unharmed();
}

/// A helper that was started anew is asked for the paths of connections that stand, and watches their
/// neighbours like the old one.
#[test]
fn a_new_helper_watches_the_neighbours_of_standing_connections() {
    for v6_paths in [false, true] {
        let mut config = RigConfig::frames(SESSIONS);
        if v6_paths {
            v6(&mut config);
        }
        (config.record.settings.noop_out_interval, config.record.settings.noop_out_timeout) = (0, 0);
        let mut rig = Rig::start(config);
        rig.run_ms(3000);
        rig.world.kill_helper();
        rig.run_ms(1000);
        rig.world.start_helper();
        rig.run_ms(5000);
        let updates = count(&mut rig, L4KcqeOpcode::UPDATE_PG);
        for announce in [true, false] {
            let mac = if announce { NEW } else { [2, 0, 0, 0, 7, 7] };
            updates.set(0);
            rig.station().set_mac(mac, announce);
            let bound = if announce { 2 * SECOND } else { PROBE + 9 * SECOND };
            assert!(rig.progress(bound).is_some(), "L1, {v6_paths} {announce}");
            assert_eq!(rig.counters().connections_lost, 0, "no session is lost");
            assert_eq!(updates.get(), u64::from(SESSIONS), "the card was told, once for each connection");
        }
        rig.finish().assert_unharmed();
    }
}

/// A new helper that finds nobody is no reason to give up a connection that stands: the cable is out for less
/// than the keepalive.
#[test]
fn a_new_helper_that_finds_nobody_costs_no_session() {
    let mut rig = Rig::start(RigConfig::frames(SESSIONS));
    rig.run_ms(3000);
    rig.world.kill_helper();
    rig.link().set_up(false);
    rig.world.start_helper();
    rig.run_ms(9_000);
    rig.link().set_up(true);
    rig.run_ms(10_000);
    assert_eq!(rig.counters().connections_lost, 0);
    rig.finish().assert_unharmed();
}

#[test]
fn a_neighbour_that_moves_and_says_so_costs_no_session() {
    moves(Move::Announced, |_| {});
}

#[test]
fn a_neighbour_that_moves_silently_is_found_within_the_probe() {
    silently(|_| {});
}

#[test]
fn a_neighbour_that_moves_and_says_so_costs_no_session_v6() {
    moves(Move::Announced, v6);
}

#[test]
fn a_neighbour_that_moves_silently_is_found_within_the_probe_v6() {
    silently(v6);
}

#[test]
fn a_gateway_that_moves_and_says_so_costs_no_session() {
    moves(Move::Announced, routed);
}

#[test]
fn a_gateway_that_moves_silently_is_found_within_the_probe() {
    silently(routed);
}

/// The neighbour moves at every millisecond of a reset: whatever an endpoint waits for, the newest MAC wins.
#[test]
fn a_neighbour_that_moves_during_a_recovery_is_followed() {
    for after in [0, 500, 2000, 2001, 2002, 2003, 2005, 2010, 2100] {
        let mut rig = Rig::start(RigConfig::frames(4));
        rig.run_ms(200);
        rig.reset(driver::adapter::OperatorRequest::Reset);
        rig.run_ms(after);
        rig.station().set_mac(NEW, true);
        let bound = prompt_recovery_bound(&rig.config().record) + 4 * SECOND;
        assert!(rig.recovered(bound), "L1: {after} ms");
        let foreign = rig.station().counters().foreign;
        rig.run_ms(3_000);
        assert_eq!(rig.station().counters().foreign, foreign, "{after} ms: nobody uses the old MAC");
        rig.finish().assert_unharmed();
    }
}
