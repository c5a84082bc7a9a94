//! The main job on every runner: sessions, verified I/O, resets under load, daemons that die, and nothing
//! lost or left.

use driver::adapter::{AdapterState, OperatorRequest};
use driver::config::RingSizes;
use tests::any;

any! {
    /// Logins, and the end without a word of I/O.
    sessions_log_in_and_nothing_is_left(w) {
        w.login(8);
        assert_eq!(w.sessions.len(), 8);
    }

    /// A session that logs out leaves the others alone.
    a_logout_under_load_disturbs_nobody(w) {
        w.login(3);
        let last = w.sessions.pop().expect("there are three");
        w.start_load();
        w.world.logout(last.tag).expect("it logs out");
        w.flow(40);
    }

    /// The main job.
    mtu_changes_under_load_lose_nothing(w) {
        w.login(8);
        w.start_load();
        for mtu in [9000, 1500, 9000] {
            w.reset(OperatorRequest::ChangeMtu(mtu));
            w.flow(20);
        }
    }

    ring_size_changes_under_load_lose_nothing(w) {
        w.login(2);
        w.start_load();
        for rq in [32, 16] {
            w.reset(OperatorRequest::ChangeRings(RingSizes { rq, ..RingSizes::default() }));
            w.flow(20);
        }
    }

    interface_down_and_up_under_load_loses_nothing(w) {
        w.login(2);
        w.start_load();
        w.begin_reset(OperatorRequest::InterfaceDown);
        w.world.settle("down", |s| s == AdapterState::Down).expect("it goes down");
        w.reset(OperatorRequest::InterfaceUp);
    }

    /// The second reset hits the recovery from the first.
    a_reset_during_the_recovery_from_a_reset(w) {
        w.login(4);
        w.start_load();
        w.begin_reset(OperatorRequest::Reset);
        // Between two looks a quick card may have come up already: the sessions have not.
        let on_the_way = |s| matches!(s, AdapterState::Starting | AdapterState::Up);
        w.world.settle("starting", on_the_way).expect("it starts again");
        w.reset(OperatorRequest::ChangeMtu(9000));
        w.flow(20);
    }

    /// The daemon dies while the chip is being reset, and recovers the sessions when it is back.
    iscsid_dies_during_a_reset_under_load(w) {
        w.login(2);
        w.start_load();
        w.begin_reset(OperatorRequest::ChangeMtu(9000));
        w.world.kill_iscsid();
        w.world.settle("up", |s| s == AdapterState::Up).expect("it needs no daemon for that");
        w.world.start_iscsid().expect("it starts");
        w.recover();
        w.flow(20);
    }

    /// A daemon and a path helper that are stopped for a while cost time and nothing else.
    stopped_daemons_delay_the_recovery(w) {
        w.login(2);
        w.start_load();
        w.world.stop_iscsid(true);
        w.world.stop_helper(true);
        w.begin_reset(OperatorRequest::Reset);
        w.world.settle("up", |s| s == AdapterState::Up).expect("it needs no daemon for that");
        w.world.stop_helper(false);
        w.world.stop_iscsid(false);
        w.recover();
    }
}
