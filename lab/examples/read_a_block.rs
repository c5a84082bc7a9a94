//! Opens an offloaded session to an embedded target, writes a block and reads it back, and resets the card in
//! between.
//!
//! `cargo run --example read_a_block -p lab`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::time::Duration;

use driver::adapter::OperatorRequest;
use driver::iscsid::NodeRecord;
use driver::user::{Op, Request};
use iscsi::target::{Auth, Disk, RamBackend, ServerConfig, TargetServer};
use lab::world::{PORTAL, World, WorldConfig};

const TARGET: &str = "iqn.2026-01.org.example:disk";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The far end: a target with a RAM disk of 1 MiB.
    let mut server = TargetServer::new(ServerConfig::default());
    let disk = Disk::new(Box::new(RamBackend::new(1 << 20)), 512, "EXAMPLE0")?;
    server.add_target(TARGET, vec![(0, disk)], Auth::default())?;
    // A card, its driver and the daemons, in virtual time: the same seed gives the same run.
    let mut world = World::new(WorldConfig::virtual_time(7, server))?;
    world.bring_up()?;
    let session = world.login(&NodeRecord::new(TARGET, PORTAL), 1)?.remove(0);

    let buf = world.act(|_, host| host.adapter.alloc(512))?;
    world.act(|_, host| host.adapter.buffer(buf).map(|b| b.write(0, &[0x5a; 512])));
    for op in [Op::Write, Op::Read] {
        let data = [buf.whole()];
        let request = Request { lun: Default::default(), op, lba: 3, data: &data };
        world.act(|cx, host| host.adapter.submit(cx, session.session, &request))?;
        // What is accepted completes once, whatever happens to the card meanwhile.
        world.operate(OperatorRequest::Reset)?;
        let (host, mut done) = (world.host().clone(), Vec::new());
        world.run(Duration::from_secs(60), |_| host.borrow_mut().adapter.reap(&mut done) > 0);
        let ms = world.now().as_nanos() / 1_000_000;
        println!("{op:?}: {:?} at {ms} ms of virtual time, with a reset on the way", done[0].result);
    }
    let mut bytes = [0; 512];
    world.act(|_, host| host.adapter.buffer(buf).map(|b| b.read(0, &mut bytes)));
    assert_eq!(bytes, [0x5a; 512]);
    world.act(|_, host| host.adapter.free(buf))?;
    println!("left over after the shutdown: {:?}", world.shutdown()?);
    Ok(())
}
