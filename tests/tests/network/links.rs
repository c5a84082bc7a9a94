//! Bad links: loss, disorder, damage, flaps, and resets over jumbo and small frames.

use std::time::Duration;

use driver::adapter::OperatorRequest;
use hw_model::wire::link::{Direction, LinkConfig};
use tests::rig::{Rig, RigConfig, Run, prompt_recovery_bound};

use crate::SECOND;

/// One percent, in the unit of a [`Direction`].
const PERCENT: u32 = 10_000;

/// A link with some length: what is late can be overtaken.
fn long() -> Direction {
    Direction { rate: 10_000_000_000, delay_ns: 50_000, ..Direction::default() }
}

/// Runs under load for a time over a link that is bad from the first frame on. No session may be lost.
fn bad(direction: Direction, sessions: u16, time: Duration) -> Run {
    let mut config = RigConfig::frames(sessions);
    config.network().link = LinkConfig::both(direction);
    config.load.think = Duration::from_millis(u64::from(sessions) / 2 + 5);
    let mut rig = Rig::start(config);
    rig.world.run_for(time);
    let (up, down) = rig.link().counters();
    for (c, lane) in [(up, direction), (down, direction)] {
        assert_eq!(c.lost > 0, lane.loss > 0, "{c:?}");
        assert_eq!(c.corrupted > 0, lane.corrupt > 0, "{c:?}");
        assert_eq!(c.duplicated > 0, lane.duplicate > 0, "{c:?}");
        assert_eq!(c.reordered > 0, lane.reorder > 0, "{c:?}");
    }
    assert!(rig.progress(30 * SECOND).is_some(), "L2: {} sessions", rig.load.borrow().recovering());
    // The end is not what is tested: a lost last ACK is nobody's leak.
    rig.heal();
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.connections_lost, 0, "no session is lost");
    run
}

#[test]
fn one_percent_loss_costs_time_only() {
    bad(Direction { loss: PERCENT, ..long() }, 8, 5 * SECOND);
}

#[test]
fn reordering_costs_time_only() {
    bad(Direction { reorder: 5 * PERCENT, reorder_ns: 200_000, ..long() }, 8, 5 * SECOND);
}

#[test]
fn duplicates_cost_nothing() {
    bad(Direction { duplicate: 5 * PERCENT, ..long() }, 8, 5 * SECOND);
}

#[test]
fn damaged_frames_that_the_mac_drops_cost_time_only() {
    bad(Direction { corrupt: PERCENT, fcs: true, ..long() }, 8, 5 * SECOND);
}

#[test]
fn everything_at_once_128_sessions() {
    let all = Direction {
        loss: PERCENT,
        duplicate: PERCENT,
        corrupt: PERCENT / 2,
        fcs: true,
        reorder: PERCENT,
        reorder_ns: 200_000,
        jitter_ns: 20_000,
        ..long()
    };
    bad(all, 128, 2 * SECOND);
}

#[test]
fn a_flap_of_3_s_loses_no_session() {
    let mut rig = Rig::start(RigConfig::frames(16));
    rig.run_ms(500);
    let age = rig.world.host().borrow().adapter.age();
    rig.link().set_up(false);
    rig.run_ms(3000);
    rig.link().set_up(true);
    // The retransmission timer has doubled meanwhile.
    let took = rig.progress(5 * SECOND);
    assert!(took.is_some(), "L2: {} sessions", rig.load.borrow().recovering());
    assert_eq!(rig.world.host().borrow().adapter.age(), age, "R7: no reset");
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.connections_lost, 0, "R7");
}

#[test]
fn a_flap_of_15_s_costs_one_recovery_a_session() {
    let mut rig = Rig::start(RigConfig::frames(16));
    rig.run_ms(500);
    let age = rig.world.host().borrow().adapter.age();
    rig.link().set_up(false);
    rig.run_ms(15_000);
    rig.link().set_up(true);
    let took = rig.progress(15 * SECOND);
    assert!(took.is_some(), "L2: {} sessions", rig.load.borrow().recovering());
    rig.run_ms(30_000);
    assert_eq!(rig.world.host().borrow().adapter.age(), age, "R7: no reset");
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.connections_lost, 16, "R7: one for each session");
}

#[test]
fn mtu_changes_under_load_over_frames() {
    let mut rig = Rig::start(RigConfig::frames(16));
    rig.run_ms(200);
    let bound = prompt_recovery_bound(&rig.config().record) + SECOND;
    for mtu in [9000, 1500, 9000] {
        let before = rig.link().counters().0;
        rig.reset(OperatorRequest::ChangeMtu(mtu));
        assert!(rig.recovered(bound), "L1: {mtu}: {} sessions", rig.load.borrow().recovering());
        rig.run_ms(300);
        assert_eq!(rig.link().counters().0.oversize, before.oversize, "nothing longer than the link's MTU");
    }
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.load.recoveries.len(), 3 * 16, "R6");
}

/// The link carries 1500 bytes only, whatever the interfaces believe: the handshake says 9000 and large
/// segments vanish. Going back to 1500 heals it.
#[test]
fn an_mtu_that_the_link_does_not_carry_is_survived_and_undone() {
    let mut rig = Rig::start(RigConfig::frames(2));
    rig.run_ms(200);
    rig.link().adjust(|d| d.mtu = 1500);
    assert!(rig.progress(5 * SECOND).is_some(), "1500 fits");
    rig.reset(OperatorRequest::ChangeMtu(9000));
    rig.run_ms(20_000);
    assert!(rig.link().counters().0.oversize + rig.link().counters().1.oversize > 0, "too long");
    rig.reset(OperatorRequest::ChangeMtu(1500));
    let bound = prompt_recovery_bound(&rig.config().record) + 3 * SECOND;
    assert!(rig.recovered(bound), "L2: {} sessions", rig.load.borrow().recovering());
    rig.finish().assert_unharmed();
}
