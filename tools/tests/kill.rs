//! `kill -9` of card or driver in the middle of their work: the other one notices, gives everything back, and
//! starts again.
//!
//! A handful of places by default; with `CNIC_FULL=1` each of the first 200 accesses, and each of the first
//! 200 under load.
#![allow(
    clippy::disallowed_methods,
    reason = "child processes live in real time; nothing asserts on the clock"
)]

mod common;

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::trace::{EventKind, Trace};
use bus::vfio_user::client::ClientConfig;
use common::chip::Chip;
use common::cnic;
use driver::adapter::{AdapterState, Failure};
use driver::iscsid::NodeRecord;
use hw_model::config::{ChipConfig, DoorbellLayout};
use iscsi::target::Auth;
use lab::chip_host::{ChipWorld, ChipWorldConfig};
use lab::demo::{TARGET, ram_target};
use lab::far_card::FarCard;
use lab::host::Host;
use lab::load::{Load, LoadConfig};
use lab::oracle::Initial;
use lab::runner::{Ended, Executive};
use lab::world::{FarConfig, World, WorldError};
use os::unix::ChannelListener;

const BLOCKS: usize = 1024;
/// Longest wait for what takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn places(few: &[u64]) -> Vec<u64> {
    match std::env::var_os("CNIC_FULL") {
        Some(_) => (1..=200).collect(),
        None => few.to_vec(),
    }
}

/// Descriptors of this process. The file that `os::event` signals with is opened once and stays: it is there
/// before the first count.
fn descriptors() -> usize {
    let event = os::event::Event::new().expect("an eventfd");
    let copy = event.as_fd().try_clone_to_owned().expect("a second descriptor");
    drop((os::event::Signal::adopt(copy).expect("an eventfd"), event));
    std::fs::read_dir("/proc/self/fd").expect("Linux").count()
}

fn attach(path: &Path) -> World<FarCard> {
    let client = ClientConfig { dma_limit: 64 << 20, ..ClientConfig::default() };
    let target = Some(ram_target(TARGET, BLOCKS as u64, Auth::default()));
    World::attach(FarConfig { client, target, ..FarConfig::new(path) }).expect("a card is there")
}

/// One session under load.
fn load(world: &mut World<FarCard>) -> Result<Rc<RefCell<Load>>, WorldError> {
    world.bring_up()?;
    let record = NodeRecord::new(TARGET, world.portal().expect("it has a target"));
    let entries = world.login(&record, 1)?;
    let config = LoadConfig {
        depth: 4,
        max_bytes: 16 << 10,
        write_percent: 50,
        think: Duration::ZERO,
        run: 1,
        initial: Initial::Zero,
    };
    world.start_load(&entries, config, BLOCKS)
}

/// A life without an accident.
fn healthy(path: &Path) {
    let mut world = attach(path);
    let load = load(&mut world).expect("a session under load");
    let issued = load.clone();
    assert!(world.run(PATIENCE, |_| issued.borrow().report().commands >= 20), "the load flows");
    let unfinished = world.finish_load(&load, PATIENCE);
    let left = world.shutdown().expect("a shutdown");
    assert_eq!((unfinished.lost, unfinished.kept, left.leaked()), (0, 0, 0), "{left:?}");
    let r = load.borrow().report().clone();
    assert_eq!((r.failed, r.corrupt, r.duplicated), (0, 0, 0), "{r:?}");
}

/// Has the card killed before the `n`-th access from now on.
fn mine(world: &World<FarCard>, chip: Chip, n: u64) {
    let (mut chip, at) = (Some(chip), world.card().crossings() + n);
    world.card().at_crossing(Box::new(move |crossing| {
        if crossing == at
            && let Some(mut chip) = chip.take()
        {
            chip.kill();
        }
    }));
}

