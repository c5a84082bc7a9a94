//! Several logical units of one session: what happens to one is no business of the others, and a reset brings
//! all of them back.

use std::cell::RefCell;
use std::time::Duration;

use bus::inproc::InProcess;
use driver::adapter::OperatorRequest;
use driver::error::BlockError;
use driver::iscsid::NodeRecord;
use driver::user::{Op, Request, Ticket};
use iscsi::scsi::Lun;
use iscsi::target::{Auth, Disk, RamBackend, ServerConfig, TargetServer};
use lab::world::{PORTAL, World, WorldConfig};
use tests::rig::{BLOCK, Rig, RigConfig, TARGET};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn units_of_a_session_fare_each_for_itself() {
    const UNITS: u16 = 3;
    let disk = |serial: &str| Disk::new(Box::new(RamBackend::new(1 << 20)), 512, serial).expect("a disk");
    let mut server = TargetServer::new(ServerConfig::default());
    let disks = (0..UNITS).map(|n| (n, disk(&format!("UNIT{n:04}")))).collect();
    server.add_target(TARGET, disks, Auth::default()).expect("a target");
    let mut world = World::new(WorldConfig::virtual_time(3, server)).expect("a world");
    world.bring_up().expect("it comes up");
    let session = world.login(&NodeRecord::new(TARGET, PORTAL), 1).expect("it logs in").remove(0).session;
    let buf = world.act(|_, host| host.adapter.alloc(512)).expect("memory");
    // One request to each unit; their results, in the order of the units.
    let each = |world: &mut World<InProcess>, op, disturb: &dyn Fn(&mut World<InProcess>)| {
        let data = [buf.whole()];
        let tickets: Vec<Ticket> = (0..UNITS)
            .map(|n| {
                let request =
                    Request { lun: Lun::from_number(n).expect("a number"), op, lba: 3, data: &data };
                world.act(|cx, host| host.adapter.submit(cx, session, &request)).expect("it is accepted")
            })
            .collect();
        disturb(world);
        let (host, mut done) = (world.host().clone(), Vec::new());
        let all = world.run(Duration::from_secs(120), |_| {
            host.borrow_mut().adapter.reap(&mut done);
            done.len() == tickets.len()
        });
        assert!(all, "each request completes");
        let result = |t: &Ticket| done.iter().find(|d| d.ticket == *t).expect("once").result;
        tickets.iter().map(result).collect::<Vec<_>>()
    };
    let nothing: &dyn Fn(&mut World<InProcess>) = &|_| {};
    assert_eq!(each(&mut world, Op::Write, nothing), [Ok(()), Ok(()), Ok(())]);
    let other = RefCell::new(Some(disk("ANOTHER0")));
    world
        .act_on_target(|s, _| s.exchange(TARGET, 1, other.take().expect("once")).map(drop))
        .expect("embedded")
        .expect("LUN 1");
    let results = each(&mut world, Op::Write, nothing);
    assert_eq!(results, [Ok(()), Err(BlockError::DiskChanged), Ok(())], "the others go on");
    let reset: &dyn Fn(&mut World<InProcess>) = &|w| w.operate(OperatorRequest::Reset).expect("it is up");
    assert_eq!(each(&mut world, Op::Read, reset), [Ok(()), Ok(()), Ok(())]);
    // One is exchanged while nobody is logged in.
    let third = RefCell::new(Some(disk("ANOTHER1")));
    let behind: &dyn Fn(&mut World<InProcess>) = &|w| {
        w.operate(OperatorRequest::Reset).expect("it is up");
        w.act_on_target(|s, _| s.exchange(TARGET, 2, third.take().expect("once")).map(drop))
            .expect("embedded")
            .expect("LUN 2");
    };
    assert_eq!(each(&mut world, Op::Write, behind), [Ok(()), Ok(()), Err(BlockError::DiskChanged)]);
    world.act(|_, host| host.adapter.free(buf)).expect("nobody uses it");
    let left = world.shutdown().expect("it ends");
    assert_eq!((left.holdings.requests, left.audit.buffers, left.audit.violations), (0, 0, 0));
}

/// What waits for a recovery must not land on whatever answers after it.
#[test]
fn another_disk_under_the_same_name_gets_no_repeated_write() {
    let mut rig = Rig::idle(RigConfig::new(1));
    let size = (rig.config().region * u64::from(BLOCK)) as usize;
    let buf = rig.alloc(512);
    let target = rig.world.target().expect("embedded").clone();
    target.borrow_mut().kill();
    rig.submit(0, Op::Write, 5, &[buf.whole()]).expect("it waits for the recovery");
    let other = Disk::new(Box::new(RamBackend::new(size)), BLOCK, "ANOTHER0").expect("a disk");
    rig.world.act_on_target(|server, _| *server.disk(TARGET, 0).expect("LUN 0") = other);
    target.borrow_mut().restart().expect("it was killed");
    let (refused, _) = rig.completion(60 * SECOND).expect("it completes");
    assert_eq!(refused.result, Err(BlockError::DiskChanged));
    assert_eq!(rig.counters().disks_changed, 1);
    assert_eq!(target.borrow().server().counters().data_out_bytes, 0, "nothing was written");
    rig.submit(0, Op::Write, 5, &[buf.whole()]).expect("the new disk is known now");
    let (done, _) = rig.completion(60 * SECOND).expect("it completes");
    assert_eq!(done.result, Ok(()));
    rig.world.act(|_, host| host.adapter.free(buf)).expect("nobody uses it");
    rig.finish().assert_sound();
}

/// A target that exchanges a disk under a session says so with a unit attention, and the command that it
/// refused with it is repeated: not before the driver has looked what answers there now.
#[test]
fn a_disk_that_is_exchanged_under_a_session_gets_no_repeated_write() {
    let mut rig = Rig::idle(RigConfig::new(1));
    let size = (rig.config().region * u64::from(BLOCK)) as usize;
    let buf = rig.alloc(512);
    let other = Disk::new(Box::new(RamBackend::new(size)), BLOCK, "ANOTHER0").expect("a disk");
    rig.world.act_on_target(|server, _| assert!(server.exchange(TARGET, 0, other).is_some()));
    rig.submit(0, Op::Write, 5, &[buf.whole()]).expect("nobody knows yet");
    let (refused, _) = rig.completion(60 * SECOND).expect("it completes");
    assert_eq!(refused.result, Err(BlockError::DiskChanged));
    let target = rig.world.target().expect("embedded").clone();
    assert_eq!(target.borrow().server().counters().data_out_bytes, 0, "nothing was written");
    rig.submit(0, Op::Write, 5, &[buf.whole()]).expect("the new disk is known now");
    let (done, _) = rig.completion(60 * SECOND).expect("it completes");
    assert_eq!(done.result, Ok(()));
    assert_eq!(rig.counters().connections_lost, 0);
    rig.world.act(|_, host| host.adapter.free(buf)).expect("nobody uses it");
    rig.finish().assert_sound();
}
