//! Interfaces of other kinds carry sessions too: a VLAN, IPv6, and both families beside each other.

use std::net::SocketAddr;

use driver::adapter::OperatorRequest;
use driver::iscsid::NodeRecord;
use iscsiuio::iface::Vlan;
use lab::world::{static_v4, static_v6};
use tests::rig::{Rig, RigConfig, TARGET, prompt_recovery_bound};

use crate::{SECOND, refused};

/// Login, verified I/O, a reset under load, and the end.
fn works(config: RigConfig) {
    let sessions = config.sessions;
    let mut rig = Rig::start(config);
    rig.run_ms(1000);
    rig.reset(OperatorRequest::Reset);
    let bound = prompt_recovery_bound(&rig.config().record) + SECOND;
    assert!(rig.recovered(bound), "L1: {} sessions", rig.load.borrow().recovering());
    rig.run_ms(500);
    let run = rig.finish();
    run.assert_unharmed();
    assert!(run.load.reads > 0);
    assert_eq!(run.load.recoveries.len(), usize::from(sessions));
}

fn tagged(id: u16) -> RigConfig {
    let mut config = RigConfig::frames(4);
    config.network().station.vlan = Some(id);
    let mut iface = static_v4();
    iface.vlan = Some(Vlan { id, priority: 5 });
    config.network().ifaces = vec![iface];
    config
}

fn v6_portal(config: &mut RigConfig) {
    let station = config.network().station.ipv6;
    config.record = NodeRecord::new(TARGET, SocketAddr::new(station.into(), 3260));
}

#[test]
fn a_vlan_interface_carries_sessions() {
    works(tagged(42));
}

#[test]
fn a_vlan_that_the_target_is_not_in_reaches_nobody() {
    let mut config = tagged(42);
    config.network().station.vlan = Some(43);
    let record = config.record.clone();
    let mut rig = Rig::up(config);
    rig.run_ms(1000);
    let (error, took) = refused(&mut rig, &record);
    assert!(error.to_string().contains("nobody answers"), "{error}");
    assert!(took < 9 * SECOND, "{took:?}");
    rig.finish().assert_sound();
}

#[test]
fn an_ipv6_interface_carries_sessions() {
    let mut config = RigConfig::frames(4);
    config.network().ifaces = vec![static_v6()];
    v6_portal(&mut config);
    works(config);
}

#[test]
fn a_vlan_interface_carries_ipv6_sessions() {
    let mut config = tagged(7);
    let mut iface = static_v6();
    iface.vlan = Some(Vlan { id: 7, priority: 0 });
    config.network().ifaces = vec![iface];
    v6_portal(&mut config);
    works(config);
}

#[test]
fn both_families_carry_sessions_side_by_side() {
    let mut config = RigConfig::frames(2);
    config.network().ifaces = vec![static_v4(), static_v6()];
    let v4 = config.record.clone();
    v6_portal(&mut config);
    let mut rig = Rig::start(config);
    let other = rig.world.login(&v4, 1).expect("IPv4 works beside IPv6");
    assert!(rig.progress(SECOND).is_some());
    rig.world.logout(other[0].tag).expect("the target confirms it");
    rig.finish().assert_unharmed();
}
