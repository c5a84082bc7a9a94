//! iscsid stopped and restarted at bad moments: no session is forgotten, and none waits for a deadline that
//! only a lost message would need.

use std::collections::BTreeMap;
use std::time::Duration;

use driver::adapter::{AdapterState, OperatorRequest, SessionPhase};
use driver::iscsid::SessionStage;
use lab::load::LoadConfig;
use tests::rig::{Rig, RigConfig, prompt_recovery_bound};

const SECOND: Duration = Duration::from_secs(1);

/// iscsid is stopped until the adapter has dropped news and asks for a Hello; then it is stopped again in the
/// middle of it.
fn out_of_step(sessions: u16, awake: Duration, asleep: Duration) -> Rig {
    let load = LoadConfig { think: SECOND, ..RigConfig::new(sessions).load };
    let mut rig = Rig::start(RigConfig { load, ..RigConfig::new(sessions) });
    rig.run_ms(50);
    rig.world.stop_iscsid(true);
    for _ in 0..3000 {
        rig.world.operate(OperatorRequest::Reset).expect("up");
        rig.until(5 * SECOND, |state| state == AdapterState::Up);
        if rig.counters().control_dropped > 0 {
            break;
        }
    }
    assert!(rig.counters().control_dropped > 0, "nothing was dropped: the test tests nothing");
    rig.world.stop_iscsid(false);
    rig.world.run_for(awake);
    rig.world.stop_iscsid(true);
    rig.world.run_for(asleep);
    rig.world.stop_iscsid(false);
    rig
}

#[test]
fn a_daemon_that_is_stopped_while_it_resynchronises_forgets_no_session() {
    for awake_us in [5, 20, 100] {
        let mut rig = out_of_step(128, Duration::from_micros(awake_us), 31 * SECOND);
        let bound = prompt_recovery_bound(&rig.config().record) + SECOND;
        let host = rig.world.host().clone();
        let ready = |_: &_| {
            let host = host.borrow();
            host.adapter.sessions().filter(|s| s.phase == SessionPhase::Ready).count() == 128
        };
        let back = rig.world.run(bound, ready);
        let mut stages = BTreeMap::<String, u32>::new();
        let iscsid = rig.world.iscsid().expect("runs");
        for s in iscsid.borrow().sessions() {
            *stages.entry(format!("{:?}", s.stage)).or_default() += 1;
        }
        assert!(back, "awake for {awake_us} us: {stages:?}");
        assert_eq!(iscsid.borrow().sessions().filter(|s| s.stage == SessionStage::LoggedIn).count(), 128);
        assert_eq!(iscsid.borrow().counters().given_up, 0);
    }
}
