//! A world whose connections are TCP in frames on a link.

use std::net::Ipv4Addr;
use std::time::Duration;

use driver::adapter::OperatorRequest;
use driver::iscsid::NodeRecord;
use hw_model::wire::link::{Direction, LinkConfig};
use iscsi::target::Auth;
use iscsiuio::helper::Reply;
use iscsiuio::ipc::{PING, PING_BYTES, PING_DST, PING_LENGTH, PING_PAYLOAD, PingStatus, Request, field};

use super::{Leftovers, LinkNetwork, Network, PORTAL, World, WorldConfig};
use crate::demo::ram_target;
use crate::load::LoadConfig;
use crate::oracle::Initial;

const TARGET: &str = "iqn.2026-01.lab.cnic:link";

fn network() -> LinkNetwork {
    LinkNetwork::new(ram_target(TARGET, 4096, Auth::default()))
}

/// Logs `sessions` in, loads them with verified I/O for `time`, and shuts down.
fn verified(
    config: WorldConfig,
    sessions: usize,
    time: Duration,
    meanwhile: impl FnOnce(&mut World),
) -> (u64, Leftovers) {
    let mut world = World::new(config).expect("a world");
    world.bring_up().expect("the adapter comes up");
    let record = NodeRecord::new(TARGET, PORTAL);
    let sessions = world.login(&record, sessions).expect("the sessions log in");
    let load = LoadConfig {
        depth: 4,
        max_bytes: 32 << 10,
        write_percent: 50,
        think: Duration::from_millis(2),
        run: 1,
        initial: Initial::Zero,
    };
    let load = world.start_load(&sessions, load, 512).expect("a load");
    world.run_for(time / 2);
    meanwhile(&mut world);
    world.run_for(time / 2);
    let left = world.finish_load(&load, Duration::from_secs(60));
    assert_eq!((left.lost, left.kept), (0, 0));
    let report = load.borrow().report().clone();
    assert_eq!((report.corrupt, report.failed), (0, 0), "{report:?}");
    assert!(report.reads > 0);
    (report.commands, world.shutdown().expect("a shutdown"))
}

#[test]
fn sessions_log_in_and_do_verified_io_over_frames() {
    let (commands, left) = verified(WorldConfig::link(1, network()), 3, Duration::from_secs(2), |_| {});
    assert!(commands > 500, "{commands}");
    assert_eq!(left.leaked(), 0, "{left:?}");
}

#[test]
fn a_bad_link_costs_time_and_nothing_else() {
    let bad = Direction {
        rate: 1_000_000_000,
        delay_ns: 30_000,
        jitter_ns: 20_000,
        loss: 3000,
        duplicate: 3000,
        corrupt: 3000,
        reorder: 3000,
        reorder_ns: 100_000,
        ..Direction::default()
    };
    let config = WorldConfig::link(2, LinkNetwork { link: LinkConfig::both(bad), ..network() });
    let (commands, left) = verified(config, 2, Duration::from_secs(4), |_| {});
    assert!(commands > 200, "{commands}");
    assert_eq!(left.leaked(), 0, "{left:?}");
}

#[test]
fn a_short_flap_loses_no_session() {
    let (_, left) = verified(WorldConfig::link(3, network()), 2, Duration::from_secs(8), |world| {
        let link = world.frames().expect("frames").link.clone();
        link.set_up(false);
        world.run_for(Duration::from_secs(2));
        link.set_up(true);
    });
    assert_eq!(left.leaked(), 0, "{left:?}");
}

#[test]
fn a_killed_target_and_a_replaced_card_come_back_over_frames() {
    let (_, left) = verified(WorldConfig::link(4, network()), 2, Duration::from_secs(20), |world| {
        let target = world.target().expect("embedded").clone();
        target.borrow_mut().kill();
        world.run_for(Duration::from_millis(500));
        target.borrow_mut().restart().expect("nobody else listens");
        world.run_for(Duration::from_secs(8));
        world.pull_card();
        world.run_for(Duration::from_millis(20));
        assert!(world.insert_card());
        world.operate(OperatorRequest::InterfaceUp).expect("not shut down");
        world.run_for(Duration::from_secs(8));
    });
    assert_eq!(left.leaked(), 0, "{left:?}");
}

#[test]
fn jumbo_frames_tags_and_a_hundred_and_twenty_eight_sessions() {
    let mut config = WorldConfig::link(5, network());
    config.driver.mtu = 9000;
    let Network::Link(n) = &mut config.network else { unreachable!("it is one") };
    n.station.mtu = 9000;
    n.server = ram_target(TARGET, 128 * 512, Auth::default());
    let (_, left) = verified(config, 128, Duration::from_millis(200), |world| {
        let frames = world.frames().expect("frames");
        assert_eq!(frames.wire.connections().0, 128);
        assert_eq!(frames.link.counters().0.oversize, 0);
    });
    assert_eq!(left.leaked(), 0, "{left:?}");
}

/// iscsid's request for a ping through the default interface.
fn ping(dst: Ipv4Addr, length: i32) -> Request {
    let mut bytes = vec![0; PING_BYTES];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, &PING.to_ne_bytes());
    put(4, &(PING_PAYLOAD as u32).to_ne_bytes());
    put(8 + field::IPADDRESS.0, b"192.0.2.2/24");
    put(8 + field::GATEWAY.0, b"192.0.2.1");
    put(PING_DST, &2_u16.to_ne_bytes());
    put(PING_DST + 4, &dst.octets());
    put(PING_LENGTH, &length.to_ne_bytes());
    Request::decode(&bytes).expect("a request")
}

/// From the helper's ring through card and link to the station, and back.
#[test]
fn pings_nearly_as_long_as_the_mtu_are_answered() {
    for (mtu, bytes) in [(1500, 1400), (9000, 8192)] {
        let mut config = WorldConfig::link(6, network());
        config.driver.mtu = mtu;
        let Network::Link(n) = &mut config.network else { unreachable!("it is one") };
        n.station.mtu = mtu;
        let mut world = World::new(config).expect("a world");
        world.bring_up().expect("the adapter comes up");
        world.run_for(Duration::from_secs(2));
        let ping = ping([192, 0, 2, 1].into(), bytes);
        let helper = world.helper().expect("one in this process").clone();
        let reply = world.exec.act(super::OPERATOR, |cx| helper.borrow_mut().request(cx, &ping));
        let Reply::Ping(ticket) = reply else { panic!("{reply:?}") };
        world.places.paths.wake().wake();
        world.run_for(Duration::from_secs(1));
        let end = helper.borrow_mut().ping_result(ticket).map(|r| r.ping);
        assert_eq!(end, Some(PingStatus::Success), "MTU {mtu}");
    }
}
