//! Every kind of reset with 1, 16 and 128 sessions under mixed verified I/O.

use std::time::Duration;

use driver::adapter::OperatorRequest;
use driver::config::RingSizes;
use hw_model::fault::{FaultPoint, Trigger};
use tests::rig::{Rig, RigConfig, Run, prompt_recovery_bound, recovery_bound};

/// Resets of one kind in a run.
const RESETS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mtu,
    Rings,
    Interface,
    MuteMtu,
    Software,
}

fn break_it(rig: &mut Rig, kind: Kind, round: usize) {
    let mtu = [9000, 1500][round % 2];
    match kind {
        Kind::Mtu => rig.reset(OperatorRequest::ChangeMtu(mtu)),
        Kind::Rings => {
            let rq = [32, 16][round % 2];
            rig.reset(OperatorRequest::ChangeRings(RingSizes { rq, ..RingSizes::default() }));
        }
        Kind::Interface => {
            rig.reset(OperatorRequest::InterfaceDown);
            rig.run_ms(100);
            rig.reset(OperatorRequest::InterfaceUp);
        }
        Kind::MuteMtu => {
            rig.world.faults().arm(FaultPoint::Mute, Trigger::ONCE);
            rig.run_ms(50);
            assert_eq!(rig.world.faults().fired(FaultPoint::Mute), round as u64 + 1, "the chip is mute");
            rig.reset(OperatorRequest::ChangeMtu(mtu));
        }
        Kind::Software => rig.reset(OperatorRequest::Reset),
    }
}

fn run(kind: Kind, sessions: u16) -> Run {
    let mut config = RigConfig::new(sessions);
    config.load.think = Duration::from_millis(u64::from(sessions) / 2 + 5);
    let bound = if kind == Kind::MuteMtu {
        recovery_bound(&config.driver.deadlines, &config.record)
    } else {
        prompt_recovery_bound(&config.record) + Duration::from_millis(100)
    };
    let mut rig = Rig::start(config);
    rig.run_ms(200);
    for round in 0..RESETS {
        break_it(&mut rig, kind, round);
        let back = rig.recovered(bound);
        let missing = rig.load.borrow().recovering();
        assert!(back, "L1: {kind:?}: {missing} of {sessions} sessions are not back after {bound:?}");
        rig.run_ms(200);
    }
    let run = rig.finish();
    run.assert_unharmed();
    assert_eq!(
        run.load.recoveries.len(),
        RESETS * usize::from(sessions),
        "R6: each session came back each time"
    );
    run
}

macro_rules! matrix {
    ($($name:ident: $kind:ident, $sessions:literal;)*) => {
        $(#[test] fn $name() { run(Kind::$kind, $sessions); })*
    };
}

matrix! {
    mtu_change_1_session: Mtu, 1;
    mtu_change_16_sessions: Mtu, 16;
    mtu_change_128_sessions: Mtu, 128;
    ring_size_change_1_session: Rings, 1;
    ring_size_change_16_sessions: Rings, 16;
    ring_size_change_128_sessions: Rings, 128;
    interface_down_up_1_session: Interface, 1;
    interface_down_up_16_sessions: Interface, 16;
    interface_down_up_128_sessions: Interface, 128;
    mute_chip_1_session: MuteMtu, 1;
    mute_chip_16_sessions: MuteMtu, 16;
    mute_chip_128_sessions: MuteMtu, 128;
    software_reset_1_session: Software, 1;
    software_reset_16_sessions: Software, 16;
    software_reset_128_sessions: Software, 128;
}
