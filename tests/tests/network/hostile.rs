//! The far end misbehaves towards all sessions at once.

use driver::adapter::SessionPhase;
use tests::rig::{Rig, RigConfig, prompt_recovery_bound};

use crate::SECOND;

const SESSIONS: u16 = 32;

#[test]
fn an_rst_storm_costs_one_recovery_a_session() {
    let mut rig = Rig::start(RigConfig::frames(SESSIONS));
    rig.run_ms(200);
    let target = rig.world.target().expect("embedded").clone();
    target.borrow_mut().kill();
    target.borrow_mut().restart().expect("it was killed");
    let took = rig.progress(prompt_recovery_bound(&rig.config().record) + SECOND);
    assert!(took.is_some(), "L1: {} sessions", rig.load.borrow().recovering());
    rig.run_ms(1000);
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.connections_lost, u64::from(SESSIONS));
}

#[test]
fn a_fin_storm_costs_one_recovery_a_session() {
    let mut rig = Rig::start(RigConfig::frames(SESSIONS));
    rig.run_ms(200);
    rig.world.act_on_target(|t, ids| ids.iter().for_each(|id| t.closed(*id)));
    let took = rig.progress(prompt_recovery_bound(&rig.config().record) + SECOND);
    assert!(took.is_some(), "L1: {} sessions", rig.load.borrow().recovering());
    rig.run_ms(1000);
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.connections_lost, u64::from(SESSIONS));
}

#[test]
fn a_machine_that_lost_its_power_is_noticed_and_costs_one_recovery_a_session() {
    let mut rig = Rig::start(RigConfig::frames(SESSIONS));
    rig.run_ms(200);
    // Nobody is told: the next segment is answered with RST.
    rig.station().power_off();
    let took = rig.progress(prompt_recovery_bound(&rig.config().record) + 12 * SECOND);
    assert!(took.is_some(), "L1: {} sessions", rig.load.borrow().recovering());
    rig.run_ms(1000);
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(run.adapter.connections_lost, u64::from(SESSIONS));
}

#[test]
fn a_station_that_is_silent_for_longer_than_the_replacement_timeout_fails_upward_and_comes_back() {
    let mut config = RigConfig::frames(16);
    config.record.settings.replacement_timeout = 30;
    let mut rig = Rig::start(config);
    rig.run_ms(200);
    let target = rig.world.target().expect("embedded").clone();
    target.borrow().set_silent(true);
    // The keepalive takes 10 s, then the timeout runs.
    rig.run_ms(35_000);
    assert_eq!(rig.load.borrow().report().failed, 0, "L3: not before");
    rig.run_ms(15_000);
    assert!(rig.load.borrow().report().failed >= 16, "L3: every session said so");
    assert_eq!(rig.in_phase(SessionPhase::Offline), 16, "L3");
    rig.run_ms(20_000);
    target.borrow().set_silent(false);
    let took = rig.progress(25 * SECOND);
    assert!(took.is_some(), "L2: {} sessions", rig.load.borrow().recovering());
    rig.run_ms(2000);
    let run = rig.finish();
    run.assert_sound();
    assert_eq!(run.adapter.connections_lost, 16, "one for each session");
}
