//! A world with logged-in sessions under a [`Blast`]: what the I/O benches and the cost tests run.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use driver::iscsid::{NodeRecord, SessionEntry};
use hw_model::tcp::frame::Checksums;
use iscsi::negotiate::DigestOffer;
use iscsi::target::Auth;
use lab::demo::ram_target;
use lab::outside::Outside;
use lab::world::{LinkNetwork, Network, PORTAL, World, WorldConfig};

use crate::blast::{Blast, Shape};

/// Longest wait for a run of requests.
const LIMIT: Duration = Duration::from_secs(600);
const TARGET: &str = "iqn.2026-01.lab.cnic:bench";
/// Blocks of 512 bytes of the embedded target's disk: it stays in a large cache.
const BLOCKS: u64 = 16 << 11;

/// What to measure on.
#[derive(Clone, Debug)]
pub struct RigConfig {
    /// Sessions, each with the shape's depth.
    pub sessions: usize,
    /// What every request is.
    pub shape: Shape,
    /// Header and data digests.
    pub digests: bool,
    /// Virtual time with seed 1 instead of real time.
    pub virtual_time: bool,
    /// A target elsewhere: portal and name, reached through sockets. `None`: the embedded one, in memory.
    pub peer: Option<(SocketAddr, String)>,
    /// Without a peer: TCP in frames of this MTU over a link, instead of streams in memory.
    pub wire: Option<u16>,
    /// With a wire: checksums of TCP are made and looked at.
    pub checksums: bool,
    /// With a peer: poll instead of sleeping.
    pub spin: bool,
}

impl RigConfig {
    /// One session to the embedded target, real time, no digests.
    #[must_use]
    pub fn memory(shape: Shape) -> Self {
        Self {
            sessions: 1,
            shape,
            digests: false,
            virtual_time: false,
            peer: None,
            wire: None,
            checksums: false,
            spin: false,
        }
    }
}

/// A world under load. See the module.
pub struct Rig {
    /// The world.
    pub world: World,
    /// Its sessions.
    pub sessions: Vec<SessionEntry>,
    blast: Rc<RefCell<Blast>>,
}

impl Rig {
    /// Brings a world up, logs in, and runs some requests, so that buffers have grown to their size.
    ///
    /// # Panics
    /// When that fails: there is nothing to measure.
    #[must_use]
    pub fn new(config: RigConfig) -> Self {
        let target = || ram_target(TARGET, BLOCKS, Auth::default());
        let (portal, name, mut world_config) = match config.peer {
            Some((portal, name)) => (portal, name, WorldConfig::outside(Outside::default(), config.spin)),
            None if config.virtual_time => (PORTAL, TARGET.into(), WorldConfig::virtual_time(1, target())),
            None => (PORTAL, TARGET.into(), WorldConfig::real_time(target())),
        };
        if let Some(mtu) = config.wire {
            let mut network = LinkNetwork::new(target());
            (network.station.mtu, world_config.driver.mtu) = (mtu, mtu);
            network.station.checksums = if config.checksums { Checksums::Real } else { Checksums::Skipped };
            world_config.network = Network::Link(Box::new(network));
        }
        // Loans are not what is measured.
        world_config.slot.strict = false;
        let mut record = NodeRecord::new(name, portal);
        let digest = if config.digests { DigestOffer::Crc32c } else { DigestOffer::None };
        record.settings.header_digest = digest;
        record.settings.data_digest = digest;
        record.settings.queue_depth = u16::try_from(config.shape.depth).unwrap_or(u16::MAX).clamp(32, 1024);
        let mut world = World::new(world_config).expect("a world");
        world.bring_up().expect("the adapter comes up");
        let sessions = world.login(&record, config.sessions).expect("the sessions log in");
        let blast = Rc::new(RefCell::new(Blast::new(config.shape)));
        world.act(|_, host| {
            for entry in &sessions {
                let disk = host.adapter.disks(entry.session).first().cloned().expect("a disk");
                blast.borrow_mut().attach(&mut host.adapter, entry.session, disk).expect("buffers");
            }
            host.user = Some(blast.clone());
        });
        let mut rig = Self { world, sessions, blast };
        rig.run(4 * (config.shape.depth * config.sessions) as u64);
        rig
    }

    /// Runs `n` requests to their completion.
    ///
    /// # Panics
    /// When one fails or does not complete.
    pub fn run(&mut self, n: u64) {
        self.blast.borrow_mut().allow(n);
        self.world.host_wake().wake();
        let blast = self.blast.clone();
        let idle = self.world.run(LIMIT, |_| blast.borrow().is_idle());
        let blast = self.blast.borrow();
        assert!(idle && blast.failure().is_none(), "{} done, {:?}", blast.done(), blast.failure());
    }

    /// Runs until at least `n` more requests have completed, and leaves the rest of `allowed` under way.
    ///
    /// # Panics
    /// When one fails or does not complete.
    pub fn run_part(&mut self, allowed: u64, n: u64) {
        self.blast.borrow_mut().allow(allowed);
        self.world.host_wake().wake();
        let blast = self.blast.clone();
        let until = blast.borrow().done() + n;
        let done = self.world.run(LIMIT, |_| blast.borrow().done() >= until);
        let blast = self.blast.borrow();
        assert!(done && blast.failure().is_none(), "{} done, {:?}", blast.done(), blast.failure());
    }
}