/// What a driver owes when its card has died: it says so, no request is left open, and nothing is kept.
fn bury(mut world: World<FarCard>, load: Option<Rc<RefCell<Load>>>, n: u64) {
    assert!(world.card_lost(), "{n}: it was noticed");
    let host = world.host().clone();
    let told = |host: &Host<FarCard>| host.adapter.state() == AdapterState::Failed(Failure::BusLost);
    assert!(world.run(PATIENCE, |_| told(&host.borrow())), "{n}: {:?}", host.borrow().adapter.state());
    if let Some(load) = &load {
        load.borrow_mut().stop();
    }
    world.shutdown().expect("a shutdown");
    if let Some(load) = &load {
        let unfinished = world.finish_load(load, PATIENCE);
        assert_eq!((unfinished.lost, unfinished.kept), (0, 0), "{n}");
        let r = load.borrow().report().clone();
        assert_eq!((r.corrupt, r.duplicated), (0, 0), "{n}: {r:?}");
    }
    let left = world.leftovers();
    assert_eq!((left.leaked(), left.audit.bytes), (0, 0), "{n}: {left:?}");
}

/// These tests count the descriptors of the process, so one runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_driver_survives_the_death_of_its_card_while_it_brings_the_card_up() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let before = descriptors();
    for n in places(&[1, 40, 200]) {
        let chip = Chip::start(&path, &[]);
        let mut world = attach(&path);
        mine(&world, chip, n);
        let load = match load(&mut world) {
            // It came up in fewer accesses.
            Ok(load) => {
                world.run_while_there(PATIENCE, || false);
                Some(load)
            }
            Err(e) => {
                let told = matches!(e, WorldError::CardLost | WorldError::Adapter(Failure::BusLost));
                assert!(told, "{n}: {e}");
                None
            }
        };
        bury(world, load, n);
        assert_eq!(descriptors(), before, "{n}");
    }
    let mut chip = Chip::start(&path, &[]);
    healthy(&path);
    assert!(chip.stop().0.success());
}

#[test]
fn a_driver_survives_the_death_of_its_card_under_load() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let before = descriptors();
    for n in places(&[1, 60]) {
        let chip = Chip::start(&path, &[]);
        let mut world = attach(&path);
        let load = load(&mut world).expect("a session under load");
        mine(&world, chip, n);
        world.run_while_there(PATIENCE, || false);
        bury(world, Some(load), n);
        assert_eq!(descriptors(), before, "{n}");
    }
    let mut chip = Chip::start(&path, &[]);
    healthy(&path);
    assert!(chip.stop().0.success());
}

/// Killed when dropped.
struct Driver(Child);

impl Driver {
    fn start(path: &Path) -> Self {
        let mut command = cnic();
        command.args(["demo", "--sessions", "2", "--resets", "1", "--socket"]).arg(path);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cnic starts"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the card until `done`.
#[track_caller]
fn run(chip: &mut ChipWorld, done: impl FnMut(&Executive) -> bool) {
    let limit = chip.exec.now() + PATIENCE;
    assert_eq!(chip.exec.run(limit, done), Ended::Done);
}

#[test]
fn a_card_survives_the_death_of_its_driver() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chip");
    let listener = ChannelListener::bind(&path).expect("a socket");
    let config = ChipConfig { doorbells: DoorbellLayout::Pages, ..ChipConfig::default() };
    let config = ChipWorldConfig { trace: Trace::recording(), ..ChipWorldConfig::new(config) };
    let mut chip = ChipWorld::new(config, listener).expect("a card");
    let host = chip.host.clone();
    let before = descriptors();
    // Under load accesses come in bulk, so a place may be missed by a few; some places are there.
    for n in places(&[1, 20, 60, 120, 200]).into_iter().chain([400, 800]) {
        let accesses =
            |x: &Executive| host.borrow().server().counters().requests + x.trace().count(EventKind::Doorbell);
        let at = accesses(&chip.exec) + n;
        let driver = Driver::start(&path);
        run(&mut chip, |x| accesses(x) >= at);
        drop(driver);
        run(&mut chip, |_| !host.borrow().server().is_attached());
        assert_eq!((chip.held(), descriptors()), (0, before), "{n}");
    }
    let mut driver = Driver::start(&path);
    run(&mut chip, |_| host.borrow().server().is_attached());
    run(&mut chip, |_| !host.borrow().server().is_attached());
    assert!(driver.0.wait().expect("it ends").success());
    assert_eq!((chip.held(), descriptors()), (0, before));
}
